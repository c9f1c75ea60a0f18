// Package openapi is the description of Runledger's own API, /api/v1: an
// OpenAPI 3.1 document, which is written by hand and checked against the
// handlers by tests, and the routes that serve it with a page to browse it.
package openapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5emb"
	"go.yaml.in/yaml/v3"

	"github.com/runledger/runledger/pkg/httpapi"
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

// Register adds the document and the page to browse it. prefix is the path below
// which the server's paths are, "" for none. The error is one of the embedded
// file.
func Register(e *echo.Echo, prefix string) error {
	var v map[string]any
	if err := yaml.Unmarshal(document, &v); err != nil {
		return fmt.Errorf("read the OpenAPI document: %w", err)
	}
	asYAML := document
	if prefix != "" {
		v["servers"] = []map[string]string{{"url": prefix, "description": "this server"}}
		asYAML = bytes.Replace(document, []byte("- url: /\n"), []byte("- url: "+strconv.Quote(prefix)+"\n"), 1)
	}
	asJSON, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write the OpenAPI document as JSON: %w", err)
	}
	get := func(path string, h echo.HandlerFunc) httpapi.Route {
		return httpapi.Route{Method: http.MethodGet, Path: path, Action: httpapi.Read, Resource: httpapi.Server, Takes: new(httpapi.Takes), Handler: h}
	}
	newPage := v5emb.NewWithConfig(swgui.Config{InternalBasePath: PathDocs + "/"})
	page := echo.WrapHandler(newPage("Runledger API", prefix+PathJSON, prefix+PathDocs+"/"))
	parts := get(PathDocs+"/*", page)
	parts.Takes = &httpapi.Takes{Any: true}
	httpapi.Add(e,
		get(PathJSON, func(c echo.Context) error { return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, asJSON) }),
		get(PathYAML, func(c echo.Context) error { return c.Blob(http.StatusOK, "application/yaml", asYAML) }),
		get(PathDocs, page), parts)
	return nil
}
