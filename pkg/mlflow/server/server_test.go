package server_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow/server"
)

func serve(t *testing.T) *echo.Echo {
	t.Helper()
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	server.Register(e)
	e.Any("/x", func(ec echo.Context) error { return ec.NoContent(http.StatusOK) })
	return e
}

func ask(e *echo.Echo, method, path, workspace string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, nil)
	req.Header.Set("X-MLFLOW-WORKSPACE", workspace)
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, req)
	return rec
}

func TestServerInfo(t *testing.T) {
	e := serve(t)
	for _, api := range []string{"/api", "/ajax-api"} {
		rec := ask(e, http.MethodGet, api+"/3.0/mlflow/server-info", "")
		var info map[string]any
		err := json.Unmarshal(rec.Body.Bytes(), &info)
		if err != nil || rec.Code != 200 || rec.Header().Get("Content-Type") != "application/json" || info["store_type"] != "SqlStore" ||
			info["workspaces_enabled"] != false || info["multipart_uploads_enabled"] != false || info["artifact_serving_enabled"] != true {
			t.Errorf("%s: %v %d %s", api, err, rec.Code, rec.Body)
		}
	}
}

func TestVersion(t *testing.T) {
	if rec := ask(serve(t), http.MethodGet, "/version", ""); rec.Code != http.StatusOK || rec.Body.String() != server.Version {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestWorkspacesAreRefused(t *testing.T) {
	e := serve(t)
	want := `{"error_code":"FEATURE_DISABLED","message":"Workspace APIs are not available: workspaces are not enabled on this server"}`
	for _, workspace := range []string{"team", "default", " a "} {
		rec := ask(e, http.MethodPost, "/x", workspace)
		if rec.Code != http.StatusBadRequest || strings.TrimSpace(rec.Body.String()) != want {
			t.Errorf("workspace %q: %d %s", workspace, rec.Code, rec.Body)
		}
	}
	for path, workspace := range map[string]string{"/x": " ", "/api/3.0/mlflow/server-info": "team", "/ajax-api/3.0/mlflow/server-info": "team"} {
		if rec := ask(e, http.MethodGet, path, workspace); rec.Code != http.StatusOK {
			t.Errorf("%s with workspace %q: %d %s", path, workspace, rec.Code, rec.Body)
		}
	}
}
