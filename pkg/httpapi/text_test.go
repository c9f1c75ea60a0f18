package httpapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
)

// What an event could not keep whole is refused by name, before anything is done.
func TestTextThatAnEventCannotKeepIsRefusedByName(t *testing.T) {
	e, url := server(t)
	e.POST("/*", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	long, most := strings.Repeat("é", 512)+"x", strings.Repeat("é", 512)
	for _, tc := range []struct {
		path, header, value, want string
	}{
		{"/x", "Runledger-Reason", "caf\xe9", "Invalid header Runledger-Reason: its value is not valid UTF-8."},
		{"/x", "Runledger-Reason", long, "Invalid header Runledger-Reason: its value has 1025 bytes, at most 1024 are possible."},
		{"/x", "Idempotency-Key", "\xff", "Invalid header Idempotency-Key: its value is not valid UTF-8."},
		{"/x", "X-Request-Id", "\x80", "Invalid header X-Request-Id: its value is not valid UTF-8."},
		{"/x", "X-Request-Id", long, "Invalid header X-Request-Id: its value has 1025 bytes, at most 1024 are possible."},
		{"/x", "Authorization", basic("caf\xe9"), "Invalid header Authorization: the user name is not valid UTF-8."},
		{"/x", "Authorization", basic(long), "Invalid header Authorization: the user name has 1025 bytes, at most 1024 are possible."},
		{"/caf%E9", "", "", "The path of the URL is not valid UTF-8: what it percent-encodes must be."},
		{"/x", "Runledger-Reason", most, ""},
		{"/x", "Authorization", basic("café"), ""},
		{"/caf%C3%A9", "", "", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tc.header != "" {
			req.Header.Set(tc.header, tc.value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		want, status := "", http.StatusOK
		if tc.want != "" {
			want, status = `{"error_code":"INVALID_PARAMETER_VALUE","message":"`+tc.want+`"}`, http.StatusBadRequest
		}
		if err != nil || resp.StatusCode != status || string(body) != want {
			t.Errorf("%s, %s: %.20q: %d %s %v, want %d %s", tc.path, tc.header, tc.value, resp.StatusCode, body, err, status, want)
		}
	}
}

func basic(user string) string {
	req := http.Request{Header: http.Header{}}
	req.SetBasicAuth(user, "")
	return req.Header.Get("Authorization")
}
