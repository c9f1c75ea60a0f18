// Package chconn connects to ClickHouse column by column: a block of rows is
// read and written without a step for each row.
package chconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
)

const (
	dialTimeout = 10 * time.Second
	// pollInterval is how often a wait for the server looks whether it was
	// given up: ch-go does not end a read otherwise.
	pollInterval = 100 * time.Millisecond
)

type dialer func(ctx context.Context, addr string) (net.Conn, error)

func (d dialer) DialContext(ctx context.Context, _, addr string) (net.Conn, error) {
	return d(ctx, addr)
}

// Dial connects to the first of the options' addresses that answers, within 10
// seconds. Of the options it uses these, the credentials, the database, TLS and
// the dialer; name is what the server calls the client. When none answers, it
// returns what each of them said.
func Dial(ctx context.Context, o *clickhouse.Options, name string) (*ch.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	opts := ch.Options{
		Database:         o.Auth.Database,
		User:             o.Auth.Username,
		Password:         o.Auth.Password,
		TLS:              o.TLS,
		ClientName:       name,
		DialTimeout:      dialTimeout,
		HandshakeTimeout: dialTimeout,
		ReadTimeout:      pollInterval,
	}
	if o.DialContext != nil {
		opts.Dialer = dialer(o.DialContext)
	}
	var failed error
	for _, addr := range o.Addr {
		opts.Address = addr
		client, err := ch.Dial(ctx, opts)
		if err == nil {
			return client, nil
		}
		failed = errors.Join(failed, fmt.Errorf("connect to ClickHouse at %s: %w", addr, err))
	}
	return nil, failed
}

// Denied reports whether err is ClickHouse's refusal of a user or a password,
// which no repetition changes.
func Denied(err error) bool {
	codes := []proto.Error{proto.ErrUnknownUser, proto.ErrWrongPassword, proto.ErrRequiredPassword, proto.ErrAuthenticationFailed}
	e, ok := errors.AsType[*clickhouse.Exception](err)
	return ch.IsErr(err, codes...) || ok && slices.Contains(codes, proto.Error(e.Code))
}
