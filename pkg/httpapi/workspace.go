package httpapi

import (
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
)

// refuseWorkspace is middleware that refuses requests about a workspace, of which
// there are none: they would see and change what is of all. server-info, which
// says so, is answered as in MLflow.
func refuseWorkspace(next echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		if strings.TrimSpace(ec.Request().Header.Get("X-MLFLOW-WORKSPACE")) != "" && !strings.HasSuffix(ec.Path(), "/mlflow/server-info") {
			return apierr.Errorf(apierr.FeatureDisabled, "Workspace APIs are not available: workspaces are not enabled on this server")
		}
		return next(ec)
	}
}
