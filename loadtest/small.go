package main

import (
	"bytes"
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/runledger/runledger/pkg/events"
)

// closedLoop calls work over and over for a while on each of a number of
// connections, and returns how long each call took, and how many a second there
// were.
func closedLoop(ctx context.Context, d time.Duration, connections int, work func(ctx context.Context, connection, n int) error) (*latencies, float64, error) {
	took := newLatencies()
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for connection := range connections {
		group.Go(func() error {
			for n := 0; time.Since(began) < d; n++ {
				start := time.Now()
				if err := work(ctx, connection, n); err != nil {
					return err
				}
				took.add(time.Since(start))
			}
			return nil
		})
	}
	err := group.Wait()
	return took, float64(took.count()) / time.Since(began).Seconds(), err
}

// logMetrics logs single points, each connection those of a run of its own.
func (c *client) logMetrics(ctx context.Context, d time.Duration, connections int) (*latencies, float64, error) {
	runs, err := c.createRuns(ctx, connections)
	if err != nil {
		return nil, 0, err
	}
	bodies := make([][]byte, connections)
	return closedLoop(ctx, d, connections, func(ctx context.Context, connection, n int) error {
		bodies[connection] = encodeMetric(bodies[connection][:0], runs[connection], events.Point{
			Key: metricKeys[0], Value: 1 / float64(n+1), Timestamp: time.Now().UnixMilli(), Step: int64(n),
		})
		return c.post(ctx, "runs/log-metric", bodies[connection], nil)
	})
}

// createAndLog creates runs and logs ten points to each.
func (c *client) createAndLog(ctx context.Context, d time.Duration, connections int) (*latencies, float64, error) {
	body := encodeBatch(workload{runs: 1, batches: 1}.points(0)[:10])
	return closedLoop(ctx, d, connections, func(ctx context.Context, _, _ int) error {
		run, err := c.createRun(ctx)
		if err != nil {
			return err
		}
		body := bytes.Clone(body)
		setRunID(body, run)
		return c.post(ctx, "runs/log-batch", body, nil)
	})
}
