package artifacts

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
)

func route(method, path string, does httpapi.Action, h echo.HandlerFunc) httpapi.Route {
	return httpapi.Route{Method: method, Path: path, Action: does, Resource: httpapi.Artifact, Handler: h}
}

// underRoots returns routes under both roots of MLflow's API of artifacts.
func underRoots(routes ...httpapi.Route) []httpapi.Route {
	return httpapi.Under([]string{"/api/2.0", "/ajax-api/2.0"}, routes...)
}

// Register adds the routes to e.
func (p *Proxy) Register(e *echo.Echo) { httpapi.Add(e, p.Routes()...) }

// Routes returns what the proxy answers.
func (p *Proxy) Routes() []httpapi.Route {
	routes := underRoots(
		route(http.MethodPut, proxyPath+"/*", httpapi.Edit, p.upload),
		route(http.MethodGet, proxyPath+"/*", httpapi.Read, p.download),
		route(http.MethodHead, proxyPath+"/*", httpapi.Read, p.download),
		route(http.MethodDelete, proxyPath+"/*", httpapi.Delete, p.remove),
		route(http.MethodGet, proxyPath, httpapi.Read, p.list),
		route(http.MethodGet, "/mlflow/artifacts/list", httpapi.Read, p.listRun),

		// Clients exchange files with an S3 store themselves. For another store the answer
		// is that there is no such thing, in MLflow's words, after which clients send and
		// get whole files.
		route(http.MethodPost, mpuPath+"create", httpapi.Edit, p.createMultipart),
		route(http.MethodPost, mpuPath+"create/*", httpapi.Edit, p.createMultipart),
		route(http.MethodPost, mpuPath+"complete/*", httpapi.Edit, p.completeMultipart),
		route(http.MethodPost, mpuPath+"abort/*", httpapi.Edit, p.abortMultipart),
		route(http.MethodGet, presignedPath+"/*", httpapi.Read, p.presigned),

		// What clients may ask for where a run's artifacts are in a store that they know:
		// those of every run are reached through this server. Bytes that went past it would
		// be missing in the log.
		route(http.MethodPost, "/mlflow/artifacts/presigned-upload-url", httpapi.Edit, p.presignUpload),
		route(http.MethodPost, "/mlflow/artifacts/presigned-download-url", httpapi.Read, p.presignDownload),
	)
	return append(routes,
		route(http.MethodGet, "/get-artifact", httpapi.Read, p.downloadRun),
		route(http.MethodPost, "/ajax-api/2.0/mlflow/upload-artifact", httpapi.Edit, p.uploadRun))
}

// RegisterModelVersions adds ModelVersionRoutes to e.
func (p *Proxy) RegisterModelVersions(e *echo.Echo, locate func(ctx context.Context, name, version string) (uri string, err error)) {
	httpapi.Add(e, p.ModelVersionRoutes(locate)...)
}

// ModelVersionRoutes returns the route that serves the files of model versions.
// locate returns where those of a version are.
func (p *Proxy) ModelVersionRoutes(locate func(ctx context.Context, name, version string) (uri string, err error)) []httpapi.Route {
	return []httpapi.Route{route(http.MethodGet, "/model-versions/get-artifact", httpapi.Read, func(c echo.Context) error {
		model, version := c.QueryParam("name"), c.QueryParam("version")
		name, err := file(c)
		if err != nil {
			return err
		}
		uri, err := locate(c.Request().Context(), model, version)
		if err != nil {
			return err
		}
		root, err := rootOf(uri, "model version '"+model+"/"+version+"'")
		if err != nil {
			return err
		}
		return p.send(c, root.join(name))
	})}
}

// RegisterLoggedModels adds LoggedModelRoutes to e.
func (p *Proxy) RegisterLoggedModels(e *echo.Echo, locate func(ctx context.Context, id string) (uri string, err error)) {
	httpapi.Add(e, p.LoggedModelRoutes(locate)...)
}

// LoggedModelRoutes returns the routes that list and serve the files of logged
// models. locate returns where those of a model are.
func (p *Proxy) LoggedModelRoutes(locate func(ctx context.Context, id string) (uri string, err error)) []httpapi.Route {
	root := func(c echo.Context) (root address, uri string, err error) {
		id := httpapi.PathParam(c, "model_id")
		if uri, err = locate(c.Request().Context(), id); err != nil {
			return root, "", err
		}
		root, err = rootOf(uri, "logged model '"+id+"'")
		return root, uri, err
	}
	routes := underRoots(route(http.MethodGet, "/mlflow/logged-models/:model_id/artifacts/directories", httpapi.Read, func(c echo.Context) error {
		root, uri, err := root(c)
		if err != nil {
			return err
		}
		return p.listBelow(c, root, uri, c.QueryParam("artifact_directory_path"))
	}))
	return append(routes, route(http.MethodGet, "/ajax-api/2.0/mlflow/logged-models/:model_id/artifacts/files", httpapi.Read, func(c echo.Context) error {
		given := c.QueryParam("artifact_file_path")
		if given == "" {
			return apierr.Errorf(apierr.BadRequest, "Request must include the \"artifact_file_path\" query parameter.")
		}
		name, err := addressOf(given)
		if err != nil {
			return err
		}
		root, _, err := root(c)
		if err != nil {
			return err
		}
		return p.send(c, root.join(name))
	}))
}
