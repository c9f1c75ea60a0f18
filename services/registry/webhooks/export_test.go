package webhooks

import (
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
