package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/caller"
	"github.com/runledger/runledger/pkg/httpapi"
)

// addMLflow adds a route that changes runs, with small requests, where MLflow's are.
func addMLflow(e *echo.Echo, method, path string, h echo.HandlerFunc) {
	r := httpapi.Route{Method: method, Path: path, Action: httpapi.Edit, Resource: httpapi.Run, Small: true, Handler: h}
	httpapi.Add(e, httpapi.Under([]string{"/api/2.0/mlflow", "/ajax-api/2.0/mlflow"}, r)...)
}

// A server does not start with a route that does not say what it does, or that
// changes something where browsers ask without being told to.
func TestARouteSaysWhatItDoes(t *testing.T) {
	whole := func() httpapi.Route {
		return httpapi.Route{
			Method: http.MethodGet, Path: "/api/v1/things", Action: httpapi.Read, Resource: httpapi.Run, Takes: new(httpapi.Takes),
			Handler: func(echo.Context) error { return nil },
		}
	}
	add := func(r httpapi.Route) (refused string) {
		defer func() {
			if cause := recover(); cause != nil {
				refused = fmt.Sprint(cause)
			}
		}()
		httpapi.Add(echo.New(), r)
		return ""
	}
	if refused := add(whole()); refused != "" {
		t.Error(refused)
	}
	for want, spoil := range map[string]func(*httpapi.Route){
		"no method or path":                    func(r *httpapi.Route) { r.Method = "" },
		"has no method or path":                func(r *httpapi.Route) { r.Path = "things" },
		"what it does with what":               func(r *httpapi.Route) { r.Action = "" },
		"does not say what it does with what":  func(r *httpapi.Route) { r.Resource = "" },
		"no handler":                           func(r *httpapi.Route) { r.Handler = nil },
		"does not say what it takes":           func(r *httpapi.Route) { r.Takes = nil },
		"reads by DELETE":                      func(r *httpapi.Route) { r.Method = http.MethodDelete },
		"changes something by GET":             func(r *httpapi.Route) { r.Action = httpapi.Purge },
		"/api/v1/things: changes something by": func(r *httpapi.Route) { r.Action, r.Method = httpapi.Edit, http.MethodHead },
	} {
		r := whole()
		spoil(&r)
		if refused := add(r); !strings.Contains(refused, want) {
			t.Errorf("refused with %q, want %q", refused, want)
		}
	}
}

// A handler, and what it calls, knows the route; so do the metrics.
func TestARequestKnowsItsRoute(t *testing.T) {
	e, url := server(t)
	httpapi.Add(e, httpapi.Route{
		Method: http.MethodPost, Path: "/api/v1/things/:id", Action: httpapi.Purge, Resource: httpapi.LoggedModel, Kind: httpapi.KindPoint,
		Takes: new(httpapi.Takes), Handler: func(ec echo.Context) error {
			r := httpapi.RouteOf(ec.Request().Context())
			return ec.String(http.StatusOK, fmt.Sprint(r.Method, r.Path, r.Action, r.Resource, r.Kind))
		},
	})
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/things/1", nil))
	if want := "POST/api/v1/things/:idpurgelogged_modelpoint"; rec.Body.String() != want {
		t.Errorf("%d %s, want %s", rec.Code, rec.Body, want)
	}
	_, metrics, err := get(t, url+"/metrics")
	if want := `runledger_http_requests_total{action="purge",code="200",host="",method="POST",resource="logged_model",url="/api/v1/things/:id"} 1`; err != nil || !strings.Contains(metrics, want) {
		t.Errorf("%v, no %s in the metrics:\n%s", err, want, metrics)
	}
	if r := httpapi.RouteOf(t.Context()); r.Path != "" {
		t.Errorf("a route without a request: %+v", r)
	}
}

// What a request reaches knows who asks, and how that was shown.
func TestARequestKnowsItsCaller(t *testing.T) {
	e, _ := server(t)
	httpapi.Add(e, httpapi.Route{
		Method: http.MethodGet, Path: "/who", Action: httpapi.Read, Resource: httpapi.Server,
		Handler: func(ec echo.Context) error { return ec.JSON(http.StatusOK, caller.Of(ec.Request().Context())) },
	})
	for header, want := range map[string]caller.Caller{
		"":           {RequestID: "r1"},
		basic("ada"): {Name: "ada", Proof: caller.Claimed, RequestID: "r1"},
		basic(""):    {RequestID: "r1"},
		"Bearer x":   {RequestID: "r1"},
	} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/who", nil)
		req.Header.Set("Authorization", header)
		req.Header.Set("X-Request-Id", "r1")
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		var got caller.Caller
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || got != want {
			t.Errorf("with %q: %+v, %v; want %+v", header, got, err, want)
		}
	}
}
