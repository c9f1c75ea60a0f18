package artifacts

import (
	"errors"
	"path"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	mpuPath       = "/mlflow-artifacts/mpu/"
	presignedPath = "/mlflow-artifacts/presigned"
)

// below returns the path in the store that a request's path names after a route.
func below(c echo.Context, route string) (string, error) {
	_, rest, _ := strings.Cut(c.Request().URL.Path, route)
	return mlflow.ValidateArtifactPath(strings.TrimPrefix(rest, "/"))
}

// multipart decodes a request about a file in the directory that the path of an
// action names. local is the file's path at the client, of which the last element
// counts.
func multipart[T any, P mlflow.Request[T]](c echo.Context, action string, local func(*T) string) (req *T, name string, err error) {
	dir, err := below(c, mpuPath+action)
	if err != nil {
		return nil, "", err
	}
	if req, err = mlflow.Decode[T, P](c.Request()); err != nil {
		return nil, "", err
	}
	file := local(req)
	separators := `/\`
	if strings.HasPrefix(file, "/") {
		separators = "/" // it is not from Windows, so a backslash is part of its name
	}
	file = file[strings.LastIndexAny(file, separators)+1:]
	if name, err = newFileNamed(file); err != nil {
		return nil, "", err
	}
	return req, path.Join(dir, name), nil
}

// supported turns errNotS3 into MLflow's answer.
func supported(what string, err error) error {
	if errors.Is(err, errNotS3) {
		return notSupported(what)
	}
	return err
}

const multipartUpload = "Multipart upload"

func (p *Proxy) createMultipart(c echo.Context) error {
	req, name, err := multipart(c, "create", func(r *mlflow.CreateMultipartUpload) string { return r.Path })
	if err != nil {
		return err
	}
	// Clients before MLflow 2.10 leave out whose file it is, and would write over
	// each other's: these send it whole, to where it belongs.
	if PlaceOf(name).Owner() == "" {
		return notSupported(multipartUpload)
	}
	id, urls, err := p.store.CreateUpload(c.Request().Context(), name, req.NumParts)
	if err != nil {
		return supported(multipartUpload, err)
	}
	answer := mlflow.CreateMultipartUploadResponse{UploadID: id}
	for i, url := range urls {
		answer.Credentials = append(answer.Credentials, mlflow.MultipartUploadCredential{URL: url, PartNumber: i + 1})
	}
	return mlflow.WriteJSON(c.Response(), answer)
}

func (p *Proxy) completeMultipart(c echo.Context) error {
	req, name, err := multipart(c, "complete", func(r *mlflow.CompleteMultipartUpload) string { return r.Path })
	if err != nil {
		return err
	}
	parts := make([]Part, len(req.Parts))
	for i, part := range req.Parts {
		parts[i] = Part{Number: part.PartNumber, ETag: part.ETag}
	}
	err = p.store.CompleteUpload(c.Request().Context(), name, req.UploadID, parts, func(w Written) error { return p.recordUpload(c, name, w) })
	if err != nil {
		return supported(multipartUpload, err)
	}
	return mlflow.WriteJSON(c.Response(), mlflow.Empty{})
}

func (p *Proxy) abortMultipart(c echo.Context) error {
	req, name, err := multipart(c, "abort", func(r *mlflow.AbortMultipartUpload) string { return r.Path })
	if err != nil {
		return err
	}
	if err := p.store.AbortUpload(c.Request().Context(), name, req.UploadID); err != nil {
		return supported(multipartUpload, err)
	}
	return mlflow.WriteJSON(c.Response(), mlflow.Empty{})
}

func (p *Proxy) presigned(c echo.Context) error {
	name, err := below(c, presignedPath)
	if err == nil && name == "" {
		err = apierr.Errorf(apierr.InvalidParameterValue, "Invalid path")
	}
	if err != nil {
		return err
	}
	url, size, err := p.store.PresignDownload(c.Request().Context(), name)
	if err != nil {
		return supported("Multipart download", err)
	}
	return mlflow.WriteJSON(c.Response(), mlflow.PresignedDownload{URL: url, Headers: struct{}{}, FileSize: size})
}
