package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/httpapi"
)

// from is a connection in memory with an address at the other end.
type from struct {
	net.Conn
	address string
}

func (f from) RemoteAddr() net.Addr { return f }
func (f from) Network() string      { return "tcp" }
func (f from) String() string       { return f.address + ":1" }

// inMemory is a server of connections in memory, which lives in a bubble of
// synctest.
type inMemory struct {
	t      *testing.T
	l      pipes
	stop   context.CancelFunc
	served chan error
}

// serveInMemory serves until the function ends. No connections may be open then.
func serveInMemory(t *testing.T, h http.Handler, most, perAddress int, during func(t *testing.T, s *inMemory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		s := &inMemory{t, make(pipes), stop, make(chan error, 1)}
		go func() { s.served <- httpapi.ServeSome(ctx, s.l, h, most, perAddress) }()
		during(t, s)
		stop()
		if err := <-s.served; err != nil {
			t.Error(err)
		}
	})
}

// dial connects; nobody waits for the server to take the connection.
func (s *inMemory) dial(address string) *client {
	c, server := net.Pipe()
	go func() { s.l <- from{server, address} }()
	synctest.Wait()
	return &client{c, bufio.NewReader(c)}
}

// open connects and has one request answered, so that the connection is idle. It is
// then idle for less long than those before.
func (s *inMemory) open(address string) *client {
	s.t.Helper()
	c := s.dial(address)
	if err := c.get("/health"); err != nil {
		s.t.Errorf("a connection from %s: %v", address, err)
	}
	time.Sleep(time.Second)
	return c
}

func (c *client) isOpen() bool { return c.get("/health") == nil }

func closeAll(clients ...*client) {
	for _, c := range clients {
		_ = c.Close()
	}
	synctest.Wait()
}

// Who has many connections makes room, not who has few, however long these are idle.
func TestOneAddressDoesNotCostOthersTheirConnections(t *testing.T) {
	t.Run("beyond its share", func(t *testing.T) {
		serveInMemory(t, newEcho(), 10, 2, func(t *testing.T, s *inMemory) {
			other := s.open("10.0.0.2")
			a, b, c := s.open("10.0.0.1"), s.open("10.0.0.1"), s.open("10.0.0.1")
			if !other.isOpen() || a.isOpen() || !b.isOpen() || !c.isOpen() {
				t.Error("another connection was closed than the one of the address that was idle longest")
			}
			closeAll(other, a, b, c)
		})
	})
	t.Run("beyond what there is", func(t *testing.T) {
		serveInMemory(t, newEcho(), 4, 3, func(t *testing.T, s *inMemory) {
			other := s.open("10.0.0.2")
			a, b, c := s.open("10.0.0.1"), s.open("10.0.0.1"), s.open("10.0.0.1")
			late := s.open("10.0.0.3")
			if !other.isOpen() || a.isOpen() || !b.isOpen() || !c.isOpen() || !late.isOpen() {
				t.Error("another connection was closed than the one of the address with the most that was idle longest")
			}
			closeAll(other, a, b, c, late)
		})
	})
}

// The place of a connection that ended is there again, at work or idle when it did.
func TestPlacesOfEndedConnectionsAreFree(t *testing.T) {
	serveInMemory(t, newEcho(), 2, 2, func(t *testing.T, s *inMemory) {
		for i := range 10 {
			c := s.dial("10.0.0.1")
			if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if err := c.answer(); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			closeAll(c)
			closeAll(s.open("10.0.0.2"))
		}
	})
}

// blocking returns a server with a route that answers when finish is closed, and
// tells of each request that came.
func blocking() (e *echo.Echo, begun chan context.Context, finish chan struct{}) {
	e = newEcho()
	begun, finish = make(chan context.Context, 10), make(chan struct{})
	e.GET("/slow", func(ec echo.Context) error {
		begun <- ec.Request().Context()
		<-finish
		return ec.NoContent(http.StatusOK)
	})
	return e, begun, finish
}

// A client that waits for a place is let go when the server ends, not when what is
// under way does.
func TestWaitingConnectionsAreLetGoAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, begun, finish := blocking()
		ctx, stop := context.WithCancel(t.Context())
		s := &inMemory{t, make(pipes), stop, make(chan error, 1)}
		go func() { s.served <- httpapi.ServeSome(ctx, s.l, e, 1, 1) }()
		working := s.dial("10.0.0.1")
		answered := make(chan error, 1)
		go func() { answered <- working.get("/slow") }()
		synctest.Wait()
		<-begun
		waiting := s.dial("10.0.0.2")
		ended := false
		go func() {
			_, err := waiting.Read(make([]byte, 1))
			ended = err != nil
		}()
		synctest.Wait()
		if ended {
			t.Error("it does not wait for a place")
		}
		stop()
		synctest.Wait()
		if !ended {
			t.Error("it is not let go")
			_ = waiting.Close()
		}
		close(finish)
		if err := <-answered; err != nil {
			t.Error(err)
		}
		closeAll(working)
		if err := <-s.served; err != nil {
			t.Error(err)
		}
	})
}

// What is still under way when the time to end is over is ended, and said.
func TestServeEndsWhatDoesNotEnd(t *testing.T) {
	const drain = 20 * time.Second
	synctest.Test(t, func(t *testing.T) {
		e, begun, finish := blocking()
		ctx, stop := context.WithCancel(t.Context())
		s := &inMemory{t, make(pipes), stop, make(chan error, 1)}
		go func() { s.served <- httpapi.Serve(ctx, s.l, e, drain) }()
		c := s.dial("10.0.0.1")
		answered := make(chan error, 1)
		go func() { answered <- c.get("/slow") }()
		request := <-begun
		stop()
		began := time.Now()
		select {
		case err := <-s.served:
			if took := time.Since(began); took != drain || err == nil || !strings.Contains(err.Error(), "still under way after 20s") {
				t.Errorf("it ended after %v with %v", took, err)
			}
			synctest.Wait()
			if request.Err() == nil {
				t.Error("the connection is left open")
			}
		case <-time.After(2 * drain):
			t.Error("it does not end")
		}
		close(finish)
		_ = c.Close()
		<-answered
	})
}

func TestServeTellsThatItCannotListen(t *testing.T) {
	l := make(pipes)
	close(l)
	if err := httpapi.Serve(t.Context(), brokenListener{l}, newEcho(), time.Second); err == nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("it ended with %v", err)
	}
}

// brokenListener is closed already.
type brokenListener struct{ pipes }

func (brokenListener) Close() error { return nil }

// A connection costs something as long as it is there: one that is late with a
// request, or has none for long, or one with headers that are too long, is closed.
func TestConnectionsThatAskNothingAreClosed(t *testing.T) {
	for name, c := range map[string]struct {
		send   string
		within time.Duration
		answer string
	}{
		"half a request":    {"GET /health HTTP/1.1\r\nHost: localhost\r\n", 11 * time.Second, ""},
		"nothing":           {"", 11 * time.Second, ""},
		"no second request": {"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 121 * time.Second, "HTTP/1.1 200"},
		"long headers":      {"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", time.Second, "HTTP/1.1 431"},
	} {
		t.Run(name, func(t *testing.T) {
			serveInMemory(t, newEcho(), 10, 10, func(t *testing.T, s *inMemory) {
				began := time.Now()
				c1 := s.dial("10.0.0.1")
				sent := make(chan struct{})
				go func() {
					_, _ = io.WriteString(c1, c.send) // maybe only in part
					close(sent)
				}()
				text, err := io.ReadAll(c1)
				if took := time.Since(began); err != nil || took > c.within || !strings.HasPrefix(string(text), c.answer) || c.answer == "" && len(text) > 0 {
					t.Errorf("after %v, %v: %.100s", took, err, text)
				}
				closeAll(c1)
				<-sent
			})
		})
	}
}

// What a handler does with a body may take its time, before all of it was read and
// after, unless the request is one that must be done with in a minute. A body that
// nobody reads keeps nobody waiting for long.
func TestTheTimeOfAHandlerIsItsOwn(t *testing.T) {
	e := newEcho()
	const long = 5 * time.Minute
	e.PUT("/between", func(ec echo.Context) error {
		part := make([]byte, 1<<10)
		for {
			_, err := ec.Request().Body.Read(part)
			if errors.Is(err, io.EOF) {
				return ec.NoContent(http.StatusOK)
			}
			if err != nil {
				return err
			}
			time.Sleep(long / 2)
		}
	})
	after := func(ec echo.Context) error {
		if _, err := io.Copy(io.Discard, ec.Request().Body); err != nil {
			return err
		}
		select {
		case <-ec.Request().Context().Done():
			return ec.NoContent(http.StatusGone)
		case <-time.After(long):
			return ec.NoContent(http.StatusOK)
		}
	}
	e.PUT("/after", after)
	addMLflow(e, http.MethodPost, "/after", after)
	e.PUT("/ignored", func(ec echo.Context) error { return ec.NoContent(http.StatusOK) })
	for _, c := range []struct {
		request        string
		announced, has int
		least, most    time.Duration
		status         int // 0: the connection is closed
	}{
		{"PUT /between", 3 << 10, 3 << 10, long, long, http.StatusOK},
		{"PUT /after", 100, 100, long, long, http.StatusOK},
		{"POST /api/2.0/mlflow/after", 100, 100, time.Minute, time.Minute, 0},
		{"POST /ajax-api/2.0/mlflow/after", 100, 100, time.Minute, time.Minute, 0},
		{"PUT /ignored", 100, 0, 0, 10 * time.Second, http.StatusOK},
	} {
		t.Run(c.request, func(t *testing.T) {
			serveInMemory(t, e, 10, 10, func(t *testing.T, s *inMemory) {
				conn := s.dial("10.0.0.1")
				began := time.Now()
				go func() {
					_, _ = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
						c.request, c.announced, strings.Repeat("x", c.has))
				}()
				status := 0
				if res, err := http.ReadResponse(conn.r, nil); err == nil {
					status = res.StatusCode
				}
				if took := time.Since(began); took < c.least || took > c.most || status != c.status && status != http.StatusGone || c.status == http.StatusOK && status == http.StatusGone {
					t.Errorf("%d after %v, want %d after %v to %v", status, took, c.status, c.least, c.most)
				}
				closeAll(conn)
			})
		})
	}
}

// A request is in flight from when its body is there until it is answered, once, in
// whatever way it ends.
func TestQueueForgetsEveryRequest(t *testing.T) {
	q := httpapi.NewQueue(prometheus.NewRegistry(), "test")
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	var during int
	handler := func(ec echo.Context) error {
		for range 3 { // the end is read more than once
			if _, err := io.Copy(io.Discard, ec.Request().Body); err != nil {
				return err
			}
		}
		during = q.InFlight()
		switch ec.QueryParam("end") {
		case "panic":
			panic("of the handler")
		case "error":
			return errors.New("of the handler")
		}
		return ec.NoContent(http.StatusOK)
	}
	e.POST("/work", q.Limit(handler))
	for _, end := range []string{"", "error", "panic"} {
		for _, body := range []io.Reader{nil, strings.NewReader("body")} {
			e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/work?end="+end, body))
			if after := q.InFlight(); during != 1 || after != 0 {
				t.Errorf("end %q, body %v: %d in flight during a request, %d after it", end, body != nil, during, after)
			}
		}
	}
}
