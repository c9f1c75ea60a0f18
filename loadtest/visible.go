package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/runledger/runledger/pkg/events"
)

const (
	// probePause is between two probes.
	probePause = 20 * time.Millisecond
	// visiblePoll is how often the table is asked for a point: a passive figure
	// is up to this much too great.
	visiblePoll = 5 * time.Millisecond
)

// prober logs single points, and finds out when they can be seen.
type prober struct {
	*instance
	run    string
	logged int
}

func (i *instance) newProber(ctx context.Context) (*prober, error) {
	run, err := i.client.createRun(ctx)
	return &prober{instance: i, run: run}, err
}

// log logs a point of a metric of its own, and returns its key.
func (p *prober) log(ctx context.Context) (string, error) {
	p.logged++
	key := fmt.Sprintf("probe_%d", p.logged)
	body := encodeMetric(nil, p.run, events.Point{Key: key, Value: float64(p.logged), Timestamp: firstTimestamp, Step: int64(p.logged)})
	return key, p.client.post(ctx, "runs/log-metric", body, nil)
}

// asked measures a read right after the acknowledgement, through the API, which
// has the projector write at once. A read that lacks the point is an error.
func (p *prober) asked(ctx context.Context) (time.Duration, error) {
	key, err := p.log(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	points, stale, err := p.client.history(ctx, p.run, key)
	took := time.Since(began)
	switch {
	case err != nil:
		return 0, err
	case stale || len(points) != 1 || points[0].Value != float64(p.logged):
		return 0, fmt.Errorf("an acknowledged point was not read (stale: %t): %v", stale, points)
	}
	return took, nil
}

// passive measures the time from the acknowledgement until the table has the
// point, while nobody asks Runledger for it.
func (p *prober) passive(ctx context.Context) (time.Duration, error) {
	key, err := p.log(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for {
		n, err := p.engine.number(ctx, "SELECT count() FROM metrics WHERE run_id = ? AND key = ?", p.run, key)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			return time.Since(began), nil
		}
		if err := sleep(ctx, visiblePoll); err != nil {
			return 0, fmt.Errorf("wait for an acknowledged point: %w", err)
		}
	}
}

// repeat measures again and again for a while.
func repeat(ctx context.Context, d time.Duration, measure func(context.Context) (time.Duration, error)) (*latencies, error) {
	took := newLatencies()
	for end := time.Now().Add(d); time.Now().Before(end); {
		t, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		took.add(t)
		if err := sleep(ctx, probePause); err != nil {
			return nil, err
		}
	}
	return took, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// underLoad calls f while points are logged at a rate, in points a second. It
// returns the rate that was reached.
func (i *instance) underLoad(ctx context.Context, l load, connections int, pointsPerSecond float64, f func(context.Context) error) (reached float64, err error) {
	limit := rate.NewLimiter(rate.Limit(pointsPerSecond/batchPoints), connections)
	took := newLatencies()
	group, ctx := errgroup.WithContext(ctx)
	loading, stop := context.WithCancel(ctx)
	defer stop()
	group.Go(func() error {
		for {
			runs, err := i.client.createRuns(loading, l.runs)
			if err == nil {
				err = i.send(loading, l, runs, connections, limit, took)
			}
			if loading.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("keep up the load: %w", err)
			}
		}
	})
	group.Go(func() error {
		defer stop()
		// The load has reached its steady state when probing begins.
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		began, before := time.Now(), took.count()
		err := f(ctx)
		reached = float64((took.count()-before)*batchPoints) / time.Since(began).Seconds()
		return err
	})
	err = group.Wait()
	return reached, err
}
