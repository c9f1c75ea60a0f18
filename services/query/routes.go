package query

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
	mlflowserver "github.com/runledger/runledger/pkg/mlflow/server"
)

// Register adds the routes.
func (s *Service) Register(e *echo.Echo) { httpapi.Add(e, s.Routes()...) }

// Routes returns what the service answers.
func (s *Service) Routes() []httpapi.Route {
	routes := append(s.mlflowRoutes(), s.ownRoutes()...)
	for i := range routes {
		routes[i].Handler = s.steady(routes[i].Handler)
	}
	return routes
}

func (s *Service) mlflowRoutes() []httpapi.Route {
	read := func(method, path string, of httpapi.Resource, kind httpapi.Kind, h echo.HandlerFunc) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, Action: httpapi.Read, Resource: of, Kind: kind, Handler: h}
	}
	routes := mlflowserver.API(
		read(http.MethodGet, "/experiments/get", httpapi.Experiment, httpapi.KindPoint, s.getExperiment),
		read(http.MethodGet, "/experiments/get-by-name", httpapi.Experiment, httpapi.KindPoint, s.getExperimentByName),
		read(http.MethodGet, "/experiments/search", httpapi.Experiment, httpapi.KindSearch, s.searchExperiments),
		read(http.MethodPost, "/experiments/search", httpapi.Experiment, httpapi.KindSearch, s.searchExperiments),
		read(http.MethodPost, "/experiments/search-datasets", httpapi.Experiment, httpapi.KindSearch, s.searchDatasets),
		read(http.MethodGet, "/runs/get", httpapi.Run, httpapi.KindPoint, s.getRun),
		read(http.MethodPost, "/runs/search", httpapi.Run, httpapi.KindSearch, s.searchRuns),
		read(http.MethodGet, "/metrics/get-history", httpapi.Run, httpapi.KindSearch, s.getMetricHistory),
		read(http.MethodGet, "/metrics/get-history-bulk-interval", httpapi.Run, httpapi.KindSearch, s.getMetricHistoryBulkInterval),
		read(http.MethodGet, "/logged-models/:model_id", httpapi.LoggedModel, httpapi.KindPoint, s.getModel),
		read(http.MethodPost, "/logged-models/search", httpapi.LoggedModel, httpapi.KindSearch, s.searchModels),
	)
	return append(routes, read(http.MethodGet, "/ajax-api/2.0/mlflow/metrics/get-history-bulk", httpapi.Run, httpapi.KindSearch, s.getMetricHistoryBulk))
}

// ownRoutes returns the routes of Runledger's own API.
func (s *Service) ownRoutes() []httpapi.Route {
	// What has a long list of parameters takes them in a body.
	ask := func(path string, of httpapi.Resource, kind httpapi.Kind, h echo.HandlerFunc) httpapi.Route {
		return httpapi.Route{Method: http.MethodPost, Path: path, Action: httpapi.Read, Resource: of, Kind: kind, Takes: &httpapi.Takes{Body: true}, Handler: h}
	}
	get := func(path string, of httpapi.Resource, kind httpapi.Kind, h echo.HandlerFunc, query ...string) httpapi.Route {
		return httpapi.Route{Method: http.MethodGet, Path: path, Action: httpapi.Read, Resource: of, Kind: kind, Takes: &httpapi.Takes{Query: query}, Handler: h}
	}
	trail := func(path string, h echo.HandlerFunc, query ...string) httpapi.Route {
		r := get(path, httpapi.Trail, httpapi.KindAudit, h, append(query, auditParams...)...)
		r.Takes.Lists = []string{"type"}
		return r
	}
	return []httpapi.Route{
		trail("/api/v1/audit", s.audit, "order", "format", "max_results", "page_token"),
		trail("/api/v1/audit/counts", s.countAudit, "by"),
		get("/api/v1/lineage", httpapi.Run, httpapi.KindAudit, s.lineage,
			"run_id", "model_id", "dataset_digest", "dataset_name", "commit", "max_results", "page_token"),
		get("/api/v1/artifacts", httpapi.Artifact, httpapi.KindSearch, s.listArtifacts, "run_id", "model_id", "max_results", "page_token"),
		get("/api/v1/gc/candidates", httpapi.Run, httpapi.KindSearch, s.candidates, "older_than_ms", "experiment_ids", "ids", "page_token"),
		get("/api/v1/experiments/:id/catalogue", httpapi.Experiment, httpapi.KindSearch, s.catalogue, "kind", "prefix", "max_results", "page_token"),
		ask("/api/v1/series", httpapi.Run, httpapi.KindSeries, s.answerSeries),
		ask("/api/v1/runs/compare", httpapi.Run, httpapi.KindSweep, s.compareRuns),
		ask("/api/v1/sweeps/curves", httpapi.Experiment, httpapi.KindSweep, s.sweepCurves),
		ask("/api/v1/sweeps/top", httpapi.Experiment, httpapi.KindSweep, s.sweepTop),
		ask("/api/v1/sweeps/coordinates", httpapi.Experiment, httpapi.KindSweep, s.sweepCoordinates),
		ask("/api/v1/sweeps/importance", httpapi.Experiment, httpapi.KindSweep, s.sweepImportance),
		ask("/api/v1/sweeps/pareto", httpapi.Experiment, httpapi.KindSweep, s.sweepPareto),
		ask("/api/v1/sweeps/progress", httpapi.Experiment, httpapi.KindSweep, s.sweepProgress),
	}
}
