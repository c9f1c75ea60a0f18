package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// The stream of attempts is no part of the log: it is kept for people to look at,
// for a while.
const (
	journalStream  = "WEBHOOK_DELIVERIES"
	journalPrefix  = "webhook-delivery."
	journalPerHook = 1000
	journalAge     = 30 * 24 * time.Hour
	journalBytes   = 256 << 20
	journalTimeout = 5 * time.Second
)

// Outcome is what came of an attempt.
type Outcome string

// The outcomes of an attempt.
const (
	Delivered Outcome = "delivered"
	Retrying  Outcome = "retrying"
	GivenUp   Outcome = "given_up"
)

// Attempt is one request to a webhook. The last 1000 of each webhook are kept,
// for 30 days.
type Attempt struct {
	DeliveryID     string  `json:"delivery_id"` // the same for all attempts of an event
	WebhookID      string  `json:"webhook_id"`
	Event          string  `json:"event"` // as "model_version.created"
	EventID        string  `json:"event_id"`
	Seq            uint64  `json:"seq"`              // of the event in the REGISTRY stream
	Attempt        uint64  `json:"attempt"`          // from 1
	Time           int64   `json:"time"`             // milliseconds since the Unix epoch
	Duration       int64   `json:"duration_ms"`      // until the answer
	ResponseStatus int     `json:"response_status"`  // of HTTP, 0: there was no answer
	Error          string  `json:"error,omitempty"`  // why it is not delivered
	Outcome        Outcome `json:"outcome"`          //
	Next           int64   `json:"next,omitempty"`   // when it is tried again, milliseconds since the Unix epoch
	Record         uint64  `json:"record,omitempty"` // of this attempt, ascending
}

func (d *Dispatcher) openJournal(ctx context.Context) error {
	registry, err := d.js.Stream(ctx, events.StreamRegistry)
	if err != nil {
		return fmt.Errorf("open the record of webhooks: %w", err)
	}
	_, err = d.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              journalStream,
		Description:       "Attempts to deliver events to webhooks.",
		Subjects:          []string{journalPrefix + "*"},
		Storage:           jetstream.FileStorage,
		Replicas:          registry.CachedInfo().Config.Replicas,
		Discard:           jetstream.DiscardOld,
		MaxMsgsPerSubject: journalPerHook,
		MaxAge:            journalAge,
		MaxBytes:          journalBytes,
		AllowDirect:       true,
	})
	if err != nil {
		return fmt.Errorf("open the record of webhooks: %w", err)
	}
	return nil
}

func (d *Dispatcher) record(ctx context.Context, a Attempt) error {
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalTimeout)
	defer cancel()
	if _, err := d.js.Publish(ctx, journalPrefix+a.WebhookID, data); err != nil {
		return fmt.Errorf("record an attempt of webhook %s: %w", a.WebhookID, err)
	}
	return nil
}

// Attempts returns at most limit attempts of a webhook, the latest first, from
// before the one with that record on; 0 is from the last.
func (d *Dispatcher) Attempts(ctx context.Context, webhookID string, before uint64, limit int) ([]Attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	batch, err := jetstreamext.GetBatch(ctx, d.js, journalStream, journalPerHook,
		jetstreamext.GetBatchSubject(journalPrefix+webhookID), jetstreamext.GetBatchSeq(1))
	if err != nil {
		return nil, fmt.Errorf("attempts of webhook %s: %w: %w", webhookID, err, eventlog.ErrUnavailable)
	}
	found := []Attempt{}
	for msg, err := range batch {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("attempts of webhook %s: %w: %w", webhookID, err, eventlog.ErrUnavailable)
		}
		if before != 0 && msg.Sequence >= before {
			break
		}
		a := Attempt{}
		if err := json.Unmarshal(msg.Data, &a); err != nil {
			return nil, fmt.Errorf("attempts of webhook %s: %w", webhookID, err)
		}
		a.Record = msg.Sequence
		found = append(found, a)
	}
	slices.Reverse(found)
	return found[:min(len(found), limit)], nil
}
