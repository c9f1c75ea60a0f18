package query_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/services/query"
)

// Sweeps wait for sweeps, a few of them, and nothing else waits for a sweep.
func TestEachKindHasItsOwnQueue(t *testing.T) {
	f := newFixture(t, func(c *query.Config) { c.MaxRequests, c.SlotWait = 8, time.Hour })
	first, err := f.service.Enter(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 5)
	for range 5 {
		go func() {
			_, err := f.service.Enter(ctx, true)
			ended <- err
		}()
	}
	// The queue has place for four: one of them is refused at once.
	var refused *apierr.Error
	if err := <-ended; !errors.As(err, &refused) || refused.Code != apierr.RequestLimitExceeded {
		t.Errorf("%v", err)
	}
	for range 8 {
		leave, err := f.service.Enter(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
	}
	cancel()
	for range 4 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	first()
	again, err := f.service.Enter(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// A statement ends when its client goes away: this one would take an hour.
func TestAClientThatGoesAwayEndsItsQuery(t *testing.T) {
	f := newFixture(t, func(c *query.Config) { c.MaxRequests, c.Timeout = 1, time.Hour })
	f.server.GET("/slow", f.service.Answer("SELECT sleepEachRow(1) FROM numbers(3600) SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0"))
	server := httptest.NewServer(f.server)
	defer server.Close()
	running := func() (n uint64) {
		if err := f.conn.QueryRow(t.Context(), "SELECT count() FROM system.processes WHERE query LIKE 'SELECT sleepEachRow%'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		response, err := server.Client().Do(request)
		if err == nil {
			err = errors.Join(errors.New(response.Status), response.Body.Close())
		}
		done <- err
	}()
	f.eventually("the query runs", func() bool {
		select {
		case err := <-done:
			t.Fatalf("the request ended: %v", err)
		default:
		}
		return running() > 0
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	f.eventually("the query ends", func() bool { return running() == 0 })
	// And its slot is free.
	leave, err := f.service.Enter(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	leave()
}

// The heaviest reads, more of them than there is place for, refuse each other and
// nothing else: writes into the tables go on, and so do reads of one run.
func TestSweepsLeaveRoomForOthers(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.service.ReadRunsFromTables()
	f.insertExperiments(testExperiment{id: 1, name: "x"})
	var ids []string
	for range 30 {
		id := f.longSeries("loss", 10_000)
		f.insert(testRun{id: id, experiment: 1, metrics: []point{{key: "loss"}}})
		ids = append(ids, id)
	}
	work := func(span time.Duration) (reads, writes int) {
		for begin := time.Now(); time.Since(begin) < span; reads++ {
			if w := f.get("/runs/get", "run_id", ids[reads%len(ids)]); w.Code != http.StatusOK {
				t.Fatalf("a read of one run: %d %s", w.Code, w.Body)
			}
			f.insertPoints(newRunID(), point{key: "loss"})
			writes++
		}
		return reads, writes
	}
	const span = time.Second // each
	reads, writes := work(span)
	t.Logf("alone: %d reads of a run and %d inserts a second", reads, writes)

	stop := make(chan struct{})
	var clients sync.WaitGroup
	var answered, refused atomic.Int64
	body := map[string]any{"run_ids": ids, "metric_keys": []string{"loss"}, "columns": 4000}
	for range 20 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				switch w := f.postV1("/sweeps/curves", body); w.Code {
				case http.StatusOK:
					answered.Add(1)
				case http.StatusTooManyRequests:
					refused.Add(1)
					time.Sleep(50 * time.Millisecond)
				default:
					t.Errorf("a sweep: %d %s", w.Code, w.Body)
					return
				}
			}
		})
	}
	reads, writes = work(span)
	close(stop)
	clients.Wait()
	t.Logf("beside 20 clients of sweeps: %d reads of a run and %d inserts a second; %d sweeps answered, %d refused", reads, writes, answered.Load(), refused.Load())
	if answered.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d sweeps answered, %d refused: want both", answered.Load(), refused.Load())
	}
}
