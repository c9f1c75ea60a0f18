package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// countPoll is how often the tables are counted while the last points are
// waited for.
const countPoll = 5 * time.Millisecond

// ingested is how a workload went in.
type ingested struct {
	acknowledged time.Duration // from the first request to the last answer
	queryable    time.Duration // from the first request until the table has all points
	requests     *latencies
}

// ingest sends a load to new runs, and waits until the table of metrics has it.
// Nobody reads meanwhile, so nothing but the projector's own rules decides when
// points are written.
func (i *instance) ingest(ctx context.Context, l load, connections int) (ingested, []string, error) {
	runs, err := i.client.createRuns(ctx, l.runs)
	if err != nil {
		return ingested{}, nil, err
	}
	before, err := i.engine.count(ctx)
	if err != nil {
		return ingested{}, nil, err
	}
	in := ingested{requests: newLatencies()}
	began := time.Now()
	if err := i.send(ctx, l, runs, connections, nil, in.requests); err != nil {
		return ingested{}, nil, err
	}
	in.acknowledged = time.Since(began)
	if err := i.awaitCount(ctx, before+uint64(l.total())); err != nil {
		return ingested{}, nil, err
	}
	in.queryable = time.Since(began)
	return in, runs, nil
}

func (i *instance) awaitCount(ctx context.Context, want uint64) error {
	for {
		n, err := i.engine.count(ctx)
		switch {
		case err != nil:
			return err
		case n == want:
			return nil
		case n > want:
			return fmt.Errorf("the table has %d points, %d were logged", n, want)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the table has %d of %d points: %w", n, want, ctx.Err())
		case <-time.After(countPoll):
		}
	}
}

// send sends every request of a load once. A run belongs to one connection, so
// that its steps arrive in order. limit, when not nil, is of requests.
func (i *instance) send(ctx context.Context, l load, runs []string, connections int, limit *rate.Limiter, took *latencies) error {
	group, ctx := errgroup.WithContext(ctx)
	for worker := range connections {
		group.Go(func() error {
			for batch, body := range l.bodies {
				run := l.runOf(batch)
				if run%connections != worker {
					continue
				}
				if limit != nil {
					if err := limit.Wait(ctx); err != nil {
						return err
					}
				}
				setRunID(body, runs[run])
				began := time.Now()
				if err := i.client.post(ctx, "runs/log-batch", body, nil); err != nil {
					return err
				}
				took.add(time.Since(began))
			}
			return nil
		})
	}
	return group.Wait()
}

// verify compares what the API answers for the first run with what was logged,
// and counts every point without repetitions.
func (i *instance) verify(ctx context.Context, l load, runs []string) error {
	distinct, err := i.engine.number(ctx, "SELECT count() FROM metrics FINAL")
	if err != nil {
		return err
	}
	if want := uint64(l.total()); distinct != want {
		return fmt.Errorf("the table has %d distinct points, %d were logged", distinct, want)
	}
	key := metricKeys[0]
	var want []point
	for batch := range l.batches {
		if l.runOf(batch) != 0 {
			continue
		}
		for _, p := range l.points(batch) {
			if p.Key == key {
				want = append(want, point{Timestamp: p.Timestamp, Step: p.Step, Value: p.Value})
			}
		}
	}
	got, stale, err := i.client.history(ctx, runs[0], key)
	switch {
	case err != nil:
		return err
	case stale:
		return errors.New("the API answered a stale history after all points were counted")
	case !slices.Equal(got, want):
		return fmt.Errorf("the API answered %d points of %s, not the %d that were logged", len(got), key, len(want))
	}
	return nil
}
