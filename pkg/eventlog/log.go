// Package eventlog reads and writes the event log on NATS JetStream: it sets
// the streams up, reads them in order, and commits commands to them in atomic
// batches.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
)

var (
	// ErrBusy means that a lane's queue is full, or that other writers won
	// again and again; the command left no trace.
	ErrBusy error = apierr.Errorf(apierr.RequestLimitExceeded, "The event log is busy, try again").WithRetryAfter(time.Second)
	// ErrClosed means that the lane is shutting down; the command left no trace.
	ErrClosed error = apierr.Errorf(apierr.TemporarilyUnavailable, "The server is shutting down, try again").WithRetryAfter(time.Second)
	// ErrFull means that a stream reached its size limit; the command left no trace.
	ErrFull error = apierr.Errorf(apierr.TemporarilyUnavailable, "The event log is full: its operator must raise its size limit").WithRetryAfter(time.Minute)
	// ErrUnwritable means that the log's server is known to take no writes, for
	// example since its disk is full; the command left no trace.
	ErrUnwritable error = apierr.Errorf(apierr.TemporarilyUnavailable, "The event log cannot be written: its disk is full, or fails. It goes on by itself once that is over").WithRetryAfter(5 * time.Second)
	// ErrUnavailable means that the log did not answer in time. Whether the
	// command was committed is unknown.
	ErrUnavailable error = apierr.Errorf(apierr.TemporarilyUnavailable, "The event log does not answer, try again").WithRetryAfter(2 * time.Second)
	// ErrDamaged means that events which the log had are not in it any more: a
	// stream has a hole, or has lost its end. What would rest on them is refused.
	ErrDamaged error = apierr.Errorf(apierr.TemporarilyUnavailable, "The event log is damaged: its operator must restore it, see `runledger log check`").WithRetryAfter(time.Minute)
	// ErrShardCount means that the log was created with another shard count.
	ErrShardCount = errors.New("shard count differs from the log's")
)

// Record is an event at its place in the log.
type Record struct {
	Stream  string
	Seq     uint64 // stream sequence, from 1
	Subject string
	// More says that the next event of the stream was committed together with
	// this one, in one atomic batch.
	More bool
	events.Attributes
	*events.Event
}

// Position is a place in the log. The zero Position means that nothing was
// written.
type Position struct {
	Stream string
	Seq    uint64
}

// Log is the event log. It is safe for concurrent use.
type Log struct {
	js      jetstream.JetStream
	shards  int
	streams map[string]jetstream.Stream
	logger  *slog.Logger
	// writable is Config.Writable.
	writable func() context.Context
	damage   damage
}

// Config configures Open.
type Config struct {
	// Shards is the number of run shards of a new log. 0 takes the existing
	// log's count, or 4 for a new one.
	Shards   int
	Replicas int   // of each stream; 0 is 1
	MaxBytes int64 // of each stream; 0 is no limit
	// Writable returns a context that ends once the server is known to take no
	// writes, another one when it takes them again. nil is a server that does not
	// tell.
	Writable func() context.Context
	Logger   *slog.Logger
}

const (
	defaultShards = 4
	setupTimeout  = 30 * time.Second
	// readTimeout bounds one request for a stretch of the log.
	readTimeout = 10 * time.Second
	// readBatchSize and readBytes bound one answer.
	readBatchSize = 1000
	readBytes     = 8 << 20
)

// Open creates the streams that are missing and brings the others to this
// build's configuration. It returns ErrShardCount when the log exists with
// another count, and ErrDamaged, with the figures, when a stream has lost events.
func Open(ctx context.Context, nc *nats.Conn, c Config) (*Log, error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(10*time.Second), jetstream.WithPublishAsyncTimeout(attemptTimeout))
	if err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Writable == nil {
		c.Writable = context.Background
	}
	if c.Shards < 0 || c.Shards > events.MaxShards {
		return nil, fmt.Errorf("open event log: %d shards, want 1 to %d", c.Shards, events.MaxShards)
	}
	if c.MaxBytes < 0 || c.Replicas < 0 {
		return nil, fmt.Errorf("open event log: %d bytes at most and %d replicas of a stream, want positive numbers", c.MaxBytes, c.Replicas)
	}
	existing, err := existingShards(ctx, js)
	if err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	if c.Shards == 0 {
		c.Shards = existing
	}
	if c.Shards == 0 {
		c.Shards = defaultShards
	}
	if existing != 0 && existing != c.Shards {
		return nil, fmt.Errorf("open event log: %d shards asked for, the log has %d: %w", c.Shards, existing, ErrShardCount)
	}
	opts := events.StreamOptions{Shards: c.Shards, Replicas: max(c.Replicas, 1), MaxBytes: c.MaxBytes}
	if opts.MaxBytes == 0 {
		opts.MaxBytes = -1
	}
	l := &Log{js: js, shards: c.Shards, streams: make(map[string]jetstream.Stream), logger: c.Logger, writable: c.Writable}
	for _, sc := range events.StreamConfigs(opts) {
		s, err := js.CreateOrUpdateStream(ctx, sc)
		if err != nil {
			return nil, fmt.Errorf("open event log: stream %s: %w", sc.Name, err)
		}
		l.streams[sc.Name] = s
		if _, err := l.LastSeq(ctx, sc.Name); err != nil {
			return nil, fmt.Errorf("open event log: %w", err)
		}
	}
	return l, nil
}

// existingShards returns the shard count of the log on the server, 0 for none.
// It asks every stream: after a crash while one was being created, JetStream
// may not list that one.
func existingShards(ctx context.Context, js jetstream.JetStream) (int, error) {
	shards := 0
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		if _, ok := events.ShardOfStream(info.Config.Name); ok {
			shards = max(shards, events.ShardsOf(info.Config))
		}
	}
	return shards, list.Err()
}

// JetStream returns the connection's JetStream context, for what is kept
// beside the log (leases).
func (l *Log) JetStream() jetstream.JetStream { return l.js }

// Shards returns the number of run shards.
func (l *Log) Shards() int { return l.shards }

// RunStreams returns the names of the run shards' streams, by shard.
func (l *Log) RunStreams() []string {
	names := make([]string, l.shards)
	for i := range names {
		names[i] = events.RunsStream(i)
	}
	return names
}

// Streams returns the names of all streams of the log.
func (l *Log) Streams() []string {
	return append(l.RunStreams(), events.StreamExperiments, events.StreamRegistry)
}

// RunSubject returns a subject of a run in this log's shards, and its stream.
// experimentID may be events.Any; runID decides the shard, and may not.
func (l *Log) RunSubject(experimentID, runID string, kind events.Kind) (stream, subject string) {
	shard := events.Shard(runID, l.shards)
	return events.RunsStream(shard), events.RunSubject(shard, experimentID, runID, kind)
}

// ArtifactSubject returns the subject of the artifacts of a run or a logged model
// in this log's shards; see events.ArtifactSubject.
func (l *Log) ArtifactSubject(experimentID, owner string) (stream, subject string) {
	shard := events.Shard(owner, l.shards)
	return events.RunsStream(shard), events.ArtifactSubject(shard, experimentID, owner)
}

// LoggedModelSubject returns the subject of a logged model in this log's shards;
// experimentID may be events.Any.
func (l *Log) LoggedModelSubject(experimentID, modelID string) (stream, subject string) {
	shard := events.Shard(modelID, l.shards)
	return events.RunsStream(shard), events.LoggedModelSubject(shard, experimentID, modelID)
}

// LoggedModel returns the first event of a logged model; nil when there is no
// such model, or it was deleted.
func (l *Log) LoggedModel(ctx context.Context, id string) (*events.LoggedModelCreated, error) {
	if !events.ValidLoggedModelID(id) {
		return nil, nil
	}
	var created *events.LoggedModelCreated
	stream, filter := l.LoggedModelSubject(events.Any, id)
	for rec, err := range l.Read(ctx, stream, filter, 1, 0) {
		if err != nil {
			return nil, fmt.Errorf("look logged model %s up: %w", id, err)
		}
		switch d := rec.GetData().(type) {
		case *events.Event_LoggedModelCreated:
			created = d.LoggedModelCreated
		case *events.Event_LoggedModelDeleted:
			return nil, nil
		}
	}
	return created, nil
}

// LastSeq returns the last sequence of a stream, 0 when it is empty. It returns
// ErrDamaged when the stream has lost events.
func (l *Log) LastSeq(ctx context.Context, stream string) (uint64, error) {
	s, err := l.stream(stream)
	if err != nil {
		return 0, err
	}
	info, err := s.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("last sequence of %s: %w: %w", stream, err, ErrUnavailable)
	}
	if err := l.whole(stream, info.State); err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}

// LastFor returns the subject and the sequence of the last event on the
// subjects that filter matches, and 0 when there is none.
func (l *Log) LastFor(ctx context.Context, stream, filter string) (subject string, seq uint64, err error) {
	msg, err := l.last(ctx, stream, filter)
	if err != nil || msg == nil {
		return "", 0, err
	}
	return msg.Subject, msg.Sequence, nil
}

// Last returns the last event on the subjects that filter matches, one with
// sequence 0 when there is none. It returns events.ErrCorrupt or
// events.ErrUnknownSchema for an event that cannot be read.
func (l *Log) Last(ctx context.Context, stream, filter string) (Record, error) {
	msg, err := l.last(ctx, stream, filter)
	if err != nil || msg == nil {
		return Record{}, err
	}
	return newRecord(stream, msg.Subject, msg.Sequence, msg.Header, msg.Data)
}

// last returns nil when there is no event. The server does not find one that it
// cannot read, but its index has it.
func (l *Log) last(ctx context.Context, stream, filter string) (*jetstream.RawStreamMsg, error) {
	s, err := l.stream(stream)
	if err != nil {
		return nil, err
	}
	n := uint64(0)
	for range 2 { // it may come in between
		msg, err := s.GetLastMsgForSubject(ctx, filter)
		if err == nil {
			return msg, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, fmt.Errorf("last event of %s on %s: %w: %w", stream, filter, err, ErrUnavailable)
		}
		if n, err = l.count(ctx, stream, filter); err != nil || n == 0 {
			return nil, err
		}
	}
	return nil, l.damaged(stream, fmt.Sprintf("the last of %d events on %s cannot be read", n, filter))
}

// Run returns the first event of a run; nil when there is no such run, or it was
// purged.
func (l *Log) Run(ctx context.Context, id string) (*events.RunCreated, error) {
	if !events.ValidRunID(id) {
		return nil, nil
	}
	stream, filter := l.RunSubject(events.Any, id, events.KindMeta)
	last, err := l.Last(ctx, stream, filter)
	if err != nil || last.Seq == 0 || events.Purged(last.Event) {
		return nil, err
	}
	for rec, err := range l.Read(ctx, stream, last.Subject, 1, last.Seq) {
		if err != nil {
			return nil, fmt.Errorf("look run %s up: %w", id, err)
		}
		if rec.GetRunCreated() == nil {
			return nil, l.damaged(stream, fmt.Sprintf("event %d on %s is not the one that created the run", rec.Seq, rec.Subject))
		}
		return rec.GetRunCreated(), nil
	}
	return nil, nil
}

// Runs returns the ids of all runs of an experiment in a shard, in no order.
func (l *Log) Runs(ctx context.Context, shard int, experimentID string) ([]string, error) {
	counts, err := l.Counts(ctx, events.RunsStream(shard), events.RunSubject(shard, experimentID, events.Any, events.KindMeta))
	if err != nil {
		return nil, fmt.Errorf("runs of experiment %s: %w", experimentID, err)
	}
	ids := make([]string, 0, len(counts))
	for subject := range counts {
		ids = append(ids, events.RunOfSubject(subject))
	}
	return ids, nil
}

// Counts returns how many events there are on each of the subjects that filter
// matches.
func (l *Log) Counts(ctx context.Context, stream, filter string) (map[string]uint64, error) {
	s, err := l.stream(stream)
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return nil, fmt.Errorf("count the events of %s on %s: %w: %w", stream, filter, err, ErrUnavailable)
	}
	return info.State.Subjects, nil
}

// Since returns how long ago the event with a sequence was logged, by the clock
// of who logged it; 0 when the stream has none with that sequence.
func (l *Log) Since(ctx context.Context, stream string, seq uint64) (time.Duration, error) {
	for rec, err := range l.Read(ctx, stream, "", seq, seq) {
		if err != nil {
			return 0, err
		}
		return max(time.Since(rec.Time), 0), nil
	}
	return 0, nil
}

func (l *Log) stream(name string) (jetstream.Stream, error) {
	s, ok := l.streams[name]
	if !ok {
		return nil, fmt.Errorf("the event log has no stream %q", name)
	}
	return s, nil
}

// Incarnation identifies a stream's contents: the id of its first event, ""
// when it is empty. A stream that was lost and made again has another one.
func (l *Log) Incarnation(ctx context.Context, stream string) (string, error) {
	for rec, err := range l.Read(ctx, stream, "", 1, 1) {
		return rec.ID, err
	}
	return "", nil
}

// Read yields the events from sequence from up to and including sequence to
// (0: the last one when the read begins), on the subjects that filter matches
// ("" is all). It stops at the first error: events.ErrCorrupt or
// events.ErrUnknownSchema for an event that cannot be read, and ErrDamaged when
// the log had more events there than it has now: whoever reads to the end has
// all of them.
func (l *Log) Read(ctx context.Context, stream, filter string, from, to uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if to == 0 {
			var err error
			if filter == "" {
				to, err = l.LastSeq(ctx, stream)
			} else {
				_, to, err = l.LastFor(ctx, stream, filter)
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
		}
		r := reading{log: l, stream: stream, filter: filter, from: max(from, 1), to: to}
		r.next = r.from
		for r.next <= to && !r.done {
			if !r.batch(ctx, yield) {
				return
			}
		}
		if err := r.check(ctx); err != nil {
			yield(Record{}, err)
		}
	}
}

// reading is a Read that is under way.
type reading struct {
	log            *Log
	stream, filter string
	from, to, next uint64
	done           bool   // the server has no more
	count          uint64 // of the events that were read
	// matching is how many events there were from the first one on when the
	// server began to answer.
	matching uint64
}

// batch yields one answer of the server, and returns whether to go on.
func (r *reading) batch(ctx context.Context, yield func(Record, error) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	opts := []jetstreamext.GetBatchOpt{jetstreamext.GetBatchSeq(r.next), jetstreamext.GetBatchMaxBytes(readBytes)}
	if r.filter != "" {
		opts = append(opts, jetstreamext.GetBatchSubject(r.filter))
	}
	batch, err := jetstreamext.GetBatch(ctx, r.log.js, r.stream, readBatchSize, opts...)
	if err != nil {
		yield(Record{}, fmt.Errorf("read %s from %d: %w: %w", r.stream, r.next, err, ErrUnavailable))
		return false
	}
	began := r.next
	for msg, err := range batch {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			r.done = true
			return true
		}
		if err != nil {
			yield(Record{}, fmt.Errorf("read %s from %d: %w: %w", r.stream, r.next, err, ErrUnavailable))
			return false
		}
		if r.count == 0 {
			if r.matching, err = strconv.ParseUint(msg.Header.Get("Nats-Num-Pending"), 10, 64); err != nil {
				yield(Record{}, fmt.Errorf("read %s from %d: %w: %w", r.stream, r.next, err, ErrUnavailable))
				return false
			}
			r.matching++
		}
		if msg.Sequence > r.to {
			r.done = true
			return true
		}
		if r.filter == "" && msg.Sequence != r.next {
			yield(Record{}, r.log.damaged(r.stream, fmt.Sprintf("event %d comes where %d was due", msg.Sequence, r.next)))
			return false
		}
		r.next = msg.Sequence + 1
		r.count++
		rec, err := newRecord(r.stream, msg.Subject, msg.Sequence, msg.Header, msg.Data)
		if !yield(rec, err) || err != nil {
			return false
		}
	}
	if r.next == began {
		// The connection went quiet without the server's end marker.
		yield(Record{}, fmt.Errorf("read %s from %d: no answer: %w", r.stream, r.next, ErrUnavailable))
		return false
	}
	return true
}

func newRecord(stream, subject string, seq uint64, h nats.Header, data []byte) (Record, error) {
	attrs, event, err := events.Decode(h, data)
	if err != nil {
		return Record{}, fmt.Errorf("%s sequence %d: %w", stream, seq, err)
	}
	// The server keeps the headers by which it told the messages of a batch apart.
	more := h.Get(jetstreamext.BatchIDHeader) != "" && h.Get(jetstreamext.BatchCommitHeader) == ""
	return Record{Stream: stream, Seq: seq, Subject: subject, More: more, Attributes: attrs, Event: event}, nil
}

// Follow delivers every event of a stream from sequence from on, in order and
// without a gap, until ctx ends (it then returns nil) or handle returns an
// error (which it returns). It survives reconnections. An event that cannot be
// decoded ends it with events.ErrCorrupt or events.ErrUnknownSchema, one that is
// missing with events.ErrCorrupt and ErrDamaged.
func (l *Log) Follow(ctx context.Context, stream string, from uint64, handle func(Record) error) error {
	s, err := l.stream(stream)
	if err != nil {
		return err
	}
	next := max(from, 1)
	cons, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   next,
	})
	if err != nil {
		return followError(ctx, stream, err)
	}
	messages, err := cons.Messages(jetstream.PullMaxBytes(readBytes))
	if err != nil {
		return followError(ctx, stream, err)
	}
	stop := context.AfterFunc(ctx, messages.Stop)
	defer func() {
		if stop() {
			messages.Stop()
		}
	}()
	for {
		msg, err := messages.Next()
		if err != nil {
			return followError(ctx, stream, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("follow %s: %w", stream, err)
		}
		if meta.Sequence.Stream != next {
			return fmt.Errorf("follow: %w: %w", events.ErrCorrupt,
				l.damaged(stream, fmt.Sprintf("event %d comes where %d was due", meta.Sequence.Stream, next)))
		}
		rec, err := newRecord(stream, msg.Subject(), next, msg.Headers(), msg.Data())
		if err != nil {
			return err
		}
		if err := handle(rec); err != nil {
			return err
		}
		next++
	}
}

func followError(ctx context.Context, stream string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow %s: %w: %w", stream, err, ErrUnavailable)
}
