package apierr_test

import (
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/apierr"
)

func TestWrite(t *testing.T) {
	t.Attr("covers", "error-body")
	for _, tt := range []struct {
		err        error
		status     int
		retryAfter string
		body       string
	}{
		{apierr.Errorf(apierr.ResourceDoesNotExist, "Run with id=\xff not found"), 404, "", `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Run with id=` + "\uFFFD" + ` not found"}`},
		{errors.New("secret"), 500, "", `{"error_code":"INTERNAL_ERROR","message":"An internal error occurred."}`},
		{
			apierr.Errorf(apierr.RequestLimitExceeded, "Slow down.").WithRetryAfter(1500 * time.Millisecond), 429, "2",
			`{"error_code":"REQUEST_LIMIT_EXCEEDED","message":"Slow down."}`,
		},
	} {
		w := httptest.NewRecorder()
		if err := apierr.Write(w, tt.err); err != nil {
			t.Fatal(err)
		}
		if w.Code != tt.status || w.Body.String() != tt.body || w.Header().Get("Retry-After") != tt.retryAfter ||
			w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("got %d %v %s", w.Code, w.Header(), w.Body)
		}
	}
}
