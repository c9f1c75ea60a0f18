package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/httpapi"
	mlflowserver "github.com/runledger/runledger/pkg/mlflow/server"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/pkg/openapi"
	"github.com/runledger/runledger/services/ingest"
	"github.com/runledger/runledger/services/query"
	"github.com/runledger/runledger/services/registry"
	"github.com/runledger/runledger/services/registry/treehead"
	"github.com/runledger/runledger/services/registry/webhooks"
)

var (
	pathParameter   = regexp.MustCompile(`:(\w+)`)
	bracedParameter = regexp.MustCompile(`\{\w+\}`)
)

// TestEveryRouteIsDescribed compares the operations of the OpenAPI document with
// the routes that the services add.
func TestEveryRouteIsDescribed(t *testing.T) {
	e := echo.New()
	(&query.Service{}).Register(e)
	(&ingest.Service{}).Register(e)
	registryWithHeads(t, natstest.Start(t)).Register(e)
	if err := openapi.Register(e, ""); err != nil {
		t.Fatal(err)
	}
	var served []string
	for _, r := range e.Routes() {
		if strings.HasPrefix(r.Path, "/api/v1/") && r.Path != openapi.PathDocs+"/*" {
			served = append(served, r.Method+" "+pathParameter.ReplaceAllString(r.Path, "{$1}"))
		}
	}
	var document struct {
		Paths map[string]map[string]any
	}
	if err := yaml.Unmarshal(openapi.YAML(), &document); err != nil {
		t.Fatal(err)
	}
	var described []string
	for path, item := range document.Paths {
		for method := range item {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	for _, route := range served {
		if !slices.Contains(described, route) {
			t.Errorf("%s is served and not in the document", route)
		}
	}
	for _, operation := range described {
		if !slices.Contains(served, operation) {
			t.Errorf("%s is in the document and not served", operation)
		}
	}
	if len(served) < 20 {
		t.Errorf("only %d routes were found: %q", len(served), served)
	}
}

// TestEveryOperationRefusesWhatItDoesNotTake: unknown query parameters, ones that are
// there twice, bodies where there is none, and of what writes bodies that are not
// called JSON, before a handler sees the request. The answer says what there is, which must
// be what the document says.
func TestEveryOperationRefusesWhatItDoesNotTake(t *testing.T) {
	e := everyRoute(t, httpapi.Config{})
	type parameter struct {
		Ref    string `yaml:"$ref"`
		Name   string
		In     string
		Schema struct{ Type string }
	}
	type operation struct {
		Parameters  []parameter
		Tags        []string
		RequestBody map[string]any `yaml:"requestBody"`
	}
	var document struct {
		Paths      map[string]map[string]yaml.Node
		Components struct{ Parameters map[string]parameter }
	}
	if err := yaml.Unmarshal(openapi.YAML(), &document); err != nil {
		t.Fatal(err)
	}
	refused := func(method, path, kind, body, want string) {
		t.Helper()
		req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		req.Header.Set("Content-Type", kind)
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		var answer struct {
			Code    string `json:"error_code"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil || rec.Code != http.StatusBadRequest ||
			answer.Code != "INVALID_PARAMETER_VALUE" || answer.Message != want {
			t.Errorf("%s %s %s: %d %s, want %q", method, path, body, rec.Code, rec.Body, want)
		}
	}
	operations, writes := 0, 0
	for path, item := range document.Paths {
		url := bracedParameter.ReplaceAllString(path, "1")
		var common []parameter
		if node, ok := item["parameters"]; ok {
			if err := node.Decode(&common); err != nil {
				t.Fatal(err)
			}
		}
		for method, node := range item {
			var op operation
			if method == "parameters" {
				continue
			}
			if err := node.Decode(&op); err != nil {
				t.Fatal(err)
			}
			operations++
			method = strings.ToUpper(method)
			var names []string
			for _, p := range slices.Concat(common, op.Parameters) {
				if name, ok := strings.CutPrefix(p.Ref, "#/components/parameters/"); ok {
					p = document.Components.Parameters[name]
				}
				if p.In != "query" {
					continue
				}
				names = append(names, p.Name)
				if p.Schema.Type != "array" {
					refused(method, url+"?"+p.Name+"=1&"+p.Name+"=2", "", "", "Invalid value '2' for parameter '"+p.Name+"': it may be there once.")
				}
			}
			slices.Sort(names)
			there := "There are none."
			if len(names) > 0 {
				there = "There are: " + strings.Join(names, ", ") + "."
			}
			refused(method, url+"?older_then_ms=1", "application/json", "", "Unknown parameter 'older_then_ms'. "+there)
			if op.RequestBody == nil {
				refused(method, url, "application/json", `{"older_then_ms":1}`, "Unknown field 'older_then_ms' in the request body.")
				continue
			}
			if slices.Contains([]string{"charts", "sweeps"}, op.Tags[0]) {
				continue // they change nothing
			}
			writes++
			for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"} {
				refused(method, url, kind, "{}", "Invalid value '"+kind+"' for header 'Content-Type': want application/json.")
			}
		}
	}
	if operations < 40 || writes < 6 {
		t.Errorf("only %d operations were found, %d with a body that they write", operations, writes)
	}
}

// everyRoute returns a server with the routes of all services, for requests that are
// refused: there are no tables, and ingest has no log.
func everyRoute(t *testing.T, c httpapi.Config) *echo.Echo {
	t.Helper()
	c.Logger, c.Registry = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	e := httpapi.New(c)
	mlflowserver.Register(e)
	nc := natstest.Start(t)
	versions := registryWithHeads(t, nc)
	log, err := eventlog.Open(t.Context(), nc, eventlog.Config{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	reads, err := query.New(t.Context(), query.Config{Log: log, NATS: nc, ClickHouse: &clickhouse.Options{Addr: []string{"127.0.0.1:1"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reads.Close(); err != nil {
			t.Error(err)
		}
	})
	reads.Register(e)
	(&ingest.Service{}).Register(e)
	versions.Register(e)
	proxy := artifacts.NewProxy(artifacts.Config{})
	proxy.Register(e)
	proxy.RegisterLoggedModels(e, nil)
	proxy.RegisterModelVersions(e, nil)
	if err := openapi.Register(e, c.Prefix); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestEveryRouteIsClosedToPagesFromElsewhere: to every one under a name that is not
// the server's, and to those that may change something from another origin.
func TestEveryRouteIsClosedToPagesFromElsewhere(t *testing.T) {
	hosts, err := httpapi.NewHosts("127.0.0.1:5000", "box", nil)
	if err != nil {
		t.Fatal(err)
	}
	e := everyRoute(t, httpapi.Config{Hosts: hosts})
	closed := func(r *echo.Route, host, want string, headers ...string) {
		t.Helper()
		path := strings.ReplaceAll(pathParameter.ReplaceAllString(r.Path, "1"), "*", "x")
		req := httptest.NewRequestWithContext(t.Context(), r.Method, path, nil)
		req.Host = host
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		if rec.Code != http.StatusForbidden || !strings.Contains(rec.Body.String(), `"PERMISSION_DENIED"`) || !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s %s to %s with %q: %d %s", r.Method, r.Path, host, headers, rec.Code, rec.Body)
		}
	}
	writes := 0
	for _, r := range e.Routes() {
		if !slices.Contains([]string{"/health", "/version", "/readyz"}, r.Path) {
			closed(r, "evil.example:5000", "Invalid Host header", "Origin", "http://evil.example:5000", "Sec-Fetch-Site", "same-origin")
		}
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			continue
		}
		writes++
		closed(r, "localhost:5000", "Cross-origin request blocked", "Origin", "http://evil.example")
		closed(r, "localhost:5000", "Cross-origin request blocked", "Sec-Fetch-Site", "cross-site")
		closed(r, "localhost:5000", "Cross-origin request blocked", "Origin", "http://localhost:8888", "Sec-Fetch-Site", "same-site")
	}
	if writes < 100 {
		t.Errorf("only %d routes that change something were found", writes)
	}
}

// TestDocsAreBelowThePrefix: the page asks for its parts and the document where a
// proxy has them, and the document says where the server is.
func TestDocsAreBelowThePrefix(t *testing.T) {
	e := everyRoute(t, httpapi.Config{Prefix: "/ml"})
	ask := func(path string) string {
		t.Helper()
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if rec.Code != http.StatusOK {
			t.Errorf("%s: %d %.200s", path, rec.Code, rec.Body)
		}
		return rec.Body.String()
	}
	page := ask("/ml" + openapi.PathDocs)
	assets := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page, -1)
	for _, m := range assets {
		if !strings.HasPrefix(m[1], "/ml/") {
			t.Errorf("the page asks for %s", m[1])
		}
		ask(m[1])
	}
	if len(assets) < 3 || !strings.Contains(page, `/ml`+openapi.PathJSON) && !strings.Contains(page, `\/ml\/api\/v1\/openapi.json`) {
		t.Errorf("the page is %s", page)
	}
	for _, path := range []string{openapi.PathJSON, openapi.PathYAML} {
		var document struct{ Servers []struct{ URL string } }
		if err := yaml.Unmarshal([]byte(ask(path)), &document); err != nil || len(document.Servers) != 1 || document.Servers[0].URL != "/ml" {
			t.Errorf("%s: %v %v", path, document, err)
		}
	}
}

// TestOperateSendsRoutesToTheirServices reads the table of docs/operate.md as a proxy
// would, and compares where it sends each route.
func TestOperateSendsRoutesToTheirServices(t *testing.T) {
	page, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		methods string
		path    *regexp.Regexp
		service string
	}
	var lines []line
	for _, row := range regexp.MustCompile(`(?m)^\| (`+"`.*`"+`|everything else) \| (\w+) \|$`).FindAllSubmatch(page, -1) {
		if string(row[1]) == "everything else" {
			lines = append(lines, line{path: regexp.MustCompile(""), service: string(row[2])})
		}
		for _, pattern := range regexp.MustCompile("`([A-Z]*) ?([^`]+)`").FindAllStringSubmatch(string(row[1]), -1) {
			path := strings.NewReplacer(`\*`, ".*", "…", "(/api/2.0|/ajax-api/2.0)").Replace(regexp.QuoteMeta(pattern[2]))
			lines = append(lines, line{pattern[1], regexp.MustCompile("^" + path + "$"), string(row[2])})
		}
	}
	proxy := artifacts.NewProxy(artifacts.Config{})
	n := 0
	for service, register := range map[string][]func(*echo.Echo){
		"query":    {(&query.Service{}).Register},
		"ingest":   {(&ingest.Service{}).Register, proxy.Register, func(e *echo.Echo) { proxy.RegisterLoggedModels(e, nil) }},
		"registry": {registryWithHeads(t, natstest.Start(t)).Register, func(e *echo.Echo) { proxy.RegisterModelVersions(e, nil) }},
	} {
		e := echo.New()
		for _, r := range register {
			r(e)
		}
		for _, r := range e.Routes() {
			n++
			i := slices.IndexFunc(lines, func(l line) bool {
				return (l.methods == "" || l.methods == r.Method) && l.path.MatchString(r.Path)
			})
			if i < 0 || lines[i].service != service {
				t.Errorf("%s %s is of %s, and is not sent there", r.Method, r.Path, service)
			}
		}
	}
	if n < 100 || len(lines) < 20 {
		t.Errorf("%d routes, %d lines", n, len(lines))
	}
}

// registryWithHeads returns a registry that signs tree heads, which adds routes.
func registryWithHeads(t *testing.T, nc *nats.Conn) *registry.Service {
	t.Helper()
	dir := t.TempDir()
	log, err := eventlog.Open(t.Context(), nc, eventlog.Config{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	key, err := treehead.LoadKey(filepath.Join(dir, "key"), "test")
	if err != nil {
		t.Fatal(err)
	}
	heads, err := treehead.OpenKeeper(filepath.Join(dir, "heads"), key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := registry.New(t.Context(), registry.Config{
		Log: log, Dir: filepath.Join(dir, "ledger"), Heads: heads, Webhooks: webhooks.Options{KeyFile: filepath.Join(dir, "webhook.key")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
