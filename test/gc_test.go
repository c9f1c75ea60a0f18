package test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// artifactFiles is where the server takes files.
const artifactFiles = "/api/2.0/mlflow-artifacts/artifacts/"

// collect runs `runledger gc` against a server, and returns its exit status and
// what it said.
func (c *client) collect(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := launch(t, append([]string{"gc", "--server", c.base}, args...)...)
	status = p.wait(t, startTimeout)
	return status, p.stdout.String(), p.stderr.String()
}

// put puts a file into the store.
func (c *client) put(t *testing.T, path, content string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, c.base+artifactFiles+path, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("upload of %s: %s, %v", path, resp.Status, err)
	}
}

func (c *client) mustPost(t *testing.T, path string, body object) {
	t.Helper()
	if err := c.post(t.Context(), path, body); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// fullRun makes a run that has something in every table, and two files.
func (c *client) fullRun(t *testing.T, experimentID, name string) string {
	t.Helper()
	id, err := c.createRun(t.Context(), experimentID, name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var points []metric
	for step := range 10 {
		points = append(points, metric{Key: "loss", Value: number(step), Timestamp: int64(1000 + step), Step: int64(step)})
	}
	if err := c.logBatch(t.Context(), id, points, []pair{{"p", name}}, []pair{{"t", name}}); err != nil {
		t.Fatal(err)
	}
	c.mustPost(t, "runs/log-inputs", object{"run_id": id, "datasets": []object{{
		"dataset": object{"name": "d", "digest": "1", "source_type": "local", "source": "s"}, "tags": []object{},
	}}})
	c.put(t, experimentID+"/"+id+"/artifacts/deep/er/a.txt", "four")
	c.put(t, experimentID+"/"+id+"/artifacts/b.txt", "sixsix")
	return id
}

// fullModel makes a logged model of a run, with a point and a file.
func (c *client) fullModel(t *testing.T, experimentID, runID string) string {
	t.Helper()
	answer, _, err := do[struct {
		Model struct {
			Info struct {
				ID string `json:"model_id"`
			} `json:"info"`
		} `json:"model"`
	}](t.Context(), c, "POST", api+"logged-models", object{"experiment_id": experimentID, "name": "m", "source_run_id": runID})
	if err != nil {
		t.Fatal(err)
	}
	id := answer.Model.Info.ID
	c.mustPost(t, "runs/log-batch", object{"run_id": runID, "metrics": []object{{"key": "loss", "value": 1, "timestamp": 5, "step": 99, "model_id": id}}})
	c.mustPost(t, "runs/outputs", object{"run_id": runID, "models": []object{{"model_id": id, "step": 1}}})
	c.put(t, experimentID+"/models/"+id+"/artifacts/MLmodel", "model")
	return id
}

// everything returns all that the server says of experiments, whatever their
// stage, and of a few runs and models.
func (c *client) everything(t *testing.T, experiments, runs, models []string) string {
	t.Helper()
	var all strings.Builder
	keep := func(method, path string, body object) {
		answer, _, err := do[any](t.Context(), c, method, path, body)
		if err != nil && code(err) == "" {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %s %v: %v %v\n", method, path, body, answer, err)
	}
	keep("POST", api+"experiments/search", object{"view_type": "ALL", "max_results": 1000})
	keep("POST", api+"runs/search", object{"experiment_ids": experiments, "run_view_type": "ALL", "max_results": 1000})
	keep("POST", api+"logged-models/search", object{"experiment_ids": experiments})
	keep("POST", api+"experiments/search-datasets", object{"experiment_ids": experiments})
	for _, id := range experiments {
		keep("GET", api+"experiments/get?experiment_id="+id, nil)
	}
	for _, id := range runs {
		keep("GET", api+"runs/get?run_id="+id, nil)
		keep("GET", api+"metrics/get-history?"+url.Values{"run_id": {id}, "metric_key": {"loss"}}.Encode(), nil)
		keep("GET", api+"artifacts/list?run_id="+id, nil)
	}
	for _, id := range models {
		keep("GET", api+"logged-models/"+id+"?allow_deleted=true", nil)
	}
	return all.String()
}

func TestGCRemovesWhatIsDeletedForGood(t *testing.T) {
	dir := t.TempDir()
	p := up(t, dir)
	c := p.client(t)
	experiment := func(name string) string {
		id, err := c.createExperiment(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	mixed, whole := experiment("mixed"), experiment("whole")
	kept, gone, over := c.fullRun(t, mixed, "kept"), c.fullRun(t, mixed, "gone"), c.fullRun(t, whole, "over")
	keptModel, goneModel, overModel := c.fullModel(t, mixed, kept), c.fullModel(t, mixed, kept), c.fullModel(t, whole, over)
	c.mustPost(t, "runs/delete", object{"run_id": gone})
	c.mustPost(t, "experiments/delete", object{"experiment_id": whole})
	if _, _, err := do[any](t.Context(), c, "DELETE", api+"logged-models/"+goneModel, nil); err != nil {
		t.Fatal(err)
	}
	experiments, runs, models := []string{mixed, whole}, []string{kept, gone, over}, []string{keptModel, goneModel, overModel}
	show := func() string { return c.everything(t, experiments, runs, models) }
	before := show()
	expect := func(wantStatus int, want []string, args ...string) {
		t.Helper()
		status, stdout, stderr := c.collect(t, args...)
		if status != wantStatus {
			t.Errorf("gc %v: exit status %d, want %d", args, status, wantStatus)
		}
		for _, part := range want {
			if !strings.Contains(stdout+stderr, part) {
				t.Errorf("gc %v does not say %q:\n%s%s", args, part, stdout, stderr)
			}
		}
	}
	const all = "1 experiments, 2 runs with 21 points, 2 logged models, 6 artifact files of 30 bytes"

	// What is refused, and what is only asked for, changes nothing.
	expect(0, []string{"Would remove " + all, "Nothing was changed", "--dry-run"}, "--dry-run")
	expect(0, []string{"Removed 0 experiments, 0 runs"}, "--older-than", "1d2h3m4.5s")
	expect(1, []string{"Run " + kept + " is not in `deleted`", "nothing was removed"}, "--run-ids", gone+","+kept)
	expect(1, []string{"Run " + gone + " is not older", "26h3m4s"}, "--run-ids", gone, "--older-than", "1d2h3m4s")
	expect(1, []string{"Experiment " + mixed + " is not in `deleted`"}, "--experiment-ids", mixed+","+whole)
	expect(1, []string{"not found"}, "--run-ids", strings.Repeat("0", 32))
	expect(1, []string{"--older-than"}, "--older-than", "soon")
	if after := show(); after != before {
		t.Fatalf("changed from\n%s\nto\n%s", before, after)
	}

	expect(0, []string{"Removed 0 experiments, 1 runs with 10 points, 0 logged models, 2 artifact files of 10 bytes"}, "--run-ids", gone, "--reason", "tidy up")
	expect(0, []string{"Removed 1 experiments, 1 runs with 11 points, 1 logged models, 3 artifact files of 15 bytes"}, "--experiment-ids", whole)
	expect(0, []string{"Removed 0 experiments, 0 runs with 0 points, 1 logged models, 1 artifact files of 5 bytes"})
	expect(0, []string{"Removed 0 experiments, 0 runs with 0 points, 0 logged models, 0 artifact files"})

	// It is as if it had never been.
	for name, err := range map[string]error{
		"get run":          second(do[any](t.Context(), c, "GET", api+"runs/get?run_id="+gone, nil)),
		"restore run":      c.post(t.Context(), "runs/restore", object{"run_id": gone}),
		"delete run":       c.post(t.Context(), "runs/delete", object{"run_id": gone}),
		"log a metric":     c.logMetric(t.Context(), gone, metric{Key: "loss", Value: 1, Timestamp: 1}),
		"list artifacts":   second(do[any](t.Context(), c, "GET", api+"artifacts/list?run_id="+over, nil)),
		"get experiment":   second(do[any](t.Context(), c, "GET", api+"experiments/get?experiment_id="+whole, nil)),
		"get by name":      second(do[any](t.Context(), c, "GET", api+"experiments/get-by-name?experiment_name=whole", nil)),
		"restore it":       c.post(t.Context(), "experiments/restore", object{"experiment_id": whole}),
		"create a run":     second(do[any](t.Context(), c, "POST", api+"runs/create", object{"experiment_id": whole})),
		"get model":        second(do[any](t.Context(), c, "GET", api+"logged-models/"+goneModel+"?allow_deleted=true", nil)),
		"finalize model":   second(do[any](t.Context(), c, "PATCH", api+"logged-models/"+overModel, object{"model_id": overModel, "status": "LOGGED_MODEL_READY"})),
		"link to a model":  c.post(t.Context(), "runs/log-batch", object{"run_id": kept, "metrics": []object{{"key": "x", "value": 1, "timestamp": 5, "model_id": goneModel}}}),
		"model's artifact": second(do[any](t.Context(), c, "GET", api+"logged-models/"+goneModel+"/artifacts/directories", nil)),
	} {
		if code(err) != "RESOURCE_DOES_NOT_EXIST" {
			t.Errorf("%s: %v, want RESOURCE_DOES_NOT_EXIST", name, err)
		}
	}
	after := show()
	for _, id := range []string{gone, over, goneModel, overModel, "whole"} {
		for line := range strings.Lines(after) {
			// The answer, not the question.
			if _, answer, _ := strings.Cut(line, ": "); strings.Contains(answer, id) && !strings.Contains(answer, "RESOURCE_DOES_NOT_EXIST") && !strings.Contains(line, kept) {
				t.Errorf("%s is still shown: %s", id, line)
			}
		}
	}
	if points, _, err := c.history(t.Context(), gone, "loss"); err != nil || len(points) > 0 {
		t.Errorf("history of the purged run: %v, %v", points, err)
	}
	if got := files(t, filepath.Join(dir, "artifacts")); len(got) != 3 {
		t.Errorf("the store holds %v, want the 3 files of what was kept", got)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "artifacts", mixed)); err != nil || len(left) != 2 {
		t.Errorf("directories of the experiment: %v, %v; want those of the kept run and of models", left, err)
	}
	// The name is free, the id is not used again. A repeated delete of a mixed
	// experiment meets a purged run.
	if again := experiment("whole"); again == whole {
		t.Errorf("the id %s is used again", again)
	}
	c.mustPost(t, "experiments/delete", object{"experiment_id": mixed})
	c.mustPost(t, "experiments/restore", object{"experiment_id": mixed})

	after = show()
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)
	verifyTables(t, dir)
	if err := os.RemoveAll(filepath.Join(dir, "clickhouse")); err != nil {
		t.Fatal(err)
	}
	p = up(t, dir)
	c = p.client(t)
	if rebuilt := c.everything(t, experiments, runs, models); rebuilt != after {
		t.Errorf("rebuilt from the log it is\n%s\nand was\n%s", rebuilt, after)
	}
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)
	verifyTables(t, dir)
}

func second(_ any, _ http.Header, err error) error { return err }

// files returns the paths of all files below a directory.
func files(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}

// A server that is killed while gc is at work loses nothing else, and the next
// gc completes what was begun.
func TestGCIsCompletedAfterAKill(t *testing.T) {
	const runs, kills = 240, 4
	dir := t.TempDir()
	p := up(t, dir)
	c := p.client(t)
	experiment, err := c.createExperiment(t.Context(), "sweep")
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for i := range runs {
		if i%40 == 0 {
			kept = append(kept, c.fullRun(t, experiment, fmt.Sprint("run ", i)))
			continue
		}
		id, err := c.createRun(t.Context(), experiment, fmt.Sprint("run ", i), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.logMetric(t.Context(), id, metric{Key: "loss", Value: 1, Timestamp: 1}); err != nil {
			t.Fatal(err)
		}
		c.put(t, experiment+"/"+id+"/artifacts/a.txt", "four")
		c.mustPost(t, "runs/delete", object{"run_id": id})
	}
	left := func(ctx context.Context) (n int) {
		page, _, err := do[struct {
			Candidates []any `json:"candidates"`
		}](ctx, c, "GET", "/api/v1/gc/candidates", nil)
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Candidates)
	}
	due := left(t.Context())
	if due != runs-len(kept) {
		t.Fatalf("%d candidates, want %d", due, runs-len(kept))
	}
	store := filepath.Join(dir, "artifacts", experiment)
	stored := func() int {
		entries, err := os.ReadDir(store)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	broken := 0
	for range kills {
		begin := stored()
		gc := launch(t, "gc", "--server", c.base)
		for deadline := time.Now().Add(startTimeout); stored() == begin; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("gc removes nothing")
			}
		}
		p.kill(t)
		status := gc.wait(t, startTimeout)
		p = up(t, dir)
		c = p.client(t)
		due = left(t.Context())
		t.Logf("gc ended with status %d; %d are left: %s", status, due, gc.stderr.String())
		if due == 0 {
			break
		}
		broken++
	}
	if broken == 0 {
		t.Error("no gc was broken off")
	}
	if status, stdout, stderr := c.collect(t); status != 0 {
		t.Fatalf("the last gc: %d\n%s%s", status, stdout, stderr)
	}
	if n := left(t.Context()); n != 0 {
		t.Errorf("%d candidates are left", n)
	}
	if got := files(t, filepath.Join(dir, "artifacts")); len(got) != 2*len(kept) {
		t.Errorf("%d files are left, want %d", len(got), 2*len(kept))
	}
	shown, _, err := c.searchRuns(t.Context(), experiment)
	if err != nil || len(shown) != len(kept) {
		t.Errorf("%d runs are left, %v; want %d", len(shown), err, len(kept))
	}
	for _, id := range kept {
		if points, _, err := c.history(t.Context(), id, "loss"); err != nil || len(points) != 10 {
			t.Errorf("run %s has %d points, %v; want 10", id, len(points), err)
		}
	}
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)
	verifyTables(t, dir)
}
