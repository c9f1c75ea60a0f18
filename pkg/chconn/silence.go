package chconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// ErrSilent means that the server kept a connection open and said nothing for too
// long: its process is stopped, or its machine is gone. One that works on a statement
// reports its progress several times a second.
var ErrSilent = errors.New("ClickHouse does not answer")

// Impatient returns a copy of options whose connections are closed when a read has
// waited longer than limit for a byte; the read returns ErrSilent.
func Impatient(o *clickhouse.Options, limit time.Duration) *clickhouse.Options {
	c := *o
	c.TLS = nil // the connections that are dialled have it
	c.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := dialPlain(ctx, o, addr)
		if err != nil {
			return nil, err
		}
		return &impatient{Conn: conn, limit: limit}, nil
	}
	return &c
}

func dialPlain(ctx context.Context, o *clickhouse.Options, addr string) (net.Conn, error) {
	if o.DialContext != nil {
		return o.DialContext(ctx, addr)
	}
	d := net.Dialer{Timeout: o.DialTimeout}
	if d.Timeout == 0 {
		d.Timeout = dialTimeout
	}
	if o.TLS != nil {
		return (&tls.Dialer{NetDialer: &d, Config: o.TLS}).DialContext(ctx, "tcp", addr)
	}
	return d.DialContext(ctx, "tcp", addr)
}

// impatient is a connection that gives up when reads have waited for too long. Time in
// which nobody reads does not count.
type impatient struct {
	net.Conn
	limit time.Duration

	mu     sync.Mutex
	until  time.Time     // the deadline of the user, zero for none
	waited time.Duration // since there was a byte, in either direction
}

func (c *impatient) Read(b []byte) (int, error) {
	c.mu.Lock()
	begin := time.Now()
	patience := begin.Add(c.limit - c.waited)
	deadline := patience
	if !c.until.IsZero() && c.until.Before(patience) {
		deadline = c.until
	}
	err := c.Conn.SetReadDeadline(deadline)
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 {
		c.waited = 0
		return n, err
	}
	c.waited += time.Since(begin)
	if errors.Is(err, os.ErrDeadlineExceeded) && c.waited >= c.limit {
		return 0, errors.Join(fmt.Errorf("%w since %v", ErrSilent, c.limit), c.Conn.Close())
	}
	return n, err
}

func (c *impatient) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.waited = 0
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *impatient) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *impatient) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	return c.Conn.SetReadDeadline(t)
}
