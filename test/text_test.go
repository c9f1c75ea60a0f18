package test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver"
)

// The log is read for good, whatever texts it holds: every reader answers about
// events with any text that an event can have, under headers with bytes of any
// kind, as builds that did not check them have left.
func TestEveryTextInTheLogIsRead(t *testing.T) {
	dir := t.TempDir()
	w := plantTexts(t, dir, seed(t))
	w.entries++ // the default experiment
	p := up(t, dir)
	c := p.client(t)

	get := func(path string, args ...string) []byte {
		t.Helper()
		query := url.Values{}
		for i := 0; i < len(args); i += 2 {
			query.Add(args[i], args[i+1])
		}
		status, body, err := c.get(t.Context(), path+"?"+query.Encode())
		if err != nil || status != http.StatusOK || !utf8.Valid(body) {
			t.Errorf("GET %s %q: %d, %v: %.1000q", path, args, status, err, body)
		}
		return body
	}
	post := func(path, body string, header ...string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Errorf("POST %s: %v", path, err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		var said bytes.Buffer
		if _, err := said.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("POST %s %s: %d, %v: %.1000q", path, body, resp.StatusCode, err, said.Bytes())
		}
	}
	list := func(body []byte, name string) int {
		t.Helper()
		var answer map[string]json.RawMessage
		var items []json.RawMessage
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Errorf("%v: %.1000q", err, body)
		} else if err := json.Unmarshal(answer[name], &items); err != nil {
			t.Errorf("%s: %v: %.1000q", name, err, body)
		}
		return len(items)
	}

	if n := list(get("/api/v1/audit", "max_results", "10000"), "entries"); n != w.entries {
		t.Errorf("the audit has %d entries, want %d", n, w.entries)
	}
	if n := bytes.Count(get("/api/v1/audit", "format", "jsonl"), []byte("\n")); n != w.entries {
		t.Errorf("the audit has %d lines, want %d", n, w.entries)
	}
	rows, err := csv.NewReader(bytes.NewReader(get("/api/v1/audit", "format", "csv"))).ReadAll()
	if err != nil || len(rows) != w.entries+1 {
		t.Errorf("the audit has %d rows, %v, want %d and a head", len(rows), err, w.entries)
	}
	if n := list(get("/api/v1/audit", "actor", "caf\uFFFD"), "entries"); n == 0 {
		t.Error("no entries of an actor as it is shown")
	}
	for _, by := range []string{"actor", "entity_id,type", "experiment_id"} {
		get("/api/v1/audit/counts", "by", by)
	}
	for name, value := range map[string]string{"run_id": w.run, "model_id": w.loggedModel} {
		if n := list(get("/api/v1/artifacts", name, value), "artifacts"); n != 1 {
			t.Errorf("%d artifacts of %s", n, value)
		}
	}
	for _, args := range [][]string{{"run_id", w.run}, {"model_id", w.loggedModel}, {"dataset_digest", w.digest}, {"commit", w.commit}} {
		if n := list(get("/api/v1/lineage", args...), "runs"); n != 1 {
			t.Errorf("%d runs in the lineage of %q", n, args)
		}
	}
	get(api+"runs/get", "run_id", w.run)
	get(api+"metrics/get-history", "run_id", w.run, "metric_key", w.metric)
	get("/ajax-api/2.0/mlflow/metrics/get-history-bulk", "run_id", w.run, "metric_key", w.metric)
	get(api+"experiments/get", "experiment_id", w.experiment)
	get(api + "logged-models/" + w.loggedModel)
	for _, kind := range []string{"metrics", "parameters", "tags"} {
		get("/api/v1/experiments/"+w.experiment+"/catalogue", "kind", kind)
	}
	for _, list := range []string{"registered-models/search", "model-versions/search", "webhooks"} {
		get(api + list)
	}
	get(api+"registered-models/get", "name", w.model)
	get(api+"model-versions/get", "name", w.model, "version", "1")
	get("/api/v1/registry/entries")
	get("/api/v1/gc/candidates")
	post(api+"experiments/search", `{"max_results": 100}`)
	post(api+"runs/search", `{"experiment_ids": ["`+w.experiment+`"]}`)
	post(api+"logged-models/search", `{"experiment_ids": ["`+w.experiment+`"]}`)
	key, err := json.Marshal(w.metric)
	if err != nil {
		t.Fatal(err)
	}
	series := `{"run_ids": ["` + w.run + `"], "metric_keys": [` + string(key) + `]}`
	post("/api/v1/series", series)
	post("/api/v1/series", series, "Accept", "application/vnd.apache.arrow.stream")
	runs := `{"experiment_ids": ["` + w.experiment + `"]`
	best := `, "objective": {"metric_key": ` + string(key) + `}}`
	post("/api/v1/runs/compare", runs+"}")
	post("/api/v1/sweeps/curves", runs+`, "metric_keys": [`+string(key)+`]}`)
	for _, path := range []string{"top", "importance", "progress"} {
		post("/api/v1/sweeps/"+path, runs+best)
	}
	for _, args := range [][]string{{"log", "--limit", "0"}, {"log", "--limit", "0", "--csv"}, {"log", "--limit", "0", "--json"}, {"export"}} {
		if status, said := tell(t, append(append([]string{"audit"}, args...), "--server", c.base)...); status != 0 {
			t.Errorf("audit %v: exit status %d: %.1000s", args, status, said)
		}
	}
	if status, said := tell(t, "gc", "--server", c.base, "--dry-run"); status != 0 {
		t.Errorf("gc: exit status %d: %.1000s", status, said)
	}
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)
	verifyTables(t, dir)
}

// plantedTexts is what plantTexts has written.
type plantedTexts struct {
	experiment, run, loggedModel, model string
	metric, digest, commit              string
	entries                             int // events but metric points
}

// plantTexts writes a log of events with random texts where a text may be
// anything.
func plantTexts(t *testing.T, dir string, seed uint64) plantedTexts {
	t.Helper()
	server, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: dir + "/nats"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	log, err := eventlog.Open(t.Context(), server.Conn(), eventlog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	r := newRand(seed, 0)
	w := plantedTexts{
		experiment: "1", run: strings.Repeat("ab", 16), loggedModel: "m-" + strings.Repeat("cd", 16),
		model:  strings.NewReplacer("/", "", ":", "").Replace("m" + anyText(r)),
		metric: "k" + anyText(r), digest: "d" + anyText(r), commit: "0123456" + anyText(r),
	}
	headers := [][]string{
		{"caf%E9", "%00%01%FF%FE", "%C3", "%"},
		{"caf\xe9", "\xff\xfe\x80", "\xc3\x28", "%%%zz"},
		{"%C3%A9", strings.Repeat("%E2%82%AC", 341) + "%E2", "%ED%A0%80", "%0A%0D"},
		{"", "%F4%90%80%80", "%EF%BF%BE", "\u202e"},
	}
	plant := func(subject string, list ...*events.Event) {
		t.Helper()
		for _, e := range list {
			msg, err := events.Encode(subject, events.New("/runledger/test", "", time.Now()), e)
			if err != nil {
				t.Fatal(err)
			}
			h := headers[r.IntN(len(headers))]
			if w.entries == 0 {
				h = headers[0]
			}
			for i, name := range []string{events.HeaderActor, events.HeaderReason, events.HeaderRequestID, events.HeaderIdempotencyKey} {
				msg.Header[name] = []string{h[i]}
			}
			if _, err := log.JetStream().PublishMsg(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
			if e.GetMetricsLogged() == nil {
				w.entries++
			}
		}
	}
	text := func() string { return anyText(r) }
	tags := func(more ...*events.Tag) []*events.Tag {
		return append(more, &events.Tag{Key: "t" + text(), Value: text()}, &events.Tag{Key: "u" + text(), Value: text()})
	}
	parameters := func() []*events.Parameter { return []*events.Parameter{{Key: "p" + text(), Value: text()}} }

	removed := tags()
	plant(events.ExperimentSubject(w.experiment),
		&events.Event{Data: &events.Event_ExperimentCreated{ExperimentCreated: &events.ExperimentCreated{ExperimentId: w.experiment, Name: "e" + text(), ArtifactLocation: "mlflow-artifacts:/" + text(), Tags: tags()}}},
		&events.Event{Data: &events.Event_ExperimentRenamed{ExperimentRenamed: &events.ExperimentRenamed{ExperimentId: w.experiment, Name: "f" + text()}}},
		&events.Event{Data: &events.Event_ExperimentTagSet{ExperimentTagSet: &events.ExperimentTagSet{ExperimentId: w.experiment, Tag: tags()[0]}}},
	)
	_, meta := log.RunSubject(w.experiment, w.run, events.KindMeta)
	_, points := log.RunSubject(w.experiment, w.run, events.KindMetric)
	plant(meta,
		&events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{RunId: w.run, ExperimentId: w.experiment, Name: text(), UserId: text(), StartTime: 1, ArtifactUri: "mlflow-artifacts:/1/" + w.run, Tags: tags(removed...)}}},
		&events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: w.run, Name: proto.String(text())}}},
		&events.Event{Data: &events.Event_RunParametersLogged{RunParametersLogged: &events.RunParametersLogged{RunId: w.run, Parameters: parameters()}}},
		&events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{RunId: w.run, Tags: tags(&events.Tag{Key: "mlflow.source.git.commit", Value: w.commit})}}},
		&events.Event{Data: &events.Event_RunTagDeleted{RunTagDeleted: &events.RunTagDeleted{RunId: w.run, Key: removed[0].Key}}},
		&events.Event{Data: &events.Event_RunInputsLogged{RunInputsLogged: &events.RunInputsLogged{
			RunId: w.run, ModelIds: []string{w.loggedModel}, Datasets: []*events.DatasetInput{
				{Name: text(), Digest: w.digest, SourceType: text(), Source: text(), Schema: text(), Profile: text(), Tags: tags()},
			},
		}}},
		&events.Event{Data: &events.Event_RunOutputsLogged{RunOutputsLogged: &events.RunOutputsLogged{RunId: w.run, Models: []*events.ModelOutput{{ModelId: w.loggedModel, Step: 1}}}}},
	)
	var logged []events.Point
	for step := range int64(3) {
		logged = append(logged, events.Point{Key: w.metric, Value: float64(step), Timestamp: step, Step: step, Link: &events.MetricLink{ModelId: w.loggedModel, DatasetName: text(), DatasetDigest: w.digest}},
			events.Point{Key: "l" + text(), Value: 1, Timestamp: step, Step: step})
	}
	plant(points, &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(w.run, logged)}})
	_, model := log.LoggedModelSubject(w.experiment, w.loggedModel)
	plant(model,
		&events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: &events.LoggedModelCreated{ModelId: w.loggedModel, ExperimentId: w.experiment, Name: text(), ArtifactUri: "mlflow-artifacts:/1/models/" + w.loggedModel, ModelType: text(), SourceRunId: w.run, Parameters: parameters(), Tags: tags(removed...)}}},
		&events.Event{Data: &events.Event_LoggedModelFinalized{LoggedModelFinalized: &events.LoggedModelFinalized{ModelId: w.loggedModel, Status: events.LoggedModelStatus_LOGGED_MODEL_STATUS_READY}}},
		&events.Event{Data: &events.Event_LoggedModelTagsSet{LoggedModelTagsSet: &events.LoggedModelTagsSet{ModelId: w.loggedModel, Tags: tags()}}},
		&events.Event{Data: &events.Event_LoggedModelTagDeleted{LoggedModelTagDeleted: &events.LoggedModelTagDeleted{ModelId: w.loggedModel, Key: removed[0].Key}}},
	)
	for _, up := range []*events.ArtifactUploaded{{RunId: w.run}, {ModelId: w.loggedModel}} {
		up.ArtifactPath, up.Path, up.Size, up.Sha256, up.ContentType = text(), "1/"+up.RunId+up.ModelId+"/"+text(), 1, make([]byte, 32), text()
		_, artifacts := log.ArtifactSubject(w.experiment, up.RunId+up.ModelId)
		plant(artifacts, &events.Event{Data: &events.Event_ArtifactReplacementBegun{ArtifactReplacementBegun: &events.ArtifactReplacementBegun{RunId: up.RunId, ModelId: up.ModelId, Path: up.Path, Sha256: up.Sha256}}},
			&events.Event{Data: &events.Event_ArtifactUploaded{ArtifactUploaded: up}},
			&events.Event{Data: &events.Event_ArtifactsDeleted{ArtifactsDeleted: &events.ArtifactsDeleted{RunId: up.RunId, ModelId: up.ModelId, Paths: []string{"x" + text()}}}})
	}
	target := &events.PromotionTarget{Target: &events.PromotionTarget_Alias{Alias: "a" + text()}}
	was := "w" + text()
	plant(events.ModelSubject(was),
		&events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: was, Description: text(), Tags: tags()}}},
		&events.Event{Data: &events.Event_RegisteredModelRenamed{RegisteredModelRenamed: &events.RegisteredModelRenamed{Name: was, NewName: w.model}}},
		&events.Event{Data: &events.Event_RegisteredModelUpdated{RegisteredModelUpdated: &events.RegisteredModelUpdated{Name: w.model, Description: text()}}},
		&events.Event{Data: &events.Event_RegisteredModelTagSet{RegisteredModelTagSet: &events.RegisteredModelTagSet{Name: w.model, Tag: tags()[0]}}},
		&events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{Name: w.model, Version: 1, Source: text(), RunId: w.run, RunLink: text(), Description: text(), Tags: tags(), UserId: text(), ModelId: w.loggedModel, StorageLocation: text()}}},
		&events.Event{Data: &events.Event_ModelVersionTagSet{ModelVersionTagSet: &events.ModelVersionTagSet{Name: w.model, Version: 1, Tag: tags()[0]}}},
		&events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{Name: w.model, Alias: "b" + text(), Version: 1}}},
		&events.Event{Data: &events.Event_GateSet{GateSet: &events.GateSet{Name: w.model, Target: target, RequiredTags: tags(), Approvals: 1}}},
		&events.Event{Data: &events.Event_PromotionRefused{PromotionRefused: &events.PromotionRefused{Name: w.model, Version: 1, Target: target, Requester: text(), Failures: []string{text()}}}},
		&events.Event{Data: &events.Event_ApprovalSet{ApprovalSet: &events.ApprovalSet{Name: w.model, Version: 1, Status: events.ApprovalStatus_APPROVAL_STATUS_APPROVED, Actor: text(), Comment: text()}}},
		&events.Event{Data: &events.Event_EvaluationRecorded{EvaluationRecorded: &events.EvaluationRecorded{Name: w.model, Version: 1, Evaluation: "v" + text(), Metrics: []*events.EvaluationMetric{{Key: "f" + text(), Value: 1}}, DatasetName: text(), DatasetDigest: text(), Evaluator: text(), Comment: text()}}},
	)
	plant(events.WebhookSubject("w1"), &events.Event{Data: &events.Event_WebhookCreated{WebhookCreated: &events.WebhookCreated{
		WebhookId: "w1", Name: text(), Url: "https://192.0.2.1/" + text(), Description: text(), Events: []string{"model_version.created"}, Status: "DISABLED",
	}}})
	return w
}

// anyText returns a random text of what texts trip over.
func anyText(r *rand.Rand) string {
	pieces := []string{
		"\x00", "\x01", "\x1b[2J", "\n", "\r", "\t", "\x7f", "\u0085", "\"", "'", "\\", "\\u0000", "`", "%", "%E9", "%%s", "/", "//", "..", ":", "#", "?", ";", ",",
		"é", "e\u0301", "ß", "İ", "\u200b", "\u202e", "\u2028", "\ufeff", "\ufffd", "\ufffe", "\ue000", "\U0001f680", "\U0010ffff", "<&>", "{}", "null", "NaN", " ", "a", "0",
	}
	var b strings.Builder
	for range r.IntN(8) {
		fmt.Fprint(&b, pieces[r.IntN(len(pieces))])
	}
	return b.String()
}
