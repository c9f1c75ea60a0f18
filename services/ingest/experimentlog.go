package ingest

import (
	"context"
	"sync"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/fold"
)

// experimentLog decides the commands on experiments, and knows the experiments
// as the log has them.
type experimentLog struct {
	log  *eventlog.Log
	lane *eventlog.Lane

	mu        sync.Mutex
	directory *directory
	seq       uint64 // of the last event that is folded in
}

func newExperimentLog(log *eventlog.Log, m *instruments) *experimentLog {
	x := &experimentLog{log: log, directory: newDirectory()}
	// Single: a command never sees an experiment that may not come to be.
	x.lane = log.NewLane(eventlog.LaneConfig{
		Stream: events.StreamExperiments, Single: true, Reset: x.catchUp, Observe: m.observer(events.StreamExperiments),
	})
	return x
}

// start reads the experiments, and creates the default one in an empty log. Of
// several processes that start at once, one creates it.
func (x *experimentLog) start(ctx context.Context) error {
	if err := x.catchUp(ctx); err != nil {
		return err
	}
	_, err := x.do(ctx, "", events.New(source, "", time.Now()), (*directory).createDefault)
	return err
}

// folded returns the sequence of the last event that is folded in.
func (x *experimentLog) folded() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seq
}

// catchUp folds in what the log has beyond seq.
func (x *experimentLog) catchUp(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for rec, err := range x.log.Read(ctx, events.StreamExperiments, "", x.seq+1, 0) {
		if err != nil {
			return err
		}
		x.directory.apply(rec.Attributes, rec.Event)
		x.seq = rec.Seq
	}
	return nil
}

// read shows the experiments as the log has them now. look must not keep the
// directory.
func (x *experimentLog) read(ctx context.Context, look func(*directory)) error {
	if err := x.catchUp(ctx); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	look(x.directory)
	return nil
}

// do runs a command on an experiment, "" for one that creates one.
func (x *experimentLog) do(ctx context.Context, id string, a events.Attributes, decide func(*directory) (*events.Event, error)) (eventlog.Position, error) {
	return x.lane.Do(ctx, func(ctx context.Context, b *eventlog.Batch) error {
		e, seq, err := x.decide(id, a, decide)
		if err != nil || e == nil {
			// Nothing will be written that the log could refuse, so it is asked
			// whether another process has written.
			if err := x.catchUp(ctx); err != nil {
				return err
			}
			e, seq, err = x.decide(id, a, decide)
		}
		if err != nil || e == nil {
			return err
		}
		return b.Append(events.ExperimentSubject(fold.ExperimentOf(e)), a, e, eventlog.Expect{Stream: true, Seq: seq}, func(at uint64) {
			x.mu.Lock()
			defer x.mu.Unlock()
			if at == x.seq+1 { // otherwise a reader has folded it in already
				x.directory.apply(a, e)
				x.seq = at
			}
		})
	})
}

// decide returns what a command decides, and the sequence it rests on. A
// request that was committed before decides nothing.
func (x *experimentLog) decide(id string, a events.Attributes, decide func(*directory) (*events.Event, error)) (*events.Event, uint64, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if seen, err := x.directory.requests[id].seen(a.IdempotencyKey); seen || err != nil {
		return nil, x.seq, err
	}
	e, err := decide(x.directory)
	return e, x.seq, err
}
