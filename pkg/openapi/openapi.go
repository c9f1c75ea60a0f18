// Package openapi is the description of Runledger's own API, /api/v1: an
// OpenAPI 3.1 document, which is written by hand and checked against the
// handlers by tests, and the routes that serve it with a page to browse it.
package openapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/swaggest/swgui/v5emb"
	"go.yaml.in/yaml/v3"
)

//go:embed openapi.yaml
var document []byte

// The routes that Register adds.
const (
	PathJSON = "/api/v1/openapi.json"
	PathYAML = "/api/v1/openapi.yaml"
	// PathDocs is the page, and what is below it are its assets, which come from
	// this server too.
	PathDocs = "/api/v1/docs"
)

// YAML returns the document, https://spec.openapis.org/oas/v3.1.0 in YAML.
func YAML() []byte { return document }

// JSON returns the document in JSON. The error is one of the embedded file.
func JSON() ([]byte, error) {
	var v any
	if err := yaml.Unmarshal(document, &v); err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document as JSON: %w", err)
	}
	return out, nil
}

// Register adds the document and the page to browse it.
func Register(e *echo.Echo) error {
	asJSON, err := JSON()
	if err != nil {
		return err
	}
	e.GET(PathJSON, func(c echo.Context) error { return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, asJSON) })
	e.GET(PathYAML, func(c echo.Context) error { return c.Blob(http.StatusOK, "application/yaml", document) })
	page := echo.WrapHandler(v5emb.New("Runledger API", PathJSON, PathDocs+"/"))
	e.GET(PathDocs, page)
	e.GET(PathDocs+"/*", page)
	return nil
}
