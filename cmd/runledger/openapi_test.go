package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"
	"go.yaml.in/yaml/v3"

	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/pkg/openapi"
	"github.com/runledger/runledger/services/ingest"
	"github.com/runledger/runledger/services/query"
	"github.com/runledger/runledger/services/registry"
	"github.com/runledger/runledger/services/registry/treehead"
	"github.com/runledger/runledger/services/registry/webhooks"
)

var pathParameter = regexp.MustCompile(`:(\w+)`)

// TestEveryRouteIsDescribed compares the operations of the OpenAPI document with
// the routes that the services add.
func TestEveryRouteIsDescribed(t *testing.T) {
	e := echo.New()
	(&query.Service{}).Register(e)
	(&ingest.Service{}).Register(e)
	registryWithHeads(t, natstest.Start(t)).Register(e)
	if err := openapi.Register(e); err != nil {
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
