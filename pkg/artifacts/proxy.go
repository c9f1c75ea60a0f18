package artifacts

import (
	"context"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
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
}

// NewProxy returns a proxy. locate returns the artifact URI of a run.
func NewProxy(store *Store, locate func(ctx context.Context, runID string) (string, error)) *Proxy {
	return &Proxy{store: store, locate: locate}
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
	if err := p.store.Write(c.Request().Context(), name, c.Request().Body); err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), mlflow.Empty{})
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
	name, err := cleanPath(c.QueryParam("path"))
	if err != nil {
		return err
	}
	if name == "" {
		return missing("path")
	}
	return p.send(c, path.Join(root, name))
}

func (p *Proxy) send(c echo.Context, name string) error {
	r, err := p.store.Open(c.Request().Context(), name)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // read only: nothing to lose
	h := c.Response().Header()
	h.Set(echo.HeaderContentType, ContentType(name))
	h.Set(echo.HeaderContentDisposition, mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(name)}))
	h.Set(echo.HeaderXContentTypeOptions, "nosniff")
	http.ServeContent(c.Response(), c.Request(), "", r.ModTime, r)
	return nil
}

func (p *Proxy) remove(c echo.Context) error {
	name, err := name(c)
	if err != nil {
		return err
	}
	if err := p.store.Delete(c.Request().Context(), name); err != nil {
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
	dir, err := cleanPath(c.QueryParam("path"))
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
	id := c.QueryParam("run_id")
	if id == "" {
		id = c.QueryParam("run_uuid")
	}
	if id == "" {
		return "", missing("run_id")
	}
	uri, err := p.locate(c.Request().Context(), id)
	if err != nil {
		return "", err
	}
	rest, ok := strings.CutPrefix(uri, Scheme)
	if !ok {
		return "", apierr.Errorf(apierr.InvalidParameterValue, "The artifacts of run '%s' are at '%s', which this server does not serve", id, uri)
	}
	return cleanPath(strings.TrimLeft(rest, "/"))
}

func missing(parameter string) error {
	return apierr.Errorf(apierr.InvalidParameterValue,
		"Missing value for required parameter '%s'. See the API docs for more information about request parameters.", parameter)
}
