package ingest

import (
	"context"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// shard decides the commands of the runs of one stream. But for its
// construction, all of it runs on the lane's goroutine.
type shard struct {
	log    *eventlog.Log
	index  int
	stream string
	lane   *eventlog.Lane
	// committed holds states that agree with the log, as far as this process
	// knows.
	committed *runCache
	// touched holds the states that the batch which is being made has changed.
	touched map[string]*run
}

func newShard(log *eventlog.Log, index, cacheBytes int, m *instruments) (*shard, error) {
	s := &shard{log: log, index: index, stream: events.RunsStream(index), touched: make(map[string]*run)}
	var err error
	if s.committed, err = newRunCache(cacheBytes); err != nil {
		return nil, err
	}
	s.lane = log.NewLane(eventlog.LaneConfig{Stream: s.stream, Reset: s.reset, Observe: m.observer(s.stream)})
	return s, nil
}

// reset forgets what an uncommitted batch has changed.
func (s *shard) reset(context.Context) error {
	for id := range s.touched {
		s.committed.remove(id)
	}
	clear(s.touched)
	return nil
}

// decision is what a command makes of a run. It must not change the run.
type decision func(r *run) ([]*events.Event, error)

// do runs a command on an existing run. done, when not nil, sees the run as it
// is after the command.
func (s *shard) do(ctx context.Context, id string, a events.Attributes, decide decision, done func(*run)) (eventlog.Position, error) {
	return s.doAny(ctx, id, a, func(r *run) ([]*events.Event, error) {
		if r.Purge != kept {
			return nil, mlflow.RunNotFound(id)
		}
		return decide(r)
	}, done)
}

// doAny is do for a run that may be purged.
func (s *shard) doAny(ctx context.Context, id string, a events.Attributes, decide decision, done func(*run)) (eventlog.Position, error) {
	return s.lane.Do(ctx, func(ctx context.Context, b *eventlog.Batch) error {
		r, fresh, err := s.find(ctx, id)
		if err != nil {
			return err
		}
		if r == nil {
			return mlflow.RunNotFound(id)
		}
		out, err := decideOnce(r, a, decide)
		if (err != nil || len(out) == 0) && !fresh {
			// Nothing will be written that the log could refuse, so it is asked
			// whether another process has changed the run.
			if r, err = s.refresh(ctx, id, r); err != nil {
				return err
			}
			out, err = decideOnce(r, a, decide)
		}
		if err == nil {
			err = s.append(b, r, a, out)
		}
		if err == nil && done != nil {
			done(r)
		}
		return err
	})
}

// decideOnce leaves out a request that was committed before.
func decideOnce(r *run, a events.Attributes, decide decision) ([]*events.Event, error) {
	if seen, err := r.requests.seen(a.IdempotencyKey); seen || err != nil {
		return nil, err
	}
	return decide(r)
}

// create creates a run under an id. A run that has it already was created by
// the same request before, or the request is refused.
func (s *shard) create(ctx context.Context, a events.Attributes, created *events.RunCreated, done func(*run)) (eventlog.Position, error) {
	return s.lane.Do(ctx, func(ctx context.Context, b *eventlog.Batch) error {
		r := newRun()
		if a.IdempotencyKey != "" {
			existing, _, err := s.find(ctx, created.GetRunId())
			if err != nil {
				return err
			}
			if existing != nil {
				if existing.Purge != kept {
					return mlflow.RunNotFound(created.GetRunId())
				}
				if _, err := existing.requests.seen(a.IdempotencyKey); err != nil {
					return err
				}
				done(existing)
				return nil
			}
		}
		r.Created = created
		if err := s.append(b, r, a, []*events.Event{{Data: &events.Event_RunCreated{RunCreated: created}}}); err != nil {
			return err
		}
		done(r)
		return nil
	})
}

// expectKept returns what a message must expect that is for a run only while it is
// not purged, nothing for a run that the log does not know, and what to call when
// it is committed. For a purged run it returns RESOURCE_DOES_NOT_EXIST.
func (s *shard) expectKept(ctx context.Context, id string) (expect eventlog.Expect, committed func(seq uint64), err error) {
	r, fresh, err := s.find(ctx, id)
	if err == nil && r != nil && r.Purge != kept && !fresh {
		r, err = s.refresh(ctx, id, r)
	}
	switch {
	case err != nil || r == nil:
		return expect, nil, err
	case r.Purge != kept:
		return expect, nil, mlflow.RunNotFound(id)
	}
	s.touched[id] = r // so that it is read again if the log has another state
	expect = eventlog.Expect{Subject: events.RunSubject(s.index, r.Created.GetExperimentId(), id, events.KindMeta), Seq: r.lastSeq}
	return expect, func(uint64) { delete(s.touched, id) }, nil
}

// append adds events to the batch, and then to the run. All expect that the
// run's state is what they were decided on.
func (s *shard) append(b *eventlog.Batch, r *run, a events.Attributes, out []*events.Event) error {
	id := r.ID()
	meta := events.RunSubject(s.index, r.Created.GetExperimentId(), id, events.KindMeta)
	metric := events.RunSubject(s.index, r.Created.GetExperimentId(), id, events.KindMetric)
	expect := eventlog.Expect{Subject: meta, Seq: r.lastSeq}
	attrs := make([]events.Attributes, len(out))
	for i, e := range out {
		attrs[i] = a
		if i > 0 {
			attrs[i].ID = events.NewID()
		}
		subject, committed := meta, func(seq uint64) { r.lastSeq = seq; delete(s.touched, id) }
		if e.GetMetricsLogged() != nil {
			subject, committed = metric, func(uint64) { delete(s.touched, id) }
		}
		if err := b.Append(subject, attrs[i], e, expect, committed); err != nil {
			return err
		}
	}
	if len(out) == 0 {
		return nil
	}
	for i, e := range out {
		if e.GetMetricsLogged() == nil {
			r.apply(attrs[i], e)
		}
	}
	s.touched[id] = r
	s.committed.add(r)
	return nil
}

// find returns the state of a run, nil when there is no such run. fresh says
// that it was read from the log just now, or is one that the batch has changed,
// which the log will refuse if it is not what it was.
func (s *shard) find(ctx context.Context, id string) (r *run, fresh bool, err error) {
	if r, ok := s.touched[id]; ok {
		return r, true, nil
	}
	if r, ok := s.committed.get(id); ok {
		return r, false, nil
	}
	r, err = s.read(ctx, id)
	return r, true, err
}

// refresh returns the state of a run of which r may be an old one.
func (s *shard) refresh(ctx context.Context, id string, r *run) (*run, error) {
	_, last, err := s.log.LastFor(ctx, s.stream, events.RunSubject(s.index, r.Created.GetExperimentId(), id, events.KindMeta))
	if err != nil || last == r.lastSeq {
		return r, err
	}
	return s.read(ctx, id)
}

// read folds a run from the log, nil when there is no such run.
func (s *shard) read(ctx context.Context, id string) (*run, error) {
	if !events.ValidRunID(id) {
		return nil, nil
	}
	// The server reads one subject several times faster than those that a pattern
	// matches, so it is asked first which one it is.
	subject, last, err := s.log.LastFor(ctx, s.stream, events.RunSubject(s.index, events.Any, id, events.KindMeta))
	if err != nil || last == 0 {
		return nil, err
	}
	r := newRun()
	for rec, err := range s.log.Read(ctx, s.stream, subject, 1, last) {
		if err != nil {
			return nil, err
		}
		r.apply(rec.Attributes, rec.Event)
		r.lastSeq = rec.Seq
	}
	s.committed.add(r)
	return r, nil
}
