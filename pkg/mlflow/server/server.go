// Package server is what MLflow's API asks of a server as a whole: where its routes
// are, which version of it is spoken, what the server has, and that it has no
// workspaces.
package server

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
)

// Version is the version of MLflow's API that is spoken: clients ask before they use
// newer calls.
const Version = "3.17.2"

const infoPath = "/3.0/mlflow/server-info"

// Register adds the routes to e, and refuses requests about workspaces to all.
func Register(e *echo.Echo) {
	e.Use(refuseWorkspace)
	about := func(path string, h echo.HandlerFunc) httpapi.Route {
		return httpapi.Route{Method: http.MethodGet, Path: path, Action: httpapi.Read, Resource: httpapi.Server, Handler: h}
	}
	httpapi.Add(
		e,
		about(httpapi.PathVersion, func(ec echo.Context) error { return ec.String(http.StatusOK, Version) }),
		about("/api"+infoPath, info),
		about("/ajax-api"+infoPath, info),
	)
}

// API returns routes under both roots of MLflow's API 2.0, for clients and for pages;
// their paths go on from there. Their requests are small.
func API(routes ...httpapi.Route) []httpapi.Route {
	out := httpapi.Under([]string{"/api/2.0/mlflow", "/ajax-api/2.0/mlflow"}, routes...)
	for i := range out {
		out[i].Small = true
	}
	return out
}

// refuseWorkspace is middleware that refuses requests about a workspace, of which
// there are none: they would see and change what is of all. server-info, which
// says so, is answered as in MLflow.
func refuseWorkspace(next echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		if strings.TrimSpace(ec.Request().Header.Get("X-MLFLOW-WORKSPACE")) != "" && !strings.HasSuffix(ec.Path(), infoPath) {
			return apierr.Errorf(apierr.FeatureDisabled, "Workspace APIs are not available: workspaces are not enabled on this server")
		}
		return next(ec)
	}
}

// info answers what clients ask before they use what not every server
// has. There are no workspaces, no gateway, and files go through the server.
func info(ec echo.Context) error {
	return ec.JSON(http.StatusOK, map[string]any{
		"store_type":                                   "SqlStore",
		"workspaces_enabled":                           false,
		"trace_archival_enabled":                       false,
		"multipart_uploads_enabled":                    false,
		"multipart_downloads_enabled":                  false,
		"artifact_serving_enabled":                     true,
		"presigned_upload_run_id_supported":            false,
		"presigned_upload_model_id_supported":          false,
		"model_artifact_presigned_downloads_supported": false,
		"features_enabled":                             map[string]bool{"gateway": false, "scheduled_issue_detection": false},
		"tracking_auth":                                "",
		"artifacts_presigned_only":                     false,
	})
}
