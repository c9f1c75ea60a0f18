// Package figures reads the latest metric values of runs from the event log, for
// decisions that must not rest on tables that lag.
package figures

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

const (
	// remembered bounds the runs whose values are kept, so that they are read
	// again only from where they have grown.
	remembered = 64
	// maxKeys bounds the metrics of a run that is kept.
	maxKeys = 10_000
)

// Reader reads the values of runs. It is safe for concurrent use.
type Reader struct {
	log *eventlog.Log

	mu   sync.Mutex
	runs *lru.LRU[string, run]
}

// run is the greatest point of each metric, up to a sequence of its stream. It
// is never changed.
type run struct {
	seq    uint64
	latest map[string]events.Point
}

// NewReader returns a reader of a log.
func NewReader(log *eventlog.Log) *Reader {
	runs, _ := lru.NewLRU[string, run](remembered, nil) // an error is a size that is not positive
	return &Reader{log: log, runs: runs}
}

// Latest returns the latest value of each metric of a run by MLflow's rule, that
// of the greatest step, time and value in this order, NaN taken for 0; nothing
// for a run that never was or was purged. It takes as long as it takes to read
// what the run logged since it was last read here: ctx should have a deadline.
func (r *Reader) Latest(ctx context.Context, runID string) (map[string]float64, error) {
	if !events.ValidRunID(runID) {
		return nil, nil
	}
	stream, meta := r.log.RunSubject(events.Any, runID, events.KindMeta)
	last, err := r.log.Last(ctx, stream, meta)
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", runID, err)
	}
	if last.Seq == 0 || last.GetRunPurged() != nil || last.GetArtifactsPurged() != nil {
		return nil, nil
	}
	r.mu.Lock()
	known, _ := r.runs.Get(runID)
	r.mu.Unlock()
	next := run{seq: known.seq, latest: maps.Clone(known.latest)}
	if next.latest == nil {
		next.latest = make(map[string]events.Point)
	}
	_, subject := r.log.RunSubject(events.Any, runID, events.KindMetric)
	for rec, err := range r.log.Read(ctx, stream, subject, known.seq+1, 0) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			r.keep(runID, next) // the next call goes on from here
			return nil, fmt.Errorf("read the metrics of run %s: %w", runID, err)
		}
		next.seq = rec.Seq
		for _, p := range rec.GetMetricsLogged().Points() {
			if l, ok := next.latest[p.Key]; !ok || compare(p, l) > 0 {
				next.latest[p.Key] = p
			}
		}
	}
	r.keep(runID, next)
	values := make(map[string]float64, len(next.latest))
	for key, p := range next.latest {
		values[key] = p.Value
	}
	return values, nil
}

// keep keeps what was read of a run, if it is not too much.
func (r *Reader) keep(runID string, read run) {
	if len(read.latest) > maxKeys {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, _ := r.runs.Get(runID); known.seq <= read.seq {
		r.runs.Add(runID, read)
	}
}

func compare(a, b events.Point) int {
	number := func(v float64) float64 {
		if v != v {
			return 0
		}
		return v
	}
	return cmp.Or(cmp.Compare(a.Step, b.Step), cmp.Compare(a.Timestamp, b.Timestamp), cmp.Compare(number(a.Value), number(b.Value)))
}
