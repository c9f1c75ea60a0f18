// Package projector folds the event log into the ClickHouse tables of
// pkg/tables, so that each of them is at all times exactly a function of a
// prefix of the log: nothing lost, nothing doubled, whatever is killed.
//
// # The data are the checkpoint
//
// A stream is projected by one goroutine, under a lease. It gathers a batch,
// a contiguous range (a, b] of the stream's sequences, folds it, and inserts
// the rows table by table; each INSERT is one block and becomes one part, so
// it happens as a whole or not at all. Then it writes b to checkpoints, and
// announces the watermark b. Every row carries the sequence of the event that
// made it.
//
// The watermark of a table is the greatest sequence in it (or the checkpoint,
// if that is greater, since many events make no row in a table). Claim: a
// table with watermark w holds exactly the rows of the events up to w.
//
//   - Batches are inserted in order and as a whole. If the last one that has
//     reached the table was (a, b] with greatest row w, the rows of events up
//     to w are there, and the events in (w, b] have none.
//   - After a crash, or any insert without an answer, the session is over and
//     its memory is dropped. The next one first makes sure that no statement of
//     an earlier one still runs on the server (settle), then reads the
//     watermark of each table, and goes on from the least of them. Rows at or
//     below a table's own watermark are not inserted again. So it does not
//     matter between which two tables it ended, nor that the new batches end
//     elsewhere.
//
// What remains is that the rows of an event beyond w must come out the same in
// the second life, although the other tables may be ahead of it. The fold
// needs a state, and reads it from the tables:
//
//   - runs and experiments have one row for each, whose seq is that of the last
//     event that changed it. An event at or below row.seq is in the row and is
//     skipped; so a row that is ahead of the batch is right once the batch has
//     passed it, and until then nothing is written from it.
//   - latest_metrics is a maximum over points, the first of equals: applying
//     points again that it has seen changes nothing. Rows come out only for
//     points that it has not seen, that is, beyond its watermark, to which the
//     state is exact.
//   - logged_models is like runs and experiments.
//   - run_attributes, run_datasets, run_models, artifacts and audit need no state. Nor does
//     logged_model_metrics, a set of few points: what is there twice is left to
//     the engine, and the table is read with FINAL.
//   - metrics is a set. A point p of the event s > w is to be inserted unless it
//     is among the points of the events before s: those up to w are in the
//     table, exactly, and the others are in this session's memory or in batches
//     that it has written. Looking every point up would be slow, so p is taken
//     as new without a look if it is beyond, in (step, timestamp), the greatest
//     point known of its run and key; every other is a suspect, and is looked
//     up. This is right whenever the greatest point known is not below the true
//     greatest one of the events before s. The state read from latest_metrics
//     has that property if that table holds at least the events before the
//     session's first one, which it does: the session began at the least
//     watermark. If latest_metrics is ahead, more points are suspects, no more.
//
// A run whose creation lies beyond all watermarks has no rows in any table:
// its state is known without a query, so a table is read only for runs that
// come back from an earlier session or from outside the cache.
//
// # What is purged
//
// RunPurged at p ends a run: its rows are deleted, and runs keeps a tombstone
// with sequence p. A table holds, then, the rows of the events up to its
// watermark but those of the runs that are purged by then. The deletes of a
// batch come before its inserts, and the run's events in the batch make no rows.
// What can end between is:
//
//   - After a delete, before the batch is in every table. The least watermark is
//     below p, so the next session meets p again, and deletes again. A table may
//     have lost its greatest sequence with the run's rows. Its watermark is then
//     that of the rows of others, and that is exact for them: it had no row of
//     theirs beyond it. For the run itself the next session may make rows from
//     less than it once knew, and deletes them at p.
//   - After the inserts, before the checkpoint. Any watermark that is at or
//     beyond p says that a batch with p was being inserted, so the deletes are
//     done.
//
// runs is never deleted from: an event of the run that is folded again finds the
// run in it. Experiments and logged models leave tombstones too. Theirs are the
// only rows that go: a point of a run stays one when the logged model that it is
// linked to is purged, and may be in another stream.
//
// The engine carries a delete out when it gets to it, in the background: it is
// kept on disk like a row, reads apply it until then, and it never reaches rows
// that are inserted later. Of two that are begun on one table in the same moment,
// it can take the later one for both and leave the earlier one undone for good.
// So deletes, of whatever stream, have a lease of their own.
//
// # A second writer
//
// A second writer, one that lost its lease without noticing (a process stopped
// between the check and the insert), produces the same rows from the same log:
// it can double rows for a while but cannot make wrong ones, and the engine's
// key collapses them, keeping the first sequence. Only rows of a run that was
// purged in that very moment could come back so: readers do not find them, since
// its tombstone hides the run. Before a new holder reads the watermarks, settle
// ends the statements of the old one.
//
// # What is lost
//
// All of this holds while the tables keep what was inserted. Whether they do is told by
// the checkpoints: each has, for every table, the numbers of the blocks that its parts
// held just before, which only become more (see blocks). A number that is gone is a part
// that was lost; this is looked for when a session begins, and once a second. Rows behind
// the checkpoint need no such record: if their part is lost, they are beyond the
// watermark of their table, and inserted again. The blocks of roll-ups are recorded before
// the watermark of their series is written. Rows without any checkpoint mean that it was
// lost, since the first one is written before the first rows.
//
// A part that cannot be loaded is set aside by the engine, and so lost. One whose bytes
// have changed is found by a check of the engine's checksums: after a start, once a day,
// and when a statement has failed because of it.
//
// Then all tables are set aside and built again. That is simpler than to build one, and
// faster if it is metrics: while the others are ahead of it, every point is a suspect.
//
// Whoever does so has the leases of all streams meanwhile, so no session runs, and says
// that all watermarks are 0, so that readers wait. A session that has lost its lease
// without noticing may insert into the new tables what it had made of the old ones. It
// does not record it, since the new ones lack what was there, and leaves rows without a
// checkpoint, which are damage.
//
// RunCreated must be the first event of its run, and the only one: ingest sees
// to it by an expected sequence of 0.
package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/tables"
)

// ErrOtherLog means that the tables were made from another log, or from a
// longer state of this one: the log was lost, in part or as a whole, or the
// tables belong to another Runledger. Nothing is written.
var ErrOtherLog = errors.New("the tables do not belong to this event log")

var errCatchingUp = errors.New("still catching up with the log")

const (
	defaultLeaseTTL   = 15 * time.Second
	defaultFlushRows  = 200_000
	defaultFlushAge   = 200 * time.Millisecond
	defaultFlushBytes = 32 << 20
	// maxFlushRows keeps one insert one block with room to spare.
	maxFlushRows = 500_000

	migrationLease = "migrations"
	purgeLease     = "purges"
)

// Config configures New.
type Config struct {
	Log        *eventlog.Log
	Conn       *nats.Conn          // for leases and watermarks
	ClickHouse *clickhouse.Options // address, database and credentials of the native protocol

	// HolderID names this projector in its leases; "" is a random name. A
	// projector takes the leases of its own name over at once, so a fixed name
	// is for one that is known to be the only of that name alive.
	HolderID string
	// LeaseTTL is after what time without renewal another projector takes a
	// stream over. 0 is 15 seconds.
	LeaseTTL time.Duration

	// A batch is written when it holds FlushRows metric points (0 is 200 000,
	// at most 500 000) or FlushBytes of other events (0 is 32 MiB), when its
	// first event has waited for FlushAge (0 is 200 ms), or when a reader waits.
	FlushRows  int
	FlushBytes int
	FlushAge   time.Duration

	// CheckEvery is how often all parts of the tables are compared with their
	// checksums, which reads them. 0 is a day.
	CheckEvery time.Duration

	// A series is rolled up each time it has got RollupPoints more points. 0 is
	// 65 536.
	RollupPoints int

	Logger     *slog.Logger          // nil is silent
	Registerer prometheus.Registerer // nil is none

	failpoint failpoint
}

// Projector projects the streams of a log whose leases it holds. Any number of
// projectors can run beside each other: each stream has one that writes, the
// others wait to take over.
type Projector struct {
	config  Config
	leases  *leases
	metrics *instruments
	workers []*worker

	suspicions chan string                 // of damage to the tables
	rebuilding atomic.Pointer[damageError] // why the tables are built again, while they are
}

// New prepares a projector. It asks the log, but not ClickHouse, which may
// still be starting.
func New(ctx context.Context, c Config) (*Projector, error) {
	switch {
	case c.Log == nil || c.Conn == nil || c.ClickHouse == nil || len(c.ClickHouse.Addr) == 0:
		return nil, errors.New("projector: the log, the NATS connection and the address of ClickHouse are needed")
	case c.FlushRows < 0 || c.FlushRows > maxFlushRows:
		return nil, fmt.Errorf("projector: batches of %d rows, at most %d", c.FlushRows, maxFlushRows)
	}
	c.setDefaults()
	replicas, err := replicasOf(ctx, c.Log)
	if err != nil {
		return nil, err
	}
	p := &Projector{config: c, metrics: newInstruments(c.Registerer), suspicions: make(chan string, 1)}
	if p.leases, err = openLeases(ctx, c.Log.JetStream(), replicas, c.HolderID, c.LeaseTTL, c.Logger); err != nil {
		return nil, err
	}
	for _, stream := range c.Log.Streams() {
		p.workers = append(p.workers, &worker{Projector: p, stream: stream, logger: c.Logger.With(slog.String("stream", stream))})
	}
	if c.Registerer != nil {
		if err := c.Registerer.Register(lag{p}); err != nil {
			return nil, fmt.Errorf("projector: %w", err)
		}
	}
	return p, nil
}

func (c *Config) setDefaults() {
	if c.HolderID == "" {
		c.HolderID = uuid.NewString()
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = defaultLeaseTTL
	}
	if c.FlushRows == 0 {
		c.FlushRows = defaultFlushRows
	}
	if c.FlushBytes == 0 {
		c.FlushBytes = defaultFlushBytes
	}
	if c.FlushAge == 0 {
		c.FlushAge = defaultFlushAge
	}
	if c.CheckEvery == 0 {
		c.CheckEvery = defaultCheckEvery
	}
	if c.RollupPoints == 0 {
		c.RollupPoints = defaultRollupPoints
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// replicasOf returns the replication of the log, which that of the leases
// follows.
func replicasOf(ctx context.Context, log *eventlog.Log) (int, error) {
	s, err := log.JetStream().Stream(ctx, events.StreamExperiments)
	if err != nil {
		return 0, fmt.Errorf("read the replication of the log: %w", err)
	}
	return s.CachedInfo().Config.Replicas, nil
}

// Run brings the tables to this build's version, waiting for ClickHouse if
// need be, and projects until ctx ends; it returns when all of it has stopped.
// Tables that are damaged are built again. It returns ErrOtherLog when the tables do
// not belong to the log, and an error when ClickHouse refuses the credentials.
func (p *Projector) Run(ctx context.Context) error {
	for {
		err := p.prepare(ctx)
		if err == nil {
			err = p.project(ctx)
		}
		damage, ok := errors.AsType[*damageError](err)
		if !ok && !errors.Is(err, errReplaced) {
			return err
		}
		for _, w := range p.workers {
			w.update(func(s *status) { *s = status{} })
		}
		if !ok {
			p.config.Logger.Info("left the tables to another projector, which builds them again")
			continue // and wait until it has replaced them
		}
		p.rebuilding.Store(damage)
		p.metrics.rebuilding.Set(1)
		p.config.Logger.Error("the tables are built again from the log", slog.Any("reason", damage))
		if err := p.retry(ctx, "set the damaged tables aside", func() error { return p.rebuild(ctx, damage) }); err != nil {
			return err
		}
	}
}

// prepare migrates the tables.
func (p *Projector) prepare(ctx context.Context) error {
	err := p.retry(ctx, "migrate the tables", func() error { return p.migrate(ctx) })
	if err == nil {
		for _, w := range p.workers {
			w.update(func(s *status) { s.err = nil })
		}
	}
	return err
}

// project runs a session for each stream, and looks for damage.
func (p *Projector) project(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, w := range p.workers {
		group.Go(func() error { return w.run(ctx) })
	}
	group.Go(func() error { return p.watch(ctx) })
	group.Go(func() error { return p.check(ctx) })
	group.Go(func() error { return p.yield(ctx) })
	return group.Wait()
}

// retry calls do until it succeeds, ctx ends, or the error is one that does not go
// away.
func (p *Projector) retry(ctx context.Context, what string, do func() error) error {
	delays := newDelays()
	for {
		err := do()
		if damage, ok := errors.AsType[*damageError](err); ok {
			return damage
		}
		if err == nil || errors.Is(err, ErrOtherLog) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if chconn.Denied(err) {
			return fmt.Errorf("projector: %w", err)
		}
		delay := delays.NextBackOff()
		for _, w := range p.workers {
			w.update(func(s *status) { s.err = err })
		}
		p.config.Logger.Warn(what, slog.Any("error", err), slog.Duration("again_in", delay))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

func newDelays() *backoff.ExponentialBackOff {
	delays := backoff.NewExponentialBackOff()
	delays.InitialInterval = 50 * time.Millisecond
	delays.MaxInterval = 5 * time.Second
	return delays
}

// migrate runs the migrations, one projector at a time. It returns a *damageError when
// a table is missing all the same.
func (p *Projector) migrate(ctx context.Context) error {
	return p.leases.shared(ctx, migrationLease, func(ctx context.Context, held *lease) error {
		if err := tables.Migrate(ctx, p.config.ClickHouse, p.config.Logger); err != nil {
			return err
		}
		st, err := dial(ctx, p.config.ClickHouse, "", held.epoch, nil)
		if err != nil {
			return err
		}
		defer st.close()
		return st.complete(ctx)
	})
}

// Ready returns nil when every stream has been projected up to where it ended
// when this projector took it over, or is projected by another one. Otherwise
// it names each stream with how far it is and why.
func (p *Projector) Ready(ctx context.Context) error {
	var errs []error
	for _, w := range p.workers {
		errs = append(errs, w.ready(ctx))
	}
	err := errors.Join(errs...)
	if damage := p.rebuilding.Load(); damage != nil && err != nil {
		return fmt.Errorf("the tables are built again from the log, since %w\n%w", damage, err)
	}
	return err
}
