package artifacts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const proxyPath = "/mlflow-artifacts/artifacts"

// HeaderReprDigest has the SHA-256 of an artifact (RFC 9530), as it was written or
// as the log has it.
const HeaderReprDigest = "Repr-Digest"

// Config configures NewProxy.
type Config struct {
	Store *Store
	// Locate returns the artifact URI of a run.
	Locate func(ctx context.Context, runID string) (uri string, err error)
	Record Record // nil where nothing is written or deleted
	Digest Digest // nil where nothing is checked
}

// Proxy serves a store over MLflow's artifact API.
type Proxy struct {
	Config
	store *Store
}

// NewProxy returns a proxy.
func NewProxy(c Config) *Proxy { return &Proxy{Config: c, store: c.Store} }

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

// place returns where the artifact is that a request's path names.
func place(c echo.Context) (address, error) {
	_, rest, _ := strings.Cut(c.Request().URL.Path, proxyPath+"/")
	a, err := addressOf(rest)
	if err == nil && a.name == "" {
		err = apierr.Errorf(apierr.InvalidParameterValue, "Invalid path")
	}
	return a, err
}

// newFile returns the name of an artifact that is to be written.
func newFile(given string) (string, error) {
	a, err := addressOf(given)
	if err == nil && (a.name == "" || strings.HasSuffix(given, "/")) {
		err = apierr.Errorf(apierr.InvalidParameterValue, "Invalid path")
	}
	return a.name, err
}

// newFileNamed is newFile for clients that send the files of a directory one after
// the other: what it refuses it refuses by name.
func newFileNamed(given string) (string, error) {
	name, err := newFile(given)
	if err != nil {
		return "", apierr.Wrap(err, apierr.InvalidParameterValue, fmt.Sprintf("Invalid path: %.500q", given))
	}
	return name, nil
}

func (p *Proxy) upload(c echo.Context) error {
	_, rest, _ := strings.Cut(c.Request().URL.Path, proxyPath+"/")
	name, err := newFileNamed(rest)
	if err != nil {
		return err
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
	a, err := place(c)
	if err != nil {
		return err
	}
	return p.send(c, a)
}

func (p *Proxy) downloadRun(c echo.Context) error {
	root, _, err := p.root(c)
	if err != nil {
		return err
	}
	name, err := file(c)
	if err != nil {
		return err
	}
	return p.send(c, root.join(name))
}

// file returns the artifact that the parameter path names.
func file(c echo.Context) (address, error) {
	a, err := addressOf(c.QueryParam("path"))
	if err == nil && a.name == "" {
		err = missing("path")
	}
	return a, err
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
	name, err := newFile(given)
	if err != nil {
		return err
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
	root, _, err := p.root(c)
	if err != nil {
		return err
	}
	if err := p.write(c, path.Join(root.name, name), bytes.NewReader(data)); err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, nil)
}

func (p *Proxy) remove(c echo.Context) error {
	a, err := place(c)
	if err != nil {
		return err
	}
	if err := p.store.Delete(c.Request().Context(), a.name, func(names []string) error { return p.recordDeletion(c, names) }); err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), mlflow.Empty{})
}

func (p *Proxy) list(c echo.Context) error {
	dir, err := addressOf(c.QueryParam("path"))
	if err != nil {
		return err
	}
	files, err := p.listAt(c, dir)
	if err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), listing{fileInfos("", files)})
}

func (p *Proxy) listAt(c echo.Context, dir address) ([]File, error) {
	files, err := p.store.List(c.Request().Context(), dir.name)
	if err == nil && len(files) == 0 && dir.older != dir.name {
		files, err = p.store.List(c.Request().Context(), dir.older)
	}
	return files, err
}

func (p *Proxy) listRun(c echo.Context) error {
	root, uri, err := p.root(c)
	if err != nil {
		return err
	}
	return p.listBelow(c, root, uri, c.QueryParam("path"))
}

// listBelow lists the directory that a path below root names; uri is the root's.
func (p *Proxy) listBelow(c echo.Context, root address, uri, given string) error {
	dir, err := addressOf(given)
	if err != nil {
		return err
	}
	files, err := p.listAt(c, root.join(dir))
	if err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), mlflow.ListArtifactsResponse{RootURI: uri, Files: fileInfos(dir.name, files)})
}

// root returns the directory of the run that a request names, and its URI.
func (p *Proxy) root(c echo.Context) (root address, uri string, err error) {
	id := runID(c)
	if id == "" {
		return root, "", missing("run_id")
	}
	if uri, err = p.Locate(c.Request().Context(), id); err != nil {
		return root, "", err
	}
	root, err = rootOf(uri, "run '"+id+"'")
	return root, uri, err
}

// runID returns the run that a request names, "" if it names none.
func runID(c echo.Context) string {
	if id := c.QueryParam("run_id"); id != "" {
		return id
	}
	return c.QueryParam("run_uuid")
}

func missing(parameter string) error {
	return apierr.Errorf(apierr.InvalidParameterValue,
		"Missing value for required parameter '%s'. See the API docs for more information about request parameters.", parameter)
}
