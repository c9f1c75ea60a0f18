package query_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"
)

func (f *fixture) candidates(params url.Values) (ids map[string]map[string]uint64, pages int) {
	f.t.Helper()
	ids = map[string]map[string]uint64{}
	for {
		w := f.do(httptest.NewRequest(http.MethodGet, "/api/v1/gc/candidates?"+params.Encode(), nil))
		var page struct {
			Candidates []struct {
				Kind, ID string
				Points   uint64
			} `json:"candidates"`
			NextPageToken string `json:"next_page_token"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != http.StatusOK {
			f.t.Fatalf("candidates: %d %s", w.Code, w.Body)
		}
		pages++
		for _, c := range page.Candidates {
			if ids[c.Kind] == nil {
				ids[c.Kind] = map[string]uint64{}
			}
			if _, ok := ids[c.Kind][c.ID]; ok {
				f.t.Errorf("%s %s is there twice", c.Kind, c.ID)
			}
			ids[c.Kind][c.ID] = c.Points
		}
		if page.NextPageToken == "" {
			return ids, pages
		}
		params.Set("page_token", page.NextPageToken)
	}
}

func TestCandidatesAreWhatIsDeletedForLongEnough(t *testing.T) {
	f := newFixture(t)
	f.project()
	now := time.Now().UnixMilli()
	const hour = 3_600_000
	exec := func(format string, args ...any) {
		t.Helper()
		if err := f.conn.Exec(t.Context(), fmt.Sprintf(format, args...)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(n int) string { return fmt.Sprintf("%032x", n) }
	runs := func(from, count, experiment int, lifecycle string, deleted int64, uri string) {
		t.Helper()
		exec(`INSERT INTO runs (experiment_id, run_id, status, lifecycle, deleted_time, artifact_uri, shard, seq)
			SELECT %d, toUUID(concat('00000000-0000-0000-0000-', leftPad(lower(hex(%d + number)), 12, '0'))), 'RUNNING', '%s', %d, '%s', 0, 1 FROM numbers(%d)`,
			experiment, from, lifecycle, deleted, uri, count)
	}
	exec("INSERT INTO experiments (experiment_id, name, lifecycle, last_update_time, seq) VALUES (1, 'a', 'active', 1, 1), (2, 'b', 'deleted', %d, 1), (3, 'c', 'purged', 0, 1), (4, 'd', 'deleted', %d, 1)", now-2*hour, now)
	runs(1000, 2500, 1, "deleted", now-2*hour, "a")
	runs(10, 1, 1, "deleted", now, "a")
	runs(20, 1, 1, "active", 0, "a")
	runs(30, 1, 1, "purged", 0, "a")
	runs(40, 1, 1, "purged", 0, "")
	runs(50, 1, 2, "active", 0, "a")
	runs(60, 1, 3, "active", 0, "a")
	runs(70, 1, 4, "active", 0, "a")
	f.insertPoints(run(50), point{key: "k", step: 1}, point{key: "k", step: 2})
	exec(`INSERT INTO logged_models (experiment_id, model_id, lifecycle, status, last_update_time, artifact_uri, shard, seq) VALUES
		(1, 'm-old', 'deleted', 'READY', %d, 'a', 0, 1), (1, 'm-young', 'deleted', 'READY', %d, 'a', 0, 1), (2, 'm-with', 'active', 'READY', %d, 'a', 0, 1),
		(1, 'm-left', 'purged', 'READY', 0, 'a', 0, 1), (1, 'm-gone', 'purged', 'READY', 0, '', 0, 1)`, now-2*hour, now, now)

	age := fmt.Sprint(hour)
	got, pages := f.candidates(url.Values{"older_than_ms": {age}})
	if len(got["run"]) != 2503 || len(got["experiment"]) != 1 || len(got["logged_model"]) != 3 || pages != 3 {
		t.Errorf("%d runs, %v, %v in %d pages", len(got["run"]), got["experiment"], got["logged_model"], pages)
	}
	for _, id := range []string{run(1000), run(3499), run(30), run(50), run(60)} {
		if _, ok := got["run"][id]; !ok {
			t.Errorf("run %s is missing", id)
		}
	}
	if n := got["run"][run(50)]; n != 2 {
		t.Errorf("%d points, want 2", n)
	}
	if got, _ := f.candidates(url.Values{}); len(got["run"]) != 2505 || len(got["experiment"]) != 2 || len(got["logged_model"]) != 4 {
		t.Errorf("of any age: %d runs, %v, %v", len(got["run"]), got["experiment"], got["logged_model"])
	}
	if got, _ := f.candidates(url.Values{"experiment_ids": {"2,3"}}); len(got["run"]) != 2 || len(got["experiment"]) != 1 || len(got["logged_model"]) != 1 {
		t.Errorf("of two experiments: %v", got)
	}
	if got, _ := f.candidates(url.Values{"ids": {run(10) + ",m-old," + run(20)}}); len(got["run"]) != 1 || len(got["experiment"]) != 0 || len(got["logged_model"]) != 1 {
		t.Errorf("by id: %v", got)
	}
	for _, bad := range []string{"older_than_ms=-1", "older_than_ms=x", "experiment_ids=x", "page_token=x"} {
		if w := f.do(httptest.NewRequest(http.MethodGet, "/api/v1/gc/candidates?"+bad, nil)); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}

	// Nobody else is shown what is purged.
	search := func(view string) int {
		return len(f.searchAll(map[string]any{"experiment_ids": []string{"1"}, "run_view_type": view, "max_results": 5000}))
	}
	if all, deleted, active := search("ALL"), search("DELETED_ONLY"), search("ACTIVE_ONLY"); all != 2502 || deleted != 2501 || active != 1 {
		t.Errorf("%d runs, %d deleted, %d active", all, deleted, active)
	}
}
