package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/runledger/runledger/"

// imports is what each package imports itself, tests left out.
type imports map[string][]string

// in says whether a package is one of the trees, or in one of them.
func in(pkg string, trees ...string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool { return pkg == tree || strings.HasPrefix(pkg, tree+"/") })
}

// A rule forbids imports to the packages it is for.
type rule struct {
	name string
	// subject chooses the packages that the rule is for.
	subject func(pkg string) bool
	// forbidden says whether pkg must not import imported.
	forbidden func(pkg, imported string) bool
	// deep extends the rule to what the subject imports through others.
	deep bool
}

var (
	clickHouse = []string{
		"github.com/ClickHouse", module + "pkg/chdb", module + "pkg/tables",
	}
	databases = slices.Concat(clickHouse, []string{"database/sql", "github.com/cockroachdb/pebble"})
)

// sqlInterfaces are interfaces only, which identifiers implement.
const sqlInterfaces = "database/sql/driver"

// service returns the tree of the service that a package belongs to, "" for
// none.
func service(pkg string) string {
	rest, ok := strings.CutPrefix(pkg, module+"services/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return module + "services/" + name
}

func isService(pkg string) bool { return service(pkg) != "" }

func within(trees ...string) func(string) bool {
	return func(pkg string) bool { return in(pkg, trees...) }
}

var rules = []rule{
	{
		name:    "a service imports no other service",
		subject: isService,
		forbidden: func(pkg, imported string) bool {
			return isService(imported) && service(imported) != service(pkg)
		},
		deep: true,
	},
	{
		name:    "pkg/events imports nothing of ours and no database",
		subject: within(module + "pkg/events"),
		forbidden: func(_, imported string) bool {
			return strings.HasPrefix(imported, module) && !in(imported, module+"pkg/events") || in(imported, databases...) && imported != sqlInterfaces
		},
		deep: true,
	},
	{
		name:      "no ClickHouse in ingest",
		subject:   within(module + "services/ingest"),
		forbidden: func(_, imported string) bool { return in(imported, clickHouse...) },
		deep:      true,
	},
	{
		name:      "Pebble is the registry's alone",
		subject:   func(pkg string) bool { return !in(pkg, module+"services/registry") },
		forbidden: func(_, imported string) bool { return in(imported, "github.com/cockroachdb/pebble") },
	},
	{
		name:    "pkg imports no service and no command",
		subject: within(module + "pkg"),
		forbidden: func(_, imported string) bool {
			return in(imported, module+"services", module+"cmd")
		},
		deep: true,
	},
	{
		name:      "no protocol in what all have in common",
		subject:   within(module+"pkg/httpapi", module+"pkg/apierr", module+"pkg/caller"),
		forbidden: func(_, imported string) bool { return in(imported, module+"pkg/mlflow") },
		deep:      true,
	},
	{
		name:      "only cmd/runledger wires services",
		subject:   func(pkg string) bool { return !in(pkg, module+"cmd/runledger") && !isService(pkg) },
		forbidden: func(_, imported string) bool { return isService(imported) },
	},
}

// violations returns each forbidden import, as "rule: importer -> ... -> imported".
func (g imports) violations() []string {
	var found []string
	for _, r := range rules {
		for _, pkg := range slices.Sorted(maps.Keys(g)) {
			if !strings.HasPrefix(pkg, module) || !r.subject(pkg) {
				continue
			}
			for imported, path := range g.reach(pkg, r.deep) {
				if r.forbidden(pkg, imported) {
					found = append(found, r.name+": "+strings.Join(path, " -> "))
				}
			}
		}
	}
	slices.Sort(found)
	return found
}

// reach returns a shortest path from pkg to every package that it imports.
func (g imports) reach(pkg string, deep bool) map[string][]string {
	paths := map[string][]string{}
	for queue := [][]string{{pkg}}; len(queue) > 0; queue = queue[1:] {
		path := queue[0]
		for _, imported := range g[path[len(path)-1]] {
			if _, seen := paths[imported]; seen || imported == pkg {
				continue
			}
			paths[imported] = append(slices.Clone(path), imported)
			if deep {
				queue = append(queue, paths[imported])
			}
		}
	}
	return paths
}

func TestNoPackageImportsWhatItMustNot(t *testing.T) {
	const program = module + "cmd/runledger"
	graph := listImports(t, module+"pkg/...", module+"services/...", module+"cmd/...", module+"loadtest/...")
	for _, must := range []string{
		program, module + "pkg/events", module + "services/ingest", module + "services/projector", module + "services/query", module + "services/registry",
		"github.com/ClickHouse/clickhouse-go/v2", "github.com/cockroachdb/pebble/v2",
	} {
		if _, ok := graph[must]; !ok {
			t.Errorf("go list does not know %s: the rules would check nothing", must)
		}
	}
	if found := graph.violations(); len(found) > 0 {
		t.Errorf("%d forbidden imports:%s", len(found), short(found))
	}
}

func listImports(t *testing.T, patterns ...string) imports {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps", "-json=ImportPath,Imports"}, patterns...)...)
	cmd.Dir = ".."
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	graph := imports{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return graph
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		graph[p.ImportPath] = p.Imports
	}
}

func TestBoundaryRulesFindForbiddenImports(t *testing.T) {
	const (
		ingest, query, registry = module + "services/ingest", module + "services/query", module + "services/registry"
		events, eventlog        = module + "pkg/events", module + "pkg/eventlog"
		pebble, clickhouse      = "github.com/cockroachdb/pebble/v2", "github.com/ClickHouse/clickhouse-go/v2"
	)
	for name, test := range map[string]struct {
		graph imports
		want  []string
	}{
		"allowed": {
			graph: imports{
				module + "cmd/runledger": {ingest, query, registry, clickhouse},
				ingest:                   {eventlog, ingest + "/internal/fold"},
				query:                    {eventlog, clickhouse, module + "pkg/tables"},
				registry:                 {registry + "/ledger"},
				registry + "/ledger":     {pebble},
				eventlog:                 {events},
				events:                   {"google.golang.org/protobuf/proto"},
			},
		},
		"service to service": {
			graph: imports{query: {ingest}},
			want:  []string{"a service imports no other service: " + query + " -> " + ingest},
		},
		"service to a part of a service through a library": {
			graph: imports{query: {"example.org/glue"}, "example.org/glue": {ingest + "/fold"}},
			want:  []string{"a service imports no other service: " + query + " -> example.org/glue -> " + ingest + "/fold"},
		},
		"events to ours": {
			graph: imports{events: {eventlog}},
			want:  []string{"pkg/events imports nothing of ours and no database: " + events + " -> " + eventlog},
		},
		"events to a database": {
			graph: imports{events: {"database/sql"}},
			want:  []string{"pkg/events imports nothing of ours and no database: " + events + " -> database/sql"},
		},
		"ClickHouse in ingest, two steps away": {
			graph: imports{ingest: {eventlog}, eventlog: {"example.org/glue"}, "example.org/glue": {"github.com/ClickHouse/ch-go"}},
			want:  []string{"no ClickHouse in ingest: " + ingest + " -> " + eventlog + " -> example.org/glue -> github.com/ClickHouse/ch-go"},
		},
		"engine in ingest": {
			graph: imports{ingest: {module + "pkg/chdb"}},
			want:  []string{"no ClickHouse in ingest: " + ingest + " -> " + module + "pkg/chdb"},
		},
		"Pebble in query": {
			graph: imports{query: {pebble}},
			want:  []string{"Pebble is the registry's alone: " + query + " -> " + pebble},
		},
		"pkg to a service": {
			graph: imports{eventlog: {registry}},
			want: []string{
				"only cmd/runledger wires services: " + eventlog + " -> " + registry,
				"pkg imports no service and no command: " + eventlog + " -> " + registry,
			},
		},
		"load test to a service": {
			graph: imports{module + "loadtest": {ingest}},
			want:  []string{"only cmd/runledger wires services: " + module + "loadtest -> " + ingest},
		},
		"another command to a service": {
			graph: imports{module + "cmd/other": {ingest}},
			want:  []string{"only cmd/runledger wires services: " + module + "cmd/other -> " + ingest},
		},
		"a name that only begins alike": {
			graph: imports{ingest: {"github.com/ClickHouseLike/x"}, module + "pkg/eventsomething": {events}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.graph.violations(); !slices.Equal(got, test.want) {
				t.Errorf("violations\n got %s\nwant %s", fmt.Sprint(got), fmt.Sprint(test.want))
			}
		})
	}
}

// TestHandlersReadPathsWithPathParam: Echo's own parameters may or may not be escaped.
func TestHandlersReadPathsWithPathParam(t *testing.T) {
	echoes := regexp.MustCompile(`\bec?\.Param(Values)?\(|\bc\.Param(Values)?\(`)
	calls := 0
	for _, tree := range []string{"../pkg", "../services", "../cmd"} {
		err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			calls += bytes.Count(text, []byte("httpapi.PathParam("))
			if echoes.Match(text) && filepath.Base(path) != "pathparam.go" {
				t.Errorf("%s reads a path parameter without httpapi.PathParam", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if calls < 10 {
		t.Errorf("only %d calls were found", calls)
	}
}
