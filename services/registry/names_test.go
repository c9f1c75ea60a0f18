package registry_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestEveryRouteReachesTheNameThatWasRegistered: a model is reached under exactly its
// name by every route that has it in its path. No name is another one that was
// unescaped or escaped once more, so that a route that does either finds none.
func TestEveryRouteReachesTheNameThatWasRegistered(t *testing.T) {
	s := newServer(t)
	bodies := map[string]fields{ // of the writes
		"PUT /api/v1/models/:name/gates/stages/:target":           {"approvals": 1},
		"PUT /api/v1/models/:name/gates/aliases/:target":          {"approvals": 1},
		"POST /api/v1/models/:name/versions/:version/approval":    {"status": "Approved"},
		"POST /api/v1/models/:name/versions/:version/evaluations": {"name": "e", "metrics": fields{"f1": 1}, "dataset": fields{"digest": "d"}},
		"POST /api/v1/models/:name/rollback":                      {"reason": "worse", "dry_run": true},
	}
	queries := map[string]fields{
		"GET /api/v1/models/:name/lineage":     {"version": "1"},
		"GET /api/v1/models/:name/evaluations": {"versions": "1"},
	}
	routes := 0
	for _, name := range []string{
		"a%", "b%25", "c%2Fc", "d%20d", "e+e", "f f", "g#g", "h?h", "i;i", "jéj", "k🦆k", "l%zz", "m&m=m", `n\n`, "% %25 %2F + # ? ; é 🦆",
	} {
		s.must("POST", "registered-models/create", fields{"name": name})
		s.must("POST", "model-versions/create", fields{"name": name, "source": "s3://bucket/model"})
		bodies["POST /api/v1/models/:name/rollback"]["to"] = s.size()
		// The gates are read and removed after they are there.
		for _, method := range []string{"PUT", "POST", "GET", "DELETE"} {
			for _, r := range s.echo.Routes() {
				if r.Method != method || !strings.Contains(r.Path, ":name") {
					continue
				}
				routes++
				target := "champion"
				if strings.Contains(r.Path, "stages") {
					target = "Production"
				}
				path := strings.NewReplacer(":name", url.PathEscape(name), ":version", "1", ":target", target).Replace(r.Path)
				key := r.Method + " " + r.Path
				body := bodies[key]
				if method == http.MethodGet {
					body = queries[key]
				}
				if body == nil && (method == "PUT" || method == "POST") {
					t.Fatalf("%s is new: say here what its body is", key)
				}
				if a := s.raw(method, path, body, as("ann")...); a.status != http.StatusOK {
					t.Errorf("%s for the model %q: %d %v", key, name, a.status, a.body)
				}
			}
		}
	}
	if routes < 15*14 {
		t.Errorf("only %d requests were made", routes)
	}
}
