package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The heaviest reads there are, more of them than have a place, take nothing from
// writers but time: no write fails, what is written is read, a light read is
// answered, and a heavy one is answered or told to come again. The rates are
// shown, with and without.
func TestHeavyReadsBesideIngest(t *testing.T) {
	const runs, points, writers, readers, phase = 16, 20_000, 4, 12, 3 * time.Second
	c := up(t, t.TempDir()).client(t)
	experiment, err := c.createExperiment(t.Context(), "sweep")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range runs {
		id, err := c.createRun(t.Context(), experiment, fmt.Sprint("run ", i), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		for from := 0; from < points; from += 500 {
			var batch []metric
			for step := from; step < from+500; step++ {
				batch = append(batch, metric{Key: "loss", Value: number(step * (i + 3) % 1009), Timestamp: int64(step), Step: int64(step)})
			}
			if err := c.logBatch(t.Context(), id, batch, []pair{{"p", fmt.Sprint(i % 4)}}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	// ingest logs for a while, and returns how many points a second were
	// acknowledged, and how long a light read took at most.
	ingested := 0
	ingest := func() (rate float64, slowest time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), phase)
		defer cancel()
		var logged atomic.Int64
		var wg sync.WaitGroup
		ingested++
		for w := range writers {
			wg.Go(func() {
				for step := 0; ctx.Err() == nil; step += 100 {
					var batch []metric
					for s := step; s < step+100; s++ {
						batch = append(batch, metric{Key: fmt.Sprint("busy ", ingested), Value: number(s), Timestamp: int64(s), Step: int64(s)})
					}
					if err := c.logBatch(t.Context(), ids[w], batch, nil, nil); err != nil {
						t.Errorf("a write beside heavy reads: %v", err)
						return
					}
					logged.Add(100)
				}
			})
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				if _, _, err := c.getRun(t.Context(), ids[0]); err != nil {
					t.Errorf("a light read beside heavy ones: %v", err)
					return
				}
				slowest = max(slowest, time.Since(start))
			}
		})
		start := time.Now()
		wg.Wait()
		return float64(logged.Load()) / time.Since(start).Seconds(), slowest
	}
	alone, lightAlone := ingest()

	ctx, stop := context.WithCancel(t.Context())
	var heavy sync.WaitGroup
	var answered, refused atomic.Int64
	for i := range readers {
		heavy.Go(func() {
			path, body := "/api/v1/sweeps/curves", `{"experiment_ids": ["`+experiment+`"], "metric_keys": ["loss"], "group_by": ["params.p"], "columns": 2000}`
			if i%2 == 0 {
				path, body = "/api/v1/series", `{"experiment_ids": ["`+experiment+`"], "metric_keys": ["loss"], "columns": 4000, "smoothing": {"method": "mean", "points": 50}}`
			}
			for ctx.Err() == nil {
				switch status, err := c.heavy(ctx, path, body); {
				case ctx.Err() != nil:
				case err != nil:
					t.Error(err)
					return
				case status == http.StatusOK:
					answered.Add(1)
				case status == http.StatusTooManyRequests:
					refused.Add(1)
					time.Sleep(50 * time.Millisecond)
				default:
					t.Errorf("%s: %d", path, status)
					return
				}
			}
		})
	}
	beside, lightBeside := ingest()
	stop()
	heavy.Wait()
	if answered.Load() == 0 {
		t.Error("no heavy read was answered")
	}
	for key := range 2 {
		points, _, err := c.history(t.Context(), ids[0], fmt.Sprint("busy ", key+1))
		if err != nil || len(points) == 0 {
			t.Errorf("%d points of what was written, %v", len(points), err)
		}
	}
	t.Logf("%.0f points/s alone, %.0f beside %d heavy reads (%d more were told to come again): %.2f of it; a light read took %v at most, and %v",
		alone, beside, answered.Load(), refused.Load(), beside/alone, lightAlone, lightBeside)
}

// heavy sends a read and returns its status once the whole answer is there.
func (c *client) heavy(ctx context.Context, path, body string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}
