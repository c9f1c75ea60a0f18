package test

import (
	"context"
	"net/http"
	"syscall"
	"testing"
	"time"
)

func TestDeadEngineIsRestartedAndWritesGoOnMeanwhile(t *testing.T) {
	const kills = 5
	dir := t.TempDir()
	p := up(t, dir)
	c := p.client(t)
	work := startWorkload(t, func() *client { return c }, seed(t), 4, 1, 0)
	for i := range kills {
		work.goesOn(t, 50)
		var engine int
		eventually(t, startTimeout, func() string { return "the engine is not started again" }, func(context.Context) bool {
			engine = p.engine(t)
			return engine != 0
		})
		before := work.counts.acked.Load()
		if err := syscall.Kill(engine, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		died := time.Now()
		eventually(t, startTimeout, func() string { return "no write is acknowledged without the engine" }, func(context.Context) bool {
			return work.counts.acked.Load() > before+10
		})
		if status, _, err := c.get(t.Context(), "/health"); err != nil || status != http.StatusOK {
			t.Fatalf("/health after kill %d: %d, %v", i, status, err)
		}
		p.awaitReads(t, work.writers[0].experimentName)
		t.Logf("kill %d: reads came back after %v", i, time.Since(died).Round(time.Millisecond))
	}
	work.stop()
	t.Log(&work.counts)
	if n := work.counts.doubtful.Load() + work.counts.refused.Load(); n > 0 {
		t.Errorf("%d writes were not acknowledged, though the log was there all the time", n)
	}
	p.awaitReady(t)
	work.verify(t, c)
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)
	verifyTables(t, dir)
}

// awaitReads waits until a read is answered with all that is in the log.
func (p *program) awaitReads(t *testing.T, experimentName string) {
	t.Helper()
	c := p.client(t)
	var last error
	isFresh := false
	eventually(t, startTimeout, func() string { return "reads do not come back" }, func(ctx context.Context) bool {
		var e experiment
		if e, last = c.experimentByName(ctx, experimentName); last != nil {
			return false
		}
		_, isFresh, last = c.searchRuns(ctx, e.ID)
		return last == nil && isFresh
	})
}
