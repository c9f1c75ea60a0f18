package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runledger/runledger/pkg/httpapi"
)

// A check that hangs, whether it heeds its context or not, is the one that is
// named: the others have their own time. However often it is asked, it hangs once.
func TestAHangingCheckIsTheOneThatIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, hang := make(chan struct{}, 10), make(chan struct{})
		defer close(hang)
		r := httpapi.Readiness{Timeout: 50 * time.Millisecond, Checks: []httpapi.Check{
			{Name: "deaf", Ready: func(context.Context) error { entered <- struct{}{}; <-hang; return nil }},
			{Name: "late", Ready: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
			{Name: "broken", Ready: func(context.Context) error { panic("torn") }},
			{Name: "good", Ready: func(ctx context.Context) error { return ctx.Err() }},
		}}
		for range 3 {
			wrong := r.Ask(t.Context())
			if len(wrong) != 3 || wrong["deaf"] == nil || !strings.Contains(wrong["deaf"].Error(), "no answer within 50ms") ||
				!errors.Is(wrong["late"], context.DeadlineExceeded) || wrong["broken"] == nil {
				t.Errorf("wrong are %v, want deaf, late and broken", wrong)
			}
		}
		if n := len(entered); n != 1 {
			t.Errorf("the check that hangs was begun %d times", n)
		}
	})
}

// A server that is starting answers at once, and that it is to be asked again.
func TestAStartingServerSaysSo(t *testing.T) {
	var s httpapi.Starting
	ask := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	if w := ask("/health"); w.Code != http.StatusOK || w.Body.String() != "OK" {
		t.Errorf("/health: %d %s", w.Code, w.Body)
	}
	for _, path := range []string{"/readyz", "/api/2.0/mlflow/experiments/get?experiment_id=0", "/none"} {
		w := ask(path)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "TEMPORARILY_UNAVAILABLE") {
			t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), w.Body)
		}
	}
	s.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	if w := ask("/readyz"); w.Code != http.StatusTeapot {
		t.Errorf("after the start: %d", w.Code)
	}
}

// Who asks and goes away is not kept, and takes the answer from nobody.
func TestWhoGoesAwayDoesNotEndTheCheckOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		r := httpapi.Readiness{Checks: []httpapi.Check{{Name: "slow", Ready: func(ctx context.Context) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}}}
		impatient, leave := context.WithCancel(t.Context())
		first, second := make(chan map[string]error, 1), make(chan map[string]error, 1)
		go func() { first <- r.Ask(impatient) }()
		synctest.Wait()
		go func() { second <- r.Ask(t.Context()) }()
		synctest.Wait()
		leave()
		synctest.Wait()
		select {
		case wrong := <-first:
			if !errors.Is(wrong["slow"], context.Canceled) {
				t.Errorf("who left was told %v", wrong)
			}
		default:
			t.Error("who left still waits")
		}
		close(release)
		if wrong := <-second; len(wrong) > 0 {
			t.Errorf("who stayed was told %v", wrong)
		}
	})
}

// However many checks hang, the answer takes as long as one of them.
func TestChecksAreAskedSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		r := httpapi.Readiness{Checks: []httpapi.Check{{Name: "a", Ready: hang}, {Name: "b", Ready: hang}, {Name: "c", Ready: hang}}}
		began := time.Now()
		wrong := r.Ask(t.Context())
		if took := time.Since(began); took != 5*time.Second || len(wrong) != 3 {
			t.Errorf("after %v wrong are %v", took, wrong)
		}
	})
}
