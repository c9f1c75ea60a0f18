package webhooks

import (
	"context"
	"time"

	"github.com/runledger/runledger/services/registry/catalog"
)

// OpenSecret is the inverse of SealSecret.
func (d *Dispatcher) OpenSecret(webhookID string, sealed []byte) (string, error) {
	return d.openSecret(webhookID, sealed)
}

var (
	ErrOtherKey = errOtherKey
	Pause       = pause
	Examples    = examples
)

// WithSecret returns a dispatcher that can seal and open, and nothing else.
func WithSecret(keyFile string) (*Dispatcher, error) {
	k, err := loadKey(keyFile)
	return &Dispatcher{key: k}, err
}

// ToServer returns a webhook that is at the address.
func ToServer(address string) *catalog.Webhook {
	return &catalog.Webhook{ID: "hook", URL: address, Status: catalog.WebhookActive, Created: time.Now().UnixMilli()}
}

// Guarded returns a dispatcher that only sends to the public internet.
func Guarded() *Dispatcher {
	return &Dispatcher{client: newClient(false), options: Options{Schemes: []string{"http"}}}
}

// WithClient returns a dispatcher that can seal, and send to anywhere.
func WithClient(keyFile string) (*Dispatcher, error) {
	d, err := WithSecret(keyFile)
	d.client = newClient(true)
	return d, err
}

// Sent is what came of a request.
type Sent struct {
	Status     int
	Body       []byte
	RetryAfter time.Duration
	Failure    string
}

// Send sends an event of that time to a webhook.
func (d *Dispatcher) Send(ctx context.Context, hook *catalog.Webhook, event string, at time.Time) Sent {
	r := d.send(ctx, hook, notice{event: event, at: at, data: examples[event]}, "delivery")
	return Sent{r.status, r.body, r.retryAfter, r.failure()}
}

// Failed notes why an attempt failed, and returns when the next is made.
func (a *Attempt) Failed(failure string, first, retryAfter time.Duration) time.Duration {
	return a.failed(failure, first, retryAfter)
}

// MaxAttempts is how many attempts are made.
const MaxAttempts = attempts
