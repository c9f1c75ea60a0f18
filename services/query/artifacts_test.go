package query_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/runledger/runledger/pkg/events"
)

type wireArtifacts struct {
	Artifacts []struct {
		Path, SHA256, Actor string
		ContentType         string `json:"content_type"`
		Size                int64
		UploadedAt          time.Time `json:"uploaded_at"`
	}
	NextPageToken string `json:"next_page_token"`
}

// insertArtifacts writes files of a run or a logged model into the tables, and
// says in the log that there are some.
func (f *fixture) insertArtifacts(run, model string, deleted uint8, names ...string) {
	f.t.Helper()
	_, subject := f.log.ArtifactSubject("1", run+model)
	f.publish(subject, &events.Event{Data: &events.Event_ArtifactUploaded{ArtifactUploaded: &events.ArtifactUploaded{RunId: run, ModelId: model}}})
	f.batch("INSERT INTO artifacts (run_id, model_id, store_path, path, size, sha256, content_type, actor, uploaded_at, deleted, shard, seq)", func(b driver.Batch) error {
		for _, name := range names {
			sum := sha256.Sum256([]byte(name))
			err := b.Append(run, model, "1/"+run+model+"/artifacts/"+name, name, uint64(len(name)), string(sum[:]), "text/plain", "ada",
				time.UnixMilli(1_700_000_000_123).UTC(), deleted, uint16(0), f.seq.Add(1))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *fixture) artifacts(args ...string) (page wireArtifacts, lines []string) {
	f.t.Helper()
	page = decode[wireArtifacts](f.t, f.do(f.request("/api/v1/artifacts", args...)))
	for _, a := range page.Artifacts {
		lines = append(lines, fmt.Sprintf("%s %d %s %s %s %s", a.Path, a.Size, a.SHA256, a.ContentType, a.Actor, a.UploadedAt.Format(time.RFC3339Nano)))
	}
	return page, lines
}

func TestArtifacts(t *testing.T) {
	f := newFixture(t)
	f.project()
	runs := f.insert(testRun{experiment: 1}, testRun{experiment: 1}, testRun{experiment: 1})
	model := "m-" + newRunID()
	f.insertArtifacts(runs[0].id, "", 0, "b", "a/☃.txt", "gone", "c%20d")
	f.insertArtifacts(runs[0].id, "", 1, "gone")
	f.insertArtifacts(runs[1].id, "", 0, "other")
	f.insertArtifacts("", model, 0, "MLmodel")
	lines := func(names ...string) (lines []string) {
		for _, name := range names {
			lines = append(lines, fmt.Sprintf("%s %d %x text/plain ada 2023-11-14T22:13:20.123Z", name, len(name), sha256.Sum256([]byte(name))))
		}
		return lines
	}
	all := lines("a/☃.txt", "b", "c%20d")
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"run":              {[]string{"run_id", runs[0].id}, all},
		"logged model":     {[]string{"model_id", model}, lines("MLmodel")},
		"run without any":  {[]string{"run_id", runs[2].id}, nil},
		"exactly one page": {[]string{"run_id", runs[0].id, "max_results", "3"}, all},
	} {
		if page, got := f.artifacts(tc.args...); !slices.Equal(got, tc.want) || page.NextPageToken != "" {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
	if body := f.do(f.request("/api/v1/artifacts", "run_id", runs[2].id)).Body.String(); strings.TrimSpace(body) != `{"artifacts":[]}` {
		t.Errorf("a run without any: %s", body)
	}
	var paged []string
	token := ""
	for range len(all) + 1 {
		page, got := f.artifacts("run_id", runs[0].id, "max_results", "1", "page_token", token)
		paged = append(paged, got...)
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if !slices.Equal(paged, all) {
		t.Errorf("paged: got %q, want %q", paged, all)
	}
}

func TestArtifactsRefused(t *testing.T) {
	f := newFixture(t)
	f.project()
	runs := f.insert(testRun{experiment: 1}, testRun{experiment: 1})
	f.insertArtifacts(runs[0].id, "", 0, "a", "b")
	page, _ := f.artifacts("run_id", runs[0].id, "max_results", "1")
	unknown, model := newRunID(), "m-"+newRunID()
	for _, tc := range []struct {
		args    []string
		status  int
		message string
	}{
		{nil, 400, "Name a run in 'run_id' or a logged model in 'model_id'."},
		{[]string{"run_id", runs[0].id, "model_id", model}, 400, "Name a run in 'run_id' or a logged model in 'model_id'."},
		{[]string{"run_id", unknown}, 404, "Run with id=" + unknown + " not found"},
		{[]string{"run_id", "*"}, 404, "Run with id=* not found"},
		{[]string{"model_id", model}, 404, "Logged model with ID '" + model + "' not found"},
		{[]string{"model_id", ">"}, 404, "Logged model with ID '>' not found"},
		{[]string{"run_id", runs[0].id, "max_results", "0"}, 400, "Invalid value '0' for parameter 'max_results'"},
		{[]string{"run_id", runs[0].id, "page_token", "x"}, 400, "Invalid page token"},
		{[]string{"run_id", runs[1].id, "page_token", page.NextPageToken}, 400, "Invalid page token"},
	} {
		code := "INVALID_PARAMETER_VALUE"
		if tc.status == 404 {
			code = "RESOURCE_DOES_NOT_EXIST"
		}
		wantError(t, f.do(f.request("/api/v1/artifacts", tc.args...)), tc.status, code, tc.message)
	}
}
