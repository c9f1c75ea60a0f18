// Package webhooks tells addresses outside of what happened in the registry, as
// MLflow's webhooks do: the same requests, signed in the same way.
//
// The events come from the REGISTRY stream. Each webhook has a durable consumer
// on it, which all registry processes share: NATS hands each event to one of
// them, keeps which events are settled, and gives the others out again. So
// nothing is forgotten when a process dies, and no webhook waits for another.
// Every attempt is recorded in a stream beside the log; see Attempt.
package webhooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/ledger"
)

// Max is how many webhooks there may be: each costs a consumer and a goroutine.
const Max = 100

const (
	// attempts bounds how often an event is sent to a webhook. With the pauses
	// between, that is about a day.
	attempts         = 36
	defaultFirstWait = time.Second
	maxWait          = time.Hour

	setupTimeout = 30 * time.Second
	restartWait  = 2 * time.Second
	// sweepInterval is how often consumers that nobody needs are looked for.
	sweepInterval = 10 * time.Minute
)

// Options are what an operator decides.
type Options struct {
	// KeyFile holds the key that secrets are encrypted with. It is made if it is
	// not there. "": no webhook can have a secret.
	KeyFile string
	// Schemes of the addresses that may be used; none: https.
	Schemes []string
	// AllowPrivate allows addresses that are not on the public internet.
	AllowPrivate bool
	// FirstWait is the pause before the second attempt, which doubles from then
	// on, up to an hour; 0: a second.
	FirstWait time.Duration
}

// Config configures New.
type Config struct {
	Options
	Log        *eventlog.Log
	Ledger     *ledger.Ledger
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Dispatcher delivers the registry's events to its webhooks.
type Dispatcher struct {
	options Options
	js      jetstream.JetStream
	log     *eventlog.Log
	ledger  *ledger.Ledger
	key     *key
	client  *http.Client
	logger  *slog.Logger
	metrics metrics
}

type metrics struct {
	attempts *prometheus.CounterVec
	latency  prometheus.Histogram
}

// New reads the key or makes it, and the stream of attempts.
func New(ctx context.Context, c Config) (*Dispatcher, error) {
	if len(c.Schemes) == 0 {
		c.Schemes = []string{"https"}
	}
	if c.FirstWait == 0 {
		c.FirstWait = defaultFirstWait
	}
	d := &Dispatcher{
		options: c.Options, js: c.Log.JetStream(), log: c.Log, ledger: c.Ledger, client: newClient(c.AllowPrivate), logger: c.Logger,
	}
	f := promauto.With(c.Registerer)
	d.metrics = metrics{
		attempts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "runledger_webhook_attempts_total", Help: "Attempts to deliver an event to a webhook, by outcome.",
		}, []string{"outcome"}),
		latency: f.NewHistogram(prometheus.HistogramOpts{
			Name: "runledger_webhook_attempt_seconds", Help: "Time until a webhook answered, or did not.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 12),
		}),
	}
	if c.KeyFile != "" {
		k, err := loadKey(c.KeyFile)
		if err != nil {
			return nil, err
		}
		d.key = k
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	if err := d.openJournal(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// Run delivers until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	stops := make(map[string]context.CancelFunc)
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	all.Go(func() { d.sweep(ctx) })
	for state := d.ledger.State(); ctx.Err() == nil; {
		for id, stop := range stops {
			if _, ok := state.Webhook(id); !ok {
				stop()
				delete(stops, id)
				d.forget(ctx, id)
			}
		}
		for w := range state.Webhooks() {
			if stops[w.ID] == nil {
				workCtx, stop := context.WithCancel(ctx)
				stops[w.ID] = stop
				all.Go(func() { d.work(workCtx, w.ID, w.Seq) })
			}
		}
		next := state
		for next.SameWebhooks(state) {
			if d.ledger.Wait(ctx, next.Seq()+1) != nil {
				return
			}
			next = d.ledger.State()
		}
		state = next
	}
}

func consumerName(id string) string { return consumerPrefix + id }

const consumerPrefix = "webhook-"

// forget removes the consumer of a webhook that was deleted.
func (d *Dispatcher) forget(ctx context.Context, id string) {
	err := d.js.DeleteConsumer(ctx, events.StreamRegistry, consumerName(id))
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) && ctx.Err() == nil {
		d.logger.Warn("webhooks: consumer not removed yet", slog.String("webhook", id), slog.Any("error", err))
	}
}

// sweep removes consumers of deleted webhooks that a process left behind which
// was killed, now and again.
func (d *Dispatcher) sweep(ctx context.Context) {
	for {
		if err := d.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			d.logger.Warn("webhooks: looking for consumers that nobody needs", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepInterval):
		}
	}
}

func (d *Dispatcher) sweepOnce(ctx context.Context) error {
	stream, err := d.js.Stream(ctx, events.StreamRegistry)
	if err != nil {
		return err
	}
	names := stream.ConsumerNames(ctx)
	var ids []string
	for name := range names.Name() {
		if id, ok := strings.CutPrefix(name, consumerPrefix); ok {
			ids = append(ids, id)
		}
	}
	if err := names.Err(); err != nil {
		return err
	}
	// A consumer that is there now has its webhook's first event in the log
	// before what is the last event from here on.
	last, err := d.log.LastSeq(ctx, events.StreamRegistry)
	if err != nil {
		return err
	}
	if err := d.ledger.Wait(ctx, last); err != nil {
		return err
	}
	state := d.ledger.State()
	for _, id := range ids {
		if _, ok := state.Webhook(id); !ok {
			d.forget(ctx, id)
		}
	}
	return nil
}

// work delivers to one webhook until ctx ends.
func (d *Dispatcher) work(ctx context.Context, id string, created uint64) {
	for ctx.Err() == nil {
		err := d.consume(ctx, id, created)
		if ctx.Err() != nil {
			return
		}
		d.logger.Warn("webhooks: going on after an error", slog.String("webhook", id), slog.Any("error", err))
		select {
		case <-ctx.Done():
		case <-time.After(restartWait):
		}
	}
}

func (d *Dispatcher) consume(ctx context.Context, id string, created uint64) error {
	consumer, err := d.js.CreateConsumer(ctx, events.StreamRegistry, jetstream.ConsumerConfig{
		Durable:       consumerName(id),
		Description:   "What a webhook was told of.",
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   created + 1,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1, // attempts bounds it, and records that it was given up
		MaxAckPending: maxPending,
	})
	if err != nil {
		return fmt.Errorf("consumer of webhook %s: %w", id, err)
	}
	for {
		msg, err := consumer.Next(jetstream.FetchContext(ctx))
		switch {
		case ctx.Err() != nil:
			if msg != nil {
				_ = msg.Nak() // or it comes again by itself, later
			}
			return nil
		case errors.Is(err, jetstream.ErrNoMessages) || isTimeout(err):
			continue
		case err != nil:
			return fmt.Errorf("next event for webhook %s: %w", id, err)
		}
		if err := d.handle(ctx, id, msg); err != nil {
			return err
		}
	}
}

// handle settles one event: it is delivered, or not meant for the webhook, or
// will come again.
func (d *Dispatcher) handle(ctx context.Context, id string, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("event for webhook %s: %w", id, err)
	}
	seq := meta.Sequence.Stream
	attrs, event, err := events.Decode(msg.Headers(), msg.Data())
	if err != nil {
		// The ledger stops here too, and the operator is told.
		return fmt.Errorf("event %d for webhook %s: %w", seq, id, err)
	}
	// Whether a model is a prompt, the ledger knows once it is there.
	if err := d.ledger.Wait(ctx, seq); err != nil {
		return err
	}
	n, err := d.notice(seq, attrs.Time, event)
	if err != nil {
		return fmt.Errorf("event %d for webhook %s: %w", seq, id, err)
	}
	// The webhook as it is now: a disabled one is not told what waits for it
	// either, and what waits goes to its present address.
	hook, ok := d.ledger.State().Webhook(id)
	if !ok || n == nil || !wants(hook, n.event) {
		return msg.Ack()
	}
	return d.deliver(ctx, hook, *n, attrs.ID, seq, meta.NumDelivered, msg)
}

func (d *Dispatcher) deliver(ctx context.Context, hook *catalog.Webhook, n notice, eventID string, seq, attempt uint64, msg jetstream.Msg) error {
	a := Attempt{
		DeliveryID: deliveryID(eventID, hook.ID), WebhookID: hook.ID, Event: n.event, EventID: eventID, Seq: seq, Attempt: attempt,
		Time: time.Now().UnixMilli(), Outcome: Delivered,
	}
	r := d.send(ctx, hook, n, a.DeliveryID)
	if r.err != nil && ctx.Err() != nil {
		return msg.Nak()
	}
	a.Duration, a.ResponseStatus = r.took.Milliseconds(), r.status
	var wait time.Duration
	if failure := r.failure(); failure != "" {
		wait = a.failed(failure, d.options.FirstWait, r.retryAfter)
		d.logger.Info("webhooks: not delivered", slog.String("webhook", hook.ID), slog.Uint64("event", seq),
			slog.Uint64("attempt", attempt), slog.String("outcome", string(a.Outcome)), slog.String("error", failure))
	}
	d.metrics.attempts.WithLabelValues(string(a.Outcome)).Inc()
	d.metrics.latency.Observe(r.took.Seconds())
	// What is settled before it is recorded could be gone without a trace.
	if err := d.record(ctx, a); err != nil {
		return errors.Join(err, msg.NakWithDelay(max(wait, d.options.FirstWait)))
	}
	if a.Outcome == Retrying {
		return msg.NakWithDelay(wait)
	}
	return msg.DoubleAck(ctx)
}

// failed notes why the attempt failed, and returns after what time the next is made,
// if it was not the last.
func (a *Attempt) failed(failure string, first, retryAfter time.Duration) (wait time.Duration) {
	a.Error, a.Outcome = failure, GivenUp
	if a.Attempt < attempts {
		wait = max(pause(first, a.Attempt), min(retryAfter, maxWait))
		a.Outcome, a.Next = Retrying, time.Now().Add(wait).UnixMilli()
	}
	return wait
}
