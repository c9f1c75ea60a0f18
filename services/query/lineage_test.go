package query_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/proptest"
)

type wireVersion struct {
	Name, Version string
	Stage         string `json:"current_stage"`
	Aliases       []string
	RunID         string `json:"run_id"`
	ModelID       string `json:"model_id"`
}

type wireLineage struct {
	Runs []struct {
		RunID     string `json:"run_id"`
		Name      string
		Lifecycle string `json:"lifecycle_stage"`
	}
	LoggedModels []struct {
		ModelID string `json:"model_id"`
	} `json:"logged_models"`
	Versions      []wireVersion `json:"model_versions"`
	Truncated     []string
	NextPageToken string `json:"next_page_token"`
}

// insertRegistry writes the registry's rows of audit, from a sequence on.
func (f *fixture) insertRegistry(first int, list ...*events.Event) {
	f.t.Helper()
	rows := make([]auditRow, len(list))
	for i, e := range list {
		data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e)
		if err != nil {
			f.t.Fatal(err)
		}
		var fields map[string]struct{ Name, Alias, Version string }
		_ = json.Unmarshal(data, &fields) // what is not a text is not asked for
		r := auditRow{Stream: "REGISTRY", Seq: uint64(first + i), Time: auditStart, Type: events.Type(e), Data: data}
		for _, v := range fields {
			r.EntityKind, r.EntityID = "registered_model", v.Name
			if v.Version != "" && v.Alias == "" {
				r.EntityKind, r.EntityID = "model_version", v.Name+"/"+v.Version
			}
		}
		rows[i] = r
	}
	f.insertAudit(rows)
}

func (f *fixture) lineage(args ...string) wireLineage {
	f.t.Helper()
	return decode[wireLineage](f.t, f.do(f.request("/api/v1/lineage", args...)))
}

// insertLinks writes data sets and logged models that runs read and wrote.
func (f *fixture) insertLinks(datasets, models [][3]string) {
	f.t.Helper()
	f.batch("INSERT INTO run_datasets (experiment_id, run_id, name, digest, shard, seq)", func(b driver.Batch) error {
		for _, d := range datasets {
			if err := b.Append(uint64(1), testRun{id: d[0]}.uuid(), d[1], d[2], uint16(0), f.seq.Add(1)); err != nil {
				return err
			}
		}
		return nil
	})
	f.batch("INSERT INTO run_models (experiment_id, run_id, direction, model_id, step, shard, seq)", func(b driver.Batch) error {
		for _, m := range models {
			if err := b.Append(uint64(1), testRun{id: m[0]}.uuid(), m[1], m[2], int64(0), uint16(0), f.seq.Add(1)); err != nil {
				return err
			}
		}
		return nil
	})
	f.batch("INSERT INTO logged_models (experiment_id, model_id, name, source_run_id, status, lifecycle, shard, seq)", func(b driver.Batch) error {
		for _, m := range models {
			if m[1] == "output" {
				if err := b.Append(uint64(1), m[2], "tree", "", "READY", "active", uint16(0), f.seq.Add(1)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func versionCreated(name string, version uint64, run, model string) *events.Event {
	return &events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{Name: name, Version: version, RunId: run, ModelId: model}}}
}

func TestLineageBackward(t *testing.T) {
	f := newFixture(t)
	f.project()
	runs := f.insert(
		testRun{experiment: 1, name: "first", start: 1, tags: map[string]string{"mlflow.source.git.commit": "c0ffee12"}},
		testRun{experiment: 1, name: "second", start: 2, tags: map[string]string{"mlflow.source.git.commit": "c0ffee34", "other": "c0ffee12"}, deleted: true},
		testRun{experiment: 1, name: "third", start: 3},
	)
	first, second, third := runs[0].id, runs[1].id, runs[2].id
	f.insertLinks([][3]string{{first, "digits", "d1"}, {second, "digits", "d1"}, {third, "letters", "d1"}},
		[][3]string{{first, "output", "m-1"}, {second, "input", "m-1"}, {second, "output", "m-2"}})
	f.insertRegistry(1,
		&events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: "a"}}},
		versionCreated("a", 1, first, "m-1"), versionCreated("a", 2, "", "m-2"), versionCreated("a", 3, "elsewhere", ""),
		&events.Event{Data: &events.Event_ModelVersionStageSet{ModelVersionStageSet: &events.ModelVersionStageSet{Name: "a", Version: 1, FromStage: "None", ToStage: "Production"}}},
		&events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{Name: "a", Alias: "champion", Version: 2}}},
		&events.Event{Data: &events.Event_RegisteredModelRenamed{RegisteredModelRenamed: &events.RegisteredModelRenamed{Name: "a", NewName: "b"}}},
	)
	one, two := wireVersion{"b", "1", "Production", []string{}, first, "m-1"}, wireVersion{"b", "2", "None", []string{"champion"}, "", "m-2"}
	for _, c := range []struct {
		args     []string
		runs     []string
		models   []string
		versions []wireVersion
	}{
		{[]string{"run_id", first}, []string{first}, []string{"m-1"}, []wireVersion{one}},
		{[]string{"run_id", second}, []string{second}, []string{"m-2"}, []wireVersion{two}},
		{[]string{"run_id", third}, []string{third}, nil, nil},
		{[]string{"run_id", "elsewhere"}, nil, nil, []wireVersion{{"b", "3", "None", []string{}, "elsewhere", ""}}},
		{[]string{"dataset_digest", "d1"}, []string{third, second, first}, []string{"m-1", "m-2"}, []wireVersion{one, two}},
		{[]string{"dataset_digest", "d1", "dataset_name", "digits"}, []string{second, first}, []string{"m-1", "m-2"}, []wireVersion{one, two}},
		{[]string{"dataset_digest", "d1", "dataset_name", "letters"}, []string{third}, nil, nil},
		{[]string{"dataset_digest", "digits"}, nil, nil, nil},
		{[]string{"commit", "c0ffee12"}, []string{first}, []string{"m-1"}, []wireVersion{one}},
		{[]string{"commit", "c0ffee3"}, []string{second}, []string{"m-2"}, []wireVersion{two}},
		{[]string{"commit", "c%ffee3"}, nil, nil, nil},
		{[]string{"model_id", "m-1"}, []string{second}, []string{"m-1", "m-2"}, []wireVersion{one, two}},
		{[]string{"model_id", "m-2"}, nil, []string{"m-2"}, []wireVersion{two}},
	} {
		got := f.lineage(c.args...)
		var gotRuns, gotModels []string
		for _, r := range got.Runs {
			gotRuns = append(gotRuns, r.RunID)
			if (r.Lifecycle == "deleted") != (r.RunID == second) {
				t.Errorf("%v: run %s is %s", c.args, r.Name, r.Lifecycle)
			}
		}
		for _, m := range got.LoggedModels {
			gotModels = append(gotModels, m.ModelID)
		}
		if !slices.Equal(gotRuns, c.runs) || !slices.Equal(gotModels, c.models) || fmt.Sprint(got.Versions) != fmt.Sprint(c.versions) || len(got.Truncated) > 0 || got.NextPageToken != "" {
			t.Errorf("%v: %+v, want %+v", c.args, got, c)
		}
	}
	// What a run made that is purged since.
	f.batch("INSERT INTO logged_models (experiment_id, model_id, name, source_run_id, status, lifecycle, shard, seq)", func(b driver.Batch) error {
		return b.Append(uint64(1), "m-3", "tree", "gone", "READY", "active", uint16(0), f.seq.Add(1))
	})
	f.insertRegistry(8, versionCreated("b", 4, "", "m-3"))
	if got := f.lineage("run_id", "gone"); len(got.Runs) != 0 || len(got.LoggedModels) != 1 || len(got.Versions) != 1 || got.Versions[0].Version != "4" {
		t.Errorf("a purged run: %+v", got)
	}
	var pages []string
	for token := ""; ; {
		page := f.lineage("dataset_digest", "d1", "max_results", "1", "page_token", token)
		pages = append(pages, fmt.Sprint(page.Runs[0].Name, len(page.Runs), len(page.LoggedModels), len(page.Versions)))
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if fmt.Sprint(pages) != "[third1 0 0 second1 1 1 first1 1 1]" {
		t.Errorf("pages %v", pages)
	}
}

func TestLineageBackwardRefuses(t *testing.T) {
	f := newFixture(t)
	f.project()
	for args, want := range map[string]string{
		"":                               "Name one of 'run_id', 'dataset_digest', 'commit' and 'model_id'.",
		"run_id=a&commit=1234567":        "Name one of",
		"run_id=a&dataset_name=b":        "'dataset_name' goes with 'dataset_digest'.",
		"commit=123456":                  "Invalid value '123456' for parameter 'commit': want at least its first 7 characters.",
		"run_id=a&max_results=1001":      "Invalid value '1001' for parameter 'max_results'",
		"run_id=a&run=b":                 "Unknown parameter 'run'",
		"run_id=a&page_token=x":          "Invalid page token",
		"dataset_digest=a&page_token=e3": "Invalid page token",
	} {
		r := f.request("/api/v1/lineage")
		r.URL.RawQuery = args
		wantError(t, f.do(r), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", want)
	}
}

// plainRegistry is the registry as the events say it, by the names of now.
type plainRegistry map[string]*plainModel

type plainModel struct {
	next     uint64
	versions map[uint64]*wireVersion
	aliases  map[string]uint64
}

// randomRegistry returns events that fit each other, and what they lead to.
func randomRegistry(t *rapid.T) ([]*events.Event, plainRegistry) {
	st, gone := plainRegistry{}, plainRegistry{}
	var list []*events.Event
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	name := func() string { return pick("name", "a", "a", "a", "b", "a/1", "é'\\") }
	runs, stages := []string{"", "r1", "r2", "r3"}, []string{"None", "Staging", "Production", "Archived"}
	for range rapid.IntRange(1, 100).Draw(t, "events") {
		n := name()
		m := st[n]
		if m == nil {
			next := &plainModel{next: 1, versions: map[uint64]*wireVersion{}, aliases: map[string]uint64{}}
			if old := gone[n]; old != nil && rapid.Bool().Draw(t, "restore") {
				next.next = old.next
				list = append(list, &events.Event{Data: &events.Event_RegisteredModelRestored{RegisteredModelRestored: &events.RegisteredModelRestored{Name: n, Id: 1, NextVersion: next.next}}})
			} else {
				list = append(list, &events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: n}}})
			}
			st[n] = next
			continue
		}
		v := rapid.Uint64Range(1, max(m.next-1, 1)).Draw(t, "version")
		switch pick("what", "version", "version", "version", "stage", "rename", "delete", "delete version", "restore version", "stage", "alias", "alias", "no alias", "tag") {
		case "version":
			run, model := pick("run", runs...), pick("model", "", "m1", "m2")
			m.versions[m.next] = &wireVersion{Stage: "None", RunID: run, ModelID: model}
			list = append(list, versionCreated(n, m.next, run, model))
			m.next++
		case "rename":
			if to := name(); st[to] == nil {
				delete(st, n)
				st[to] = m
				list = append(list, &events.Event{Data: &events.Event_RegisteredModelRenamed{RegisteredModelRenamed: &events.RegisteredModelRenamed{Name: n, NewName: to}}})
			}
		case "delete":
			if rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				delete(st, n)
				gone[n] = m
				list = append(list, &events.Event{Data: &events.Event_RegisteredModelDeleted{RegisteredModelDeleted: &events.RegisteredModelDeleted{Name: n}}})
			}
		case "delete version":
			if m.versions[v] != nil {
				delete(m.versions, v)
				maps.DeleteFunc(m.aliases, func(_ string, at uint64) bool { return at == v })
				list = append(list, &events.Event{Data: &events.Event_ModelVersionDeleted{ModelVersionDeleted: &events.ModelVersionDeleted{Name: n, Version: v}}})
			}
		case "restore version":
			if m.versions[v] == nil && v < m.next {
				r := &events.ModelVersionRestored{Name: n, Version: v, Stage: pick("stage", stages...), RunId: pick("run", runs...)}
				m.versions[v] = &wireVersion{Stage: r.GetStage(), RunID: r.GetRunId()}
				list = append(list, &events.Event{Data: &events.Event_ModelVersionRestored{ModelVersionRestored: r}})
			}
		case "stage":
			if m.versions[v] != nil {
				to := pick("stage", stages...)
				e := &events.ModelVersionStageSet{Name: n, Version: v, FromStage: m.versions[v].Stage, ToStage: to}
				for other, old := range m.versions {
					if other != v && old.Stage == to && rapid.Bool().Draw(t, "archive") {
						old.Stage = "Archived"
						e.ArchivedVersions = append(e.ArchivedVersions, other)
					}
				}
				m.versions[v].Stage = to
				list = append(list, &events.Event{Data: &events.Event_ModelVersionStageSet{ModelVersionStageSet: e}})
			}
		case "alias":
			if alias := pick("alias", "x", "y"); m.versions[v] != nil {
				list = append(list, &events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{Name: n, Alias: alias, Version: v, PreviousVersion: m.aliases[alias]}}})
				m.aliases[alias] = v
			}
		case "no alias":
			if at := m.aliases["x"]; at != 0 {
				delete(m.aliases, "x")
				list = append(list, &events.Event{Data: &events.Event_AliasDeleted{AliasDeleted: &events.AliasDeleted{Name: n, Alias: "x", PreviousVersion: at}}})
			}
		case "tag":
			list = append(list, &events.Event{Data: &events.Event_ModelVersionTagSet{ModelVersionTagSet: &events.ModelVersionTagSet{Name: n, Version: v, Tag: &events.Tag{Key: "run_id", Value: "r1"}}}})
		}
	}
	return list, st
}

// Whatever happened to a registry, the versions that came from a run or a logged
// model are where a fold of all events has them.
func TestVersionsAreWhereTheEventsPutThem(t *testing.T) {
	f := newFixture(t)
	f.project()
	proptest.Check(t, func(rt *rapid.T) {
		if err := f.conn.Exec(t.Context(), "TRUNCATE TABLE audit"); err != nil {
			t.Fatal(err)
		}
		list, st := randomRegistry(rt)
		f.insertRegistry(1, list...)
		f.insertRegistry(1, list...) // rows are there twice until a merge
		for _, args := range [][]string{{"run_id", "r1"}, {"run_id", "r2"}, {"model_id", "m1"}} {
			var want []string
			for name, m := range st {
				for n, v := range m.versions {
					if (args[0] == "run_id" && v.RunID == args[1]) || (args[0] == "model_id" && v.ModelID == args[1]) {
						var aliases []string
						for alias, at := range m.aliases {
							if at == n {
								aliases = append(aliases, alias)
							}
						}
						slices.Sort(aliases)
						want = append(want, strings.Join([]string{name, strconv.FormatUint(n, 10), v.Stage, fmt.Sprint(aliases), v.RunID, v.ModelID}, "|"))
					}
				}
			}
			var got []string
			for _, v := range f.lineage(args...).Versions {
				got = append(got, strings.Join([]string{v.Name, v.Version, v.Stage, fmt.Sprint(v.Aliases), v.RunID, v.ModelID}, "|"))
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				rt.Fatalf("%v:\n got %q\nwant %q\nafter %v", args, got, want, list)
			}
		}
	})
}
