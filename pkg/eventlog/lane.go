package eventlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
)

const (
	// maxBatchMessages is the server's limit of one atomic batch.
	maxBatchMessages = 1000
	// MaxEvents is how many events one command may append: a batch that is not
	// full yet always has room for them.
	MaxEvents = maxBatchMessages / 2
	// maxSeparate is up to how many messages that do not need each other are
	// published each for itself: for each atomic batch the server makes a store
	// of its own on disk, which costs as much as about this many messages
	// (nats-server 2.15.2, newBatchStore; docs/benchmarks.md).
	maxSeparate  = 16
	defaultQueue = 4096
	defaultBytes = 8 << 20
	// commitTimeout bounds the attempts to commit one batch whose outcome is
	// unknown, conflictRetries those that were refused.
	commitTimeout   = 20 * time.Second
	attemptTimeout  = 5 * time.Second
	conflictRetries = 20

	// JetStream error codes (nats-server, server/errors.json).
	codeWrongLastSequence         jetstream.ErrorCode = 10071
	codeWrongLastSequenceConstant jetstream.ErrorCode = 10164
	codeStreamStoreFailed         jetstream.ErrorCode = 10077
	codeBatchDuplicate            jetstream.ErrorCode = 10201
)

// Decide is one command: it looks at its state and appends what is to be
// written. It runs on the lane's goroutine, and again after a conflict with
// another writer, so it must change nothing but the state that the lane's
// Reset puts right. An error, a panic, or appending nothing, writes nothing.
type Decide func(ctx context.Context, b *Batch) error

// LaneConfig configures a lane.
type LaneConfig struct {
	Stream string
	// Queue is the number of commands that may wait; beyond it Do returns
	// ErrBusy. 0 is 4096.
	Queue int
	// BatchBytes closes a batch at this encoded size. 0 is 8 MiB.
	BatchBytes int
	// Single commits each command in a batch of its own, so that a command
	// never sees what an uncommitted one decided.
	Single bool
	// Reset is called when a batch was not committed, or not as decided: the
	// state that its commands changed must be dropped or read from the log
	// again. May be nil.
	Reset func(ctx context.Context) error
	// Observe is told of each attempt to commit a batch: its number of messages,
	// how long it took, and why it failed or nil. May be nil.
	Observe func(messages int, took time.Duration, err error)
}

// Lane commits commands to one stream, in the order in which they are given.
// Commands that wait while a batch is being committed share the next one: many,
// or such that need each other, as one atomic batch with one fsync; a few others
// at the same time. An idle lane commits at once.
type Lane struct {
	log    *Log
	config LaneConfig
	queue  chan *command

	mu     sync.RWMutex
	closed bool
	done   chan struct{}
}

type command struct {
	ctx    context.Context
	decide Decide
	result chan outcome
}

type outcome struct {
	pos Position
	err error
}

// Batch gathers the messages of one atomic commit.
type Batch struct {
	stream  string
	msgs    []*nats.Msg
	commits []func(seq uint64)
	bytes   int
	written map[string]struct{}
	decided []decision
	// bound says that the messages must be committed together: a command wrote
	// several, or a message has no expectation of its own and rests on those
	// before it.
	bound bool
	// spoiled says that the last command panicked, and may have left the state
	// half changed.
	spoiled bool
}

type decision struct {
	*command
	end   int // number of messages in the batch after this command
	wrote bool
	err   error
}

// Expect is what must hold of the log for a message to be committed.
type Expect struct {
	// Subject, when not "", must have Seq as its last sequence, 0 for none.
	// It is left out where the same batch has written the subject already,
	// under an expectation of its own.
	Subject string
	// Stream asks for Seq to be the last sequence of the whole stream. Only a
	// batch's first message may ask, see LaneConfig.Single.
	Stream bool
	Seq    uint64
}

// Append adds an event to the batch. committed, when not nil, is called with
// the event's sequence on the lane's goroutine once the batch is committed.
// An event that is too large for the log is an INVALID_PARAMETER_VALUE.
func (b *Batch) Append(subject string, a events.Attributes, e *events.Event, expect Expect, committed func(seq uint64)) error {
	msg, err := events.Encode(subject, a, e)
	if errors.Is(err, events.ErrTooLarge) {
		return apierr.Wrap(err, apierr.InvalidParameterValue, fmt.Sprintf("The request is too large: what it writes must stay below %d bytes", events.MaxPayload))
	}
	if text, ok := errors.AsType[*events.TextError](err); ok {
		return apierr.Wrap(err, apierr.InvalidParameterValue, "The request cannot be recorded: its "+text.Error())
	}
	if err != nil {
		return err
	}
	msg.Header[jetstream.ExpectedStreamHeader] = []string{b.stream}
	if expect.Stream {
		msg.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(expect.Seq, 10)}
	}
	if _, ok := b.written[expect.Subject]; expect.Subject == "" || ok {
		b.bound = true
	} else {
		msg.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(expect.Seq, 10)}
		if expect.Subject != subject {
			msg.Header[jetstream.ExpectedLastSubjSeqSubjHeader] = []string{expect.Subject}
		}
	}
	b.written[subject] = struct{}{}
	b.msgs = append(b.msgs, msg)
	b.commits = append(b.commits, committed)
	b.bytes += msg.Size()
	return nil
}

func (b *Batch) truncate(n int) {
	for _, m := range b.msgs[n:] {
		b.bytes -= m.Size()
	}
	b.msgs, b.commits = b.msgs[:n], b.commits[:n]
	clear(b.written)
	for _, m := range b.msgs {
		b.written[m.Subject] = struct{}{}
	}
}

// NewLane starts a lane. Close ends it.
func (l *Log) NewLane(c LaneConfig) *Lane {
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	if c.BatchBytes == 0 {
		c.BatchBytes = defaultBytes
	}
	if c.Reset == nil {
		c.Reset = func(context.Context) error { return nil }
	}
	if c.Observe == nil {
		c.Observe = func(int, time.Duration, error) {}
	}
	lane := &Lane{log: l, config: c, queue: make(chan *command, c.Queue), done: make(chan struct{})}
	go lane.run()
	return lane
}

// Do runs a command and returns the position of its last event once it is on
// disk. It returns the command's own error, ErrBusy, ErrClosed, ErrDamaged, ErrFull,
// ErrUnwritable, ErrUnavailable, or ctx's error when that ended first, in which case the
// command may still be committed.
func (l *Lane) Do(ctx context.Context, decide Decide) (Position, error) {
	cmd := &command{ctx: ctx, decide: decide, result: make(chan outcome, 1)}
	if err := l.enqueue(cmd); err != nil {
		return Position{}, err
	}
	select {
	case out := <-cmd.result:
		return out.pos, out.err
	case <-ctx.Done():
		return Position{}, fmt.Errorf("commit to %s: %w", l.config.Stream, ctx.Err())
	}
}

func (l *Lane) enqueue(cmd *command) error {
	if err := l.log.Damage(l.config.Stream); err != nil {
		return fmt.Errorf("commit to %s: %w", l.config.Stream, err)
	}
	if ctx := l.log.writable(); ctx.Err() != nil {
		return fmt.Errorf("commit to %s: %w: %w", l.config.Stream, context.Cause(ctx), ErrUnwritable)
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return fmt.Errorf("commit to %s: %w", l.config.Stream, ErrClosed)
	}
	select {
	case l.queue <- cmd:
		return nil
	default:
		return fmt.Errorf("commit to %s: %d commands wait: %w", l.config.Stream, cap(l.queue), ErrBusy)
	}
}

// Waiting returns the number of commands in the queue.
func (l *Lane) Waiting() int { return len(l.queue) }

// Close refuses further commands, commits those that wait, and returns when
// that is done.
func (l *Lane) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.mu.Unlock()
	<-l.done
}

func (l *Lane) run() {
	defer close(l.done)
	var carry *command
	for {
		first := carry
		if first == nil {
			var ok bool
			if first, ok = <-l.queue; !ok {
				return
			}
		}
		var b *Batch
		b, carry = l.gather(first)
		l.commit(b)
	}
}

// gather decides first and the commands that wait behind it, until the batch
// is full. A command that no longer fits is carried to the next batch.
func (l *Lane) gather(first *command) (b *Batch, carry *command) {
	b = l.newBatch()
	b.decide(first)
	for !l.config.Single && !b.spoiled {
		select {
		case cmd, ok := <-l.queue:
			switch {
			case !ok:
				return b, nil
			case len(b.msgs) >= MaxEvents || b.bytes >= l.config.BatchBytes || len(b.decided) >= maxBatchMessages:
				return b, cmd
			}
			b.decide(cmd)
		default:
			return b, nil
		}
	}
	if b.spoiled {
		b = l.withoutLast(b, nil)
	}
	return b, nil
}

// withoutLast answers the command that spoiled the batch, and returns a batch of
// the others and those behind it, decided again.
func (l *Lane) withoutLast(b *Batch, behind []decision) *Batch {
	last := len(b.decided) - 1
	d := b.decided[last]
	l.log.logger.Error("panic in a command", slog.String("stream", l.config.Stream), slog.Any("error", d.err))
	d.result <- outcome{err: fmt.Errorf("commit to %s: %w", l.config.Stream, d.err)}
	l.reset()
	return l.decideAgain(slices.Concat(b.decided[:last], behind))
}

// decideAgain decides commands on what the log says now.
func (l *Lane) decideAgain(left []decision) *Batch {
	b := l.newBatch()
	for i, d := range left {
		if b.decide(d.command); b.spoiled {
			return l.withoutLast(b, left[i+1:])
		}
	}
	return b
}

func (l *Lane) newBatch() *Batch {
	return &Batch{stream: l.config.Stream, written: make(map[string]struct{})}
}

// decide runs a command. What it appended before an error is taken back. Its
// answer waits for the commit, even when it is an error or nothing to do:
// either may rest on what the batch is about to write.
func (b *Batch) decide(cmd *command) {
	before := len(b.msgs)
	err := cmd.ctx.Err()
	if err == nil {
		err = b.run(cmd)
	}
	if err != nil {
		b.truncate(before)
	}
	if len(b.msgs) > before+1 {
		b.bound = true
	}
	b.decided = append(b.decided, decision{command: cmd, end: len(b.msgs), wrote: len(b.msgs) > before, err: err})
}

func (b *Batch) run(cmd *command) (err error) {
	defer func() {
		if p := recover(); p != nil {
			b.spoiled = true
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return cmd.decide(cmd.ctx, b)
}

// commit publishes the batch and answers its commands. After a conflict with
// another writer they are decided again, on what the log says now.
func (l *Lane) commit(b *Batch) {
	for attempt := 0; ; attempt++ {
		if len(b.msgs) == 0 {
			b.answer(func(d decision) outcome { return outcome{err: d.err} })
			return
		}
		left, err := l.publish(b)
		if err == nil {
			return
		}
		if !isConflict(err) || attempt >= conflictRetries {
			err = commitError(l.config.Stream, err)
			for _, d := range left {
				d.result <- outcome{err: err}
			}
			return
		}
		l.log.logger.Debug("conflict, deciding again", slog.String("stream", l.config.Stream), slog.Int("attempt", attempt+1))
		b = l.decideAgain(left)
	}
}

// publish commits the batch, or as much of it as other writers allow. It
// answers the commands that are done with, and returns the others and why they
// are not: after an error, the state has been reset.
func (l *Lane) publish(b *Batch) (left []decision, err error) {
	begun := time.Now()
	defer func() { l.config.Observe(len(b.msgs), time.Since(begun), err) }()
	if len(b.msgs) > 1 && (b.bound || len(b.msgs) > maxSeparate) {
		var end uint64
		var exact bool
		if end, exact, err = l.publishAtomic(b); err == nil {
			l.committed(b, end, exact)
			return nil, nil
		}
		left = b.decided
	} else {
		left, err = l.publishSeparate(b)
	}
	if err != nil {
		l.reset()
	}
	return left, err
}

// reset has the state read anew. If that fails, the command that needs the
// state next gets the error.
func (l *Lane) reset() {
	if err := l.config.Reset(context.Background()); err != nil {
		l.log.logger.Warn("reset after a failed commit", slog.String("stream", l.config.Stream), slog.Any("error", err))
	}
}

// committed tells the batch's commands where their events are. When the exact
// sequences are not known, end is at or behind all of them.
func (l *Lane) committed(b *Batch, end uint64, exact bool) {
	start := end - uint64(len(b.msgs))
	if exact {
		for i, committed := range b.commits {
			if committed != nil {
				committed(start + uint64(i) + 1)
			}
		}
	} else {
		l.reset()
	}
	b.answer(func(d decision) outcome {
		switch {
		case d.err != nil || !d.wrote:
			return outcome{err: d.err}
		case exact:
			return outcome{pos: Position{Stream: l.config.Stream, Seq: start + uint64(d.end)}}
		default:
			return outcome{pos: Position{Stream: l.config.Stream, Seq: end}}
		}
	})
}

func (b *Batch) answer(f func(decision) outcome) {
	for _, d := range b.decided {
		d.command.result <- f(d)
	}
}

// publishSeparate commits messages that do not rest on each other, each for
// itself and all at the same time. Where some are refused, the state is not what
// it was decided on, so the commands that wrote nothing are left too.
func (l *Lane) publishSeparate(b *Batch) (left []decision, err error) {
	ctx, cancel := context.WithTimeout(l.log.writable(), commitTimeout)
	defer cancel()
	seqs := make([]uint64, len(b.msgs))
	errs := make([]error, len(b.msgs))
	futures := make([]jetstream.PubAckFuture, len(b.msgs))
	for i, msg := range b.msgs {
		msg.Header[jetstream.MsgIDHeader] = msg.Header[events.HeaderID]
		futures[i], errs[i] = l.log.js.PublishMsgAsync(msg)
	}
	for i := range b.msgs {
		if errs[i] == nil {
			seqs[i], errs[i] = await(ctx, futures[i])
		}
		if errs[i] != nil && !isRefusal(errs[i]) {
			seqs[i], _, errs[i] = l.repeat(ctx, errs[i], func(ctx context.Context) (uint64, bool, error) {
				seq, err := l.publishAgain(ctx, b.msgs[i])
				return seq, true, err
			})
		}
	}
	if err = firstError(errs); err == nil {
		for i, committed := range b.commits {
			if committed != nil {
				committed(seqs[i])
			}
		}
	}
	for _, d := range b.decided {
		switch {
		case !d.wrote && err == nil:
			d.result <- outcome{err: d.err}
		case !d.wrote || isConflict(errs[d.end-1]):
			left = append(left, d)
		case errs[d.end-1] != nil:
			d.result <- outcome{err: commitError(l.config.Stream, errs[d.end-1])}
		default:
			d.result <- outcome{pos: Position{Stream: l.config.Stream, Seq: seqs[d.end-1]}}
		}
	}
	return left, err
}

// publishAgain publishes a message that may have been committed, and returns its
// sequence. Of a single message the server checks the expectation before the
// message id, so one that has been committed may be refused for what it did
// itself to what it expects. Then the log is asked.
func (l *Lane) publishAgain(ctx context.Context, msg *nats.Msg) (seq uint64, err error) {
	ack, err := l.log.js.PublishMsg(ctx, msg)
	if err == nil {
		return ack.Sequence, nil
	}
	if !isConflict(err) {
		return 0, err
	}
	expected, parseErr := strconv.ParseUint(cmp.Or(msg.Header.Get(jetstream.ExpectedLastSeqHeader), msg.Header.Get(jetstream.ExpectedLastSubjSeqHeader)), 10, 64)
	if parseErr != nil {
		return 0, errors.Join(err, parseErr)
	}
	for rec, readErr := range l.log.Read(ctx, l.config.Stream, msg.Subject, expected+1, 0) {
		if readErr != nil {
			return 0, readErr
		}
		if rec.ID == msg.Header.Get(jetstream.MsgIDHeader) {
			return rec.Seq, nil
		}
	}
	return 0, err
}

// firstError returns a conflict if there is one, since what is left can then be
// decided again, and else the first error.
func firstError(errs []error) error {
	if i := slices.IndexFunc(errs, isConflict); i >= 0 {
		return errs[i]
	}
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	return nil
}

func await(ctx context.Context, f jetstream.PubAckFuture) (uint64, error) {
	select {
	case ack := <-f.Ok():
		return ack.Sequence, nil
	case err := <-f.Err():
		return 0, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// publishAtomic commits the batch as a whole and returns the sequence of its
// last message. exact is false when an earlier attempt turns out to have
// succeeded and the batch's place is known only as an upper bound.
func (l *Lane) publishAtomic(b *Batch) (end uint64, exact bool, err error) {
	ctx, cancel := context.WithTimeout(l.log.writable(), commitTimeout)
	defer cancel()
	b.msgs[0].Header[jetstream.MsgIDHeader] = b.msgs[0].Header[events.HeaderID]
	attempt := func(ctx context.Context) (uint64, bool, error) {
		ack, err := jetstreamext.PublishMsgBatch(ctx, l.log.js, b.msgs, jetstreamext.BatchFlowControl{AckFirst: false})
		var refused *jetstream.APIError
		switch {
		case errors.As(err, &refused) && refused.ErrorCode == codeBatchDuplicate:
			end, err := l.log.LastSeq(ctx, l.config.Stream)
			return end, false, err
		case err != nil:
			return 0, false, err
		}
		return ack.Sequence, true, nil
	}
	first, cancelFirst := context.WithTimeout(ctx, attemptTimeout)
	end, exact, err = attempt(first)
	cancelFirst()
	if err != nil && !isRefusal(err) {
		return l.repeat(ctx, err, attempt)
	}
	return end, exact, err
}

// repeat repeats an attempt whose outcome is unknown, under the same message
// id, so that its messages are committed once.
func (l *Lane) repeat(ctx context.Context, err error, attempt func(context.Context) (uint64, bool, error)) (end uint64, exact bool, _ error) {
	delays := backoff.NewExponentialBackOff()
	delays.InitialInterval = 50 * time.Millisecond
	delays.MaxInterval = 2 * time.Second
	for {
		l.log.logger.Warn("commit without an answer, repeating", slog.String("stream", l.config.Stream), slog.Any("error", err))
		select {
		case <-ctx.Done():
			return 0, false, err
		case <-time.After(delays.NextBackOff()):
		}
		attemptCtx, cancel := context.WithTimeout(ctx, attemptTimeout)
		end, exact, err = attempt(attemptCtx)
		cancel()
		if err == nil || isRefusal(err) {
			return end, exact, err
		}
	}
}

// isRefusal reports whether the server has answered, with an error.
func isRefusal(err error) bool {
	_, ok := errors.AsType[*jetstream.APIError](err)
	return ok
}

func isConflict(err error) bool {
	var refused *jetstream.APIError
	return errors.As(err, &refused) &&
		(refused.ErrorCode == codeWrongLastSequence || refused.ErrorCode == codeWrongLastSequenceConstant)
}

// commitError gives a failed commit its meaning for the caller.
func commitError(stream string, err error) error {
	var refused *jetstream.APIError
	switch {
	case isConflict(err):
		return fmt.Errorf("commit to %s: other writers won %d times: %w: %w", stream, conflictRetries, err, ErrBusy)
	case errors.As(err, &refused) && refused.ErrorCode == codeStreamStoreFailed:
		return fmt.Errorf("commit to %s: %w: %w", stream, err, ErrFull)
	default:
		return fmt.Errorf("commit to %s: %w: %w", stream, err, ErrUnavailable)
	}
}
