package httpapi_test

import (
	"log/slog"
	"net/http"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/httpapi"
)

func TestPathsAreServedWithAPrefixAndMoreSlashes(t *testing.T) {
	for prefix, paths := range map[string]map[string]string{
		"": {
			"/m/a": "a", "//m/a": "a", "///m/a": "a", "//m/a%2Fb": "a/b", "//m/a%20b": "a b", "/m//a": "/a", "/ml/m/a": "",
		},
		"/ml": {
			"/m/a": "a", "//m/a": "a", "/ml/m/a": "a", "//ml/m/a": "a", "/ml//m/a": "a", "/ml/m/a%2Fb": "a/b", "/ml/m/ml": "ml", "/m/ml": "ml",
			"/mlx/m/a": "", "/ml/ml/m/a": "", "/other/m/a": "", "/ml": "", "/ml/": "",
		},
		"/a/b": {"/a/b/m/x": "x", "/a/m/x": "", "/b/m/x": ""},
	} {
		e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Prefix: prefix})
		e.GET("/m/:name", func(ec echo.Context) error { return ec.String(http.StatusOK, httpapi.PathParam(ec, "name")) })
		for path, want := range paths {
			rec := asked(t, e, http.MethodGet, path, "localhost")
			if want == "" && rec.Code != http.StatusNotFound || want != "" && (rec.Code != http.StatusOK || rec.Body.String() != want) {
				t.Errorf("prefix %q: GET %s: %d %s, want %q", prefix, path, rec.Code, rec.Body, want)
			}
		}
	}
	for _, prefix := range []string{"ml", "/ml/", "/", "/{ml}"} {
		if httpapi.CheckPrefix(prefix) == nil {
			t.Errorf("%q is taken as a prefix", prefix)
		}
	}
	for _, prefix := range []string{"", "/ml", "/a/b"} {
		if err := httpapi.CheckPrefix(prefix); err != nil {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}
