package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/content"
	violations "github.com/pb33f/libopenapi-validator/errors"
	"go.yaml.in/yaml/v3"
)

// contract sends requests to a server and checks them and the answers against
// the OpenAPI document that the server has.
type contract struct {
	*client
	validator  validator.Validator
	operations map[string]*described // by method and path, as in the document
}

type described struct {
	match   *regexp.Regexp // of a path
	answers map[string]any // that the document has, by status
	good    bool           // was exercised with success
	bad     bool           // and with an error of the caller
	canFail bool           // has such errors
	body    bool           // takes one
}

var bracedName = regexp.MustCompile(`\{[^}]*\}`)

func newContract(t *testing.T, c *client) *contract {
	t.Helper()
	_, text, err := c.get(t.Context(), "/api/v1/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(document, config.WithFormatAssertions(),
		config.WithBodyDecoder("application/jsonl", content.DecoderFunc(decodeLines)))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		for _, err := range errs {
			t.Errorf("the document is not OpenAPI 3.1: %s: %s %v", err.Message, err.Reason, err.SchemaValidationErrors)
		}
	}
	var parsed struct {
		Paths map[string]map[string]yaml.Node
	}
	if err := yaml.Unmarshal(text, &parsed); err != nil { // which JSON is
		t.Fatal(err)
	}
	k := &contract{client: c, validator: v, operations: make(map[string]*described)}
	for path, item := range parsed.Paths {
		for method, node := range item {
			if method == "parameters" {
				continue
			}
			var answers struct {
				Responses   map[string]any
				RequestBody map[string]any `yaml:"requestBody"`
			}
			if err := node.Decode(&answers); err != nil {
				t.Fatal(err)
			}
			op := &described{
				match:   regexp.MustCompile("^" + bracedName.ReplaceAllString(path, "[^/]+") + "$"),
				answers: answers.Responses,
				body:    answers.RequestBody != nil,
			}
			for status := range answers.Responses {
				op.canFail = op.canFail || status[0] == '4' && status != "429"
			}
			k.operations[strings.ToUpper(method)+" "+path] = op
		}
	}
	return k
}

// find returns the operation of a request. One without a parameter in its path
// comes first.
func (k *contract) find(method, path string) (found *described) {
	for name, op := range k.operations {
		if m, _, _ := strings.Cut(name, " "); m == method && op.match.MatchString(path) && (found == nil || !strings.Contains(name, "{")) {
			found = op
		}
	}
	return found
}

// ask sends a request and checks the answer, which must have a status. A request
// that is to succeed must be as the document says, too.
func (k *contract) ask(t *testing.T, want int, method, path, body string, header ...string) []byte {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, k.base+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := k.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%s %s %s", method, path, body)
	op := k.find(method, req.URL.EscapedPath())
	switch {
	case resp.StatusCode != want:
		t.Fatalf("%s: %d, want %d: %.500s", name, resp.StatusCode, want, data)
	case op == nil:
		t.Fatalf("%s is not in the document", name)
	case op.answers[strconv.Itoa(want)] == nil:
		t.Fatalf("%s: the document has no answer %d", name, want)
	}
	op.good = op.good || want < 400
	op.bad = op.bad || want >= 400
	if want < 400 {
		again := req.Clone(t.Context())
		if body != "" {
			again.Body = io.NopCloser(strings.NewReader(body))
		}
		if ok, errs := k.validator.ValidateHttpRequest(again); !ok {
			report(t, name+": the request", errs)
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	if ok, errs := k.validator.ValidateHttpResponse(req, resp); !ok {
		report(t, fmt.Sprintf("%s: the answer %.1000s", name, data), errs)
	}
	return data
}

// refused asserts that the document does not allow a request that the server
// refuses.
func (k *contract) refused(t *testing.T, method, path, body string) {
	t.Helper()
	k.ask(t, http.StatusBadRequest, method, path, body)
	req, err := http.NewRequestWithContext(t.Context(), method, k.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if ok, _ := k.validator.ValidateHttpRequest(req); ok {
		t.Errorf("the document allows %s %s %s, which the server refuses", method, path, body)
	}
}

// decodeLines returns the values of JSON Lines as a list, as which the document
// describes them: OpenAPI 3.1 has no other way.
func decodeLines(in *content.DecodeInput) (any, error) {
	values := []any{}
	for d := json.NewDecoder(in.Body); ; {
		var v any
		if err := d.Decode(&v); err == io.EOF {
			return values, nil
		} else if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
}

func report(t *testing.T, what string, errs []*violations.ValidationError) {
	t.Helper()
	for _, err := range errs {
		t.Errorf("%s is not as described: %s: %s", what, err.Message, err.Reason)
		for _, detail := range err.SchemaValidationErrors {
			t.Errorf("  %s %s", detail.FieldPath, detail.Reason)
		}
	}
}

// TestOpenAPI exercises every operation of the OpenAPI document against the
// program, and checks each request and answer against it.
func TestOpenAPI(t *testing.T) {
	c := up(t, t.TempDir(), "--webhook-allow-private", "--webhook-schemes", "http").client(t)
	k := newContract(t, c)
	ctx := t.Context()
	k.ask(t, 404, "GET", "/api/v1/registry/tree-heads/latest", "")
	hooked := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(hooked.Close)
	hook, _, err := do[struct {
		Webhook struct {
			ID string `json:"webhook_id"`
		}
	}](ctx, c, "POST", api+"webhooks", object{"name": "w", "url": hooked.URL, "events": []object{{"entity": "REGISTERED_MODEL", "action": "CREATED"}}})
	if err != nil {
		t.Fatal(err)
	}
	experiment, err := c.createExperiment(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	run := c.fullRun(t, experiment, "r")
	model := c.fullModel(t, experiment, run)
	var points []metric
	for step := range 50 {
		points = append(points, metric{Key: "acc", Value: number(step % 7), Timestamp: int64(1000 + step), Step: int64(step)})
	}
	if err := c.logBatch(ctx, run, points, nil, nil); err != nil {
		t.Fatal(err)
	}

	t.Run("about", func(t *testing.T) {
		k.ask(t, 200, "GET", "/api/v1/openapi.json", "")
		k.ask(t, 200, "GET", "/api/v1/openapi.yaml", "")
		page := string(k.ask(t, 200, "GET", "/api/v1/docs", ""))
		assets := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page, -1)
		if len(assets) < 3 || strings.Contains(page, "//cdn") {
			t.Errorf("the page has assets %v: %s", assets, page)
		}
		for _, m := range assets {
			at, err := url.Parse(m[1])
			if err != nil || at.Host != "" || !strings.HasPrefix(at.Path, "/api/v1/docs/") {
				t.Errorf("the page asks for %s, which is not of this server", m[1])
				continue
			}
			if status, body, err := c.get(ctx, m[1]); err != nil || status != 200 || len(body) == 0 {
				t.Errorf("%s: %d, %d bytes, %v", m[1], status, len(body), err)
			}
		}
	})
	t.Run("charts", func(t *testing.T) {
		k.ask(t, 200, "POST", "/api/v1/series", `{"run_ids": ["`+run+`"], "metric_keys": ["acc"], "smoothing": {"method": "ema", "weight": 0.5}}`)
		k.ask(t, 200, "POST", "/api/v1/series", `{"experiment_ids": ["`+experiment+`"], "metric_keys": ["acc", "loss"], "columns": 3, "smoothing": {"method": "mean", "points": 3}}`)
		k.ask(t, 200, "POST", "/api/v1/series", `{"run_ids": ["`+run+`"], "metric_keys": ["acc"], "x": {"axis": "metric", "metric_key": "loss"}, "range": {"from": 0.5}}`)
		k.refused(t, "POST", "/api/v1/series", `{"run_ids": ["`+run+`"], "metric_keys": ["acc"], "columns": 4001}`)
		k.refused(t, "POST", "/api/v1/series", `{"run_ids": ["`+run+`"], "metric_keys": ["acc"], "colums": 4}`)
		k.refused(t, "POST", "/api/v1/series", `{"run_ids": ["`+run+`"], "experiment_ids": ["1"], "metric_keys": ["acc"]}`)
		k.refused(t, "POST", "/api/v1/series", `{"metric_keys": ["acc"]}`)
		k.ask(t, 404, "POST", "/api/v1/series", `{"run_ids": ["`+run+`"], "metric_keys": ["none"]}`)
	})
	t.Run("sweeps", func(t *testing.T) { k.sweeps(t, experiment, run) })
	t.Run("audit", func(t *testing.T) {
		k.ask(t, 200, "GET", "/api/v1/audit?max_results=2&order=oldest&from=2020-01-01T00:00:00Z", "")
		k.ask(t, 200, "GET", "/api/v1/audit?type=runledger.run_created&type=runledger.experiment_created&experiment_id="+experiment, "")
		k.ask(t, 200, "GET", "/api/v1/audit?format=jsonl", "")
		k.ask(t, 200, "GET", "/api/v1/audit?format=csv", "")
		k.refused(t, "GET", "/api/v1/audit?max_results=10001", "")
		k.refused(t, "GET", "/api/v1/audit?order=random", "")
		k.ask(t, 400, "GET", "/api/v1/audit?colour=red", "")
		k.ask(t, 200, "GET", "/api/v1/audit/counts?by=actor,day,type", "")
		k.ask(t, 200, "GET", "/api/v1/audit/counts?by=entity_id,entity_kind,experiment_id", "")
		k.refused(t, "GET", "/api/v1/audit/counts", "")
		k.ask(t, 200, "GET", "/api/v1/lineage?run_id="+run, "")
		k.ask(t, 200, "GET", "/api/v1/lineage?dataset_digest=1&dataset_name=d&max_results=1", "")
		k.refused(t, "GET", "/api/v1/lineage?commit=abc", "")
	})
	t.Run("artifacts", func(t *testing.T) {
		k.ask(t, 200, "GET", "/api/v1/artifacts?max_results=1&run_id="+run, "")
		k.ask(t, 200, "GET", "/api/v1/artifacts?model_id="+model, "")
		k.refused(t, "GET", "/api/v1/artifacts?max_results=0&run_id="+run, "")
		k.ask(t, 404, "GET", "/api/v1/artifacts?run_id="+strings.Repeat("0", 32), "")
	})
	t.Run("registry", func(t *testing.T) { k.registry(t) })
	t.Run("promotion", func(t *testing.T) { k.promotion(t, run) })
	t.Run("webhooks", func(t *testing.T) {
		path := "/api/v1/webhooks/" + hook.Webhook.ID + "/deliveries"
		eventually(t, 10*time.Second, func() string { return "no delivery" }, func(ctx context.Context) bool {
			_, body, err := c.get(ctx, path)
			return err == nil && bytes.Contains(body, []byte("delivery_id"))
		})
		k.ask(t, 200, "GET", path+"?max_results=1", "")
		k.refused(t, "GET", path+"?max_results=1001", "")
		k.ask(t, 404, "GET", "/api/v1/webhooks/none/deliveries", "")
	})
	t.Run("delete for good", func(t *testing.T) {
		k.ask(t, 200, "GET", "/api/v1/gc/candidates", "")
		c.mustPost(t, "experiments/delete", object{"experiment_id": experiment})
		k.ask(t, 200, "GET", "/api/v1/gc/candidates?older_than_ms=0&experiment_ids="+experiment+"&ids="+run+","+model, "")
		k.refused(t, "GET", "/api/v1/gc/candidates?older_than_ms=-1", "")
		for _, path := range []string{"experiments/" + experiment, "runs/" + run, "logged-models/" + model} {
			for _, method := range []string{"GET", "POST"} {
				k.refused(t, method, "/api/v1/gc/"+path+"?older_than_ms=-1", "")
				k.ask(t, 200, method, "/api/v1/gc/"+path, "")
			}
		}
		k.ask(t, 404, "POST", "/api/v1/gc/runs/"+strings.Repeat("0", 32), "")
	})
	t.Run("misspelt fields", func(t *testing.T) { k.misspelt(t) })
	for name, op := range k.operations {
		if !op.good {
			t.Errorf("%s was not exercised with success", name)
		}
		if op.canFail && !op.bad {
			t.Errorf("%s was not exercised with an error", name)
		}
	}
}

// misspelt sends every operation that takes a body a field that it does not have,
// which must be refused by its name.
func (k *contract) misspelt(t *testing.T) {
	example := strings.NewReplacer("stages/{target}", "stages/Production", "{target}", "champion", "{name}", "m", "{version}", "1")
	bodies := 0
	for name, op := range k.operations {
		if !op.body {
			continue
		}
		bodies++
		method, path, _ := strings.Cut(name, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, k.base+example.Replace(path), strings.NewReader(`{"misspelt": 1}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := k.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusBadRequest || !bytes.Contains(data, []byte("Unknown field 'misspelt' in the request body.")) {
			t.Errorf("%s with a misspelt field: %d %s %v", name, resp.StatusCode, data, err)
		}
	}
	if bodies < 10 {
		t.Errorf("only %d operations with a body were found", bodies)
	}
}

// registry exercises the history and the proofs of the registry.
func (k *contract) registry(t *testing.T) {
	ctx := t.Context()
	k.ask(t, 200, "GET", "/api/v1/registry/tree", "")
	if err := k.createModel(ctx, "m"); err != nil {
		t.Fatal(err)
	}
	version, err := k.createVersion(ctx, "m", "s3://b/m")
	if err != nil {
		t.Fatal(err)
	}
	for _, stage := range []string{"Staging", "Production"} {
		if err := k.setStage(ctx, "m", version, stage); err != nil {
			t.Fatal(err)
		}
	}
	k.ask(t, 200, "GET", "/api/v1/models/m/history?max_results=2", "")
	k.ask(t, 200, "GET", "/api/v1/models/m/history?as_of=3", "")
	k.refused(t, "GET", "/api/v1/models/m/history?max_results=0", "")
	k.ask(t, 404, "GET", "/api/v1/models/none/history", "")
	rollbacks := []string{"/api/v1/models/m/rollback", "/api/v1/registry/rollback"}
	for i, path := range rollbacks {
		to := 4 - i // the webhook was the first entry
		k.ask(t, 200, "POST", path, fmt.Sprintf(`{"to": "%d", "dry_run": true}`, to))
		k.refused(t, "POST", path, `{"dry_run": true}`)
		k.refused(t, "POST", path, `{"to": 3, "reason": "r", "dryrun": true}`)
		k.ask(t, 409, "POST", path, `{"to": 3, "reason": "r"}`, "Runledger-Expect-Seq", "1")
		k.ask(t, 200, "POST", path, fmt.Sprintf(`{"to": %d}`, to), reason, "try", idempotencyKey, path)
	}
	k.ask(t, 404, "POST", "/api/v1/models/none/rollback", `{"to": 1, "reason": "r"}`)
	k.ask(t, 201, "POST", "/api/v1/registry/tree-heads", "")
	k.ask(t, 200, "POST", "/api/v1/registry/tree-heads", "")
	k.ask(t, 200, "GET", "/api/v1/registry/tree-heads", "")
	k.ask(t, 400, "GET", "/api/v1/registry/tree-heads?page_token=x", "")
	k.ask(t, 200, "GET", "/api/v1/registry/tree-heads/latest", "")
	k.ask(t, 200, "GET", "/api/v1/registry/key", "")
	k.ask(t, 200, "GET", "/api/v1/registry/entries?from=1&max_results=2", "")
	k.ask(t, 200, "GET", "/api/v1/registry/entries?from=1000", "")
	k.refused(t, "GET", "/api/v1/registry/entries?max_results=1001", "")
	k.ask(t, 200, "GET", "/api/v1/registry/proofs/inclusion?entry=1&size=3", "")
	k.ask(t, 200, "GET", "/api/v1/registry/proofs/inclusion?entry=0&size=1", "")
	k.refused(t, "GET", "/api/v1/registry/proofs/inclusion", "")
	k.ask(t, 200, "GET", "/api/v1/registry/proofs/consistency?from=2&to=3", "")
	k.ask(t, 200, "GET", "/api/v1/registry/proofs/consistency?from=3&to=3", "")
	k.refused(t, "GET", "/api/v1/registry/proofs/consistency?from=0", "")
}

// sweeps exercises what is asked about many runs.
func (k *contract) sweeps(t *testing.T, experiment, run string) {
	for _, kind := range []string{"metrics", "parameters", "tags"} {
		k.ask(t, 200, "GET", "/api/v1/experiments/"+experiment+"/catalogue?max_results=1&kind="+kind, "")
	}
	k.refused(t, "GET", "/api/v1/experiments/"+experiment+"/catalogue?kind=artifacts", "")
	k.ask(t, 404, "GET", "/api/v1/experiments/999/catalogue", "")
	all := `"experiment_ids": ["` + experiment + `"]`
	best := `"objective": {"metric_key": "acc", "goal": "maximize"}`
	both := `"objectives": [{"metric_key": "acc", "goal": "maximize"}, {"metric_key": "loss", "at": "min"}]`
	for path, body := range map[string]string{
		"runs/compare":       all,
		"sweeps/curves":      all + `, "metric_keys": ["acc"], "group_by": ["params.p", "tags.none"], "columns": 5, "quantiles": [0.5]`,
		"sweeps/top":         all + `, "k": 2, "group_by": ["params.p"], ` + best,
		"sweeps/coordinates": all + `, "dimensions": ["params.p", "tags.t"], ` + both,
		"sweeps/importance":  all + `, "attributes": ["params.p"], ` + best,
		"sweeps/pareto":      all + `, ` + both,
		"sweeps/progress":    all + `, ` + best,
	} {
		path = "/api/v1/" + path
		k.ask(t, 200, "POST", path, "{"+body+"}")
		k.ask(t, 200, "POST", path, "{"+strings.Replace(body, all, `"run_ids": ["`+run+`"]`, 1)+"}")
		k.refused(t, "POST", path, "{"+body+`, "colour": "red"}`)
		k.refused(t, "POST", path, "{"+strings.TrimPrefix(strings.TrimPrefix(body, all), ", ")+"}")
		k.ask(t, 404, "POST", path, "{"+strings.Replace(body, all, `"run_ids": ["`+strings.Repeat("0", 32)+`"]`, 1)+"}")
	}
	k.refused(t, "POST", "/api/v1/sweeps/top", "{"+all+`, "k": 101, `+best+"}")
	k.refused(t, "POST", "/api/v1/sweeps/top", "{"+all+`, "group_by": ["lr"], `+best+"}")
	k.refused(t, "POST", "/api/v1/sweeps/pareto", "{"+all+`, "objectives": [{"metric_key": "acc"}]}`)
}

// promotion exercises gates, approvals, evaluations and lineage of a model.
func (k *contract) promotion(t *testing.T, run string) {
	if err := k.createModel(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	k.mustPost(t, "model-versions/create", object{"name": "p", "source": "runs:/" + run + "/model", "run_id": run})
	const model = "/api/v1/models/p"
	named := []string{"Authorization", "Basic YWRhOg=="} // ada
	ask := func(want int, method, path, body string) {
		t.Helper()
		k.ask(t, want, method, model+path, body, named...)
	}
	for _, path := range []string{"/gates/stages/Production", "/gates/aliases/champion"} {
		ask(404, "GET", path, "")
		ask(404, "DELETE", path, "")
		ask(200, "PUT", path, `{"approvals": 1, "required_tags": {"k": ""}}`)
		k.refused(t, "PUT", model+path, `{"approvals": 21}`)
		k.refused(t, "PUT", model+path, `{"approval": 1}`)
		ask(200, "GET", path, "")
	}
	ask(200, "GET", "/gates", "")
	ask(200, "DELETE", "/gates/aliases/champion", "")
	ask(200, "DELETE", "/gates/stages/Production", "")
	k.ask(t, 404, "GET", "/api/v1/models/none/gates", "")
	ask(200, "GET", "/versions/1/approval", "")
	ask(200, "POST", "/versions/1/approval", `{"status": "PendingManualApproval", "comment": "c"}`)
	ask(200, "POST", "/versions/1/approval", `{"status": "Rejected"}`)
	ask(400, "POST", "/versions/1/approval", `{"status": "Approved"}`)
	k.refused(t, "POST", model+"/versions/1/approval", `{"status": "Perhaps"}`)
	ask(404, "GET", "/versions/9/approval", "")
	ask(200, "POST", "/versions/1/evaluations", `{"name": "night", "metrics": {"f1": 0.5}, "dataset": {"name": "d", "digest": "1"}}`)
	ask(200, "GET", "/versions/1/evaluations", "")
	k.refused(t, "POST", model+"/versions/1/evaluations", `{"name": "night", "metrics": {"f1": "NaN"}}`)
	ask(404, "GET", "/versions/9/evaluations", "")
	ask(200, "GET", "/evaluations?versions=1", "")
	ask(404, "GET", "/evaluations?versions=9", "")
	ask(200, "GET", "/lineage?version=1", "")
	ask(400, "GET", "/lineage?alias=none", "")
	ask(404, "GET", "/lineage?version=9", "")
}
