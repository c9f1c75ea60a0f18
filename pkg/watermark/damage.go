package watermark

import (
	"fmt"

	"github.com/nats-io/nats.go"
)

const (
	damageSubject  = "runledger.damage"
	replaceSubject = "runledger.replace"
)

// ReportDamage tells projectors that a table seems damaged; what is for their log. It
// is repeated with each read that fails, so that none need arrive.
func ReportDamage(nc *nats.Conn, what string) error {
	if err := nc.Publish(damageSubject, []byte(what)); err != nil {
		return fmt.Errorf("report damage to the tables: %w", err)
	}
	return nil
}

// OnDamage calls report with what each ReportDamage says, until the subscription ends.
// Calls do not overlap.
func OnDamage(nc *nats.Conn, report func(what string)) (*nats.Subscription, error) {
	sub, err := nc.Subscribe(damageSubject, func(m *nats.Msg) { report(string(m.Data)) })
	if err != nil {
		return nil, fmt.Errorf("listen for reports of damage to the tables: %w", err)
	}
	return sub, nil
}

// RequestReplace asks projectors to leave the tables alone, so that the one that asks
// can replace them: they give up their streams.
func RequestReplace(nc *nats.Conn) error {
	if err := nc.Publish(replaceSubject, nil); err != nil {
		return fmt.Errorf("ask projectors to leave the tables alone: %w", err)
	}
	return nil
}

// OnReplace calls leave at each RequestReplace, until the subscription ends. Calls do
// not overlap.
func OnReplace(nc *nats.Conn, leave func()) (*nats.Subscription, error) {
	sub, err := nc.Subscribe(replaceSubject, func(*nats.Msg) { leave() })
	if err != nil {
		return nil, fmt.Errorf("listen for requests to leave the tables alone: %w", err)
	}
	return sub, nil
}
