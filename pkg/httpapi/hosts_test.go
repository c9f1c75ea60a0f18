package httpapi_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/httpapi"
)

// guarded returns a server that listens on an address, as far as it knows, with a
// route for every method.
func guarded(t *testing.T, listen string, allowed ...string) *echo.Echo {
	t.Helper()
	hosts, err := httpapi.NewHosts(listen, "Box", allowed)
	if err != nil {
		t.Fatal(err)
	}
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Hosts: hosts})
	e.Any("/x", func(ec echo.Context) error { return ec.String(http.StatusOK, "done") })
	return e
}

func asked(t *testing.T, e *echo.Echo, method, path, host string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	req.Host = host
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, req)
	return rec
}

func TestAServerAnswersUnderItsOwnNamesOnly(t *testing.T) {
	for _, tc := range []struct {
		listen  string
		allowed []string
		yes, no []string
	}{
		{
			"127.0.0.1:5000", nil,
			[]string{
				"", "localhost", "localhost:5000", "LOCALHOST:80", "localhost.", "ml.localhost:5000", "127.0.0.1", "127.0.0.1:5000", "127.9.9.9",
				"[::1]", "[::1]:5000", "10.0.0.7:5000", "203.0.113.9",
			},
			[]string{"evil.example", "evil.example:5000", "box", "box:5000", "127.0.0.1.evil.example", "localhost.evil.example", "evillocalhost", "1.2.3", "[evil.example]", "evil.example.", "127.0.0.1@evil.example"},
		},
		{
			"0.0.0.0:5000", nil,
			[]string{"localhost:5000", "box", "BOX:5000", "runledger:5000", "10.0.0.7:5000", "0.0.0.0:5000"},
			[]string{"evil.example", "box.evil.example", "box.corp.example"},
		},
		{":5000", nil, []string{"box:5000", "runledger"}, []string{"evil.example:5000"}},
		{"ml.corp.example:5000", nil, []string{"ml.corp.example:5000", "ML.corp.example", "box"}, []string{"corp.example", "x.ml.corp.example"}},
		{
			"127.0.0.1:5000",
			[]string{"ML.corp.example", " *.team.example", "one.example:81"},
			[]string{"ml.corp.example", "ml.corp.example:80", "a.team.example", "a.b.team.example:5000", "one.example:81", "localhost"},
			[]string{"team.example", "xml.corp.example", "one.example", "one.example:82", "box"},
		},
		{"127.0.0.1:5000", []string{"*"}, []string{"anything.example:5000", "box"}, nil},
	} {
		e := guarded(t, tc.listen, tc.allowed...)
		for _, host := range tc.yes {
			if rec := asked(t, e, http.MethodGet, "/x", host); rec.Code != http.StatusOK {
				t.Errorf("listening on %s, %q allowed: %q is refused with %d %s", tc.listen, tc.allowed, host, rec.Code, rec.Body)
			}
		}
		for _, host := range tc.no {
			if rec := asked(t, e, http.MethodGet, "/x", host); rec.Code != http.StatusForbidden {
				t.Errorf("listening on %s, %q allowed: %q is answered with %d %s", tc.listen, tc.allowed, host, rec.Code, rec.Body)
			}
		}
	}
	e := guarded(t, "0.0.0.0:5000")
	e.GET(httpapi.PathVersion, func(ec echo.Context) error { return ec.NoContent(http.StatusOK) })
	want := `{"error_code":"PERMISSION_DENIED","message":"Invalid Host header - possible DNS rebinding attack detected. ` +
		`If 'ml.corp.example:5000' is a name of this server, start it with --allowed-hosts ml.corp.example."}`
	if rec := asked(t, e, http.MethodGet, "/x", "ml.corp.example:5000"); strings.TrimSpace(rec.Body.String()) != want {
		t.Errorf("got %s, want %s", rec.Body, want)
	}
	for _, path := range []string{"/health", "/version", "/readyz"} {
		if rec := asked(t, e, http.MethodGet, path, "probe.example"); rec.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
	}
	for _, pattern := range []string{"http://ml.example", "ml.example/x", "["} {
		if _, err := httpapi.NewHosts("", "", []string{pattern}); err == nil {
			t.Errorf("%q is allowed as a host", pattern)
		}
	}
}

func TestPagesOfOtherOriginsChangeNothing(t *testing.T) {
	e := guarded(t, "127.0.0.1:5000", "ml.example.com")
	for name, tc := range map[string]struct {
		host    string
		headers []string
		refused bool
	}{
		"a client that is no browser":            {"localhost:5000", nil, false},
		"a page of ours":                         {"localhost:5000", []string{"Origin", "http://localhost:5000", "Sec-Fetch-Site", "same-origin"}, false},
		"a page of ours, without TLS by name":    {"ml.example.com:5000", []string{"Origin", "http://ml.example.com:5000"}, false},
		"a page of ours behind TLS":              {"ml.example.com", []string{"Origin", "https://ml.example.com"}, false},
		"a proxy that changes the host":          {"localhost:5000", []string{"Origin", "https://ml.example.com", "Sec-Fetch-Site", "same-origin"}, false},
		"what the user typed":                    {"localhost:5000", []string{"Sec-Fetch-Site", "none"}, false},
		"another site":                           {"localhost:5000", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, true},
		"another site, by an old browser":        {"localhost:5000", []string{"Origin", "http://evil.example"}, true},
		"another port":                           {"localhost:5000", []string{"Origin", "http://localhost:8888", "Sec-Fetch-Site", "same-site"}, true},
		"another port, by an old browser":        {"localhost:5000", []string{"Origin", "http://localhost:8888"}, true},
		"a page without an origin":               {"localhost:5000", []string{"Origin", "null"}, true},
		"another site that hides where it is of": {"localhost:5000", []string{"Sec-Fetch-Site", "cross-site"}, true},
	} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			rec := asked(t, e, method, "/x", tc.host, tc.headers...)
			if tc.refused && (rec.Code != http.StatusForbidden || !strings.Contains(rec.Body.String(), "Cross-origin request blocked")) || !tc.refused && rec.Code != http.StatusOK {
				t.Errorf("%s of %s: %d %s", method, name, rec.Code, rec.Body)
			}
		}
		// What changes nothing is answered: browsers keep the answer from the page.
		if rec := asked(t, e, http.MethodGet, "/x", tc.host, tc.headers...); rec.Code != http.StatusOK {
			t.Errorf("GET of %s: %d %s", name, rec.Code, rec.Body)
		}
	}
}
