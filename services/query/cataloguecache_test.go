package query_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/proptest"
)

// catalogueWorld is an experiment that is written as the projector writes it, and
// what its runs have.
type catalogueWorld struct {
	*fixture
	t interface {
		Fatal(args ...any)
		Fatalf(format string, args ...any)
	}
	draw *rapid.T
	id   uint64
	runs []*catalogueRun
	// midway is called between the inserts of a batch and before it is in the log.
	midway func()

	ends       map[string]uint64 // of the streams, with the batch
	statements []catalogueInsert
	published  []catalogueEvent
}

// catalogueInsert is a statement of a batch. Deletes come before inserts, and the
// audit comes last.
type catalogueInsert struct {
	place int
	run   *catalogueRun
	sql   string
}

type catalogueEvent struct {
	eventlog.Position
	subject string
	event   *events.Event
}

type catalogueRun struct {
	id         string
	state      string // active, deleted or purged
	metrics    map[string]point
	attributes map[string]map[string]string // by kind and key
}

// write adds an event of a run to the batch, with a statement for each of its rows.
func (w *catalogueWorld) write(r *catalogueRun, kind events.Kind, e *events.Event, rows func(shard int, seq uint64) []string) {
	stream, subject := w.log.RunSubject(strconv.FormatUint(w.id, 10), r.id, kind)
	shard, _ := events.ShardOfStream(stream)
	if w.ends[stream] == 0 {
		last, err := w.log.LastSeq(w.fixture.t.Context(), stream)
		if err != nil {
			w.t.Fatal(err)
		}
		w.ends[stream] = last
	}
	w.ends[stream]++
	at := eventlog.Position{Stream: stream, Seq: w.ends[stream]}
	if r.state == "purged" {
		w.statements = slices.DeleteFunc(w.statements, func(s catalogueInsert) bool { return s.run == r && s.place < 2 })
	}
	for _, sql := range rows(shard, at.Seq) {
		place := 1
		if strings.HasPrefix(sql, "ALTER") {
			place = 0
		}
		w.statements = append(w.statements, catalogueInsert{place, r, sql})
	}
	if kind == events.KindMeta {
		w.statements = append(w.statements, catalogueInsert{2, r, fmt.Sprintf("INSERT INTO audit (stream, seq, type, entity_kind, entity_id, experiment_id) VALUES ('%s', %d, '%s', 'run', '%s', '%d')",
			stream, at.Seq, events.Type(e), r.id, w.id)})
	}
	w.published = append(w.published, catalogueEvent{at, subject, e})
}

// flush projects the batch: its rows are in the tables before the log has it,
// which is a moment of a projector that has not announced it yet.
func (w *catalogueWorld) flush() {
	slices.SortStableFunc(w.statements, func(a, b catalogueInsert) int { return cmp.Compare(a.place, b.place) })
	for _, s := range w.statements {
		if err := w.conn.Exec(w.fixture.t.Context(), s.sql); err != nil {
			w.t.Fatalf("%s: %v", s.sql, err)
		}
		w.midway()
	}
	for _, e := range w.published {
		if got := w.publish(e.subject, e.event); got != e.Position {
			w.t.Fatalf("%v is not %v", got, e.Position)
		}
	}
	clear(w.ends)
	w.statements, w.published = nil, nil
}

func (w *catalogueWorld) run(r *catalogueRun, status int) func(int, uint64) []string {
	return func(shard int, seq uint64) []string {
		return []string{fmt.Sprintf("INSERT INTO runs (experiment_id, run_id, status, lifecycle, shard, seq) VALUES (%d, '%s', %d, '%s', %d, %d)",
			w.id, testRun{id: r.id}.uuid(), status, r.state, shard, seq)}
	}
}

var (
	drawCatalogueKey   = rapid.SampledFrom([]string{"a", "a/b", "b", "b1", "b2", "c", "ü"})
	drawCatalogueValue = rapid.SampledFrom([]string{"1", "-2.5", "x", "", "1e400", "nan", "7"})
)

// step changes something.
func (w *catalogueWorld) step() {
	active := slices.DeleteFunc(slices.Clone(w.runs), func(r *catalogueRun) bool { return r.state != "active" })
	if len(active) == 0 || rapid.IntRange(0, 5).Draw(w.draw, "new run") == 0 {
		w.create()
		return
	}
	r := rapid.SampledFrom(active).Draw(w.draw, "run")
	keys := rapid.SliceOfNDistinct(drawCatalogueKey, 1, 4, rapid.ID).Draw(w.draw, "keys")
	switch rapid.SampledFrom([]string{"log", "log", "log", "parameter", "tag", "tag", "untag", "finish", "life", "merge"}).Draw(w.draw, "step") {
	case "log":
		var points []point
		for _, key := range keys {
			points = append(points, point{key: key, value: drawReal.Draw(w.draw, "value"), step: rapid.Int64Range(-3, 3).Draw(w.draw, "at")})
		}
		w.logMetrics(r, points)
	case "parameter":
		w.attribute(r, "parameter", keys, false)
	case "tag":
		w.attribute(r, "tag", keys, false)
	case "untag":
		w.attribute(r, "tag", keys, true)
	case "finish":
		w.write(r, events.KindMeta, &events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: r.id}}}, w.run(r, 3))
	case "life":
		w.live(rapid.SampledFrom(w.runs).Draw(w.draw, "which"))
	case "merge":
		for _, table := range []string{"latest_metrics", "run_attributes", "runs"} {
			if err := w.conn.Exec(w.fixture.t.Context(), "OPTIMIZE TABLE "+table+" FINAL"); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func (w *catalogueWorld) create() *catalogueRun {
	r := &catalogueRun{id: newRunID(), state: "active", metrics: map[string]point{}, attributes: map[string]map[string]string{"parameter": {}, "tag": {}}}
	w.runs = append(w.runs, r)
	w.write(r, events.KindMeta, &events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{RunId: r.id}}}, w.run(r, 1))
	return r
}

func (w *catalogueWorld) logMetrics(r *catalogueRun, points []point) {
	w.write(r, events.KindMetric, &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(r.id, []events.Point{{Key: "x"}})}},
		func(shard int, seq uint64) []string {
			var rows []string
			for _, p := range points {
				r.metrics[p.key] = p
				rows = append(rows, fmt.Sprintf("(%d, '%s', '%s', %d, 0, reinterpretAsFloat64(toUInt64(%d)), %d, %d)", w.id, p.key, testRun{id: r.id}.uuid(), p.step, math.Float64bits(p.value), shard, seq))
			}
			return []string{"INSERT INTO latest_metrics (experiment_id, key, run_id, step, timestamp, value, shard, seq) VALUES " + strings.Join(rows, ", ")}
		})
}

func (w *catalogueWorld) attribute(r *catalogueRun, kind string, keys []string, deleted bool) {
	data := &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{RunId: r.id}}}
	w.write(r, events.KindMeta, data, func(shard int, seq uint64) []string {
		var rows []string
		for _, key := range keys {
			value := drawCatalogueValue.Draw(w.draw, "value")
			gone := 0
			if r.attributes[kind][key] = value; deleted {
				delete(r.attributes[kind], key)
				gone = 1
			}
			rows = append(rows, fmt.Sprintf("(%d, '%s', '%s', '%s', '%s', %d, %d, %d)", w.id, kind, key, testRun{id: r.id}.uuid(), value, gone, shard, seq))
		}
		return []string{"INSERT INTO run_attributes (experiment_id, kind, key, run_id, value, deleted, shard, seq) VALUES " + strings.Join(rows, ", ")}
	})
}

// live deletes, restores or purges a run. A run that is not deleted is purged
// with its experiment.
func (w *catalogueWorld) live(r *catalogueRun) {
	switch next := rapid.SampledFrom([]string{"active", "deleted", "deleted", "purged"}).Draw(w.draw, "state"); {
	case r.state == "purged" || r.state == next:
	case next == "active":
		r.state = next
		w.write(r, events.KindMeta, &events.Event{Data: &events.Event_RunRestored{RunRestored: &events.RunRestored{RunId: r.id}}}, w.run(r, 1))
	case next == "deleted":
		r.state = next
		w.write(r, events.KindMeta, &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: r.id}}}, w.run(r, 1))
	default:
		r.state = next
		w.write(r, events.KindMeta, &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: r.id}}}, func(shard int, seq uint64) []string {
			var statements []string
			for _, table := range []string{"run_attributes", "latest_metrics"} {
				statements = append(statements, fmt.Sprintf("ALTER TABLE %s DELETE WHERE run_id IN ('%s') SETTINGS mutations_sync = 0", table, testRun{id: r.id}.uuid()))
			}
			return append(statements, w.run(r, 1)(shard, seq)...)
		})
	}
}

// read pages through a catalogue.
func (w *catalogueWorld) read() (kind, prefix string, got wireCatalogue) {
	kind = rapid.SampledFrom([]string{"metrics", "metrics", "parameters", "tags"}).Draw(w.draw, "kind")
	prefix = rapid.SampledFrom([]string{"", "", "b"}).Draw(w.draw, "prefix")
	args := []string{"kind", kind, "prefix", prefix, "max_results", rapid.SampledFrom([]string{"1", "3", "100"}).Draw(w.draw, "page")}
	for range maxPages {
		page := decode[wireCatalogue](w.fixture.t, w.do(w.request(fmt.Sprintf("/api/v1/experiments/%d/catalogue", w.id), args...)))
		got.Metrics, got.Parameters, got.Tags = append(got.Metrics, page.Metrics...), append(got.Parameters, page.Parameters...), append(got.Tags, page.Tags...)
		if page.NextPageToken == "" {
			return kind, prefix, got
		}
		args = append(args[:6:6], "page_token", page.NextPageToken)
	}
	w.t.Fatal("too many pages")
	return kind, prefix, got
}

// check compares a catalogue to one that is worked out run by run.
func (w *catalogueWorld) check() {
	kind, prefix, got := w.read()
	type entry struct {
		runs, finite, distinct int
		min, max               float64
		lastStep               int64
	}
	want, have := map[string]entry{}, map[string]entry{}
	values := map[string]map[string]bool{}
	add := func(key string, value float64, text string, step int64) {
		if !strings.HasPrefix(key, prefix) {
			return
		}
		e, ok := want[key]
		if !ok {
			e, values[key] = entry{lastStep: step}, map[string]bool{}
		}
		if !math.IsNaN(value) && !math.IsInf(value, 0) {
			if e.finite == 0 {
				e.min, e.max = value, value
			}
			e.min, e.max = min(e.min, value), max(e.max, value)
			e.finite++
		}
		e.runs++
		e.lastStep = max(e.lastStep, step)
		values[key][text] = true
		e.distinct = len(values[key])
		want[key] = e
	}
	for _, r := range w.runs {
		if r.state != "active" {
			continue
		}
		if kind == "metrics" {
			for key, p := range r.metrics {
				add(key, p.value, "", p.step)
			}
			continue
		}
		for key, text := range r.attributes[strings.TrimSuffix(kind, "s")] {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				value = math.NaN()
			}
			add(key, value, text, 0)
		}
	}
	zero := func(f *float64) float64 {
		if f == nil {
			return 0
		}
		return *f
	}
	var keys []string
	for _, m := range got.Metrics {
		have[m.Key] = entry{runs: m.Runs, finite: m.Runs - m.NotFinite, distinct: 1, min: zero(m.Min), max: zero(m.Max), lastStep: m.LastStep}
		keys = append(keys, m.Key)
	}
	for _, a := range slices.Concat(got.Parameters, got.Tags) {
		have[a.Key] = entry{runs: a.Runs, finite: a.Numbers, distinct: a.Distinct, min: zero(a.Min), max: zero(a.Max)}
		keys = append(keys, a.Key)
		if len(a.Examples) != min(5, a.Distinct) || !slices.IsSorted(a.Examples) || len(slices.Compact(a.Examples)) != len(a.Examples) ||
			slices.ContainsFunc(a.Examples, func(e string) bool { return !values[a.Key][e] }) {
			w.t.Fatalf("examples %q of %s, which has %v", a.Examples, a.Key, values[a.Key])
		}
	}
	if !maps.Equal(have, want) {
		w.t.Fatalf("%s with prefix %q:\ngot  %v\nwant %v", kind, prefix, have, want)
	}
	if !slices.IsSortedFunc(keys, cmp.Compare[string]) || len(keys) != len(want) {
		w.t.Fatalf("keys in the order %v", keys)
	}
}

// Whatever happens to an experiment, and whatever was asked before, a catalogue
// is what its runs have at that moment.
func TestCatalogueProperty(t *testing.T) {
	f := newFixture(t)
	f.project()
	id := uint64(0)
	proptest.Check(t, func(t *rapid.T) {
		id++
		f.insertExperiments(testExperiment{id: id})
		w := &catalogueWorld{fixture: f, t: t, draw: t, id: id, ends: map[string]uint64{}}
		// What is read then is not compared: whether it counts yet is open.
		w.midway = func() {
			if rapid.IntRange(0, 3).Draw(t, "read midway") == 0 {
				w.read()
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			w.step()
			if rapid.Bool().Draw(t, "more in the batch") {
				continue
			}
			w.flush()
			for range rapid.IntRange(0, 2).Draw(t, "reads") {
				w.check()
			}
			if rapid.IntRange(0, 20).Draw(t, "forget") == 0 {
				f.service.ForgetCatalogues()
			}
		}
		w.flush()
		w.check()
	})
}

// Many readers of one part see every write that was acknowledged before they asked.
func TestCatalogueReadersSeeWhatWasWritten(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.insertExperiments(testExperiment{id: 1})
	w := &catalogueWorld{fixture: f, t: t, id: 1, ends: map[string]uint64{}, midway: func() {}}
	w.create()
	w.flush()
	const runs = 40
	var begun, written atomic.Int64
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for written.Load() < runs {
				least := written.Load()
				page := f.do(f.request("/api/v1/experiments/1/catalogue"))
				most := begun.Load()
				var got wireCatalogue
				if err := json.Unmarshal(page.Body.Bytes(), &got); err != nil || page.Code != http.StatusOK {
					t.Errorf("%d, %v: %s", page.Code, err, page.Body)
					return
				}
				n := int64(0)
				if len(got.Metrics) > 0 {
					n = int64(got.Metrics[0].Runs)
				}
				if n < least || n > most {
					t.Errorf("%d runs have the key, want %d to %d", n, least, most)
				}
			}
		})
	}
	for i := range runs {
		begun.Add(1)
		w.logMetrics(w.create(), []point{{key: "loss", value: float64(i)}})
		w.flush()
		written.Add(1)
	}
	readers.Wait()
}

// Runs that the log does not say anything of yet are too many to be apart.
func TestCatalogueOfManyRunsBeforeTheyAreAnnounced(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.insertExperiments(testExperiment{id: 1})
	manyRuns(f, 1, 50_000, 1)
	for range 2 {
		got := decode[wireCatalogue](t, f.do(f.request("/api/v1/experiments/1/catalogue")))
		if len(got.Metrics) != 1 || got.Metrics[0].Runs != 50_000 {
			t.Fatalf("%+v", got)
		}
	}
}

// Tables that are made anew are read anew.
func TestCatalogueOfRebuiltTables(t *testing.T) {
	f := newFixture(t)
	announce := f.announce(1000)
	f.insertExperiments(testExperiment{id: 1})
	f.insert(testRun{experiment: 1, metrics: []point{{key: "old"}}})
	ask := func() (key string) {
		t.Helper()
		got := decode[wireCatalogue](t, f.do(f.request("/api/v1/experiments/1/catalogue")))
		if len(got.Metrics) != 1 {
			t.Fatalf("%+v", got)
		}
		return got.Metrics[0].Key
	}
	if key := ask(); key != "old" {
		t.Error(key)
	}
	if err := f.conn.Exec(t.Context(), "TRUNCATE TABLE latest_metrics"); err != nil {
		t.Fatal(err)
	}
	f.insertRows([]testRun{testRun{experiment: 1, metrics: []point{{key: "new"}}}.withDefaults()})
	if key := ask(); key != "old" {
		t.Error("tables whose watermarks are what they were are read again:", key)
	}
	for _, seq := range []uint64{0, 1000} {
		announce(seq)
	}
	if key := ask(); key != "new" {
		t.Error(key)
	}
}
