package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/singleflight"

	"github.com/runledger/runledger/pkg/apierr"
)

const (
	// readyTimeout is how long a check may take. One that does not heed its context
	// is given up readyGrace later.
	readyTimeout = 5 * time.Second
	readyGrace   = 500 * time.Millisecond
	// startRetry is what a client is asked to wait while the server starts.
	startRetry = time.Second
)

// Check is one condition of readiness.
type Check struct {
	Name  string // of no other check
	Ready func(ctx context.Context) error
}

// Readiness asks checks. It is safe for concurrent use.
type Readiness struct {
	Checks []Check
	// Timeout bounds each check; 0 is 5 seconds.
	Timeout time.Duration

	// Of a check that hangs there is one call, however often it is asked.
	calls singleflight.Group
}

// Ask asks all checks side by side, so that one which hangs is not taken for
// another, and returns what is wrong by name, nothing when all is well.
func (r *Readiness) Ask(ctx context.Context) map[string]error {
	timeout := r.Timeout
	if timeout == 0 {
		timeout = readyTimeout
	}
	var (
		mu    sync.Mutex
		wrong = make(map[string]error)
		asked sync.WaitGroup
	)
	for _, check := range r.Checks {
		asked.Go(func() {
			if err := r.ask(ctx, check, timeout); err != nil {
				mu.Lock()
				defer mu.Unlock()
				wrong[check.Name] = err
			}
		})
	}
	asked.Wait()
	return wrong
}

func (r *Readiness) ask(ctx context.Context, check Check, timeout time.Duration) error {
	result := r.calls.DoChan(check.Name, func() (_ any, err error) {
		defer func() { // nothing above would recover it
			if cause := recover(); cause != nil {
				err = fmt.Errorf("panic: %v", cause)
			}
		}()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		return nil, check.Ready(ctx)
	})
	late := time.NewTimer(timeout + readyGrace)
	defer late.Stop()
	select {
	case told := <-result:
		return told.Err
	case <-late.C:
		return fmt.Errorf("no answer within %v", timeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

type readinessAnswer struct {
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks"` // "ok", or what is wrong
}

func (r *Readiness) answer(ec echo.Context) error {
	wrong := r.Ask(ec.Request().Context())
	answer := readinessAnswer{Ready: len(wrong) == 0, Checks: make(map[string]string, len(r.Checks))}
	for _, check := range r.Checks {
		answer.Checks[check.Name] = "ok"
		if err := wrong[check.Name]; err != nil {
			answer.Checks[check.Name] = err.Error()
		}
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	return ec.JSON(status, answer)
}

// Starting is the handler of a server that listens before it can do anything else:
// until Serve it answers that the process is there, and tells everybody to try
// again. It is safe for concurrent use.
type Starting struct{ handler atomic.Pointer[http.Handler] }

// Serve has requests answered by h from now on.
func (s *Starting) Serve(h http.Handler) { s.handler.Store(&h) }

// ServeHTTP answers a request.
func (s *Starting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	if r.URL.Path == "/health" {
		_, _ = w.Write([]byte("OK"))
		return
	}
	_ = apierr.Write(w, apierr.Errorf(apierr.TemporarilyUnavailable, "The server is starting, try again").WithRetryAfter(startRetry))
}
