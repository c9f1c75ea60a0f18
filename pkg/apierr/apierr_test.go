package apierr_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/apierr"
)

func TestHTTPStatus(t *testing.T) {
	for code, want := range map[apierr.Code]int{
		apierr.InvalidParameterValue:  http.StatusBadRequest,
		apierr.BadRequest:             http.StatusBadRequest,
		apierr.ResourceAlreadyExists:  http.StatusBadRequest,
		apierr.Unauthenticated:        http.StatusUnauthorized,
		apierr.PermissionDenied:       http.StatusForbidden,
		apierr.ResourceDoesNotExist:   http.StatusNotFound,
		apierr.EndpointNotFound:       http.StatusNotFound,
		apierr.ResourceConflict:       http.StatusConflict,
		apierr.RequestLimitExceeded:   http.StatusTooManyRequests,
		apierr.Cancelled:              499,
		apierr.InvalidState:           http.StatusInternalServerError,
		apierr.FeatureDisabled:        http.StatusBadRequest,
		apierr.InternalError:          http.StatusInternalServerError,
		apierr.NotImplemented:         http.StatusNotImplemented,
		apierr.TemporarilyUnavailable: http.StatusServiceUnavailable,
		apierr.DeadlineExceeded:       http.StatusGatewayTimeout,
		"SOMETHING_ELSE":              http.StatusInternalServerError,
	} {
		if got := code.HTTPStatus(); got != want {
			t.Errorf("%s: status %d, want %d", code, got, want)
		}
	}
}

func TestCodeOf(t *testing.T) {
	notFound := apierr.Errorf(apierr.ResourceDoesNotExist, "run %s", "a")
	for _, tt := range []struct {
		name string
		err  error
		want apierr.Code
	}{
		{"nil", nil, ""},
		{"itself", notFound, apierr.ResourceDoesNotExist},
		{"wrapped", fmt.Errorf("folding: %w", notFound), apierr.ResourceDoesNotExist},
		{"joined", errors.Join(errors.New("x"), notFound), apierr.ResourceDoesNotExist},
		{"cancelled", fmt.Errorf("x: %w", context.Canceled), apierr.Cancelled},
		{"coded, for a deadline", apierr.Wrap(context.DeadlineExceeded, apierr.TemporarilyUnavailable, "Try later."), apierr.TemporarilyUnavailable},
		{"deadline", context.DeadlineExceeded, apierr.DeadlineExceeded},
		{"unknown", errors.New("dial tcp: refused"), apierr.InternalError},
	} {
		if got := apierr.CodeOf(tt.err); got != tt.want {
			t.Errorf("%s: code %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestUnknownErrorLeaksNothing(t *testing.T) {
	unknown := errors.New("password=hunter2")
	for _, cause := range []error{unknown, fmt.Errorf("%w: %w", unknown, context.Canceled), fmt.Errorf("%w: %w", unknown, context.DeadlineExceeded)} {
		e := apierr.From(cause)
		if strings.Contains(e.Message, "hunter2") {
			t.Errorf("message %q shows the cause", e.Message)
		}
		if !errors.Is(e, cause) || !strings.Contains(e.Error(), "hunter2") {
			t.Errorf("the cause is lost for logs: %v", e)
		}
	}
}

// An error that many requests are answered with is not changed for all of them.
func TestWithRetryAfterIsOfACopy(t *testing.T) {
	cause := errors.New("cause")
	shared := apierr.Wrap(cause, apierr.TemporarilyUnavailable, "Try later.")
	later := shared.WithRetryAfter(time.Minute)
	if shared.RetryAfter != 0 {
		t.Errorf("the error asks to wait for %v", shared.RetryAfter)
	}
	if later.RetryAfter != time.Minute || later.Code != shared.Code || later.Message != shared.Message || !errors.Is(later, cause) {
		t.Errorf("the copy is %+v", later)
	}
}

func TestIsAndAs(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("publishing: %w", apierr.Wrap(cause, apierr.TemporarilyUnavailable, "Try later.").WithRetryAfter(time.Second))
	if !errors.Is(err, cause) {
		t.Error("the cause is not found")
	}
	if !errors.Is(err, &apierr.Error{Code: apierr.TemporarilyUnavailable}) {
		t.Error("the code is not found")
	}
	if errors.Is(err, &apierr.Error{Code: apierr.TemporarilyUnavailable, Message: "other"}) {
		t.Error("another message matches")
	}
	if errors.Is(err, &apierr.Error{Code: apierr.RequestLimitExceeded}) || errors.Is(err, &apierr.Error{Code: apierr.RequestLimitExceeded, Message: "Try later."}) {
		t.Error("another code matches")
	}
	e, ok := errors.AsType[*apierr.Error](err)
	if !ok || e.RetryAfter != time.Second {
		t.Errorf("got %+v", e)
	}
	withCause := apierr.Errorf(apierr.BadRequest, "reading: %w", cause)
	if !errors.Is(withCause, cause) || withCause.Message != "reading: cause" {
		t.Errorf("got %+v", withCause)
	}
}
