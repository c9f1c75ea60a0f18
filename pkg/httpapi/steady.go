package httpapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
)

// A body may keep the server waiting for bodyGrace, and beyond that as long as it
// comes at leastRate on average, in bytes a second, and never stops for maxStall: far
// below what any link does, and enough to end those that send a byte now and then.
const (
	bodyGrace = 10 * time.Second
	leastRate = 4 << 10
	maxStall  = time.Minute
)

// steadyBody is the body of a request. Only the time counts that it keeps the
// server waiting, not what the server takes to do with it what it does.
type steadyBody struct {
	io.ReadCloser
	controller *http.ResponseController
	grace      time.Duration
	waited     time.Duration
	read       int64        // bytes
	until      time.Time    // when the request must be done with, zero for no such time
	arrived    func() error // called when all of it is there, may be nil

	// A body that is held counts for the bound of all.
	bodies  *bodies
	from    netip.Prefix
	held    bool
	counted int64
}

// limitReads ends requests whose bodies come too slowly, or that ask for more memory
// than there is.
func limitReads(all *bodies) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(ec echo.Context) error {
			r := ec.Request()
			if r.Body == nil || r.Body == http.NoBody {
				return next(ec)
			}
			b := &steadyBody{
				ReadCloser: r.Body, controller: http.NewResponseController(ec.Response()), grace: bodyGrace,
				bodies: all, from: ClientAddress(r.RemoteAddr),
			}
			// What no handler reads is read by the server, within this time.
			if err := b.allow(b.grace); err != nil {
				return err
			}
			defer func() { b.bodies.free(b.from, b.counted) }()
			r.Body = b
			return next(ec)
		}
	}
}

// HoldBody says that a request's body is read into memory, and so counts for the
// bound of all that are. DecodeBody and LimitTime say it too.
func HoldBody(ec echo.Context) {
	if b, ok := ec.Request().Body.(*steadyBody); ok {
		b.held = true
	}
}

// count counts n bytes of a body that is held.
func (b *steadyBody) count(n int) error {
	more := min(int64(n), MaxHeld-b.counted)
	if !b.held || more == 0 {
		return nil
	}
	if err := b.bodies.take(b.from, more); err != nil {
		return err
	}
	b.counted += more
	return nil
}

// allow sets how long the next byte may take.
func (b *steadyBody) allow(d time.Duration) error {
	at := time.Now().Add(d)
	if !b.until.IsZero() && b.until.Before(at) {
		at = b.until
	}
	return b.deadline(at)
}

func (b *steadyBody) deadline(at time.Time) error {
	if err := b.controller.SetReadDeadline(at); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("limit the time of a request: %w", err)
	}
	return nil
}

// Read returns an *apierr.Error of code BadRequest when the client is too slow, and
// of RequestLimitExceeded when there is no room for what has arrived.
func (b *steadyBody) Read(p []byte) (int, error) {
	left := min(b.grace+time.Duration(b.read)*time.Second/leastRate-b.waited, maxStall)
	if err := b.allow(left); err != nil {
		return 0, err
	}
	began := time.Now()
	n, err := b.ReadCloser.Read(p)
	b.waited += time.Since(began)
	b.read += int64(n)
	if full := b.count(n); full != nil {
		return 0, full
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		// From here on the server waits for nothing but the end of the connection.
		if failed := b.deadline(b.until); failed != nil {
			return n, failed
		}
		if b.arrived != nil {
			if refused := b.arrived(); refused != nil {
				return n, refused
			}
		}
		return n, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, apierr.Wrap(err, apierr.BadRequest, fmt.Sprintf("The request body came too slowly: %d bytes in %.0f s. At least %d bytes a second are expected.",
			b.read, b.waited.Seconds(), leastRate))
	default:
		return n, err
	}
}
