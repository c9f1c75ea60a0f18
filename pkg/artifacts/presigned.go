package artifacts

import (
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/mlflow"
)

func notSupported(what string) error {
	return apierr.Errorf(apierr.NotImplemented, "%s is not supported for the current artifact repository", what)
}

func (p *Proxy) presignUpload(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.PresignedUploadURL](c.Request())
	if err != nil {
		return err
	}
	if (req.RunID == "") == (req.ModelID == "") {
		return apierr.Errorf(apierr.InvalidParameterValue, "Exactly one of run_id and model_id must be provided.")
	}
	if _, err := mlflow.ValidateArtifactPath(req.Path); err != nil {
		return err
	}
	uri := scheme // where the files of all logged models are
	if req.RunID != "" {
		if uri, err = p.Locate(c.Request().Context(), req.RunID); err != nil {
			return err
		}
	}
	if scheme := proxied(uri); scheme != "" {
		return apierr.Errorf(apierr.InvalidParameterValue, "Presigned upload is not supported for proxied artifact storage "+
			"(artifact URI scheme: %s). This endpoint requires a direct cloud storage artifact URI.", scheme)
	}
	return notSupported("Presigned upload")
}

func (p *Proxy) presignDownload(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.PresignedDownloadURL](c.Request())
	if err != nil {
		return err
	}
	if _, err := mlflow.ValidateArtifactPath(req.Path); err != nil {
		return err
	}
	if req.Expiration < 1 || req.Expiration > mlflow.MaxPresignedSeconds {
		return apierr.Errorf(apierr.InvalidParameterValue, "expiration must be between 1 and %d seconds (got %d).",
			mlflow.MaxPresignedSeconds, req.Expiration)
	}
	uri, err := p.Locate(c.Request().Context(), req.RunID)
	if err != nil {
		return err
	}
	if scheme := proxied(uri); scheme != "" {
		return apierr.Errorf(apierr.InvalidParameterValue, "Presigned download is not supported for runs with proxied artifact storage "+
			"(artifact URI scheme: %s). This endpoint requires a run with a direct cloud storage artifact URI.", scheme)
	}
	return notSupported("Presigned download")
}

// proxied returns the scheme of a location that clients reach through a server,
// "" for another location.
func proxied(uri string) string {
	switch scheme, _, _ := strings.Cut(uri, ":"); scheme {
	case "http", "https", "mlflow-artifacts":
		return scheme
	}
	return ""
}
