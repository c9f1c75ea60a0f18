package query

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/clickhouse-go/v2"
	"golang.org/x/sync/semaphore"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
)

// budget is what requests of a kind may use of ClickHouse.
type budget struct {
	requests int           // under way at a time
	waiting  int           // beside them
	timeout  time.Duration // of a statement
	memory   uint64        // of a statement, in bytes
	threads  int           // of a statement
	rows     uint64        // that a statement reads
}

// waitersPerSlot bounds the requests that wait, for each of the configuration's
// share that may be under way.
const waitersPerSlot = 4

// budgets divides what the configuration gives: each kind has slots of its own,
// so that none waits for another, and those that read much have fewer, with fewer
// threads, so that cores are left: no more of a kind at a time than half the cores.
func budgets(c Config) map[httpapi.Kind]budget {
	part := func(of, divisor int) int { return max(1, of/divisor) }
	heavy := func(divisor int) budget {
		slots := part(c.MaxRequests, divisor)
		return budget{
			requests: min(slots, part(runtime.GOMAXPROCS(0), 2)), waiting: waitersPerSlot * slots,
			timeout: c.Timeout, memory: c.MaxMemory, threads: part(c.MaxThreads, 2), rows: 2_000_000_000,
		}
	}
	light := func(threads int, rows uint64) budget {
		return budget{
			requests: c.MaxRequests, waiting: waitersPerSlot * c.MaxRequests,
			timeout: c.Timeout, memory: c.MaxMemory, threads: threads, rows: rows,
		}
	}
	return map[httpapi.Kind]budget{
		httpapi.KindSearch: light(c.MaxThreads, 1_000_000_000),
		httpapi.KindPoint:  light(part(c.MaxThreads, 2), 100_000_000),
		httpapi.KindSeries: heavy(4),
		httpapi.KindSweep:  heavy(8),
		httpapi.KindAudit:  heavy(4),
	}
}

// profile is a budget at work: ClickHouse's settings, and who is in.
type profile struct {
	settings clickhouse.Settings
	slots    *semaphore.Weighted
	queue    *semaphore.Weighted // those with a slot, and those who wait for one
}

func newProfile(b budget) *profile {
	return &profile{
		slots: semaphore.NewWeighted(int64(b.requests)),
		queue: semaphore.NewWeighted(int64(b.requests + b.waiting)),
		settings: clickhouse.Settings{
			"max_execution_time":                   int(math.Ceil(b.timeout.Seconds())),
			"timeout_overflow_mode":                "throw",
			"max_memory_usage":                     b.memory,
			"max_bytes_before_external_sort":       b.memory / 2,
			"max_bytes_before_external_group_by":   b.memory / 2,
			"max_threads":                          b.threads,
			"max_rows_to_read":                     b.rows,
			"apply_mutations_on_fly":               1, // see the projector: what is purged is gone
			"optimize_move_to_prewhere_if_final":   1,
			"use_skip_indexes_if_final":            1,
			"use_skip_indexes_if_final_exact_mode": 1,
			"join_use_nulls":                       0,
			"transform_null_in":                    0,
			"use_statistics":                       0, // which merges make: its guesses cost more than they gain
		},
	}
}

// columnSettings returns the settings for what is read block by block.
func (p *profile) columnSettings() []ch.Setting {
	settings := make([]ch.Setting, 0, len(p.settings))
	for key, value := range p.settings {
		settings = append(settings, ch.Setting{Key: key, Value: fmt.Sprint(value), Important: true})
	}
	return settings
}

// profile returns the budget of the request that a context belongs to.
func (d *database) profile(ctx context.Context) *profile {
	if p, ok := d.profiles[httpapi.RouteOf(ctx).Kind]; ok {
		return p
	}
	return d.profiles[httpapi.KindSearch]
}

// enter takes one of the slots for requests of the context's kind, and returns
// how to give it back. It returns RequestLimitExceeded when none gets free in
// time, or too many wait already.
func (d *database) enter(ctx context.Context) (leave func(), err error) {
	p := d.profile(ctx)
	busy := apierr.Errorf(apierr.RequestLimitExceeded, "Too many reads are under way, try again").WithRetryAfter(time.Second)
	if !p.queue.TryAcquire(1) {
		return nil, busy
	}
	waiting, cancel := context.WithTimeout(ctx, d.slotWait)
	defer cancel()
	if err := p.slots.Acquire(waiting, 1); err != nil {
		p.queue.Release(1)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, busy
	}
	return func() { p.slots.Release(1); p.queue.Release(1) }, nil
}
