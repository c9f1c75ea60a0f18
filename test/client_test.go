package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const requestTimeout = 60 * time.Second

// client speaks MLflow's REST API and Runledger's own, over routes and field
// names that are written out here: it shares none with the server.
type client struct {
	base string
	http *http.Client
}

func newClient(base string) *client {
	return &client{base: base, http: &http.Client{
		Timeout:   requestTimeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: 16},
	}}
}

// apiError is an answer that is not a 200.
type apiError struct {
	Status     int
	RetryAfter string
	Code       string `json:"error_code"`
	Message    string `json:"message"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// code returns the error code of an answer, "" when there was none.
func code(err error) string {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e.Code
	}
	return ""
}

// object is a JSON object of a request.
type object = map[string]any

// headers of a request beside the content type.
const (
	idempotencyKey = "Idempotency-Key"
	reason         = "Runledger-Reason"
)

// do sends a request and decodes its answer, when it is a 200, into a T.
func do[T any](ctx context.Context, c *client, method, path string, body object, header ...string) (answer T, h http.Header, err error) {
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return answer, nil, err
		}
		reader = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return answer, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer, nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer, resp.Header, fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		failed := &apiError{Status: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After")}
		if err := json.Unmarshal(data, failed); err != nil {
			failed.Message = string(data)
		}
		return answer, resp.Header, failed
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return answer, resp.Header, fmt.Errorf("decode the answer to %s %s: %w: %.200s", method, path, err, data)
	}
	return answer, resp.Header, nil
}

// upload writes an artifact of a run.
func (c *client) upload(ctx context.Context, experiment, run, path, content string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+artifactPath(experiment, run, path), strings.NewReader(content))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		failed := &apiError{Status: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After")}
		_ = json.Unmarshal(data, failed) // whatever else it says
		return failed
	}
	return err
}

func artifactPath(experiment, run, path string) string {
	return "/api/2.0/mlflow-artifacts/artifacts/" + experiment + "/" + run + "/artifacts/" + path
}

// artifact is one that the log has of a run.
type artifact struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

// artifacts returns what the log has of a run's artifacts.
func (c *client) artifacts(ctx context.Context, run string) ([]artifact, error) {
	answer, _, err := do[struct {
		Artifacts []artifact `json:"artifacts"`
	}](ctx, c, http.MethodGet, "/api/v1/artifacts?run_id="+run, nil)
	return answer.Artifacts, err
}

// get returns the status and the body of any page.
func (c *client) get(ctx context.Context, path string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// outcome is what a client knows of a write.
type outcome int

const (
	refused  outcome = iota // it must have left no trace
	doubtful                // it is there as a whole, or not at all
	acked                   // it is there
)

// judge tells what an error says about a write. What a server answers with a
// status of its own making (503) may have been committed; a connection that was
// never made carried nothing.
func judge(err error) outcome {
	if err == nil {
		return acked
	}
	if e, ok := errors.AsType[*apiError](err); ok {
		if e.Status >= http.StatusInternalServerError {
			return doubtful
		}
		return refused
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return refused
	}
	return doubtful
}

// number is a float that may travel as "NaN", "Infinity" or "-Infinity".
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	text := string(bytes.Trim(b, `"`))
	f, err := strconv.ParseFloat(text, 64)
	*n = number(f)
	return err
}

func (n number) MarshalJSON() ([]byte, error) {
	switch f := float64(n); {
	case math.IsNaN(f):
		return []byte(`"NaN"`), nil
	case math.IsInf(f, 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(f, -1):
		return []byte(`"-Infinity"`), nil
	default:
		return json.Marshal(f)
	}
}

type metric struct {
	Key       string `json:"key"`
	Value     number `json:"value"`
	Timestamp int64  `json:"timestamp"`
	Step      int64  `json:"step"`
}

// same returns a form of m that is equal for points that are the same one.
func (m metric) same() string {
	v := float64(m.Value)
	if v == 0 {
		v = 0 // -0 is the same point as 0
	}
	return fmt.Sprintf("%q step %d at %d: %s", m.Key, m.Step, m.Timestamp, strconv.FormatFloat(v, 'g', -1, 64))
}

type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type run struct {
	Info struct {
		RunID          string `json:"run_id"`
		RunName        string `json:"run_name"`
		ExperimentID   string `json:"experiment_id"`
		Status         string `json:"status"`
		StartTime      int64  `json:"start_time"`
		EndTime        int64  `json:"end_time"`
		LifecycleStage string `json:"lifecycle_stage"`
		ArtifactURI    string `json:"artifact_uri"`
		UserID         string `json:"user_id"`
	} `json:"info"`
	Data struct {
		Metrics []metric `json:"metrics"`
		Params  []pair   `json:"params"`
		Tags    []pair   `json:"tags"`
	} `json:"data"`
}

type experiment struct {
	ID               string `json:"experiment_id"`
	Name             string `json:"name"`
	ArtifactLocation string `json:"artifact_location"`
	LifecycleStage   string `json:"lifecycle_stage"`
	CreationTime     int64  `json:"creation_time"`
	LastUpdateTime   int64  `json:"last_update_time"`
	Tags             []pair `json:"tags"`
}

type modelVersion struct {
	Name         string   `json:"name"`
	Version      string   `json:"version"`
	CurrentStage string   `json:"current_stage"`
	Source       string   `json:"source"`
	Aliases      []string `json:"aliases"`
	Tags         []pair   `json:"tags"`
}

type historyEntry struct {
	Index    uint64 `json:"index"`
	Seq      uint64 `json:"seq"`
	Action   string `json:"action"`
	Reason   string `json:"reason"`
	Version  string `json:"version"`
	LeafHash string `json:"leaf_hash"`
}

type treeHead struct {
	Size     uint64 `json:"size"`
	RootHash string `json:"root_hash"`
}

const api = "/api/2.0/mlflow/"

func (c *client) post(ctx context.Context, path string, body object, header ...string) error {
	_, _, err := do[object](ctx, c, http.MethodPost, api+path, body, header...)
	return err
}

func (c *client) createExperiment(ctx context.Context, name string, header ...string) (id string, err error) {
	answer, _, err := do[struct {
		ID string `json:"experiment_id"`
	}](ctx, c, http.MethodPost, api+"experiments/create", object{"name": name}, header...)
	return answer.ID, err
}

func (c *client) experimentByName(ctx context.Context, name string) (experiment, error) {
	answer, _, err := do[struct{ Experiment experiment }](ctx, c, http.MethodGet, api+"experiments/get-by-name?experiment_name="+url.QueryEscape(name), nil)
	return answer.Experiment, err
}

func (c *client) createRun(ctx context.Context, experimentID, name string, start time.Time, header ...string) (id string, err error) {
	answer, _, err := do[struct{ Run run }](ctx, c, http.MethodPost, api+"runs/create", object{
		"experiment_id": experimentID, "run_name": name, "start_time": start.UnixMilli(), "tags": []pair{{"first", name}},
	}, header...)
	return answer.Run.Info.RunID, err
}

func (c *client) logBatch(ctx context.Context, runID string, metrics []metric, params, tags []pair, header ...string) error {
	return c.post(ctx, "runs/log-batch", object{"run_id": runID, "metrics": metrics, "params": params, "tags": tags}, header...)
}

func (c *client) logMetric(ctx context.Context, runID string, m metric, header ...string) error {
	return c.post(ctx, "runs/log-metric", object{"run_id": runID, "key": m.Key, "value": m.Value, "timestamp": m.Timestamp, "step": m.Step}, header...)
}

func (c *client) getRun(ctx context.Context, runID string) (run, bool, error) {
	answer, h, err := do[struct{ Run run }](ctx, c, http.MethodGet, api+"runs/get?run_id="+url.QueryEscape(runID), nil)
	return answer.Run, fresh(h), err
}

// history returns all points of a run's metric in pages, and whether each
// answer was fresh.
func (c *client) history(ctx context.Context, runID, key string) (points []metric, isFresh bool, err error) {
	const pageSize = "5000"
	isFresh = true
	for token := ""; ; {
		query := url.Values{"run_id": {runID}, "metric_key": {key}, "max_results": {pageSize}}
		if token != "" {
			query.Set("page_token", token)
		}
		answer, h, err := do[struct {
			Metrics []metric
			Token   string `json:"next_page_token"`
		}](ctx, c, http.MethodGet, api+"metrics/get-history?"+query.Encode(), nil)
		if err != nil {
			return nil, false, err
		}
		points, isFresh = append(points, answer.Metrics...), isFresh && fresh(h)
		if token = answer.Token; token == "" {
			return points, isFresh, nil
		}
	}
}

// searchRuns returns all runs of experiments, deleted ones too, in pages.
func (c *client) searchRuns(ctx context.Context, experimentIDs ...string) (runs []run, isFresh bool, err error) {
	isFresh = true
	for token := ""; ; {
		answer, h, err := do[struct {
			Runs  []run
			Token string `json:"next_page_token"`
		}](ctx, c, http.MethodPost, api+"runs/search", object{
			"experiment_ids": experimentIDs, "run_view_type": "ALL", "max_results": 100, "page_token": token,
		})
		if err != nil {
			return nil, false, err
		}
		runs, isFresh = append(runs, answer.Runs...), isFresh && fresh(h)
		if token = answer.Token; token == "" {
			return runs, isFresh, nil
		}
	}
}

// searchExperiments returns all experiments, deleted ones too, in pages.
func (c *client) searchExperiments(ctx context.Context) (experiments []experiment, err error) {
	for token := ""; ; {
		answer, _, err := do[struct {
			Experiments []experiment
			Token       string `json:"next_page_token"`
		}](ctx, c, http.MethodPost, api+"experiments/search", object{"view_type": "ALL", "max_results": 100, "page_token": token})
		if err != nil {
			return nil, err
		}
		experiments = append(experiments, answer.Experiments...)
		if token = answer.Token; token == "" {
			return experiments, nil
		}
	}
}

func (c *client) createModel(ctx context.Context, name string, header ...string) error {
	return c.post(ctx, "registered-models/create", object{"name": name}, header...)
}

func (c *client) createVersion(ctx context.Context, name, source string, header ...string) (version string, err error) {
	answer, _, err := do[struct {
		Version modelVersion `json:"model_version"`
	}](ctx, c, http.MethodPost, api+"model-versions/create", object{"name": name, "source": source}, header...)
	return answer.Version.Version, err
}

func (c *client) setAlias(ctx context.Context, name, alias, version string, header ...string) error {
	return c.post(ctx, "registered-models/alias", object{"name": name, "alias": alias, "version": version}, header...)
}

func (c *client) setStage(ctx context.Context, name, version, stage string, header ...string) error {
	return c.post(ctx, "model-versions/transition-stage", object{
		"name": name, "version": version, "stage": stage, "archive_existing_versions": false,
	}, header...)
}

func (c *client) byAlias(ctx context.Context, name, alias string) (modelVersion, error) {
	answer, _, err := do[struct {
		Version modelVersion `json:"model_version"`
	}](ctx, c, http.MethodGet, api+"registered-models/alias?"+url.Values{"name": {name}, "alias": {alias}}.Encode(), nil)
	return answer.Version, err
}

// modelHistory returns all ledger entries of a model in pages, oldest first.
func (c *client) modelHistory(ctx context.Context, name string) (entries []historyEntry, err error) {
	for token := ""; ; {
		query := url.Values{"max_results": {"100"}}
		if token != "" {
			query.Set("page_token", token)
		}
		answer, _, err := do[struct {
			Entries []historyEntry
			Token   string `json:"next_page_token"`
		}](ctx, c, http.MethodGet, "/api/v1/models/"+url.PathEscape(name)+"/history?"+query.Encode(), nil)
		if err != nil {
			return nil, err
		}
		entries = append(entries, answer.Entries...)
		if token = answer.Token; token == "" {
			return entries, nil
		}
	}
}

func (c *client) tree(ctx context.Context) (treeHead, error) {
	head, _, err := do[treeHead](ctx, c, http.MethodGet, "/api/v1/registry/tree", nil)
	return head, err
}

// fresh tells whether an answer has all that was acknowledged before it.
func fresh(h http.Header) bool { return h.Get("Runledger-Stale") == "" }
