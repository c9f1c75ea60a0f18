package ingest

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
	mlflowserver "github.com/runledger/runledger/pkg/mlflow/server"
)

// Register adds the routes to e.
func (s *Service) Register(e *echo.Echo) { httpapi.Add(e, s.Routes()...) }

// Routes returns what the service answers.
func (s *Service) Routes() []httpapi.Route {
	return append(mlflowserver.API(s.mlflowRoutes()...), s.purgeRoutes()...)
}

func (s *Service) mlflowRoutes() []httpapi.Route {
	// Commands are counted by their names.
	route := func(method, path, command string, does httpapi.Action, to httpapi.Resource, h echo.HandlerFunc) httpapi.Route {
		limited := s.queue.Limit(h)
		return httpapi.Route{Method: method, Path: path, Action: does, Resource: to, Handler: func(c echo.Context) error {
			err := limited(c)
			s.instruments.command(command, err)
			return err
		}}
	}
	post := func(command string, does httpapi.Action, to httpapi.Resource, h echo.HandlerFunc) httpapi.Route {
		return route(http.MethodPost, "/"+command, command, does, to, h)
	}
	const model = "/logged-models/:model_id"
	return []httpapi.Route{
		post("experiments/create", httpapi.Create, httpapi.Experiment, s.createExperiment),
		post("experiments/update", httpapi.Edit, httpapi.Experiment, s.renameExperiment),
		post("experiments/delete", httpapi.Delete, httpapi.Experiment, s.deleteExperiment),
		post("experiments/restore", httpapi.Delete, httpapi.Experiment, s.restoreExperiment),
		post("experiments/set-experiment-tag", httpapi.Edit, httpapi.Experiment, s.setExperimentTag),
		post("experiments/delete-experiment-tag", httpapi.Edit, httpapi.Experiment, s.deleteExperimentTag),
		post("runs/create", httpapi.Create, httpapi.Run, s.createRun),
		post("runs/update", httpapi.Edit, httpapi.Run, s.updateRun),
		post("runs/delete", httpapi.Delete, httpapi.Run, s.deleteRun),
		post("runs/restore", httpapi.Delete, httpapi.Run, s.restoreRun),
		post("runs/log-metric", httpapi.Edit, httpapi.Run, s.logMetric),
		post("runs/log-parameter", httpapi.Edit, httpapi.Run, s.logParameter),
		post("runs/log-batch", httpapi.Edit, httpapi.Run, s.logBatch),
		post("runs/set-tag", httpapi.Edit, httpapi.Run, s.setTag),
		post("runs/delete-tag", httpapi.Edit, httpapi.Run, s.deleteTag),
		post("runs/log-inputs", httpapi.Edit, httpapi.Run, s.logInputs),
		post("runs/outputs", httpapi.Edit, httpapi.Run, s.logOutputs),
		post("runs/log-model", httpapi.Edit, httpapi.Run, s.logModel),
		route(http.MethodPost, "/logged-models", "logged-models/create", httpapi.Create, httpapi.LoggedModel, s.createModel),
		route(http.MethodPatch, model, "logged-models/finalize", httpapi.Edit, httpapi.LoggedModel, s.finalizeModel),
		route(http.MethodDelete, model, "logged-models/delete", httpapi.Delete, httpapi.LoggedModel, s.deleteModel),
		route(http.MethodPost, model+"/params", "logged-models/log-params", httpapi.Edit, httpapi.LoggedModel, s.logModelParams),
		route(http.MethodPatch, model+"/tags", "logged-models/set-tags", httpapi.Edit, httpapi.LoggedModel, s.setModelTags),
		route(http.MethodDelete, model+"/tags/:tag_key", "logged-models/delete-tag", httpapi.Edit, httpapi.LoggedModel, s.deleteModelTag),
	}
}

// purgeRoutes returns the routes of `runledger gc`.
func (s *Service) purgeRoutes() []httpapi.Route {
	var routes []httpapi.Route
	takes := &httpapi.Takes{Query: []string{"older_than_ms"}}
	for _, of := range []struct {
		kind     string
		resource httpapi.Resource
		purge    purger
	}{
		{"runs", httpapi.Run, s.purgeRun},
		{"logged-models", httpapi.LoggedModel, s.purgeModel},
		{"experiments", httpapi.Experiment, s.purgeExperiment},
	} {
		path := "/api/v1/gc/" + of.kind + "/:id"
		routes = append(routes,
			httpapi.Route{
				Method: http.MethodGet, Path: path, Action: httpapi.Read, Resource: of.resource, Takes: takes,
				Handler: s.purging("gc/"+of.kind+"/measure", true, of.purge),
			},
			httpapi.Route{
				Method: http.MethodPost, Path: path, Action: httpapi.Purge, Resource: of.resource, Takes: takes,
				Handler: s.purging("gc/"+of.kind+"/purge", false, of.purge),
			})
	}
	return routes
}
