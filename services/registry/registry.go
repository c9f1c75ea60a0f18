// Package registry is the model registry: MLflow's registered models, versions,
// stages and aliases, whose every change is an event in the REGISTRY stream and
// an entry of a tamper-evident ledger.
//
// A command is decided on the state at some sequence of the stream and published
// on the condition that the stream is still there, so that any number of
// registry processes is correct without a lock. What a process answers from is
// its own ledger, which follows the stream.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/figures"
	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/past"
	"github.com/runledger/runledger/services/registry/provenance"
	"github.com/runledger/runledger/services/registry/treehead"
	"github.com/runledger/runledger/services/registry/webhooks"
)

// ErrDiverged means that the ledger was built from another stream than the
// log's, or from more of it than the log has now: the log was lost or restored
// from an older copy. Deleting the ledger accepts the log as it is.
var ErrDiverged = errors.New("registry ledger and event log differ")

const (
	source       = "/runledger/registry"
	commandQueue = 1024
	// waitLimit bounds how long an answer waits for the ledger to follow the log.
	waitLimit = 5 * time.Second
	// ageLimit bounds how long it takes to find out how old an old answer is.
	ageLimit = time.Second
	// readyLimit bounds how far the ledger of a ready registry is behind.
	readyLimit = 2 * time.Second
)

// Config configures New.
type Config struct {
	Log        *eventlog.Log
	Dir        string // of the ledger
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	// Heads signs tree heads at the start, when asked, and every HeadEvery if there
	// are new entries. nil: none are signed; 0: only at the start and when asked.
	Heads     *treehead.Keeper
	HeadEvery time.Duration
	FS        vfs.FS // of the ledger; nil is the disk
	Webhooks  webhooks.Options
}

// Service is the model registry. Close ends it.
type Service struct {
	log     *eventlog.Log
	ledger  *ledger.Ledger
	logger  *slog.Logger
	metrics *metrics
	lane    *eventlog.Lane
	tags    []*eventlog.Lane // of logged models, by shard
	queue   *httpapi.Queue
	decider decider
	heads   *treehead.Keeper      // nil: none are signed
	forked  atomic.Pointer[error] // what was signed is not in the ledger

	webhooks *webhooks.Dispatcher
	past     *past.Past
	tracer   *provenance.Tracer
	figures  *figures.Reader

	target   uint64 // the log's last sequence at the start
	stop     context.CancelFunc
	followed sync.WaitGroup
	fault    atomic.Pointer[error] // what last kept the ledger from following
	alive    context.Context       // ends when it will never follow again
	die      context.CancelFunc
}

// New opens the ledger, checks it against the log, and follows the log from
// there. It returns ErrDiverged, with both figures, for a ledger that is not the
// log's.
func New(ctx context.Context, c Config) (*Service, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := ledger.Open(c.Dir, ledger.Options{Logger: c.Logger, FS: c.FS})
	if err != nil {
		return nil, err
	}
	target, err := check(ctx, c.Log, l)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("registry ledger in %s: %w", c.Dir, err), l.Close())
	}
	dispatcher, err := webhooks.New(ctx, webhooks.Config{
		Options: c.Webhooks, Log: c.Log, Ledger: l, Logger: c.Logger, Registerer: c.Registerer,
	})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Service{
		log: c.Log, ledger: l, logger: c.Logger, metrics: newMetrics(c.Registerer, l), queue: httpapi.NewQueue(c.Registerer, "registry"), webhooks: dispatcher,
		past: past.New(c.Log, l), tracer: provenance.New(c.Log), figures: figures.NewReader(c.Log), target: target, stop: stop, heads: c.Heads,
	}
	s.alive, s.die = context.WithCancel(ctx)
	s.decider = decider{Service: s}
	s.lane = c.Log.NewLane(eventlog.LaneConfig{Stream: events.StreamRegistry, Queue: commandQueue, Reset: s.decider.reset})
	for _, stream := range c.Log.RunStreams() {
		s.tags = append(s.tags, c.Log.NewLane(eventlog.LaneConfig{Stream: stream, Queue: commandQueue, Single: true}))
	}
	s.followed.Go(func() { s.follow(ctx) })
	s.followed.Go(func() { s.webhooks.Run(s.alive) })
	if c.Heads != nil {
		s.followed.Go(func() { s.signOften(ctx, c.HeadEvery) })
	}
	return s, nil
}

// check compares the ledger with the log, and returns the log's last sequence.
func check(ctx context.Context, log *eventlog.Log, l *ledger.Ledger) (uint64, error) {
	last, err := log.LastSeq(ctx, events.StreamRegistry)
	if err != nil {
		return 0, err
	}
	at := l.LastSeq()
	if at == 0 {
		return last, nil
	}
	if last < at {
		return 0, fmt.Errorf("the log ends at event %d, the ledger at %d: %w", last, at, ErrDiverged)
	}
	incarnation, err := log.Incarnation(ctx, events.StreamRegistry)
	if err != nil {
		return 0, err
	}
	if incarnation != l.Incarnation() {
		return 0, fmt.Errorf("the log begins with event %s, the ledger with %s: %w", incarnation, l.Incarnation(), ErrDiverged)
	}
	entry, err := l.Entry(l.Size() - 1)
	if err != nil {
		return 0, err
	}
	for rec, err := range log.Read(ctx, events.StreamRegistry, "", at, at) {
		if err != nil {
			return 0, err
		}
		if rec.ID != entry.EventID {
			return 0, fmt.Errorf("event %d is %s in the log, %s in the ledger: %w", at, rec.ID, entry.EventID, ErrDiverged)
		}
	}
	return last, nil
}

// Close commits the commands that wait, stops following the log and closes the
// ledger. Requests must have ended before.
func (s *Service) Close() error {
	s.lane.Close()
	for _, lane := range s.tags {
		lane.Close()
	}
	s.stop()
	s.followed.Wait()
	return s.ledger.Close()
}

// Ready returns nil when the registry answers from the present state and takes
// commands.
func (s *Service) Ready(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	if forked := s.forked.Load(); forked != nil {
		return *forked
	}
	last, err := s.log.LastSeq(ctx, events.StreamRegistry)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	if err := s.wait(ctx, last); err != nil {
		if fault := s.fault.Load(); fault != nil {
			err = errors.Join(err, *fault)
		}
		return err
	}
	return nil
}

// read returns the state that an answer is made from: the log's present one. When
// the ledger does not get there within waitLimit it returns TEMPORARILY_UNAVAILABLE,
// unless the client takes an old one, which the answer then says of itself.
func (s *Service) read(c echo.Context) (*catalog.State, error) {
	ctx := c.Request().Context()
	state, err := s.current(ctx)
	c.Response().Header().Set(httpapi.HeaderWatermark, fmt.Sprintf("%s=%d", events.StreamRegistry, state.Seq()))
	if err == nil {
		return state, nil
	}
	if !httpapi.AllowsStale(c) {
		return nil, err
	}
	s.logger.Warn("registry: stale answer", slog.Any("error", err))
	ctx, cancel := context.WithTimeout(ctx, ageLimit)
	defer cancel()
	age, err := s.log.Since(ctx, events.StreamRegistry, state.Seq()+1)
	if err != nil {
		age = -1 // without the log nobody knows
	}
	httpapi.TellStale(c, age)
	return state, nil
}

// current returns the log's present state, or after waitLimit the one that there
// is and why it is not the present one: a TEMPORARILY_UNAVAILABLE.
func (s *Service) current(ctx context.Context) (*catalog.State, error) {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	last, err := s.log.LastSeq(ctx, events.StreamRegistry)
	if err == nil {
		err = s.wait(ctx, last)
	}
	state := s.ledger.State()
	if err != nil {
		err = apierr.Wrap(err, apierr.TemporarilyUnavailable,
			fmt.Sprintf("The registry does not have the newest writes yet, only those up to event %d: try again", state.Seq())).WithRetryAfter(retryLast)
	}
	return state, err
}

// wait returns nil once the ledger has the event, or why it has not.
func (s *Service) wait(ctx context.Context, seq uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.alive, cancel)()
	if err := s.ledger.Health(); errors.Is(err, ledger.ErrFailed) && s.ledger.LastSeq() < seq {
		return errors.Join(err, s.usable()) // it is not about to follow
	}
	if err := s.ledger.Wait(ctx, seq); err != nil {
		return errors.Join(err, s.usable())
	}
	return nil
}
