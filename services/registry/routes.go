package registry

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
	mlflowserver "github.com/runledger/runledger/pkg/mlflow/server"
)

// Register adds the registry's routes.
func (s *Service) Register(e *echo.Echo) { httpapi.Add(e, s.Routes()...) }

// Routes returns what the registry answers.
func (s *Service) Routes() []httpapi.Route {
	routes := mlflowserver.API(append(s.modelRoutes(), s.webhookRoutes()...)...)
	routes = append(routes, s.promotionRoutes()...)
	return append(routes, s.proofRoutes()...)
}

// write is a route for a command of MLflow's, of which only so many are under way.
func (s *Service) write(method, path string, does httpapi.Action, to httpapi.Resource, h echo.HandlerFunc) httpapi.Route {
	return httpapi.Route{Method: method, Path: path, Action: does, Resource: to, Handler: s.queue.Limit(h)}
}

// modelRoutes returns MLflow's routes of registered models and their versions.
func (s *Service) modelRoutes() []httpapi.Route {
	const to = httpapi.RegisteredModel
	read := func(path string, h echo.HandlerFunc) httpapi.Route {
		return httpapi.Route{Method: http.MethodGet, Path: path, Action: httpapi.Read, Resource: to, Handler: h}
	}
	return []httpapi.Route{
		read("/registered-models/get", s.getModel),
		read("/registered-models/search", s.searchModels),
		read("/registered-models/get-latest-versions", s.latestVersions),
		s.write(http.MethodPost, "/registered-models/get-latest-versions", httpapi.Read, to, s.latestVersions),
		read("/registered-models/alias", s.getByAlias),
		s.write(http.MethodPost, "/registered-models/create", httpapi.Create, to, s.createModel),
		s.write(http.MethodPatch, "/registered-models/update", httpapi.Edit, to, s.updateModel),
		s.write(http.MethodPost, "/registered-models/rename", httpapi.Edit, to, s.renameModel),
		s.write(http.MethodDelete, "/registered-models/delete", httpapi.Delete, to, s.deleteModel),
		s.write(http.MethodPost, "/registered-models/set-tag", httpapi.Edit, to, s.setModelTag),
		s.write(http.MethodDelete, "/registered-models/delete-tag", httpapi.Edit, to, s.deleteModelTag),
		s.write(http.MethodPost, "/registered-models/alias", httpapi.Promote, to, s.setAlias),
		s.write(http.MethodDelete, "/registered-models/alias", httpapi.Promote, to, s.deleteAlias),
		read("/model-versions/get", s.getVersion),
		read("/model-versions/search", s.searchVersions),
		read("/model-versions/get-download-uri", s.downloadURI),
		s.write(http.MethodPost, "/model-versions/create", httpapi.Edit, to, s.createVersion),
		s.write(http.MethodPatch, "/model-versions/update", httpapi.Edit, to, s.updateVersion),
		s.write(http.MethodPost, "/model-versions/transition-stage", httpapi.Promote, to, s.transitionStage),
		s.write(http.MethodDelete, "/model-versions/delete", httpapi.Delete, to, s.deleteVersion),
		s.write(http.MethodPost, "/model-versions/set-tag", httpapi.Edit, to, s.setVersionTag),
		s.write(http.MethodDelete, "/model-versions/delete-tag", httpapi.Edit, to, s.deleteVersionTag),
	}
}

// webhookRoutes returns MLflow's routes of webhooks.
func (s *Service) webhookRoutes() []httpapi.Route {
	const to = httpapi.Webhook
	return []httpapi.Route{
		{Method: http.MethodGet, Path: "/webhooks", Action: httpapi.Read, Resource: to, Handler: s.listWebhooks},
		{Method: http.MethodGet, Path: "/webhooks/:id", Action: httpapi.Read, Resource: to, Handler: s.getWebhook},
		s.write(http.MethodPost, "/webhooks", httpapi.Create, to, s.createWebhook),
		s.write(http.MethodPatch, "/webhooks/:id", httpapi.Edit, to, s.updateWebhook),
		s.write(http.MethodDelete, "/webhooks/:id", httpapi.Delete, to, s.deleteWebhook),
		s.write(http.MethodPost, "/webhooks/:id/test", httpapi.Edit, to, s.testWebhook),
	}
}

// promotionRoutes returns Runledger's own routes of models, of what stands between
// them and a stage, and of webhooks.
func (s *Service) promotionRoutes() []httpapi.Route {
	const (
		to      = httpapi.RegisteredModel
		model   = "/api/v1/models/:name"
		version = model + "/versions/:version"
	)
	get := func(path string, h echo.HandlerFunc, query ...string) httpapi.Route {
		return httpapi.Route{Method: http.MethodGet, Path: path, Action: httpapi.Read, Resource: to, Takes: &httpapi.Takes{Query: query}, Handler: h}
	}
	send := func(method, path string, does httpapi.Action, h echo.HandlerFunc) httpapi.Route {
		return httpapi.Route{Method: method, Path: path, Action: does, Resource: to, Takes: &httpapi.Takes{Body: method != http.MethodDelete}, Handler: h}
	}
	small := func(r httpapi.Route) httpapi.Route {
		r.Small = true
		return r
	}
	routes := []httpapi.Route{
		get(model+"/history", s.history, fieldAsOf, "max_results", "page_token"),
		get(model+"/lineage", s.lineage, "version", "stage", "alias", fieldAsOf),
		small(send(http.MethodPost, model+"/rollback", httpapi.Promote, s.rollbackModel)),
		small(send(http.MethodPost, "/api/v1/registry/rollback", httpapi.Promote, s.rollbackAll)),
		get(model+"/gates", s.listGates, fieldAsOf),
		get(version+"/approval", s.getApproval, fieldAsOf),
		send(http.MethodPost, version+"/approval", httpapi.Approve, s.setApproval),
		get(version+"/evaluations", s.listEvaluations, fieldAsOf),
		send(http.MethodPost, version+"/evaluations", httpapi.Edit, s.recordEvaluation),
		get(model+"/evaluations", s.compareEvaluations, fieldAsOf, "versions"),
		{
			Method: http.MethodGet, Path: "/api/v1/webhooks/:id/deliveries", Action: httpapi.Read, Resource: httpapi.Webhook,
			Takes: &httpapi.Takes{Query: []string{"max_results", "page_token"}}, Handler: s.webhookAttempts,
		},
	}
	for _, target := range []string{"stages", "aliases"} {
		path := model + "/gates/" + target + "/:target"
		routes = append(routes,
			get(path, s.getGate, fieldAsOf),
			small(send(http.MethodPut, path, httpapi.Approve, s.setGate)),
			send(http.MethodDelete, path, httpapi.Approve, s.deleteGate))
	}
	return routes
}

// proofRoutes returns the routes by which others check the ledger.
func (s *Service) proofRoutes() []httpapi.Route {
	get := func(path string, h echo.HandlerFunc, query ...string) httpapi.Route {
		return httpapi.Route{Method: http.MethodGet, Path: path, Action: httpapi.Read, Resource: httpapi.Ledger, Takes: &httpapi.Takes{Query: query}, Handler: h}
	}
	routes := []httpapi.Route{
		get("/api/v1/registry/tree", s.tree),
		get("/api/v1/registry/entries", s.entries, "from", "max_results"),
		get("/api/v1/registry/proofs/inclusion", s.proveInclusion, "entry", "size"),
		get("/api/v1/registry/proofs/consistency", s.proveConsistency, "from", "to"),
	}
	if s.heads == nil {
		return routes
	}
	return append(routes,
		get("/api/v1/registry/key", func(c echo.Context) error {
			return c.Blob(http.StatusOK, contentNote, []byte(s.heads.VerifierKey()+"\n"))
		}),
		get("/api/v1/registry/tree-heads", s.listHeads, "page_token"),
		get("/api/v1/registry/tree-heads/latest", s.latestHead),
		httpapi.Route{
			Method: http.MethodPost, Path: "/api/v1/registry/tree-heads", Action: httpapi.Edit, Resource: httpapi.Ledger,
			Takes: &httpapi.Takes{}, Handler: s.signHead,
		})
}
