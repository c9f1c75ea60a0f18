package projector

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/tables"
)

// folding is a folder, and the records that it is given.
type folding struct {
	*folder
	t    testing.TB
	next uint64
}

func newFolding(t testing.TB, stream string) *folding {
	t.Helper()
	f, err := newFolder(stream, map[tableName]uint64{})
	if err != nil {
		t.Fatal(err)
	}
	return &folding{folder: f, t: t}
}

// of folds events of a subject as one batch, and returns the error of the first that is
// refused.
func (f *folding) of(subject string, batch ...*events.Event) error {
	f.t.Helper()
	var records []eventlog.Record
	for _, e := range batch {
		f.next++
		records = append(records, eventlog.Record{
			Stream: f.stream, Seq: f.next, Subject: subject, Event: e, Attributes: events.New("/test", "tester", time.UnixMilli(int64(f.next))),
		})
	}
	m, err := f.prepare(records)
	if err != nil {
		return err
	}
	f.loaded(m)
	for _, rec := range records {
		if err := f.fold(rec); err != nil {
			return err
		}
	}
	f.accept(f.unresolved())
	return nil
}

func (f *folding) must(subject string, batch ...*events.Event) {
	f.t.Helper()
	if err := f.of(subject, batch...); err != nil {
		f.t.Fatal(err)
	}
}

func runCreated(run string) *events.Event {
	return &events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{RunId: run, ExperimentId: "7"}}}
}

func modelCreated(id string) *events.Event {
	return &events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: &events.LoggedModelCreated{ModelId: id, ExperimentId: "7"}}}
}

func metricsLogged(run string, points ...events.Point) *events.Event {
	return &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(run, points)}}
}

func ofMeta(run string) string { return events.RunSubject(0, "7", run, events.KindMeta) }

// Every status that there is can be projected, under its number, and no other can.
func TestFoldKnowsEveryStatus(t *testing.T) {
	for n := range int32(len(events.RunStatus_name) + 1) {
		f, run, status := newFolding(t, "RUNS_0"), newRunID(), events.RunStatus(n)
		err := f.of(ofMeta(run), runCreated(run), &events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: run, Status: &status}}})
		_, known := events.RunStatus_name[n]
		if known = known && n > 0; known != (err == nil) {
			t.Errorf("status %v of a run: %v", status, err)
		}
		if got := f.dirtyRuns[0].info.status; known && got != int8(n) {
			t.Errorf("status %v of a run is %d", status, got)
		}
	}
	for n := range int32(len(events.LoggedModelStatus_name) + 1) {
		f, status := newFolding(t, "RUNS_0"), events.LoggedModelStatus(n)
		err := f.of(events.LoggedModelSubject(0, "7", "m"), modelCreated("m"),
			&events.Event{Data: &events.Event_LoggedModelFinalized{LoggedModelFinalized: &events.LoggedModelFinalized{ModelId: "m", Status: status}}})
		_, known := events.LoggedModelStatus_name[n]
		if known = known && n > 0; known != (err == nil) {
			t.Errorf("status %v of a logged model: %v", status, err)
		}
		if got := f.dirtyModels[0].status; known && got != int8(n) {
			t.Errorf("status %v of a logged model is %d", status, got)
		}
	}
}

// What ingest never writes is refused: a row made of it would hide that the log is not
// what it should be.
func TestFoldRefusesWhatIngestNeverWrites(t *testing.T) {
	run := newRunID()
	upload := func(size int64, digest int) *events.Event {
		return &events.Event{Data: &events.Event_ArtifactUploaded{ArtifactUploaded: &events.ArtifactUploaded{
			Path: "p", ArtifactPath: "p", Size: size, Sha256: make([]byte, digest),
		}}}
	}
	dashed := uuid.NewString()
	for name, c := range map[string]struct {
		stream, subject string
		event           *events.Event
	}{
		"run that was not created": {"RUNS_0", ofMeta(run), &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: run}}}},
		"run id with dashes":       {"RUNS_0", ofMeta(dashed), runCreated(dashed)},
		"experiment of no number":  {"RUNS_0", events.RunSubject(0, "x", run, events.KindMeta), runCreated(run)},
		"run on the registry":      {events.StreamRegistry, events.ModelSubject("m"), runCreated(run)},
		"model that was not created": {
			"RUNS_0", events.LoggedModelSubject(0, "7", "m"),
			&events.Event{Data: &events.Event_LoggedModelDeleted{LoggedModelDeleted: &events.LoggedModelDeleted{ModelId: "m"}}},
		},
		"experiment that was not created": {
			events.StreamExperiments, events.ExperimentSubject("7"),
			&events.Event{Data: &events.Event_ExperimentRenamed{ExperimentRenamed: &events.ExperimentRenamed{ExperimentId: "7"}}},
		},
		"artifact of less than nothing": {"RUNS_0", events.ArtifactSubject(0, events.NoOwner, events.NoOwner), upload(-1, 32)},
		"artifact without a digest":     {"RUNS_0", events.ArtifactSubject(0, events.NoOwner, events.NoOwner), upload(1, 0)},
		"artifact with a long digest":   {"RUNS_0", events.ArtifactSubject(0, events.NoOwner, events.NoOwner), upload(1, 33)},
	} {
		if err := newFolding(t, c.stream).of(c.subject, c.event); !errors.Is(err, errUnprojectable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// everyRow returns a batch with rows for every table of a stream of runs, and a purge.
func everyRow(f *folding, run, gone string) {
	f.t.Helper()
	f.must(ofMeta(gone), runCreated(gone), &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: gone}}})
	point := events.Point{Key: "loss", Step: 1, Value: 1, Link: &events.MetricLink{ModelId: "m"}}
	f.must(ofMeta(run), runCreated(run),
		&events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{RunId: run, Tags: []*events.Tag{{Key: "k", Value: "v"}}}}},
		&events.Event{Data: &events.Event_RunInputsLogged{RunInputsLogged: &events.RunInputsLogged{
			RunId: run, Datasets: []*events.DatasetInput{{Name: "d", Digest: "1"}}, ModelIds: []string{"m"},
		}}})
	f.must(events.RunSubject(0, "7", run, events.KindMetric), metricsLogged(run, point))
	f.must(events.LoggedModelSubject(0, "7", "m"), modelCreated("m"))
	f.must(events.ArtifactSubject(0, "7", run), &events.Event{Data: &events.Event_ArtifactUploaded{ArtifactUploaded: &events.ArtifactUploaded{
		Path: run + "/artifacts/p", RunId: run, ArtifactPath: "p", Size: 1, Sha256: make([]byte, 32),
	}}})
}

// No row and no purge of a batch is in the next one, and what changes then is.
func TestFoldBeginsEachBatchWithNothing(t *testing.T) {
	f, run := newFolding(t, "RUNS_0"), newRunID()
	everyRow(f, run, newRunID())
	all := tablesOf("RUNS_0")
	for _, table := range all {
		if _, n := f.rows(table); n == 0 {
			t.Errorf("the first batch has no rows for %s", table)
		}
	}
	if len(f.purged) != 1 {
		t.Errorf("%d runs are purged", len(f.purged))
	}
	f.clear()
	for _, table := range all {
		if _, n := f.rows(table); n != 0 {
			t.Errorf("%d rows of %s are in the next batch", n, table)
		}
	}
	if len(f.purged) != 0 || len(f.suspects) != 0 {
		t.Errorf("%d runs are purged again, %d points are looked up again", len(f.purged), len(f.suspects))
	}
	name := "again"
	f.must(ofMeta(run), &events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: run, Name: &name}}})
	f.must(events.RunSubject(0, "7", run, events.KindMetric), metricsLogged(run, events.Point{Key: "loss", Step: 2}))
	f.must(events.LoggedModelSubject(0, "7", "m"), &events.Event{Data: &events.Event_LoggedModelDeleted{LoggedModelDeleted: &events.LoggedModelDeleted{ModelId: "m"}}})
	for _, table := range []tableName{tableRuns, tableLatest, tableMetrics, tableModels} {
		if _, n := f.rows(table); n != 1 {
			t.Errorf("a change has %d rows of %s in the next batch", n, table)
		}
	}
}

// Of points that differ in the value alone the greatest is the latest one, NaN counts as
// 0, and of equal ones the first stays.
func TestFoldLatestOfEqualTimes(t *testing.T) {
	for _, c := range []struct {
		values []float64
		latest int
	}{
		{[]float64{1, 2, 1}, 1},
		{[]float64{math.NaN(), -1, 0}, 0},
		{[]float64{-1, math.NaN(), 0}, 1},
		{[]float64{math.NaN(), 1}, 1},
		{[]float64{1, math.NaN()}, 0},
		{[]float64{0, math.Copysign(0, -1)}, 0},
		{[]float64{math.Inf(-1), math.NaN(), math.Inf(1), 1}, 2},
	} {
		f, run := newFolding(t, "RUNS_0"), newRunID()
		f.must(ofMeta(run), runCreated(run))
		for _, v := range c.values {
			f.must(events.RunSubject(0, "7", run, events.KindMetric), metricsLogged(run, events.Point{Key: "loss", Value: v}))
		}
		got := f.dirtyKeys[0].latest["loss"]
		if want := c.values[c.latest]; math.Float64bits(got.value) != math.Float64bits(want) || got.seq != uint64(c.latest+2) {
			t.Errorf("of %v the latest is %v of event %d, want %v", c.values, got.value, got.seq, want)
		}
	}
}

// A point that an event has twice is one.
func TestFoldTakesARepeatedPointOnce(t *testing.T) {
	f, run := newFolding(t, "RUNS_0"), newRunID()
	f.must(ofMeta(run), runCreated(run))
	late := events.Point{Key: "loss", Step: 1}
	f.must(events.RunSubject(0, "7", run, events.KindMetric), metricsLogged(run, events.Point{Key: "loss", Step: 5}, late, late), metricsLogged(run, late))
	if n := len(f.metrics.run); n != 2 || f.metrics.idx[1] != 1 || f.metrics.seq[1] != 2 {
		t.Errorf("%d points, the last is %v of event %v, want 2, the first of those that are equal", n, f.metrics.idx, f.metrics.seq)
	}
}

// The state is cut to its limits after each batch, and its keys are those that it has:
// wrong numbers would let it grow without end, or drop what is in use.
func TestStateStaysWithinItsLimits(t *testing.T) {
	f := newFolding(t, "RUNS_0")
	counted := func(when string) {
		t.Helper()
		keys := 0
		for _, r := range f.state.runs.Values() {
			keys += len(r.latest)
		}
		if f.state.keys != keys {
			t.Errorf("%s: %d keys, counted %d", when, keys, f.state.keys)
		}
	}
	f.state.maxKeys = 10
	var runs []string
	for range 4 {
		run := newRunID()
		runs = append(runs, run)
		f.must(ofMeta(run), runCreated(run))
		f.must(events.RunSubject(0, "7", run, events.KindMetric), metricsLogged(run, events.Point{Key: "a"}, events.Point{Key: "b"}, events.Point{Key: "c"}))
	}
	counted("too many")
	f.clear()
	counted("cut")
	if got := f.state.runs.Len(); got != 3 || f.state.runs.Contains(uuid.MustParse(runs[0])) {
		t.Errorf("%d runs are left, the oldest of them: %v", got, f.state.runs.Contains(uuid.MustParse(runs[0])))
	}
	f.must(ofMeta(runs[3]), &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: runs[3]}}})
	counted("purged")
	// The first run comes back, with the rows that it has in the table.
	back := &run{id: uuid.MustParse(runs[0]), latest: map[string]*latest{"a": {}, "b": {}, "c": {}}}
	f.state.runs.Add(back.id, back)
	f.loaded(missing{latest: []*run{back}})
	counted("loaded")
	for i := range maxEntities + 2 {
		f.state.runs.Add(uuid.New(), &run{})
		f.state.experiments.Add(uint64(i), &experiment{})
		f.state.models.Add(fmt.Sprint(i), &model{})
	}
	f.clear()
	if r, e, m := f.state.runs.Len(), f.state.experiments.Len(), f.state.models.Len(); r != maxEntities || e != maxEntities || m != maxEntities {
		t.Errorf("%d runs, %d experiments and %d models are kept, want %d of each", r, e, m, maxEntities)
	}
	counted("cut again")
}

// However many points are suspects, each that the table has is found.
func TestKnownPointsOfManyQueries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := tables.Migrate(t.Context(), w.opts, nil); err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	w.exec(fmt.Sprintf("INSERT INTO metrics (run_id, key, step) SELECT toUUID('%s'), 'loss', number FROM numbers(%d)", id, knownChunk+1))
	st, err := dial(t.Context(), w.opts, "RUNS_0", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	left := make(map[pointID]struct{})
	var points []pointID
	for i := range knownChunk + 2 {
		p := pointID{run: id, Identity: events.Point{Key: "loss", Step: int64(i)}.Identity()}
		points, left[p] = append(points, p), struct{}{}
	}
	if err := st.known(t.Context(), points, func(p pointID) { delete(left, p) }); err != nil {
		t.Fatal(err)
	}
	if _, ok := left[points[knownChunk+1]]; !ok || len(left) != 1 {
		t.Errorf("%d points were not found, want the last", len(left))
	}
}

// What each event is about, and in which experiment, is found by who did what to it.
func TestFoldAuditsEachEventOnce(t *testing.T) {
	f, run := newFolding(t, "RUNS_0"), newRunID()
	everyRow(f, run, newRunID())
	if n := int(f.next) - 1; f.audit.rows != n { // all but the points
		t.Fatalf("%d rows for %d events", f.audit.rows, n)
	}
	for i := range f.audit.rows {
		if f.audit.actor.Row(i) != "tester" || f.audit.experiment.Row(i) != "7" || !strings.HasPrefix(f.audit.typ.Row(i), "runledger.") {
			t.Errorf("%s of %q in experiment %q", f.audit.typ.Row(i), f.audit.actor.Row(i), f.audit.experiment.Row(i))
		}
	}
}
