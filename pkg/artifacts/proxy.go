package artifacts

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	proxyPath = "/mlflow-artifacts/artifacts"
	// Scheme is the scheme of locations that are served from here.
	Scheme = "mlflow-artifacts:"
)

// Proxy serves a store over MLflow's artifact API.
type Proxy struct {
	store  *Store
	locate func(ctx context.Context, runID string) (uri string, err error)
	record Record
}

// NewProxy returns a proxy. locate returns the artifact URI of a run. record is
// told of what is written and deleted; nil where nothing is.
func NewProxy(store *Store, locate func(ctx context.Context, runID string) (string, error), record Record) *Proxy {
	return &Proxy{store: store, locate: locate, record: record}
}

// Register adds the routes to e.
func (p *Proxy) Register(e *echo.Echo) {
	for _, api := range []string{"/api/2.0", "/ajax-api/2.0"} {
		e.PUT(api+proxyPath+"/*", p.upload)
		e.GET(api+proxyPath+"/*", p.download)
		e.HEAD(api+proxyPath+"/*", p.download)
		e.DELETE(api+proxyPath+"/*", p.remove)
		e.GET(api+proxyPath, p.list)
		e.GET(api+"/mlflow/artifacts/list", p.listRun)
	}
	e.GET("/get-artifact", p.downloadRun)
	e.POST("/ajax-api/2.0/mlflow/upload-artifact", p.uploadRun)
	p.registerMultipart(e)
	p.registerPresigned(e)
}

// RegisterModelVersions adds the route that serves the files of model versions
// to e. locate returns where those of a version are.
func (p *Proxy) RegisterModelVersions(e *echo.Echo, locate func(ctx context.Context, name, version string) (uri string, err error)) {
	e.GET("/model-versions/get-artifact", func(c echo.Context) error {
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
		return p.send(c, path.Join(root, name))
	})
}

// RegisterLoggedModels adds the routes that list and serve the files of logged
// models to e. locate returns where those of a model are.
func (p *Proxy) RegisterLoggedModels(e *echo.Echo, locate func(ctx context.Context, id string) (uri string, err error)) {
	root := func(c echo.Context) (string, error) {
		id := httpapi.PathParam(c, "model_id")
		uri, err := locate(c.Request().Context(), id)
		if err != nil {
			return "", err
		}
		return rootOf(uri, "logged model '"+id+"'")
	}
	for _, api := range []string{"/api/2.0", "/ajax-api/2.0"} {
		e.GET(api+"/mlflow/logged-models/:model_id/artifacts/directories", func(c echo.Context) error {
			root, err := root(c)
			if err != nil {
				return err
			}
			return p.listBelow(c, root, c.QueryParam("artifact_directory_path"))
		})
	}
	e.GET("/ajax-api/2.0/mlflow/logged-models/:model_id/artifacts/files", func(c echo.Context) error {
		given := c.QueryParam("artifact_file_path")
		if given == "" {
			return apierr.Errorf(apierr.BadRequest, "Request must include the \"artifact_file_path\" query parameter.")
		}
		name, err := cleanPath(given)
		if err != nil {
			return err
		}
		root, err := root(c)
		if err != nil {
			return err
		}
		return p.send(c, path.Join(root, name))
	})
}

// listing answers a listing of the proxy's own paths, which have no root.
type listing struct {
	Files []mlflow.FileInfo `json:"files,omitempty"`
}

// fileInfos returns files as MLflow shows them, with paths that begin with dir.
func fileInfos(dir string, files []File) []mlflow.FileInfo {
	infos := make([]mlflow.FileInfo, len(files))
	for i, f := range files {
		infos[i] = mlflow.FileInfo{Path: path.Join(dir, f.Name), IsDir: f.IsDir}
		if !f.IsDir {
			infos[i].FileSize = &f.Size
		}
	}
	return infos
}

// cleanPath returns the form of a safe path in which it names an artifact, ""
// for the root.
func cleanPath(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	name, err := mlflow.ValidateArtifactPath(name)
	if err != nil {
		return "", err
	}
	if name = path.Clean(name); name == "." {
		return "", nil
	}
	return name, nil
}

// name returns the artifact that a request's path names.
func name(c echo.Context) (string, error) {
	_, rest, _ := strings.Cut(c.Request().URL.Path, proxyPath+"/")
	clean, err := cleanPath(rest)
	if err == nil && clean == "" {
		err = apierr.Errorf(apierr.InvalidParameterValue, "Invalid path")
	}
	return clean, err
}

func (p *Proxy) upload(c echo.Context) error {
	name, err := name(c)
	if err != nil {
		return err
	}
	if strings.HasSuffix(c.Request().URL.Path, "/") {
		return apierr.Errorf(apierr.InvalidParameterValue, "Invalid path")
	}
	if err := p.write(c, name, c.Request().Body); err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), mlflow.Empty{})
}

// write stores an artifact, and records it.
func (p *Proxy) write(c echo.Context, name string, r io.Reader) error {
	return p.store.Write(c.Request().Context(), name, r, func(w Written) error { return p.recordUpload(c, name, w) })
}

func (p *Proxy) download(c echo.Context) error {
	name, err := name(c)
	if err != nil {
		return err
	}
	return p.send(c, name)
}

func (p *Proxy) downloadRun(c echo.Context) error {
	root, err := p.root(c)
	if err != nil {
		return err
	}
	name, err := file(c)
	if err != nil {
		return err
	}
	return p.send(c, path.Join(root, name))
}

// file returns the artifact that the parameter path names.
func file(c echo.Context) (string, error) {
	name, err := cleanPath(c.QueryParam("path"))
	if err == nil && name == "" {
		err = missing("path")
	}
	return name, err
}

// maxSmallUpload bounds what a browser uploads to a run, in bytes.
const maxSmallUpload = 10 << 20

func (p *Proxy) uploadRun(c echo.Context) error {
	if runID(c) == "" {
		return apierr.Errorf(apierr.InvalidParameterValue, "Request must specify run_id or run_uuid.")
	}
	given := c.QueryParam("path")
	if given == "" {
		return apierr.Errorf(apierr.InvalidParameterValue, "Request must specify path.")
	}
	name, err := cleanPath(given)
	if err != nil {
		return err
	}
	if name == "" || strings.HasSuffix(given, "/") {
		return apierr.Errorf(apierr.InvalidParameterValue, "Invalid path")
	}
	tooLarge := apierr.Errorf(apierr.InvalidParameterValue, "Artifact size is too large. Max size is 10MB.")
	if c.Request().ContentLength > maxSmallUpload {
		return tooLarge
	}
	// It is small: nothing is written before all of it is here.
	httpapi.HoldBody(c)
	data, err := io.ReadAll(http.MaxBytesReader(c.Response(), c.Request().Body, maxSmallUpload))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge
	}
	if err != nil {
		return apierr.Wrap(err, apierr.BadRequest, "The request body could not be read.")
	}
	if len(data) == 0 {
		return apierr.Errorf(apierr.InvalidParameterValue, "Request must specify data.")
	}
	root, err := p.root(c)
	if err != nil {
		return err
	}
	if err := p.write(c, path.Join(root, name), bytes.NewReader(data)); err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, nil)
}

func (p *Proxy) send(c echo.Context, name string) error {
	r, err := p.store.Open(c.Request().Context(), name)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // read only: nothing to lose
	h := c.Response().Header()
	h.Set(echo.HeaderContentType, ContentType(name))
	h.Set(echo.HeaderContentDisposition, disposition(name))
	h.Set(echo.HeaderXContentTypeOptions, "nosniff")
	http.ServeContent(c.Response(), c.Request(), "", r.ModTime, r)
	return nil
}

func (p *Proxy) remove(c echo.Context) error {
	name, err := name(c)
	if err != nil {
		return err
	}
	if err := p.store.Delete(c.Request().Context(), name, func(names []string) error { return p.recordDeletion(c, names) }); err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), mlflow.Empty{})
}

func (p *Proxy) list(c echo.Context) error {
	dir, err := cleanPath(c.QueryParam("path"))
	if err != nil {
		return err
	}
	files, err := p.store.List(c.Request().Context(), dir)
	if err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), listing{fileInfos("", files)})
}

func (p *Proxy) listRun(c echo.Context) error {
	root, err := p.root(c)
	if err != nil {
		return err
	}
	return p.listBelow(c, root, c.QueryParam("path"))
}

// listBelow lists the directory that a path below root names.
func (p *Proxy) listBelow(c echo.Context, root, given string) error {
	dir, err := cleanPath(given)
	if err != nil {
		return err
	}
	files, err := p.store.List(c.Request().Context(), path.Join(root, dir))
	if err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), mlflow.ListArtifactsResponse{RootURI: Scheme + "/" + root, Files: fileInfos(dir, files)})
}

// root returns the directory of the run that a request names.
func (p *Proxy) root(c echo.Context) (string, error) {
	id := runID(c)
	if id == "" {
		return "", missing("run_id")
	}
	uri, err := p.locate(c.Request().Context(), id)
	if err != nil {
		return "", err
	}
	return rootOf(uri, "run '"+id+"'")
}

// runID returns the run that a request names, "" if it names none.
func runID(c echo.Context) string {
	if id := c.QueryParam("run_id"); id != "" {
		return id
	}
	return c.QueryParam("run_uuid")
}

// rootOf returns the directory at an artifact URI; owner is whose it is.
func rootOf(uri, owner string) (string, error) {
	rest, ok := strings.CutPrefix(uri, Scheme)
	if !ok {
		return "", apierr.Errorf(apierr.InvalidParameterValue, "The artifacts of %s are at '%s', which this server does not serve", owner, uri)
	}
	return cleanPath(strings.TrimLeft(rest, "/"))
}

func missing(parameter string) error {
	return apierr.Errorf(apierr.InvalidParameterValue,
		"Missing value for required parameter '%s'. See the API docs for more information about request parameters.", parameter)
}
