package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/eventlog"
)

const (
	// A server that is not up yet is tried again after backendFirst, then more and
	// more seldom, at least every backendLast.
	backendFirst = 200 * time.Millisecond
	backendLast  = 10 * time.Second
	// codeNotReady is what a JetStream cluster without a leader answers
	// (nats-server, server/errors.json).
	codeNotReady jetstream.ErrorCode = 10008
)

// await calls try until it succeeds, or fails with an error that is not one of a
// server that is not up yet, or ctx ends. what is what it waits for.
func await(ctx context.Context, logger *slog.Logger, what string, notYet func(error) bool, try func() error) error {
	delays := backoff.NewExponentialBackOff()
	delays.InitialInterval, delays.MaxInterval = backendFirst, backendLast
	for {
		err := try()
		if err == nil || !notYet(err) {
			return err
		}
		delay := delays.NextBackOff()
		logger.Warn("waiting for "+what, slog.Any("error", err), slog.Duration("again_in", delay))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

// connectNATS connects to a server, and waits for one that is not up yet.
func connectNATS(ctx context.Context, address string, logger *slog.Logger) (nc *nats.Conn, err error) {
	err = await(ctx, logger, "NATS", isUnreachable, func() error {
		nc, err = dialNATS(address)
		return err
	})
	return nc, err
}

// dialNATS connects to a server that is up.
func dialNATS(address string) (*nats.Conn, error) {
	for part := range strings.SplitSeq(address, ",") {
		if err := checkNATSURL(strings.TrimSpace(part)); err != nil {
			return nil, fmt.Errorf("--nats-url: %w", err)
		}
	}
	nc, err := nats.Connect(address, nats.Name("runledger"), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", redacted(address), err)
	}
	return nc, nil
}

// checkNATSURL finds what can never be connected to.
func checkNATSURL(text string) error {
	if !strings.Contains(text, "://") {
		text = "nats://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL: want nats://host:4222") // the error of url has the password in it
	case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
		return fmt.Errorf("scheme %q: want nats, tls, ws or wss, as in nats://host:4222", u.Scheme)
	case u.Hostname() == "":
		return errors.New("no host: want nats://host:4222")
	}
	return nil
}

// redacted leaves passwords out of a list of URLs.
func redacted(address string) string {
	parts := strings.Split(address, ",")
	for i, part := range parts {
		if u, err := url.Parse(strings.TrimSpace(part)); err == nil {
			parts[i] = u.Redacted()
		}
	}
	return strings.Join(parts, ",")
}

// isUnreachable tells whether a server may only not be up yet.
func isUnreachable(err error) bool {
	_, dial := errors.AsType[*net.OpError](err)
	_, lookup := errors.AsType[*net.DNSError](err)
	return dial || lookup || errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, nats.ErrDisconnected)
}

// openEventLog opens the log, and waits for streams that are not up yet.
func openEventLog(ctx context.Context, nc *nats.Conn, c eventlog.Config) (log *eventlog.Log, err error) {
	notYet := func(err error) bool {
		refused, ok := errors.AsType[*jetstream.APIError](err)
		return ok && refused.ErrorCode == codeNotReady || errors.Is(err, eventlog.ErrUnavailable) ||
			errors.Is(err, context.DeadlineExceeded) || isUnreachable(err)
	}
	err = await(ctx, c.Logger, "the event log", notYet, func() error {
		log, err = eventlog.Open(ctx, nc, c)
		return err
	})
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
		err = fmt.Errorf("%w: start the NATS server with JetStream, nats-server --jetstream", err)
	}
	return log, err
}

// checkClickHouse returns an error if the server refuses the credentials. One that
// is not up yet is waited for by whoever needs it.
func checkClickHouse(ctx context.Context, o *clickhouse.Options, logger *slog.Logger) error {
	opts := *o
	opts.Auth.Database = "default" // the projector makes the other one
	client, err := chconn.Dial(ctx, &opts, "runledger")
	switch {
	case chconn.Denied(err):
		return fmt.Errorf("--clickhouse-url: %w", err)
	case err != nil:
		logger.Warn("waiting for ClickHouse", slog.Any("error", err))
		return nil
	}
	return client.Close()
}
