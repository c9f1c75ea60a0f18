package query_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/chdb/chdbtest"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/pkg/tables"
	"github.com/runledger/runledger/pkg/watermark"
	"github.com/runledger/runledger/services/query"
)

// checks is how many cases a property is tried with by default: each one fills
// tables on disk. -rapid.checks asks for another number.
const checks = "12"

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", checks); err != nil {
		panic(err)
	}
	chdbtest.Main(m)
}

// fixture is a query service over a real log and real tables. Tests write the
// rows themselves, and stand in for the projector's announcements.
type fixture struct {
	t       testing.TB
	nc      *nats.Conn
	log     *eventlog.Log
	conn    driver.Conn
	opts    *clickhouse.Options
	server  *echo.Echo
	service *query.Service
	seq     atomic.Uint64
}

func newFixture(t testing.TB, change ...func(*query.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, nc: natstest.Start(t)}
	var err error
	if f.log, err = eventlog.Open(t.Context(), f.nc, eventlog.Config{Shards: 2}); err != nil {
		t.Fatal(err)
	}
	f.conn, f.opts = chdbtest.Open(t)
	if err := tables.Migrate(t.Context(), f.opts, nil); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	c := query.Config{Log: f.log, NATS: f.nc, ClickHouse: f.opts, Registerer: registry, Wait: 10 * time.Second}
	for _, change := range change {
		change(&c)
	}
	if f.service, err = query.New(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.service.Close(); err != nil {
			t.Error(err)
		}
	})
	f.server = httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: registry})
	f.service.Register(f.server)
	return f
}

// project announces whatever a reader asks for, as a projector that is always
// up to date does.
func (f *fixture) project() {
	f.t.Helper()
	for _, stream := range f.log.Streams() {
		a, err := watermark.NewAnnouncer(f.nc, stream)
		if err != nil {
			f.t.Fatal(err)
		}
		done := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			var at uint64 // lower only when tables are replaced
			for {
				select {
				case seq := <-a.Wanted():
					at = max(at, seq)
					_ = a.Announce(at)
				case <-done:
					return
				}
			}
		}()
		f.t.Cleanup(func() {
			close(done)
			<-ended
			_ = a.Close()
		})
	}
}

// eventually waits until a condition holds.
func (f *fixture) eventually(what string, holds func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatal("not in a minute: ", what)
		}
	}
}

// announce says that the tables hold all streams up to seq, and returns how to
// say it of another and see it arrive.
func (f *fixture) announce(seq uint64) (again func(seq uint64)) {
	f.t.Helper()
	var announcers []*watermark.Announcer
	for _, stream := range f.log.Streams() {
		a, err := watermark.NewAnnouncer(f.nc, stream)
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(func() { _ = a.Close() })
		announcers = append(announcers, a)
	}
	again = func(seq uint64) {
		for _, a := range announcers {
			if err := a.Announce(seq); err != nil {
				f.t.Fatal(err)
			}
		}
		f.eventually("the service hears of the watermarks", func() bool {
			return !slices.ContainsFunc(f.service.Marks(), func(m uint64) bool { return m != seq })
		})
	}
	again(seq)
	return again
}

// publish appends an event, and returns its place.
func (f *fixture) publish(subject string, e *events.Event) eventlog.Position {
	f.t.Helper()
	return f.publishAt(time.Now(), subject, e)
}

func (f *fixture) publishAt(at time.Time, subject string, e *events.Event) eventlog.Position {
	f.t.Helper()
	msg, err := events.Encode(subject, events.New("test", "", at), e)
	if err != nil {
		f.t.Fatal(err)
	}
	ack, err := f.log.JetStream().PublishMsg(f.t.Context(), msg)
	if err != nil {
		f.t.Fatal(err)
	}
	return eventlog.Position{Stream: ack.Stream, Seq: ack.Sequence}
}

// point is one metric point of a test run.
type point struct {
	key       string
	value     float64
	timestamp int64
	step      int64
}

// testRun is a run as a test describes it.
type testRun struct {
	id           string
	experiment   uint64
	name         string
	user         string
	status       string
	start, end   int64
	ended        bool // also at 0
	artifactURI  string
	deleted      bool
	params, tags map[string]string
	metrics      []point // the latest of each key
}

func (r testRun) hasEnd() bool { return r.ended || r.end != 0 }

func newRunID() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }

func (r testRun) withDefaults() testRun {
	if r.id == "" {
		r.id = newRunID()
	}
	if r.status == "" {
		r.status = "RUNNING"
	}
	return r
}

func (r testRun) uuid() uuid.UUID {
	var id uuid.UUID
	if _, err := hex.Decode(id[:], []byte(r.id)); err != nil {
		panic(err)
	}
	return id
}

// insert writes runs into the tables and into the log.
func (f *fixture) insert(runs ...testRun) []testRun {
	f.t.Helper()
	for i := range runs {
		runs[i] = runs[i].withDefaults()
		f.logRun(runs[i])
	}
	f.insertRows(runs)
	return runs
}

// logRun writes a run into the log alone.
func (f *fixture) logRun(r testRun) {
	f.t.Helper()
	experiment := strconv.FormatUint(r.experiment, 10)
	_, meta := f.log.RunSubject(experiment, r.id, events.KindMeta)
	_, metric := f.log.RunSubject(experiment, r.id, events.KindMetric)
	created := &events.RunCreated{
		RunId: r.id, ExperimentId: experiment, Name: r.name, UserId: r.user, StartTime: r.start, ArtifactUri: r.artifactURI,
	}
	for key, value := range r.tags {
		created.Tags = append(created.Tags, &events.Tag{Key: key, Value: value})
	}
	f.publish(meta, &events.Event{Data: &events.Event_RunCreated{RunCreated: created}})
	if r.status != "RUNNING" || r.hasEnd() {
		status := events.RunStatus(events.RunStatus_value["RUN_STATUS_"+r.status])
		updated := &events.RunUpdated{RunId: r.id, Status: &status}
		if r.hasEnd() {
			updated.EndTime = &r.end
		}
		f.publish(meta, &events.Event{Data: &events.Event_RunUpdated{RunUpdated: updated}})
	}
	if len(r.params) > 0 {
		logged := &events.RunParametersLogged{RunId: r.id}
		for key, value := range r.params {
			logged.Parameters = append(logged.Parameters, &events.Parameter{Key: key, Value: value})
		}
		f.publish(meta, &events.Event{Data: &events.Event_RunParametersLogged{RunParametersLogged: logged}})
	}
	if r.deleted {
		f.publish(meta, &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: r.id}}})
	}
	if len(r.metrics) > 0 {
		var points []events.Point
		for _, p := range r.metrics {
			points = append(points, events.Point{Key: p.key, Value: p.value, Timestamp: p.timestamp, Step: p.step})
		}
		f.publish(metric, &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(r.id, points)}})
	}
}

func (f *fixture) insertRows(runs []testRun) {
	f.t.Helper()
	f.batch("INSERT INTO runs (experiment_id, run_id, name, user_id, status, start_time, end_time, ended, artifact_uri, lifecycle, deleted_time, shard, seq)",
		func(b driver.Batch) error {
			for _, r := range runs {
				lifecycle := "active"
				if r.deleted {
					lifecycle = "deleted"
				}
				if err := b.Append(r.experiment, r.uuid(), r.name, r.user, r.status, r.start, r.end, r.hasEnd(), r.artifactURI, lifecycle, int64(0), uint16(0), f.seq.Add(1)); err != nil {
					return err
				}
			}
			return nil
		})
	f.batch("INSERT INTO run_attributes (experiment_id, kind, key, run_id, value, deleted, shard, seq)", func(b driver.Batch) error {
		for _, r := range runs {
			for kind, values := range map[string]map[string]string{"parameter": r.params, "tag": r.tags} {
				for key, value := range values {
					if err := b.Append(r.experiment, kind, key, r.uuid(), value, uint8(0), uint16(0), f.seq.Add(1)); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	f.batch("INSERT INTO latest_metrics (experiment_id, key, run_id, step, timestamp, value, shard, seq)", func(b driver.Batch) error {
		for _, r := range runs {
			for _, m := range r.metrics {
				if err := b.Append(r.experiment, m.key, r.uuid(), m.step, m.timestamp, m.value, uint16(0), f.seq.Add(1)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// insertPoints writes the history of a run into the tables, and says in the
// log that there is one.
func (f *fixture) insertPoints(runID string, points ...point) {
	f.t.Helper()
	_, subject := f.log.RunSubject("1", runID, events.KindMetric)
	f.publish(subject, &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(runID, []events.Point{{Key: "x"}})}})
	f.batch("INSERT INTO metrics (run_id, key, step, timestamp, value, shard, seq, idx)", func(b driver.Batch) error {
		for _, p := range points {
			if err := b.Append(testRun{id: runID}.uuid(), p.key, p.step, p.timestamp, p.value, uint16(0), f.seq.Add(1), uint32(0)); err != nil {
				return err
			}
		}
		return nil
	})
}

// rollUp writes the blocks of what a series has, each of 2^width steps, as the
// projector does.
func (f *fixture) rollUp(runID, key string, width int) {
	f.t.Helper()
	for _, q := range []string{
		`INSERT INTO metric_rollups SELECT run_id, key, {width:UInt8}, bitShiftRight(step, {width:UInt8}) AS block, (SELECT max(seq) FROM metrics WHERE run_id = {run:UUID}),
			count(), countIf(isNaN(value)), countIf(value = inf), countIf(value = -inf),
			minIf(step, isFinite(value)), argMinIf(value, (step, timestamp, value), isFinite(value)),
			maxIf(step, isFinite(value)), argMaxIf(value, (step, timestamp, value), isFinite(value)),
			argMinIf(step, (value, step), isFinite(value)), minIf(value, isFinite(value)),
			argMinIf(step, (-value, step), isFinite(value)), maxIf(value, isFinite(value)), sumIf(value, isFinite(value))
			FROM metrics FINAL WHERE run_id = {run:UUID} AND key = {key:String} GROUP BY run_id, key, block`,
		"INSERT INTO metric_rollups (run_id, key, width, block, version) SELECT {run:UUID}, {key:String}, 0, {width:Int64}, (SELECT max(seq) FROM metrics WHERE run_id = {run:UUID})",
	} {
		if err := f.conn.Exec(f.t.Context(), q, clickhouse.Named("run", testRun{id: runID}.uuid().String()), clickhouse.Named("key", key),
			clickhouse.Named("width", width)); err != nil {
			f.t.Fatal(err)
		}
	}
}

// longSeries writes a series of so many points, ten milliseconds apart, whose
// first is at historyStart, and returns its run.
func (f *fixture) longSeries(key string, points int) (run string) {
	f.t.Helper()
	run = newRunID()
	f.insertPoints(run, point{key, 0, historyStart, 0})
	const part = 1_000_000
	for from := 1; from < points; from += part {
		if err := f.conn.Exec(f.t.Context(), "INSERT INTO metrics (run_id, key, step, timestamp, value, shard, seq, idx) "+
			"SELECT {run:UUID}, {key:String}, number, {start:Int64} + number * 10, sipHash64(number) / 1e19, 0, number, 0 FROM numbers({from:UInt64}, {count:UInt64})",
			clickhouse.Named("run", testRun{id: run}.uuid().String()), clickhouse.Named("key", key), clickhouse.Named("start", int64(historyStart)),
			clickhouse.Named("from", from), clickhouse.Named("count", min(part, points-from))); err != nil {
			f.t.Fatal(err)
		}
	}
	return run
}

// historyStart is the time of the first point of a long series.
const historyStart = 1_700_000_000_000

type testExperiment struct {
	id         uint64
	name       string
	deleted    bool
	created    int64
	lastUpdate int64
	tags       map[string]string
}

func (f *fixture) insertExperiments(experiments ...testExperiment) {
	f.t.Helper()
	for _, x := range experiments {
		id := strconv.FormatUint(x.id, 10)
		created := &events.ExperimentCreated{ExperimentId: id, Name: x.name, ArtifactLocation: "mlflow-artifacts:/" + id}
		for key, value := range x.tags {
			created.Tags = append(created.Tags, &events.Tag{Key: key, Value: value})
		}
		f.publishAt(time.UnixMilli(x.created), events.ExperimentSubject(id), &events.Event{Data: &events.Event_ExperimentCreated{ExperimentCreated: created}})
		if x.deleted {
			f.publishAt(time.UnixMilli(x.lastUpdate), events.ExperimentSubject(id),
				&events.Event{Data: &events.Event_ExperimentDeleted{ExperimentDeleted: &events.ExperimentDeleted{ExperimentId: id}}})
		}
	}
	f.batch("INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle, creation_time, last_update_time, tags, seq)", func(b driver.Batch) error {
		for _, x := range experiments {
			lifecycle := "active"
			if x.deleted {
				lifecycle = "deleted"
			}
			tags := x.tags
			if tags == nil {
				tags = map[string]string{}
			}
			if err := b.Append(x.id, x.name, fmt.Sprintf("mlflow-artifacts:/%d", x.id), lifecycle, x.created, x.lastUpdate, tags, f.seq.Add(1)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *fixture) batch(insert string, fill func(driver.Batch) error) {
	f.t.Helper()
	ctx := clickhouse.Context(f.t.Context(), clickhouse.WithSettings(clickhouse.Settings{"async_insert": 0}))
	b, err := f.conn.PrepareBatch(ctx, insert)
	if err != nil {
		f.t.Fatal(err)
	}
	defer b.Close()
	if err := fill(b); err != nil {
		f.t.Fatal(err)
	}
	if b.Rows() == 0 {
		return
	}
	if err := b.Send(); err != nil {
		f.t.Fatal(err)
	}
}

// get and post ask the service; path is below /api/2.0/mlflow.
func (f *fixture) get(path string, args ...string) *httptest.ResponseRecorder {
	return f.do(f.request("/api/2.0/mlflow"+path, args...))
}

// request returns a GET request of any path.
func (f *fixture) request(path string, args ...string) *http.Request {
	q := url.Values{}
	for i := 0; i < len(args); i += 2 {
		q.Add(args[i], args[i+1])
	}
	return httptest.NewRequest(http.MethodGet, path+"?"+q.Encode(), nil)
}

func (f *fixture) post(path string, body any) *httptest.ResponseRecorder {
	b, err := json.Marshal(body)
	if err != nil {
		f.t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/2.0/mlflow"+path, bytes.NewReader(b))
	r.Header.Set("Content-Type", "application/json")
	return f.do(r)
}

func (f *fixture) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.server.ServeHTTP(w, r.WithContext(f.t.Context()))
	return w
}

// The answers, as a client sees them.
type (
	wireNumber float64

	wireMetric struct {
		Key             string
		Value           wireNumber
		Timestamp, Step int64
	}
	wireRun struct {
		Info map[string]any
		Data struct {
			Metrics      []wireMetric
			Params, Tags []mlflow.Param
		}
	}
	wireRuns struct {
		Runs          []wireRun
		NextPageToken string `json:"next_page_token"`
	}
	wireHistory struct {
		Metrics       []wireMetric
		NextPageToken string `json:"next_page_token"`
	}
	wireExperiments struct {
		Experiments []struct {
			ExperimentID   string `json:"experiment_id"`
			Name           string
			LifecycleStage string `json:"lifecycle_stage"`
			Tags           []mlflow.Tag
		}
		NextPageToken string `json:"next_page_token"`
	}
	wireError struct {
		Code    string `json:"error_code"`
		Message string
	}
)

func (n *wireNumber) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	*n = wireNumber(f)
	return err
}

// decode returns the body of an answer with status 200.
func decode[T any](t testing.TB, w *httptest.ResponseRecorder) T {
	t.Helper()
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return v
}

// wantError checks an error answer; message is how it begins.
func wantError(t testing.TB, w *httptest.ResponseRecorder, status int, code, message string) {
	t.Helper()
	var e wireError
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatalf("status %d, %v in %s", w.Code, err, w.Body)
	}
	if w.Code != status || e.Code != code || !strings.HasPrefix(e.Message, message) {
		t.Errorf("got %d %s %q, want %d %s %q", w.Code, e.Code, e.Message, status, code, message)
	}
}

func (r wireRuns) ids() []string {
	ids := make([]string, len(r.Runs))
	for i, run := range r.Runs {
		ids[i] = run.Info["run_id"].(string)
	}
	return ids
}

// searchAll pages through a search and returns the ids of the runs.
func (f *fixture) searchAll(body map[string]any) []string {
	f.t.Helper()
	var ids []string
	for pages := 0; ; pages++ {
		if pages == maxPages {
			f.t.Fatalf("more than %d pages of %v", maxPages, body)
		}
		page := decode[wireRuns](f.t, f.post("/runs/search", body))
		ids = append(ids, page.ids()...)
		if page.NextPageToken == "" {
			return ids
		}
		body["page_token"] = page.NextPageToken
	}
}

// maxPages is more than any test has.
const maxPages = 200

var inf = math.Inf(1)
