package query

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/watermark"
)

const (
	// maxAskedExperiments is up to how many experiments the log is asked about
	// each of them; beyond, the ends of all shards are waited for.
	maxAskedExperiments = 8
	// maxAsked bounds the questions to the log that one read has under way.
	maxAsked = 16
)

// freshness keeps the promise that a client sees its own writes.
type freshness struct {
	log    *eventlog.Log
	reader *watermark.Reader
	bound  time.Duration

	waits   prometheus.Histogram
	stale   prometheus.Counter
	refused prometheus.Counter
}

func newFreshness(log *eventlog.Log, reader *watermark.Reader, bound time.Duration, r prometheus.Registerer) (*freshness, error) {
	f := &freshness{
		log: log, reader: reader, bound: bound,
		waits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "runledger", Subsystem: "query", Name: "freshness_wait_seconds",
			Help:    "How long a read waited for the tables to hold what the log had when it began.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
		stale: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "runledger", Subsystem: "query", Name: "stale_reads_total",
			Help: "Reads that were answered from old tables, since their clients had asked for that.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "runledger", Subsystem: "query", Name: "late_reads_total",
			Help: "Reads that were refused because the tables did not get in time to hold what the log had when they began.",
		}),
	}
	if r == nil {
		return f, nil
	}
	for _, c := range []prometheus.Collector{f.waits, f.stale, f.refused} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return f, nil
}

func (f *freshness) close() error { return f.reader.Close() }

// ofRun returns the place of the last event of a run, and the id of its
// experiment; the sequence is 0 when the log has no such event.
func (f *freshness) ofRun(ctx context.Context, runID string, kind events.Kind) (at eventlog.Position, experimentID string, err error) {
	stream, subject := f.log.RunSubject(events.Any, runID, kind)
	subject, seq, err := f.log.LastFor(ctx, stream, subject)
	return eventlog.Position{Stream: stream, Seq: seq}, events.ExperimentOfRunSubject(subject), err
}

// ofExperiment returns the place of the last event of an experiment; the
// sequence is 0 when the log has none.
func (f *freshness) ofExperiment(ctx context.Context, id uint64) (eventlog.Position, error) {
	_, seq, err := f.log.LastFor(ctx, events.StreamExperiments, events.ExperimentSubject(formatExperimentID(id)))
	return eventlog.Position{Stream: events.StreamExperiments, Seq: seq}, err
}

// ofExperiments returns the place of the last event of any experiment.
func (f *freshness) ofExperiments(ctx context.Context) (eventlog.Position, error) {
	seq, err := f.log.LastSeq(ctx, events.StreamExperiments)
	return eventlog.Position{Stream: events.StreamExperiments, Seq: seq}, err
}

// ofRuns returns the places of the last events of the experiments and of all
// their runs.
func (f *freshness) ofRuns(ctx context.Context, experimentIDs []uint64) ([]eventlog.Position, error) {
	streams := f.log.RunStreams()
	places := make([]eventlog.Position, len(streams)+1)
	group, ctx := newTasks(ctx)
	group.SetLimit(maxAsked)
	for shard, stream := range streams {
		places[shard].Stream = stream
		group.Go(func() error {
			end, err := f.log.LastSeq(ctx, stream)
			// The last event of an experiment costs the log a look at each of its
			// runs: it is not asked while the tables have everything anyway.
			if err != nil || end <= f.reader.Watermark(stream) || len(experimentIDs) > maxAskedExperiments {
				places[shard].Seq = end
				return err
			}
			for _, id := range experimentIDs {
				_, seq, err := f.log.LastFor(ctx, stream, events.RunSubject(shard, formatExperimentID(id), events.Any, events.KindAny))
				if err != nil {
					return err
				}
				places[shard].Seq = max(places[shard].Seq, seq)
			}
			return nil
		})
	}
	group.Go(func() (err error) {
		last := &places[len(streams)]
		if len(experimentIDs) > maxAskedExperiments {
			*last, err = f.ofExperiments(ctx)
			return err
		}
		last.Stream = events.StreamExperiments
		for _, id := range experimentIDs {
			at, err := f.ofExperiment(ctx, id)
			if err != nil {
				return err
			}
			last.Seq = max(last.Seq, at.Seq)
		}
		return nil
	})
	return places, group.Wait()
}

// marks returns the watermarks of all run shards, by shard.
func (f *freshness) marks() []uint64 {
	streams := f.log.RunStreams()
	marks := make([]uint64, len(streams))
	for shard, stream := range streams {
		marks[shard] = f.reader.Watermark(stream)
	}
	return marks
}

// ofShards returns the ends of all run shards. The points of a logged model may
// be in any of them.
func (f *freshness) ofShards(ctx context.Context) ([]eventlog.Position, error) {
	streams := f.log.RunStreams()
	places := make([]eventlog.Position, len(streams))
	group, ctx := newTasks(ctx)
	group.SetLimit(maxAsked)
	for shard, stream := range streams {
		places[shard].Stream = stream
		group.Go(func() (err error) {
			places[shard].Seq, err = f.log.LastSeq(ctx, stream)
			return err
		})
	}
	return places, group.Wait()
}

// await waits until the tables have reached the places, for the service's bound
// at most, and puts the watermarks into the headers of the answer. When the tables
// do not get there it returns TEMPORARILY_UNAVAILABLE, unless the client takes old
// data: the answer then says how old, and fresh is false.
func (f *freshness) await(ec echo.Context, places ...eventlog.Position) (fresh bool, err error) {
	request := ec.Request().Context()
	ctx, cancel := context.WithTimeout(request, f.bound)
	defer cancel()
	begin := time.Now()
	group, ctx := newTasks(ctx)
	for _, p := range places {
		group.Go(func() error { return f.reader.Wait(ctx, p.Stream, p.Seq) })
	}
	behind := group.Wait()
	f.waits.Observe(time.Since(begin).Seconds())
	if err := request.Err(); err != nil {
		return false, err
	}
	var late []eventlog.Position // how far the tables are that are behind
	reached := make([]eventlog.Position, len(places))
	for i, p := range places {
		reached[i] = eventlog.Position{Stream: p.Stream, Seq: f.reader.Watermark(p.Stream)}
		if reached[i].Seq < p.Seq {
			late = append(late, reached[i])
		}
	}
	tellWatermark(ec, reached)
	switch {
	case behind == nil:
		return true, nil
	case !httpapi.AllowsStale(ec):
		f.refused.Inc()
		return false, apierr.Wrap(behind, apierr.TemporarilyUnavailable,
			"The tables do not have the newest writes yet, try again").WithRetryAfter(retryAfter)
	}
	f.stale.Inc()
	age, err := f.age(request, late)
	if err != nil {
		return false, err
	}
	httpapi.TellStale(ec, age)
	return false, nil
}

// tellWatermark says in an answer up to where of the log it is.
func tellWatermark(ec echo.Context, places []eventlog.Position) {
	marks := make([]string, len(places))
	for i, p := range places {
		marks[i] = fmt.Sprintf("%s=%d", p.Stream, p.Seq)
	}
	slices.Sort(marks)
	ec.Response().Header().Set(httpapi.HeaderWatermark, strings.Join(marks, ", "))
}

// age returns how long ago the first event was logged that tables which are at
// these places lack.
func (f *freshness) age(ctx context.Context, places []eventlog.Position) (age time.Duration, err error) {
	for _, p := range places {
		since, err := f.log.Since(ctx, p.Stream, p.Seq+1)
		if err != nil {
			return 0, err
		}
		age = max(age, since)
	}
	return age, nil
}

type loweredKey struct{}

// steady is a handler whose statements fail when the tables are replaced after it has
// begun: it may have waited for the old ones, and read new ones that have little yet.
func (s *Service) steady(h echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		r := ec.Request()
		ec.SetRequest(r.WithContext(context.WithValue(r.Context(), loweredKey{}, s.fresh.reader.Lowered())))
		return h(ec)
	}
}

// replaced tells whether the tables were replaced after a request has begun.
func (f *freshness) replaced(ctx context.Context) bool {
	before, ok := ctx.Value(loweredKey{}).(uint64)
	return ok && f.reader.Lowered() != before
}
