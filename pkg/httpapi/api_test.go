package httpapi_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/httpapi"
)

func newAPI(c httpapi.Config) *echo.Echo {
	c.Logger, c.Registry = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	return httpapi.New(c)
}

// answer returns the status of an answer and, of an error, the message.
func answer(e *echo.Echo, req *http.Request) string {
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, req)
	_, message, _ := strings.Cut(rec.Body.String(), `"message":`)
	return strings.TrimSpace(fmt.Sprintf("%d %s", rec.Code, strings.TrimSuffix(strings.TrimSpace(message), "}")))
}

// What a route does not take is refused by its name, before its handler sees it.
func TestAPIRefusesWhatARouteDoesNotTake(t *testing.T) {
	e := newAPI(httpapi.Config{})
	done := func(ec echo.Context) error { return ec.NoContent(http.StatusNoContent) }
	read := func(ec echo.Context) error {
		var v struct {
			A string            `json:"a"`
			B map[string]string `json:"b"`
		}
		if err := httpapi.DecodeBody(ec, &v); err != nil {
			return err
		}
		return done(ec)
	}
	add := func(path string, does httpapi.Action, takes httpapi.Takes, h echo.HandlerFunc) {
		httpapi.Add(e, httpapi.Route{Method: http.MethodPost, Path: path, Action: does, Resource: httpapi.Run, Takes: &takes, Handler: h})
	}
	add("/none", httpapi.Edit, httpapi.Takes{}, done)
	add("/query", httpapi.Edit, httpapi.Takes{Query: []string{"one", "an"}, Lists: []string{"many"}}, done)
	add("/body", httpapi.Edit, httpapi.Takes{Body: true}, read)
	add("/reads", httpapi.Read, httpapi.Takes{Body: true}, read)
	const (
		ok   = "204"
		json = "application/json"
		kind = `400 "Invalid value '%s' for header 'Content-Type': want application/json."`
	)
	for _, tc := range []struct{ url, kind, body, want string }{
		{"/none", "", "", ok},
		{"/none?", "", "", ok},
		{"/none?x=1", "", "", `400 "Unknown parameter 'x'. There are none."`},
		{"/none", json, `{"x":1}`, `400 "Unknown field 'x' in the request body."`},
		{"/none", "text/plain", "x=1", `400 "The request body is not valid JSON, at byte 0."`},
		{"/none", json, " {} ", ok},
		{"/none", json, " \n", ok},
		{"/query?one=1&many=1&many=2&many=3", "", "", ok},
		{"/query?one=", "", "", ok},
		{"/query?One=1", "", "", `400 "Unknown parameter 'One'. There are: an, many, one."`},
		{"/query?one=1&one=2", "", "", `400 "Invalid value '2' for parameter 'one': it may be there once."`},
		{"/body", json, `{"a":"x"}`, ok},
		{"/body", "application/json; charset=utf-8", `{"a":"x"}`, ok},
		{"/body", "text/plain", `{"a":"x"}`, fmt.Sprintf(kind, "text/plain")},
		{"/body", "", `{"a":"x"}`, fmt.Sprintf(kind, "")},
		{"/body", "application/json; =", `{"a":"x"}`, fmt.Sprintf(kind, "application/json; =")},
		{"/body?a=x", json, `{}`, `400 "Unknown parameter 'a'. There are none."`},
		{"/body", json, `{"A":"x"}`, `400 "Unknown field 'A' in the request body."`},
		{"/body", json, `{"b":{"c":1}}`, `400 "Invalid value for field 'b.c': want a string."`},
		{"/body", json, `{"a":"x"} x`, `400 "The request body is not valid JSON, at byte 10."`},
		{"/body", json, `[]`, `400 "The request body must be a JSON object."`},
		{"/body", json, `{"a":"` + strings.Repeat("x", 1<<20-8) + `"}`, ok},
		{"/body", json, `{"a":"` + strings.Repeat("x", 1<<20-7) + `"}`, `400 "The request body must be at most 1048576 bytes."`},
		{"/reads", "text/plain", `{"a":"x"}`, ok},
		{"/reads", "", `{"z":"x"}`, `400 "Unknown field 'z' in the request body."`},
	} {
		for _, chunked := range []bool{false, true} {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, tc.url, strings.NewReader(tc.body))
			if tc.kind != "" {
				req.Header.Set("Content-Type", tc.kind)
			}
			if chunked && tc.body != "" {
				req.ContentLength = -1
			}
			if got := answer(e, req); got != tc.want {
				t.Errorf("%s, %s, %.50s, chunked %v: got %s, want %s", tc.url, tc.kind, tc.body, chunked, got, tc.want)
			}
		}
	}
}

func TestParams(t *testing.T) {
	at := time.Date(2026, 3, 3, 14, 0, 0, 0, time.UTC)
	for query, want := range map[string]string{
		"": "", "i=1": "", "i=9": "", "c=b": "", "c=": "", "l=1&l=2": "", "t=2026-03-03T15:00:00%2B01:00": "",
		"i=0":         "Invalid value '0' for parameter 'i': want an integer from 1 to 9.",
		"i=10":        "Invalid value '10' for parameter 'i': want an integer from 1 to 9.",
		"i=x":         "Invalid value 'x' for parameter 'i': want an integer from 1 to 9.",
		"i=5.0":       "Invalid value '5.0' for parameter 'i': want an integer from 1 to 9.",
		"c=B":         "Invalid value 'B' for parameter 'c': want one of a, b.",
		"l=1&l=2&l=3": "Invalid value '3' for parameter 'l': it may be there at most 2 times.",
		"t=2026-03-03T14:00:00": "Invalid value '2026-03-03T14:00:00' for parameter 't': want a time with its zone, " +
			"as 2026-03-03T14:00:00Z or 2026-03-03T15:00:00+01:00 (in a URL, + is %2B).",
		"i=0&c=B": "Invalid value '0' for parameter 'i': want an integer from 1 to 9.",
	} {
		ec := echo.New().NewContext(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?"+query, nil), httptest.NewRecorder())
		p := httpapi.QueryParams(ec)
		i, texts, when, choice := p.Int("i", 7, 1, 9), p.Texts("l", 2), p.Time("t"), p.Choice("c", "a", "b")
		err := p.Err()
		if want != "" {
			if err == nil || !strings.HasSuffix(err.Error(), ": "+want) {
				t.Errorf("%s: got %v, want %s", query, err, want)
			}
			continue
		}
		got := []any{err, i, len(texts), when.Equal(at) || when.IsZero(), choice, p.Has("c")}
		values := ec.QueryParams()
		asked := []any{nil, 7, len(values["l"]), true, "a", values.Has("c")}
		if text := values.Get("i"); text != "" {
			asked[1] = int(text[0] - '0')
		}
		if text := values.Get("c"); text != "" {
			asked[4] = text
		}
		if when.IsZero() != (values.Get("t") == "") {
			asked[3] = false
		}
		if !reflect.DeepEqual(got, asked) {
			t.Errorf("%s: got %v, want %v", query, got, asked)
		}
	}
}

// An event says who asked for it, why, and in which request: the one that the
// answer names.
func TestAttributesAreThoseOfTheRequest(t *testing.T) {
	e := newAPI(httpapi.Config{})
	e.POST("/x", func(ec echo.Context) error {
		a := httpapi.Attributes(ec, "/test")
		return ec.String(http.StatusOK, strings.Join([]string{a.Source, a.Actor, a.Reason, a.RequestID, a.IdempotencyKey}, ","))
	})
	ask := func(headers ...string) *httptest.ResponseRecorder {
		return asked(t, e, http.MethodPost, "/x", "localhost", headers...)
	}
	rec := ask("Authorization", basic("ada"), "Runledger-Reason", "because", "X-Request-Id", "r-1", "Idempotency-Key", "k-1")
	if want := "/test,ada,because,r-1,k-1"; rec.Body.String() != want || rec.Header().Get("X-Request-Id") != "r-1" {
		t.Errorf("got %s, request %q, want %s", rec.Body, rec.Header().Get("X-Request-Id"), want)
	}
	rec = ask()
	if id := rec.Header().Get("X-Request-Id"); id == "" || rec.Body.String() != "/test,,,"+id+"," {
		t.Errorf("got %s of the request %q", rec.Body, id)
	}
}

// Old data are for those who say so, and nothing else than "true" does.
func TestOldDataAreToldOnlyToThoseWhoAllowThem(t *testing.T) {
	for value, want := range map[string]bool{"true": true, "": false, "false": false, "0": false} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		req.Header.Set("Runledger-Allow-Stale", value)
		rec := httptest.NewRecorder()
		ec := echo.New().NewContext(req, rec)
		if got := httpapi.AllowsStale(ec); got != want {
			t.Errorf("%q allows old data: %v", value, got)
		}
		httpapi.TellStale(ec, -1)
		if h := rec.Header(); h.Get("Runledger-Stale") != "true" || len(h.Values("Runledger-Age")) > 0 {
			t.Errorf("of an unknown age: %v", h)
		}
		httpapi.TellStale(ec, 1500*time.Millisecond)
		if age := rec.Header().Get("Runledger-Age"); age != "1.500" {
			t.Errorf("the age is %q", age)
		}
	}
}

func TestBrowsersAreTold(t *testing.T) {
	rec := asked(t, newAPI(httpapi.Config{}), http.MethodGet, "/nowhere", "localhost")
	if h := rec.Header(); h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "SAMEORIGIN" {
		t.Errorf("got %v", h)
	}
}

// The memory for bodies is bounded, in all and for each address, and is there again
// when the requests are answered, however they end.
func TestBodiesThatAreHeldAreBounded(t *testing.T) {
	const most = 1000
	e := newAPI(httpapi.Config{BodyBytes: most})
	inside, leave := make(chan struct{}), make(chan string, 2)
	hold := func(ec echo.Context) error {
		if _, err := io.Copy(io.Discard, ec.Request().Body); err != nil {
			return err
		}
		if ec.Request().Header.Get("Hold") == "" {
			return ec.NoContent(http.StatusNoContent)
		}
		inside <- struct{}{}
		if <-leave == "panic" {
			panic("of the handler")
		}
		return ec.NoContent(http.StatusNoContent)
	}
	e.POST("/held", hold, httpapi.LimitTime)
	e.POST("/streamed", hold)
	send := func(path, from string, size int, headers ...string) string {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(strings.Repeat("x", size)))
		req.RemoteAddr = from + ":1"
		for _, h := range headers {
			req.Header.Set(h, "1")
		}
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		return fmt.Sprintf("%d %s", rec.Code, rec.Header().Get("Retry-After"))
	}
	defer close(leave)
	const ok, refused = "204 ", "429 1"
	check := func(when, path, from string, size int, want string) {
		t.Helper()
		if got := send(path, from, size); got != want {
			t.Errorf("%s: %d bytes from %s to %s: got %s, want %s", when, size, from, path, got, want)
		}
	}
	for range 3 {
		check("alone", "/held", "10.0.0.1", most/2, ok)
		check("alone", "/held", "10.0.0.1", most/2+1, refused)
		check("alone", "/streamed", "10.0.0.1", 2*most, ok)
		ended := make(chan string, 2)
		for i, from := range []string{"10.0.0.1", "10.0.0.2"} {
			go func() { ended <- send("/held", from, most/2-10, "Hold") }()
			select {
			case <-inside:
			case got := <-ended:
				t.Fatalf("%d bytes from %s beside %d others: got %s", most/2-10, from, i, got)
			}
		}
		check("beside two", "/held", "10.0.0.1", 10, ok)
		check("beside two", "/held", "10.0.0.1", 11, refused)
		check("beside two", "/held", "10.0.0.3", 20, ok)
		check("beside two", "/held", "10.0.0.3", 21, refused)
		leave <- "panic"
		leave <- ""
		if a, b := <-ended, <-ended; a != ok && b != ok || a == b {
			t.Errorf("the two ended with %s and %s", a, b)
		}
	}
}
