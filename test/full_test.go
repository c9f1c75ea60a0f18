package test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFullLogRefusesWritesAndGoesOnAnsweringReads(t *testing.T) {
	const maxBytes = 256 << 10
	dir := t.TempDir()
	p := up(t, dir, "--shards", "1", "--log-max-bytes", fmt.Sprint(maxBytes))
	c := p.client(t)
	experimentID, err := c.createExperiment(t.Context(), "full")
	if err != nil {
		t.Fatal(err)
	}
	b := &runBook{name: "full", created: acked, progress: newRegister(""), status: newRegister("RUNNING"), lifecycle: newRegister("active"), artifact: newRegister("")}
	if b.id, err = c.createRun(t.Context(), experimentID, b.name, time.Now()); err != nil {
		t.Fatal(err)
	}

	// Each batch is several events, so that the last one that fits would fit in
	// part.
	full := 0
	for step := int64(1); full < 20; {
		o := &operation{what: fmt.Sprintf("batch %d", step)}
		for range 100 {
			o.points = append(o.points, metric{Key: "loss", Step: step, Timestamp: step, Value: number(step)})
			step++
		}
		o.params = []pair{{o.what, strings.Repeat("p", 2000)}}
		o.tags = []pair{{o.what, strings.Repeat("t", 2000)}}
		b.operations = append(b.operations, o)
		err := c.logBatch(t.Context(), b.id, o.points, o.params, o.tags)
		if err == nil {
			o.outcome = acked
		} else {
			full++
			checkFull(t, err)
		}
		if step > 1_000_000 {
			t.Fatalf("%d bytes never fill", maxBytes)
		}
	}
	if _, err := c.createRun(t.Context(), experimentID, "too late", time.Now()); err != nil {
		checkFull(t, err)
	} // a small one may still fit
	verify := func(c *client) {
		t.Helper()
		if found := b.verify(t.Context(), c); len(found) > 0 {
			t.Errorf("%d findings:%s", len(found), short(found))
		}
	}
	verify(c)
	t.Logf("%d batches taken, then %d refused", len(b.operations)-full, full)
	if status, _, err := c.get(t.Context(), "/health"); err != nil || status != http.StatusOK {
		t.Errorf("/health: %d, %v", status, err)
	}
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)
	verifyTables(t, dir)

	// With room again, a batch that was refused is taken as a whole.
	p = up(t, dir)
	c = p.client(t)
	verify(c)
	o := b.operations[len(b.operations)-1]
	if err := c.logBatch(t.Context(), b.id, o.points, o.params, o.tags); err != nil {
		t.Fatal(err)
	}
	o.outcome = acked
	verify(c)
}

// checkFull fails the test unless err says that the log is full.
func checkFull(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*apiError](err)
	if !ok || e.Status != http.StatusServiceUnavailable || e.RetryAfter == "" || e.Code != "TEMPORARILY_UNAVAILABLE" || !strings.Contains(e.Message, "full") {
		t.Fatalf("write into a full log: got %v, want a 503 TEMPORARILY_UNAVAILABLE that says so, with Retry-After", err)
	}
}
