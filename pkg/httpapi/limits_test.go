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
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
)

// newEcho returns a server that reads the bodies of uploads, which may be large,
// and of MLflow's requests, which may not.
func newEcho() *echo.Echo {
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	read := func(c echo.Context) error {
		n, err := io.Copy(io.Discard, c.Request().Body)
		if err != nil {
			return err
		}
		return c.String(http.StatusOK, strconv.FormatInt(n, 10))
	}
	e.PUT("/upload", read)
	addMLflow(e, http.MethodPost, "/write", read)
	return e
}

// A client that trickles its body is let go after a while, whatever it announced
// and wherever it sends it; one that is slow but steady may take as long as its file
// needs, unless the request is one that has no reason to be large.
func TestBodiesThatTrickleAreEndedAndSteadyOnesAreNot(t *testing.T) {
	const upload, write = "PUT /upload", "POST /api/2.0/mlflow/write"
	for _, c := range []struct {
		name, request       string
		size, chunk         int
		start, pause, until time.Duration // before the first chunk, after each, and until the answer at most
		status              int
	}{
		{"a byte every five seconds", write, 4 << 20, 1, 0, 5 * time.Second, 20 * time.Second, http.StatusBadRequest},
		{"an upload of a byte every five seconds", upload, 1 << 30, 1, 0, 5 * time.Second, 20 * time.Second, http.StatusBadRequest},
		{"an upload that stops in the middle", upload, 64 << 20, 8 << 20, 0, 5 * time.Hour, 2 * time.Minute, http.StatusBadRequest},
		{"nothing at all", upload, 100, 100, time.Hour, 0, 20 * time.Second, http.StatusBadRequest},
		{"an hour of 16 KB a second", upload, 3600 * 16 << 10, 16 << 10, 0, time.Second, 2 * time.Hour, http.StatusOK},
		{"a small one after nine seconds", write, 100, 100, 9 * time.Second, 0, 10 * time.Second, http.StatusOK},
		{"five minutes of steady JSON", write, 300 * 8 << 10, 8 << 10, 0, time.Second, 61 * time.Second, http.StatusBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				l := make(pipes)
				served := make(chan error, 1)
				go func() { served <- httpapi.Serve(ctx, l, newEcho(), time.Second) }()
				client, server := net.Pipe()
				l <- server
				began := time.Now()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					_, err := fmt.Fprintf(client, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", c.request, c.size)
					time.Sleep(c.start)
					for at := 0; err == nil && at < c.size; at += c.chunk {
						_, err = client.Write(make([]byte, min(c.chunk, c.size-at)))
						time.Sleep(c.pause)
					}
				}()
				answer, err := http.ReadResponse(bufio.NewReader(client), nil)
				if err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				if answer.StatusCode != c.status || took > c.until {
					t.Errorf("%d after %v, want %d within %v", answer.StatusCode, took, c.status, c.until)
				}
				_ = client.Close()
				<-sent
				stop()
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// serveSome serves on a port of the loopback interface, and returns it.
func serveSome(t *testing.T, h http.Handler, most, perAddress int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpapi.ServeSome(ctx, l, h, most, perAddress) }()
	t.Cleanup(func() {
		stop()
		<-served
	})
	return l.Addr().String()
}

// client is a connection from one of the addresses of the loopback interface.
type client struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, from, to string) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &client{conn, bufio.NewReader(conn)}
}

// get asks for a path on a connection that stays open.
func (c *client) get(path string) error {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path); err != nil {
		return err
	}
	return c.answer()
}

func (c *client) answer() error {
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close())
}

// One address cannot lock the others out, nor itself, with connections that it
// keeps and does not use: the longest idle ones go.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	const most, perAddress = 12, 8
	to := serveSome(t, newEcho(), most, perAddress)
	var kept []*client
	for i := range 5 * most {
		c := dial(t, "127.0.0.1", to)
		if i%3 > 0 { // and some say nothing from the start
			if err := c.get("/health"); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		kept = append(kept, c)
	}
	for _, from := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		for i := range most {
			if err := dial(t, from, to).get("/health"); err != nil {
				t.Errorf("connection %d from %s: %v", i, from, err)
			}
		}
	}
	if err := kept[0].get("/health"); err == nil {
		t.Error("the connection that was idle longest is still there")
	}
}

// A connection that has a request is not closed for another one; of an address that
// has its share of them a further one is refused, while others are served.
func TestConnectionsAtWorkStay(t *testing.T) {
	const most, perAddress = 6, 3
	e := newEcho()
	begun, finish := make(chan struct{}), make(chan struct{})
	e.GET("/slow", func(c echo.Context) error {
		begun <- struct{}{}
		<-finish
		return c.String(http.StatusOK, "done")
	})
	to := serveSome(t, e, most, perAddress)
	var working []*client
	work := func(from string) {
		t.Helper()
		c := dial(t, from, to)
		if _, err := io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-begun
		working = append(working, c)
	}
	for range perAddress {
		work("127.0.0.1")
	}
	if err := dial(t, "127.0.0.1", to).get("/health"); err == nil {
		t.Error("an address got more than its share")
	}
	if err := dial(t, "127.0.0.2", to).get("/health"); err != nil {
		t.Errorf("another address: %v", err)
	}
	work("127.0.0.2")
	work("127.0.0.3")
	work("127.0.0.4")
	// Now all are at work: a further one waits for the first that is not.
	late := make(chan error, 1)
	waiting := dial(t, "127.0.0.5", to)
	go func() { late <- waiting.get("/health") }()
	close(finish)
	if err := <-late; err != nil {
		t.Errorf("the one that waited: %v", err)
	}
	answered := 0
	for _, c := range working {
		if c.answer() == nil {
			answered++
		}
	}
	if answered != len(working) {
		t.Errorf("%d of %d requests under way were answered", answered, len(working))
	}
}

func TestClientAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"10.1.2.3:4":                     "10.1.2.3/32",
		"[::ffff:10.1.2.3]:4":            "10.1.2.3/32",
		"[2001:db8:1:2:3:4:5:6]:7":       "2001:db8:1:2::/64",
		"[fe80::1%eth0]:7":               "fe80::/64",
		"pipe":                           "invalid Prefix",
		"[2001:db8:1:2:ffff::1]:40000":   "2001:db8:1:2::/64",
		"[2001:db8:1:3:ffff::1]:40000":   "2001:db8:1:3::/64",
		"127.0.0.1:1":                    "127.0.0.1/32",
		"[0:0:0:0:0:ffff:7f00:0001]:443": "127.0.0.1/32",
	} {
		if got := httpapi.ClientAddress(remote).String(); got != want {
			t.Errorf("%s is %s, want %s", remote, got, want)
		}
	}
}

// overloaded has requests arrive at a queue, of which one is answered in each
// interval, and returns those that were answered and refused in a span of time.
type overloaded struct {
	t        *testing.T
	e        *echo.Echo
	q        *httpapi.Queue
	release  chan struct{}
	clients  sync.WaitGroup
	mu       sync.Mutex
	answered []time.Duration // how long each took
	refused  []*httptest.ResponseRecorder
}

func newOverloaded(t *testing.T) *overloaded {
	o := &overloaded{t: t, release: make(chan struct{})}
	o.q = httpapi.NewQueue(prometheus.NewRegistry(), "test")
	o.e = httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	o.e.POST("/work", o.q.Limit(func(c echo.Context) error {
		if _, err := io.Copy(io.Discard, c.Request().Body); err != nil {
			return err
		}
		<-o.release
		return c.NoContent(http.StatusOK)
	}))
	return o
}

// send sends a number of requests at once.
func (o *overloaded) send(n int) {
	for range n {
		o.clients.Go(func() {
			began := time.Now()
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodPost, "/work", strings.NewReader("body"))
			o.e.ServeHTTP(w, r)
			o.mu.Lock()
			defer o.mu.Unlock()
			if w.Code == http.StatusOK {
				o.answered = append(o.answered, time.Since(began))
			} else {
				o.refused = append(o.refused, w)
			}
		})
	}
	synctest.Wait()
}

// work answers a number of requests, one in each interval, as long as there are any.
func (o *overloaded) work(n int, interval time.Duration) {
	for range n {
		time.Sleep(interval)
		select {
		case o.release <- struct{}{}:
		default:
		}
		synctest.Wait()
	}
}

func (o *overloaded) counts() (answered, refused int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.answered), len(o.refused)
}

// More than can be answered in time is refused early, and what is taken is answered
// in time, however much is asked; the work that is done does not become less.
func TestOverloadIsRefusedEarlyAndTheRestIsAnsweredInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverloaded(t)
		const interval = 20 * time.Millisecond // 50 a second, so 250 in time
		for range 60 {
			o.send(100) // twice of what can be done
			o.work(50, interval)
		}
		if answered, refused := o.counts(); answered < 60*50-alwaysSlack || refused == 0 {
			t.Errorf("%d were answered and %d refused in a minute of 50 a second", answered, refused)
		}
		o.work(1000, interval)
		o.clients.Wait()
		var late int
		for _, took := range o.answered {
			if took > 2*httpapi.MaxWait {
				late++
			}
		}
		// Some came before it was known how fast the server is.
		if late > 0 {
			t.Errorf("%d of %d were answered after more than %v", late, len(o.answered), 2*httpapi.MaxWait)
		}
		for _, w := range o.refused {
			seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
			if w.Code != http.StatusTooManyRequests || err != nil || seconds < 1 || seconds > 20 || !strings.Contains(w.Body.String(), string(apierr.RequestLimitExceeded)) {
				t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
			}
		}
	})
}

// alwaysSlack is what the server may lack to be busy all the time in its first second.
const alwaysSlack = 50

// However slow the machine is, so many requests at a time are taken; and a burst
// that a fast one can answer in time is, though little was asked before.
func TestOrdinaryLoadIsNeverRefused(t *testing.T) {
	for name, c := range map[string]struct {
		before, burst int
		interval      time.Duration
	}{
		"a slow machine":               {0, httpapi.AlwaysTaken, time.Minute},
		"a burst out of nothing":       {0, 1000, 4 * time.Millisecond},
		"a burst after little traffic": {10, 1000, 4 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOverloaded(t)
				for range c.before {
					o.send(2)
					o.work(2, 5*time.Second)
				}
				o.send(c.burst)
				o.work(c.burst, c.interval)
				o.clients.Wait()
				if answered, refused := o.counts(); refused > 0 || answered != c.burst+2*c.before {
					t.Errorf("%d were answered, %d refused", answered, refused)
				}
			})
		})
	}
}

// A server that was held up for a moment is as fast as it was before: nothing is
// refused for that.
func TestAPauseIsNotTakenForTheSpeedOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverloaded(t)
		o.send(170) // which is less than four seconds of work, and never few
		for range 5 {
			o.work(50, 20*time.Millisecond)
			o.send(50)
		}
		time.Sleep(2100 * time.Millisecond)
		o.send(1)
		if _, refused := o.counts(); refused > 0 {
			t.Errorf("%d were refused", refused)
		}
		o.work(171, 20*time.Millisecond)
		o.clients.Wait()
	})
}

// readerFunc is a body.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// What is refused costs nothing: neither is its body read, when it is known before
// that the answer would take too long, nor does it count, nor does another one count
// less for it.
func TestWhatIsRefusedCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverloaded(t)
		o.send(100)
		ask := func(body readerFunc) int {
			w := httptest.NewRecorder()
			o.e.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/work", body))
			return w.Code
		}
		status := ask(func([]byte) (int, error) { // the server turns out to be slow as this arrives
			o.work(10, 500*time.Millisecond)
			return 0, io.EOF
		})
		if n := o.q.InFlight(); status != http.StatusTooManyRequests || n != 90 {
			t.Errorf("%d, and %d are in flight, want 90", status, n)
		}
		reads := 0
		status = ask(func([]byte) (int, error) {
			reads++
			return 0, io.EOF
		})
		if n := o.q.InFlight(); status != http.StatusTooManyRequests || reads > 0 || n != 90 {
			t.Errorf("%d after %d reads, and %d are in flight, want 90", status, reads, n)
		}
		o.work(90, time.Second)
		o.clients.Wait()
		if n := o.q.InFlight(); n != 0 {
			t.Errorf("%d are in flight at the end", n)
		}
	})
}
