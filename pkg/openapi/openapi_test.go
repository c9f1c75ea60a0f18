package openapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"go.yaml.in/yaml/v3"

	"github.com/runledger/runledger/pkg/openapi"
)

// The document is the same in JSON and in YAML, and says below which prefix the
// server's paths are; so does the page, which needs no other server.
func TestTheDocumentIsServedUnderThePrefix(t *testing.T) {
	for prefix, url := range map[string]string{"": "/", "/ml": "/ml", `/a: "b`: `/a: "b`} {
		e := echo.New()
		if err := openapi.Register(e, prefix); err != nil {
			t.Fatal(err)
		}
		get := func(path, kind string) string {
			t.Helper()
			rec := httptest.NewRecorder()
			e.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			if got := rec.Header().Get("Content-Type"); rec.Code != http.StatusOK || !strings.HasPrefix(got, kind) {
				t.Fatalf("GET %s: %d %s, want %s", path, rec.Code, got, kind)
			}
			return rec.Body.String()
		}
		var inJSON, inYAML, original any
		if err := json.Unmarshal([]byte(get("/api/v1/openapi.json", "application/json")), &inJSON); err != nil {
			t.Fatal(err)
		}
		for v, text := range map[*any]string{&inYAML: get("/api/v1/openapi.yaml", "application/yaml"), &original: string(openapi.YAML())} {
			if err := yaml.Unmarshal([]byte(text), v); err != nil {
				t.Fatal(err)
			}
			plain, err := json.Marshal(*v)
			if err != nil {
				t.Fatal(err)
			}
			*v = nil
			if err := json.Unmarshal(plain, v); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(inJSON, inYAML) {
			t.Errorf("prefix %q: the document is another one in JSON than in YAML", prefix)
		}
		original.(map[string]any)["servers"] = []any{map[string]any{"url": url, "description": "this server"}}
		if !reflect.DeepEqual(inJSON, original) {
			t.Errorf("prefix %q: the document is another one than the embedded one with the server's path", prefix)
		}
		if prefix != "/ml" && prefix != "" {
			continue
		}
		page := get("/api/v1/docs", "text/html")
		if !strings.Contains(page, `"`+prefix+`/api/v1/openapi.json"`) && !strings.Contains(page, strings.ReplaceAll(prefix+`/api/v1/openapi.json`, "/", `\/`)) {
			t.Errorf("prefix %q: the page does not show the document: %s", prefix, page)
		}
		assets := regexp.MustCompile(`(?:href|src)="([^"]+\.(?:css|js))"`).FindAllStringSubmatch(page, -1)
		if len(assets) == 0 {
			t.Errorf("prefix %q: the page has no assets: %s", prefix, page)
		}
		for _, asset := range assets {
			below, ok := strings.CutPrefix(asset[1], prefix+"/api/v1/docs/")
			if !ok {
				t.Errorf("prefix %q: the page asks for %s", prefix, asset[1])
				continue
			}
			get("/api/v1/docs/"+below, "")
		}
	}
}

// A misspelt parameter is refused here too.
func TestTheDocumentTakesNoParameters(t *testing.T) {
	e := echo.New()
	if err := openapi.Register(e, ""); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{openapi.PathJSON, openapi.PathYAML, openapi.PathDocs} {
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path+"?x=1", nil))
		if rec.Code == http.StatusOK {
			t.Errorf("GET %s?x=1: %d", path, rec.Code)
		}
	}
}
