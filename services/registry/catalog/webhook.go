package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"slices"

	"github.com/runledger/runledger/pkg/events"
)

// The statuses of a webhook.
const (
	WebhookActive   = "ACTIVE"
	WebhookDisabled = "DISABLED"
)

// Webhook is an address that is told of events of the registry. It must not be
// changed.
type Webhook struct {
	ID      string `json:"webhook_id"`
	Seq     uint64 `json:"created_seq"` // sequence of the event that created it
	Last    uint64 `json:"last_seq"`    // and of the last one about it
	Created int64  `json:"creation_timestamp"`
	Updated int64  `json:"last_updated_timestamp"` // both milliseconds since the Unix epoch

	Name         string   `json:"name"`
	URL          string   `json:"url"`
	Description  string   `json:"description,omitempty"`
	Events       []string `json:"events"` // as "model_version.created"
	Status       string   `json:"status"`
	SealedSecret []byte   `json:"sealed_secret,omitempty"` // encrypted; none: its deliveries are not signed
}

// Webhook returns the webhook with that id.
func (s *State) Webhook(id string) (*Webhook, bool) { return s.webhooks.Get(id) }

// Webhooks yields the webhooks by id.
func (s *State) Webhooks() iter.Seq[*Webhook] { return values(s.webhooks) }

// SameWebhooks reports whether no webhook differs between two states of one
// process.
func (s *State) SameWebhooks(o *State) bool { return s.webhooks == o.webhooks }

// WebhookCount returns the number of webhooks.
func (s *State) WebhookCount() int { return s.webhooks.Len() }

// changeWebhook returns the change of an event that is about a webhook; ok is
// false for another event.
func (s *State) changeWebhook(seq uint64, now int64, e *events.Event) (c Change, ok bool, err error) {
	switch d := e.GetData().(type) {
	case *events.Event_WebhookCreated:
		n := d.WebhookCreated
		if _, exists := s.Webhook(n.GetWebhookId()); exists || n.GetWebhookId() == "" {
			return c, true, misfit("webhook %q exists", n.GetWebhookId())
		}
		return Change{Webhook: &Webhook{
			ID: n.GetWebhookId(), Seq: seq, Last: seq, Created: now, Updated: now, Name: n.GetName(), URL: n.GetUrl(),
			Description: n.GetDescription(), Events: slices.Clone(n.GetEvents()), Status: n.GetStatus(), SealedSecret: n.GetSealedSecret(),
		}}, true, nil

	case *events.Event_WebhookUpdated:
		u := d.WebhookUpdated
		old, exists := s.Webhook(u.GetWebhookId())
		if !exists {
			return c, true, misfit("no webhook %q", u.GetWebhookId())
		}
		w := *old
		w.Last, w.Updated = seq, now
		set(&w.Name, u.Name)
		set(&w.URL, u.Url)
		set(&w.Description, u.Description)
		set(&w.Status, u.Status)
		if len(u.GetEvents()) > 0 {
			w.Events = slices.Clone(u.GetEvents())
		}
		if u.SealedSecret != nil {
			w.SealedSecret = u.GetSealedSecret()
		}
		return Change{PreviousWebhook: old, Webhook: &w}, true, nil

	case *events.Event_WebhookDeleted:
		old, exists := s.Webhook(d.WebhookDeleted.GetWebhookId())
		if !exists {
			return c, true, misfit("no webhook %q", d.WebhookDeleted.GetWebhookId())
		}
		return Change{PreviousWebhook: old}, true, nil
	}
	return c, false, nil
}

func set(to, from *string) {
	if from != nil {
		*to = *from
	}
}

// document returns what an entry tells of a webhook. Of its secret it tells the
// digest of the encrypted form, so that a change is seen and nothing given away.
func (w *Webhook) document() Document {
	if w == nil {
		return nil
	}
	names := Document{}
	for _, name := range w.Events {
		names[name] = true
	}
	d := Document{
		"webhook_id": w.ID, "creation_timestamp": w.Created, "last_updated_timestamp": w.Updated,
		"name": w.Name, "url": w.URL, "events": names, "status": w.Status,
	}
	d.text("description", w.Description)
	if len(w.SealedSecret) > 0 {
		sum := sha256.Sum256(w.SealedSecret)
		d["sealed_secret_sha256"] = hex.EncodeToString(sum[:])
	}
	return d
}
