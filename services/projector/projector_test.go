package projector

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/chdb/chdbtest"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver"
	"github.com/runledger/runledger/pkg/proptest"
	"github.com/runledger/runledger/pkg/tables"
	"github.com/runledger/runledger/pkg/tables/foldcheck"
	"github.com/runledger/runledger/pkg/watermark"
)

// eventually bounds every wait of these tests.
const eventually = 2 * time.Minute

func TestMain(m *testing.M) {
	// Each check starts projectors, again and again.
	if err := flag.Set("rapid.checks", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	chdbtest.Main(m)
}

// world is a log and a database.
type world struct {
	t    testing.TB
	nc   *nats.Conn
	log  *eventlog.Log
	conn driver.Conn
	opts *clickhouse.Options

	exp     string // the experiment of runs and logged models
	damaged bool   // the test damages the tables
}

func newWorld(t testing.TB) *world {
	t.Helper()
	conn, opts := chdbtest.Open(t)
	nc, log := newLog(t)
	return &world{t: t, nc: nc, log: log, conn: conn, opts: opts, exp: "7"}
}

func newLog(t testing.TB) (*nats.Conn, *eventlog.Log) {
	t.Helper()
	s, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	log, err := eventlog.Open(t.Context(), s.Conn(), eventlog.Config{Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	return s.Conn(), log
}

func (w *world) config(change func(*Config)) Config {
	c := Config{
		Log: w.log, Conn: w.nc, ClickHouse: w.opts, HolderID: "test", FlushAge: 5 * time.Millisecond,
		Registerer: prometheus.NewRegistry(),
	}
	if testing.Verbose() {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if change != nil {
		change(&c)
	}
	return c
}

// start runs a projector until stop is called or the test ends.
func (w *world) start(change func(*Config)) (p *Projector, stop func() error) {
	w.t.Helper()
	p, err := New(w.t.Context(), w.config(change))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	stop = func() (err error) {
		once.Do(func() {
			cancel()
			err = <-done
			if n := rebuilds(w.t, p); n > 0 && !w.damaged {
				w.t.Errorf("the tables were built again %v times, and nobody had damaged them", n)
			}
		})
		return err
	}
	w.t.Cleanup(func() { _ = stop() })
	return p, stop
}

// rebuilds returns how often a projector has found the tables damaged.
func rebuilds(t testing.TB, p *Projector) (n float64) {
	t.Helper()
	families, err := p.config.Registerer.(prometheus.Gatherer).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "runledger_projector_rebuilds_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("the rebuilds are not counted")
	return 0
}

// result returns what Run returned by itself.
func (w *world) runToError(change func(*Config)) error {
	w.t.Helper()
	p, err := New(w.t.Context(), w.config(change))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), eventually)
	defer cancel()
	return p.Run(ctx)
}

// wait returns when every stream is projected to its end.
func (w *world) wait() {
	w.t.Helper()
	if err := w.caughtUp(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) caughtUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), eventually)
	defer cancel()
	r, err := watermark.NewReader(w.nc)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, stream := range w.log.Streams() {
		last, err := w.log.LastSeq(ctx, stream)
		if err != nil {
			return err
		}
		if err := r.Wait(ctx, stream, last); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) check() {
	w.t.Helper()
	if err := w.compare(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) compare() error {
	ctx, cancel := context.WithTimeout(context.Background(), eventually)
	defer cancel()
	want, err := foldcheck.Fold(ctx, w.log)
	if err != nil {
		return err
	}
	return want.Compare(ctx, w.conn)
}

// entry is an event and where it goes.
type entry struct {
	stream, subject string
	event           *events.Event
}

// publish commits entries, each stream's in order.
func (w *world) publish(entries []entry) error {
	lanes := map[string]*eventlog.Lane{}
	defer func() {
		for _, l := range lanes {
			l.Close()
		}
	}()
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && n < 400 && entries[n].stream == entries[0].stream {
			n++
		}
		stream := entries[0].stream
		lane, ok := lanes[stream]
		if !ok {
			lane = w.log.NewLane(eventlog.LaneConfig{Stream: stream})
			lanes[stream] = lane
		}
		_, err := lane.Do(context.Background(), func(_ context.Context, b *eventlog.Batch) error {
			for _, e := range entries[:n] {
				a := events.New("/test", "tester", time.Now())
				a.Reason, a.RequestID = "because ☃", "r1"
				if err := b.Append(e.subject, a, e.event, eventlog.Expect{}, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

func (w *world) mustPublish(entries ...entry) {
	w.t.Helper()
	if err := w.publish(entries); err != nil {
		w.t.Fatal(err)
	}
}

// meta returns the event of a run on its stream.
func (w *world) ofRun(run string, kind events.Kind, e *events.Event) entry {
	stream, subject := w.log.RunSubject(w.exp, run, kind)
	return entry{stream: stream, subject: subject, event: e}
}

// ofModel returns the event of a logged model on its stream.
func (w *world) ofModel(id string, e *events.Event) entry {
	stream, subject := w.log.LoggedModelSubject(w.exp, id)
	return entry{stream: stream, subject: subject, event: e}
}

// artifact returns the upload of an artifact, or the deletion of two.
func (w *world) artifact(run, model, name, owner string, deleted bool) entry {
	at := events.NoOwner
	exp := events.NoOwner
	switch owner {
	case "":
		run, model = "", ""
	case "run":
		at, exp, model = run, w.exp, ""
	default:
		at, run = model, ""
	}
	path := strings.Trim(at, "-") + "/artifacts/" + name
	stream, subject := w.log.ArtifactSubject(exp, at)
	if deleted {
		return entry{stream, subject, &events.Event{Data: &events.Event_ArtifactsDeleted{ArtifactsDeleted: &events.ArtifactsDeleted{
			RunId: run, ModelId: model, Paths: []string{path, path + "/other"},
		}}}}
	}
	digest := sha256.Sum256([]byte(path))
	return entry{stream, subject, &events.Event{Data: &events.Event_ArtifactUploaded{ArtifactUploaded: &events.ArtifactUploaded{
		Path: path, RunId: run, ModelId: model, ArtifactPath: name, Size: int64(len(path)), Sha256: digest[:], ContentType: "text/plain",
	}}}}
}

func (w *world) created(run string) entry {
	return w.ofRun(run, events.KindMeta, &events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{
		RunId: run, ExperimentId: w.exp, Name: "name of " + run, UserId: "me", StartTime: 12, ArtifactUri: "a/" + run,
		Tags: []*events.Tag{{Key: "t0", Value: "created"}},
	}}})
}

func (w *world) logged(run string, points ...events.Point) entry {
	return w.ofRun(run, events.KindMetric, &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(run, points)}})
}

func newRunID() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }

// series returns n points of steps from on.
func series(key string, from, n int) []events.Point {
	points := make([]events.Point, n)
	for i := range points {
		points[i] = events.Point{Key: key, Step: int64(from + i), Timestamp: int64(1000 + from + i), Value: math.Sqrt(float64(from + i))}
	}
	return points
}

// history draws a list of events that ingest could have written.
func (w *world) history(t *rapid.T) []entry {
	runs := []string{newRunID(), newRunID(), newRunID()}
	models := []string{"m-" + newRunID(), "m-" + newRunID()}
	createdRuns, createdModels := map[string]bool{}, map[string]bool{}
	var out []entry
	purged, cleaned := map[string]bool{}, map[string]bool{}
	// purge ends a run or model, and then says once that its artifacts are gone.
	purge := func(id string, of func(*events.Event) entry, event, artifacts *events.Event) {
		switch {
		case !purged[id]:
			out = append(out, of(event))
		case !cleaned[id]:
			cleaned[id] = true
			out = append(out, of(artifacts))
		}
		purged[id] = true
	}
	values := []float64{math.NaN(), 0, math.Copysign(0, -1), 1, 2, math.Inf(1), math.Inf(-1)}
	small := func(label string) *rapid.Generator[int64] { return rapid.Int64Range(0, 3) }
	keys := rapid.SampledFrom([]string{"loss", "acc", "ключ/☃"})
	draw := rapid.Custom(func(t *rapid.T) events.Point {
		return events.Point{
			Key: keys.Draw(t, "key"), Step: small("step").Draw(t, "step"), Timestamp: small("at").Draw(t, "at"),
			Value: rapid.SampledFrom(values).Draw(t, "value"),
			Link: rapid.SampledFrom([]*events.MetricLink{
				nil, nil, {ModelId: models[0]}, {ModelId: models[1], DatasetName: "d", DatasetDigest: "1"},
			}).Draw(t, "link"),
		}
	})
	experiments := 0
	n := rapid.IntRange(20, 120).Draw(t, "events")
	for range n {
		run := rapid.SampledFrom(runs).Draw(t, "run")
		key, value := keys.Draw(t, "key"), rapid.StringN(0, 5, -1).Draw(t, "text")
		meta := func(e *events.Event) { out = append(out, w.ofRun(run, events.KindMeta, e)) }
		kind := rapid.IntRange(0, 22).Draw(t, "kind")
		ofRun := kind < 12 || kind > 16 && kind < 20
		if ofRun && !createdRuns[run] {
			createdRuns[run] = true
			out = append(out, w.created(run))
			continue
		}
		if ofRun && purged[run] && kind != 19 {
			continue
		}
		exp := func(e *events.Event) {
			out = append(out, entry{events.StreamExperiments, events.ExperimentSubject(w.exp), e})
		}
		switch kind {
		case 0:
			status, end := events.RunStatus_RUN_STATUS_FINISHED, rapid.SampledFrom([]int64{0, 99}).Draw(t, "end")
			meta(&events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: run, Status: &status, EndTime: &end}}})
		case 1:
			meta(&events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: run, Name: &value}}})
		case 2:
			meta(&events.Event{Data: &events.Event_RunParametersLogged{RunParametersLogged: &events.RunParametersLogged{
				RunId: run, Parameters: []*events.Parameter{{Key: key, Value: value}, {Key: "p", Value: "1"}},
			}}})
		case 3:
			meta(&events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{
				RunId: run, Tags: []*events.Tag{{Key: key, Value: value}, {Key: "t0", Value: value}},
			}}})
		case 4:
			meta(&events.Event{Data: &events.Event_RunTagDeleted{RunTagDeleted: &events.RunTagDeleted{RunId: run, Key: key}}})
		case 5:
			meta(&events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: run}}})
		case 6:
			meta(&events.Event{Data: &events.Event_RunRestored{RunRestored: &events.RunRestored{RunId: run}}})
		case 19:
			purge(run, func(e *events.Event) entry { return w.ofRun(run, events.KindMeta, e) },
				&events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: run}}},
				&events.Event{Data: &events.Event_ArtifactsPurged{ArtifactsPurged: &events.ArtifactsPurged{Owner: &events.ArtifactsPurged_RunId{RunId: run}}}})
		case 20:
			id := rapid.SampledFrom(append(models, w.exp)).Draw(t, "purged")
			switch {
			case createdModels[id]:
				purge(id, func(e *events.Event) entry { return w.ofModel(id, e) },
					&events.Event{Data: &events.Event_LoggedModelPurged{LoggedModelPurged: &events.LoggedModelPurged{ModelId: id}}},
					&events.Event{Data: &events.Event_ArtifactsPurged{ArtifactsPurged: &events.ArtifactsPurged{Owner: &events.ArtifactsPurged_ModelId{ModelId: id}}}})
			case id == w.exp && experiments > 0 && !purged[id]:
				purged[id] = true
				exp(&events.Event{Data: &events.Event_ExperimentPurged{ExperimentPurged: &events.ExperimentPurged{ExperimentId: id}}})
			}
		case 12:
			if purged[w.exp] {
				continue
			}
			if experiments++; experiments == 1 {
				exp(&events.Event{Data: &events.Event_ExperimentCreated{ExperimentCreated: &events.ExperimentCreated{
					ExperimentId: w.exp, Name: "e", ArtifactLocation: "a", Tags: []*events.Tag{{Key: "k", Value: "v"}},
				}}})
			} else {
				exp(&events.Event{Data: &events.Event_ExperimentTagSet{ExperimentTagSet: &events.ExperimentTagSet{
					ExperimentId: w.exp, Tag: &events.Tag{Key: key, Value: value},
				}}})
			}
		case 13:
			if experiments > 0 && !purged[w.exp] {
				exp(&events.Event{Data: &events.Event_ExperimentRenamed{ExperimentRenamed: &events.ExperimentRenamed{ExperimentId: w.exp, Name: value}}})
				exp(&events.Event{Data: &events.Event_ExperimentTagDeleted{ExperimentTagDeleted: &events.ExperimentTagDeleted{ExperimentId: w.exp, Key: key}}})
			}
		case 14:
			out = append(out, entry{events.StreamRegistry, events.ModelSubject("m"), &events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{
				Name: "m", Alias: "best", Version: 3,
			}}}})
		case 15:
			out = append(out, entry{events.StreamRegistry, events.ModelSubject("m"), &events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{
				Name: "m", Version: 3, RunId: run,
			}}}})
			out = append(out, entry{events.StreamRegistry, events.ModelSubject("m"), rapid.SampledFrom([]*events.Event{
				{Data: &events.Event_ModelVersionRestored{ModelVersionRestored: &events.ModelVersionRestored{Name: "m", Version: 3, RunId: run, ModelId: "l"}}},
				{Data: &events.Event_RegisteredModelRestored{RegisteredModelRestored: &events.RegisteredModelRestored{Name: "m", Id: 1, NextVersion: 4}}},
			}).Draw(t, "restored")})
			out = append(out, entry{events.StreamRegistry, events.ModelSubject("m"), rapid.SampledFrom([]*events.Event{
				{Data: &events.Event_GateSet{GateSet: &events.GateSet{Name: "m", Conditions: []string{"metrics.a > 1"}}}},
				{Data: &events.Event_GateDeleted{GateDeleted: &events.GateDeleted{Name: "m"}}},
				{Data: &events.Event_PromotionRefused{PromotionRefused: &events.PromotionRefused{Name: "m", Version: 3, Failures: []string{value}}}},
				{Data: &events.Event_ApprovalSet{ApprovalSet: &events.ApprovalSet{Name: "m", Version: 3, Comment: value}}},
				{Data: &events.Event_EvaluationRecorded{EvaluationRecorded: &events.EvaluationRecorded{Name: "m", Version: 3, Evaluation: value}}},
			}).Draw(t, "promotion")})
			out = append(out, entry{events.StreamRegistry, events.WebhookSubject("w"), rapid.SampledFrom([]*events.Event{
				{Data: &events.Event_WebhookCreated{WebhookCreated: &events.WebhookCreated{WebhookId: "w", Name: value, Events: []string{"prompt.created"}, SealedSecret: []byte{1}}}},
				{Data: &events.Event_WebhookUpdated{WebhookUpdated: &events.WebhookUpdated{WebhookId: "w", Name: &value}}},
				{Data: &events.Event_WebhookDeleted{WebhookDeleted: &events.WebhookDeleted{WebhookId: "w"}}},
			}).Draw(t, "change of a webhook")})
		case 16:
			id := rapid.SampledFrom(models).Draw(t, "model")
			if !createdModels[id] {
				createdModels[id] = true
				out = append(out, w.ofModel(id, &events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: &events.LoggedModelCreated{
					ModelId: id, ExperimentId: w.exp, Name: value, ArtifactUri: "a/" + id, ModelType: "agent", SourceRunId: run,
					Parameters: []*events.Parameter{{Key: "p", Value: "1"}}, Tags: []*events.Tag{{Key: "t0", Value: "created"}},
				}}}))
				continue
			}
			if purged[id] {
				continue
			}
			out = append(out, w.ofModel(id, rapid.SampledFrom([]*events.Event{
				{Data: &events.Event_LoggedModelFinalized{LoggedModelFinalized: &events.LoggedModelFinalized{ModelId: id, Status: events.LoggedModelStatus_LOGGED_MODEL_STATUS_READY}}},
				{Data: &events.Event_LoggedModelParametersLogged{LoggedModelParametersLogged: &events.LoggedModelParametersLogged{ModelId: id, Parameters: []*events.Parameter{{Key: key, Value: value}}}}},
				{Data: &events.Event_LoggedModelTagsSet{LoggedModelTagsSet: &events.LoggedModelTagsSet{ModelId: id, Tags: []*events.Tag{{Key: key, Value: value}, {Key: "t0", Value: value}}}}},
				{Data: &events.Event_LoggedModelTagDeleted{LoggedModelTagDeleted: &events.LoggedModelTagDeleted{ModelId: id, Key: "t0"}}},
				{Data: &events.Event_LoggedModelDeleted{LoggedModelDeleted: &events.LoggedModelDeleted{ModelId: id}}},
			}).Draw(t, "change of a model")))
		case 17:
			meta(&events.Event{Data: &events.Event_RunInputsLogged{RunInputsLogged: &events.RunInputsLogged{
				RunId: run, ModelIds: models[:1], Datasets: []*events.DatasetInput{
					{Name: key, Digest: "1", SourceType: "local", Source: value, Schema: "s", Profile: "p", Tags: []*events.Tag{{Key: key, Value: value}}},
					{Name: "d", Digest: value},
					{Name: "d", Digest: value, Source: "again"},
				},
			}}})
		case 18:
			step := rapid.Int64Range(0, 2).Draw(t, "step of an output")
			meta(&events.Event{Data: &events.Event_RunOutputsLogged{RunOutputsLogged: &events.RunOutputsLogged{
				RunId: run, Models: []*events.ModelOutput{{ModelId: models[0], Step: step}, {ModelId: models[1]}},
			}}})
		case 21, 22:
			change := w.artifact(run, models[0], value, rapid.SampledFrom([]string{"", "run", "model"}).Draw(t, "owner"), kind == 22)
			if u := change.event.GetArtifactUploaded(); u != nil && rapid.Bool().Draw(t, "replaces") {
				out = append(out, entry{change.stream, change.subject, &events.Event{Data: &events.Event_ArtifactReplacementBegun{
					ArtifactReplacementBegun: &events.ArtifactReplacementBegun{Path: u.GetPath(), RunId: u.GetRunId(), ModelId: u.GetModelId(), Sha256: u.GetSha256()},
				}}})
			}
			out = append(out, change)
		default:
			out = append(out, w.logged(run, rapid.SliceOfN(draw, 1, 12).Draw(t, "points")...))
		}
	}
	return out
}

var errCrash = errors.New("crash")

// Whatever the history, the boundaries of the batches and the points between
// two inserts where the projector is lost, the tables are the fold of the log.
func TestTablesAreTheFoldOfTheLog(t *testing.T) {
	t.Parallel()
	t.Attr("covers", "metric-set")
	t.Attr("covers", "metric-latest")
	var reuse *world // what the last check left, unless it failed
	experiments := 0
	proptest.Check(t, func(rt *rapid.T) {
		w := reuse
		if reuse = nil; w == nil {
			w = newWorld(t)
			// No merge may collapse what was inserted twice.
			if err := tables.Migrate(t.Context(), w.opts, nil); err != nil {
				rt.Fatal(err)
			}
			for _, table := range []tableName{tableMetrics, tableModelMetrics, tableAudit} {
				if err := w.conn.Exec(t.Context(), "SYSTEM STOP MERGES "+string(table)); err != nil {
					rt.Fatal(err)
				}
			}
		}
		experiments++
		w.exp = fmt.Sprint(experiments)
		entries := w.history(rt)
		before := rapid.IntRange(0, len(entries)).Draw(rt, "published before the start")
		if err := w.publish(entries[:before]); err != nil {
			rt.Fatal(err)
		}
		crashes := rapid.IntRange(0, 12).Draw(rt, "crashes")
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		var mu sync.Mutex
		_, stop := w.start(func(c *Config) {
			c.FlushRows = rapid.IntRange(1, 60).Draw(rt, "rows of a batch")
			c.FlushAge = time.Duration(rapid.IntRange(1, 20).Draw(rt, "age of a batch")) * time.Millisecond
			c.failpoint = func(string, string, bool) error {
				mu.Lock()
				defer mu.Unlock()
				if crashes > 0 && random.IntN(6) == 0 {
					crashes--
					return errCrash
				}
				return nil
			}
		})
		if err := w.publish(entries[before:]); err != nil {
			rt.Fatal(err)
		}
		if err := w.caughtUp(); err != nil {
			rt.Fatal(err)
		}
		if err := w.compare(); err != nil {
			rt.Fatal(err)
		}
		if err := stop(); err != nil {
			rt.Fatal(err)
		}
		reuse = w
	})
}

// A run that comes back after the cache has dropped it, or to a new process,
// is loaded from the tables.
func TestStateIsLoadedFromTheTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run, other, deleted, restored, gone := newRunID(), newRunID(), newRunID(), newRunID(), newRunID()
	ofRun := func(run string, e *events.Event) entry { return w.ofRun(run, events.KindMeta, e) }
	deletion := func(run string) entry {
		return ofRun(run, &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: run}}})
	}
	exp := func(e *events.Event) entry { return entry{events.StreamExperiments, events.ExperimentSubject("7"), e} }
	w.mustPublish(w.created(run), w.created(other), w.logged(run, series("loss", 0, 100)...), w.logged(other, series("acc", 0, 3)...),
		ofRun(run, &events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: run, EndTime: new(int64)}}}),
		w.created(deleted), deletion(deleted), w.created(restored), deletion(restored), w.created(gone), deletion(gone),
		ofRun(gone, &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: gone}}}),
		exp(&events.Event{Data: &events.Event_ExperimentCreated{ExperimentCreated: &events.ExperimentCreated{
			ExperimentId: "7", Name: "e", ArtifactLocation: "a", Tags: []*events.Tag{{Key: "k", Value: "v"}},
		}}}),
		w.ofModel("m-1", &events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: &events.LoggedModelCreated{
			ModelId: "m-1", ExperimentId: "7", Name: "m", ArtifactUri: "a/m-1", ModelType: "agent", SourceRunId: run,
			Parameters: []*events.Parameter{{Key: "p", Value: "1"}}, Tags: []*events.Tag{{Key: "t0", Value: "created"}},
		}}}),
	)
	for i := range 3 {
		_, stop := w.start(nil)
		w.wait()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		w.check()
		status, name := events.RunStatus_RUN_STATUS_FINISHED, fmt.Sprint("name ", i)
		w.mustPublish(
			w.logged(run, series("loss", 0, 100)...), // again, as log_model does
			w.logged(run, series("loss", 50, 100)...),
			w.logged(other, events.Point{Key: "acc", Step: 2, Timestamp: 1002, Value: math.NaN()}, events.Point{Key: "acc", Step: -1}),
			ofRun(run, &events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: run, Status: &status}}}),
			ofRun(deleted, &events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: deleted, Name: &name}}}),
			ofRun(restored, &events.Event{Data: &events.Event_RunRestored{RunRestored: &events.RunRestored{RunId: restored}}}),
			ofRun(gone, &events.Event{Data: &events.Event_ArtifactsPurged{ArtifactsPurged: &events.ArtifactsPurged{Owner: &events.ArtifactsPurged_RunId{RunId: gone}}}}),
			exp(&events.Event{Data: &events.Event_ExperimentRenamed{ExperimentRenamed: &events.ExperimentRenamed{ExperimentId: "7", Name: name}}}),
			w.ofModel("m-1", &events.Event{Data: &events.Event_LoggedModelTagsSet{LoggedModelTagsSet: &events.LoggedModelTagsSet{
				ModelId: "m-1", Tags: []*events.Tag{{Key: name, Value: "v"}},
			}}}),
		)
	}
	w.start(nil)
	w.wait()
	w.check()
}

func TestOneInsertIsOnePart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, stop := w.start(nil)
	w.wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.Exec(t.Context(), "SYSTEM STOP MERGES metrics"); err != nil {
		t.Fatal(err)
	}
	run := newRunID()
	stream, _ := w.log.RunSubject("7", run, events.KindMeta)
	entries := []entry{w.created(run)}
	const messages = 66 // more points than the engine reads in one block by default
	for i := range messages {
		entries = append(entries, w.logged(run, series(fmt.Sprint("k", i%7), i*events.MaxPoints, events.MaxPoints)...))
	}
	w.mustPublish(entries...)
	var flushes int
	w.start(func(c *Config) {
		c.FlushAge, c.FlushRows = time.Minute, messages*events.MaxPoints
		c.failpoint = func(s, table string, done bool) error {
			if s == stream && table == "metrics" && done {
				flushes++
			}
			return nil
		}
	})
	w.wait()
	w.check()
	var parts uint64
	if err := w.conn.QueryRow(t.Context(), "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'metrics' AND active").Scan(&parts); err != nil {
		t.Fatal(err)
	}
	if parts != uint64(flushes) || flushes == 0 {
		t.Fatalf("%d inserts made %d parts", flushes, parts)
	}
}
