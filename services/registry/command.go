package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/ledger"
)

// actionRefused is the action of the entry of a promotion that was refused.
const actionRefused = "promotion_refused"

// anonymous is the actor of a request that names none.
const anonymous = "anonymous"

// maxIdempotencyKey bounds a client's key, in bytes: an event keeps the whole.
const maxIdempotencyKey = 255

// decideRetries bounds how often a command that writes nothing is decided again
// because others write.
const decideRetries = 20

// command is one change that a client asks for.
type command struct {
	action string // the type of its event
	model  string // the model that it is about
	// webhook is the webhook that it is about, when it is about no model.
	webhook string
	// expect is the last event about it that the client knows, nil for whatever
	// it is. With another one there is a conflict, and nothing is written.
	expect *uint64
	// decide returns the event that makes the change, nil when there is nothing
	// to change, or what is wrong in MLflow's words. It looks at nothing but the
	// state and the command: it may be called again on another state.
	decide func(*catalog.State) (*events.Event, error)
	// mayBeRefused says that its event may be the refusal of a promotion instead.
	mayBeRefused bool
	// rollback has, instead of decide, what was decided before.
	rollback *rollback
}

// last returns the sequence of the last event about what the command is about,
// 0 for what is not there.
func (cmd command) last(st *catalog.State) uint64 {
	if cmd.rollback != nil && cmd.rollback.whole {
		return st.Seq()
	}
	if cmd.webhook != "" {
		if w, ok := st.Webhook(cmd.webhook); ok {
			return w.Last
		}
		return 0
	}
	if m, ok := st.Model(cmd.model); ok {
		return m.Last
	}
	return 0
}

// sameAs reports whether an entry is what the command made when it was sent
// before.
func (cmd command) sameAs(e ledger.Entry) bool {
	if cmd.rollback != nil {
		return e.Source == cmd.rollback.source() && (cmd.model == "" || e.Model == cmd.model)
	}
	return (e.Action == cmd.action || cmd.mayBeRefused && e.Action == actionRefused) && e.Model == cmd.model && e.Webhook() == cmd.webhook
}

// events returns the events that make the change.
func (cmd command) events(st *catalog.State) ([]*events.Event, error) {
	if cmd.rollback != nil {
		return cmd.rollback.events(cmd.last(st))
	}
	event, err := cmd.decide(st)
	if event == nil || err != nil {
		return nil, err
	}
	return []*events.Event{event}, nil
}

// outcome is what became of a command: the state after it, the version that its
// last event is about, if it is about one, and the entry of that event when the
// command was done before.
type outcome struct {
	state   *catalog.State
	version uint64
	done    *ledger.Entry
}

// do runs a command and returns when its event is on disk and in this process's
// ledger. When only the ledger is late, the answer says so of itself.
func (s *Service) do(c echo.Context, cmd command) (outcome, error) {
	out, err := s.commit(c, cmd)
	s.metrics.command(cmd.action, err)
	return out, err
}

func (s *Service) commit(c echo.Context, cmd command) (outcome, error) {
	if err := s.usable(); err != nil {
		return outcome{}, err
	}
	if err := s.built(c.Request().Context()); err != nil {
		return outcome{}, err
	}
	attrs := httpapi.Attributes(c, source)
	if len(attrs.IdempotencyKey) > maxIdempotencyKey {
		return outcome{}, apierr.Errorf(apierr.InvalidParameterValue,
			"The %s exceeds the maximum length of %d bytes", httpapi.HeaderIdempotencyKey, maxIdempotencyKey)
	}
	attrs.Actor = actor(c)
	var err error
	if cmd.expect, err = expectedSeq(c); err != nil {
		return outcome{}, err
	}
	if cmd.rollback != nil {
		attrs.Source, attrs.Reason = cmd.rollback.source(), cmd.rollback.reason
	}
	var out outcome
	pos, err := s.lane.Do(c.Request().Context(), func(ctx context.Context, b *eventlog.Batch) error {
		var err error
		out, err = s.decider.decide(ctx, b, cmd, attrs)
		return err
	})
	if err != nil {
		return outcome{}, commandError(err)
	}
	if pos.Seq == 0 {
		return out, nil
	}
	tellSeq(c, pos.Seq)
	ctx, cancel := context.WithTimeout(c.Request().Context(), waitLimit)
	defer cancel()
	if err := s.wait(ctx, pos.Seq); err != nil {
		s.logger.Warn("registry: answering before the ledger has the command", slog.Any("error", err))
		c.Response().Header().Set(httpapi.HeaderStale, "true")
	}
	return out, nil
}

// expectedSeq returns the request's precondition, nil for none.
func expectedSeq(c echo.Context) (*uint64, error) {
	text := c.Request().Header.Get(httpapi.HeaderExpectSeq)
	if text == "" {
		return nil, nil
	}
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, apierr.Errorf(apierr.InvalidParameterValue, "The %s must be the sequence of an event, or 0, got %q", httpapi.HeaderExpectSeq, text)
	}
	return &seq, nil
}

// tellSeq puts the last event about a model into an answer, for the precondition
// of a write.
func tellSeq(c echo.Context, seq uint64) {
	h := c.Response().Header()
	h.Set(httpapi.HeaderStream, events.StreamRegistry)
	h.Set(httpapi.HeaderSeq, strconv.FormatUint(seq, 10))
}

// built returns nil once the ledger has what the log held at the start.
func (s *Service) built(ctx context.Context) error {
	if s.ledger.LastSeq() >= s.target {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	if err := s.wait(ctx, s.target); err != nil {
		return apierr.Wrap(err, apierr.TemporarilyUnavailable, fmt.Sprintf(
			"The registry's ledger is being built: %d of %d events", s.ledger.LastSeq(), s.target)).WithRetryAfter(waitLimit)
	}
	return nil
}

func commandError(err error) error {
	if errors.Is(err, events.ErrTooLarge) {
		return apierr.Wrap(err, apierr.InvalidParameterValue,
			fmt.Sprintf("The request is too large: what it changes must fit in an event of %d bytes", events.MaxPayload))
	}
	return err
}

// decider decides commands on the lane's goroutine, which alone touches it.
//
// A command is decided on the state that the commands before it lead to, though
// the ledger may not have them yet: base is the ledger's state, or the one after
// the events that were decided here since. The first event of a batch is
// published on the condition that the stream is where its base is, which makes
// the bases of the others right too. When that fails, reset forgets them.
type decider struct {
	*Service
	batch   *eventlog.Batch // the batch that is being decided
	wrote   bool            // whether it has an event
	ahead   *catalog.State  // the state after the events decided here, nil for none
	pending map[string]bool // idempotency keys of those events
	behind  error           // why the last reset could not catch up
}

func (d *decider) base() *catalog.State {
	state := d.ledger.State()
	if d.ahead != nil && d.ahead.Seq() > state.Seq() {
		return d.ahead
	}
	d.ahead, d.pending = nil, nil
	return state
}

// reset forgets what was decided but not committed, and waits for what others
// committed.
func (d *decider) reset(ctx context.Context) error {
	d.ahead, d.pending = nil, nil
	_, d.behind = d.catchUp(ctx)
	return d.behind
}

// catchUp returns the log's last sequence once the ledger has it.
func (d *decider) catchUp(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	last, err := d.log.LastSeq(ctx, events.StreamRegistry)
	if err != nil {
		return 0, err
	}
	if d.ahead != nil && d.ahead.Seq() == last {
		return last, nil
	}
	if err := d.wait(ctx, last); err != nil {
		return 0, fmt.Errorf("%w: %w", err, eventlog.ErrUnavailable)
	}
	return last, nil
}

func (d *decider) decide(ctx context.Context, b *eventlog.Batch, cmd command, attrs events.Attributes) (outcome, error) {
	// What is waited for here serves the commands that follow too.
	ctx = context.WithoutCancel(ctx)
	if d.batch != b {
		d.batch, d.wrote = b, false
		if d.behind == nil {
			d.behind = d.takeTurns(ctx)
		} else {
			_, d.behind = d.catchUp(ctx)
		}
	}
	if d.behind != nil {
		return outcome{}, d.behind
	}
	for range decideRetries {
		base := d.base()
		out, changes, err := d.decideOn(base, cmd, attrs)
		if err == nil && len(changes) > 0 {
			return d.append(b, base, cmd, changes, attrs)
		}
		// A refusal, or nothing to do, holds if the state is the present one.
		// The condition of the batch says so for a command that follows others.
		if d.wrote {
			return out, err
		}
		last, caughtUp := d.catchUp(ctx)
		if caughtUp != nil {
			return outcome{}, caughtUp
		}
		if last == base.Seq() {
			return out, err
		}
	}
	return outcome{}, fmt.Errorf("decide %s: others write: %w", cmd.action, eventlog.ErrBusy)
}

// takeTurns waits until the ledger has the batch before. Were the next one
// published earlier, a process that always has commands waiting would win
// against the others for ever: they learn where the stream is from their ledger.
func (d *decider) takeTurns(ctx context.Context) error {
	if d.ahead == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	if err := d.wait(ctx, d.ahead.Seq()); err != nil {
		return fmt.Errorf("%w: %w", err, eventlog.ErrUnavailable)
	}
	return nil
}

func (d *decider) decideOn(base *catalog.State, cmd command, attrs events.Attributes) (outcome, []*events.Event, error) {
	if key := attrs.IdempotencyKey; key != "" {
		if d.pending[key] {
			return outcome{}, nil, apierr.Errorf(apierr.RequestLimitExceeded,
				"A request with this %s is under way", httpapi.HeaderIdempotencyKey).WithRetryAfter(time.Second)
		}
		entry, done, err := d.ledger.ByIdempotencyKey(key)
		if err != nil {
			return outcome{}, nil, err
		}
		if done && !cmd.sameAs(entry) {
			return outcome{}, nil, apierr.Errorf(apierr.InvalidParameterValue,
				"The %s was used before, for %s of '%s'", httpapi.HeaderIdempotencyKey, entry.Action, entry.Model)
		}
		if done {
			version, _ := strconv.ParseUint(entry.Version, 10, 64)
			return outcome{state: base, version: version, done: &entry}, nil, nil
		}
	}
	if last := cmd.last(base); cmd.expect != nil && *cmd.expect != last {
		return outcome{}, nil, apierr.Errorf(apierr.ResourceConflict,
			"The %s is %d, but the last event about it is %d: it was changed in between. Read it again.",
			httpapi.HeaderExpectSeq, *cmd.expect, last)
	}
	changes, err := cmd.events(base)
	return outcome{state: base}, changes, err
}

// append adds the events of a command to the batch, each on the state after the
// one before.
func (d *decider) append(b *eventlog.Batch, base *catalog.State, cmd command, changes []*events.Event, attrs events.Attributes) (outcome, error) {
	var out outcome
	next := base
	for i, event := range changes {
		var change catalog.Change
		var err error
		if next, change, err = next.Apply(next.Seq()+1, attrs.Time, event); err != nil {
			return outcome{}, err
		}
		var expect eventlog.Expect
		if !d.wrote && i == 0 {
			expect = eventlog.Expect{Stream: true, Seq: base.Seq()}
		}
		subject := events.ModelSubject(change.Model)
		if cmd.webhook != "" {
			subject = events.WebhookSubject(cmd.webhook)
		}
		if i > 0 {
			attrs.ID = events.NewID()
		}
		if err := b.Append(subject, attrs, event, expect, nil); err != nil {
			return outcome{}, err
		}
		out = outcome{state: next, version: change.Version}
	}
	d.wrote, d.ahead = true, next
	if attrs.IdempotencyKey != "" {
		if d.pending == nil {
			d.pending = make(map[string]bool)
		}
		d.pending[attrs.IdempotencyKey] = true
	}
	return out, nil
}
