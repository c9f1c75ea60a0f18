package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/runledger/runledger/pkg/events"
)

const (
	// sweepRuns is how many runs a client has in one experiment.
	sweepRuns = 50
	// runBatches is how many times batchPoints points a run logs.
	runBatches = 4
	// readEvery is after how many requests with points a client reads.
	readEvery = 25
	// versionEvery is after how many runs one becomes a version of a model,
	// deleteEvery after how many one is deleted.
	versionEvery = 10
	deleteEvery  = 20
	// fileBytes is the size of the file that each run uploads.
	fileBytes = 16 << 10
	// shownRuns is how many runs are drawn together.
	shownRuns = 5
	// sampledRuns is how many runs are read back one by one at the end.
	sampledRuns = 200
)

// chunks are the sizes of the requests that the batches of a run are logged in.
var chunks = [runBatches]int{batchPoints, 250, 40, 8}

// sweeps is what clients do all day: each has one run after the other, of
// sweeps of sweepRuns runs in an experiment. It logs parameters, tags, points in
// requests of several sizes and a file, reads now and then what it wrote,
// searches, draws, and makes some of the runs versions of a model. Everything is
// remembered that is needed to tell whether it is there later.
type sweeps struct {
	*instance
	requests, points, versions, stale atomic.Int64

	mu            sync.Mutex
	writes, reads *latencies        // of the current window
	clients       int               // that there have been
	tallies       map[string]*tally // by run
	models        map[string]int    // versions by model
}

// tally is what was acknowledged of a run. The sums wrap around.
type tally struct {
	experiment    string
	seed          uint64
	count         uint64
	steps, values uint64 // sums of the steps, and of the values' bits
	finished      bool
	deleted       bool
}

func newSweeps(i *instance) *sweeps {
	return &sweeps{instance: i, writes: newLatencies(), reads: newLatencies(), tallies: make(map[string]*tally), models: make(map[string]int)}
}

// window returns how long requests took since it was called last.
func (s *sweeps) window() (writes, reads *latencies) {
	s.mu.Lock()
	defer s.mu.Unlock()
	writes, reads = s.writes, s.reads
	s.writes, s.reads = newLatencies(), newLatencies()
	return writes, reads
}

func (s *sweeps) runs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tallies)
}

// errOver says that the time of the load is over.
var errOver = errors.New("the time is over")

// run has a number of clients work for a while, limit is of their requests. No
// request is broken off at the end.
func (s *sweeps) run(ctx context.Context, d time.Duration, clients int, limit *rate.Limiter) error {
	group, ctx := errgroup.WithContext(ctx)
	loading, stop := context.WithTimeout(ctx, d)
	defer stop()
	for range clients {
		s.mu.Lock()
		s.clients++
		c := &sweeper{sweeps: s, number: s.clients, limit: limit, loading: loading}
		s.mu.Unlock()
		group.Go(func() error {
			for n := 0; ; n++ {
				if err := c.train(ctx, n); err != nil {
					if errors.Is(err, errOver) {
						return nil
					}
					return fmt.Errorf("client %d, run %d: %w", c.number, n+1, err)
				}
			}
		})
	}
	return group.Wait()
}

// sweeper is one client.
type sweeper struct {
	*sweeps
	number     int
	limit      *rate.Limiter
	loading    context.Context // ends with the load
	experiment string
	recent     []string // the last runs of the experiment
	current    *trained
	logged     int // requests with points of the current run
}

// trained is the run that a client is at.
type trained struct {
	*tally
	id     string
	params int
	points []events.Point // acknowledged
}

// send sends one request in its turn.
func (c *sweeper) send(took func() *latencies, f func() error) error {
	if err := c.limit.Wait(c.loading); err != nil {
		return errOver // in time for no other reason
	}
	if c.loading.Err() != nil {
		return errOver
	}
	began := time.Now()
	if err := f(); err != nil {
		return err
	}
	d := time.Since(began)
	c.requests.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	took().add(d)
	return nil
}

func (c *sweeper) write(ctx context.Context, path string, body, into any) error {
	encoded, ok := body.([]byte)
	if !ok {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return err
		}
	}
	return c.send(func() *latencies { return c.sweeps.writes }, func() error { return c.client.post(ctx, path, encoded, into) })
}

type object = map[string]any

// train tracks the nth run of a client.
func (c *sweeper) train(ctx context.Context, n int) error {
	c.logged = 0
	if n%sweepRuns == 0 {
		var created struct {
			ID string `json:"experiment_id"`
		}
		if err := c.write(ctx, "experiments/create", object{"name": fmt.Sprintf("sweep %d of client %d", n/sweepRuns, c.number)}, &created); err != nil {
			return err
		}
		c.experiment, c.recent = created.ID, nil
	}
	var id string
	err := c.send(func() *latencies { return c.sweeps.writes }, func() (err error) {
		id, err = c.client.createRunIn(ctx, c.experiment, "", time.Now().UnixMilli())
		return err
	})
	if err != nil {
		return err
	}
	t := &trained{tally: &tally{experiment: c.experiment, seed: uint64(c.number)<<32 | uint64(n)}, id: id}
	c.mu.Lock()
	c.tallies[id] = t.tally
	c.mu.Unlock()
	c.recent = append(c.recent[max(0, len(c.recent)-shownRuns+1):], id)

	rng := rand.New(rand.NewPCG(t.seed, 1))
	var params, tags []object
	for k := range runParams {
		params = append(params, object{"key": paramName(k), "value": paramValue(rng.IntN(paramValues))})
		tags = append(tags, object{"key": fmt.Sprintf("tag%d", k), "value": paramValue(rng.IntN(paramValues))})
	}
	if err := c.write(ctx, "runs/log-batch", object{"run_id": id, "params": params, "tags": tags}, nil); err != nil {
		return err
	}
	t.params = len(params)
	c.current = t
	w := workload{seed: t.seed, runs: 1}
	for batch := range runBatches {
		// Clients that began together do not all send large requests at once.
		size := chunks[(batch+c.number)%runBatches]
		for chunk := range slices.Chunk(w.points(batch), size) {
			body := encodeBatch(chunk)
			setRunID(body, id)
			if err := c.logPoints(ctx, "runs/log-batch", body, chunk); err != nil {
				return err
			}
		}
		// What a callback reports at the end of an epoch.
		p := events.Point{Key: "epoch", Value: float64(batch), Step: int64(batch), Timestamp: firstTimestamp + int64(batch)}
		if err := c.logPoints(ctx, "runs/log-metric", encodeMetric(nil, id, p), []events.Point{p}); err != nil {
			return err
		}
	}
	if err := c.upload(ctx); err != nil {
		return err
	}
	if n%versionEvery == 0 {
		if err := c.register(ctx); err != nil {
			return err
		}
	}
	if err := c.write(ctx, "runs/update", object{"run_id": id, "status": "FINISHED", "end_time": time.Now().UnixMilli()}, nil); err != nil {
		return err
	}
	c.mu.Lock()
	t.finished = true
	c.mu.Unlock()
	if n%deleteEvery == 1 {
		err := c.write(ctx, "runs/delete", object{"run_id": id}, nil)
		if err == nil {
			c.mu.Lock()
			t.deleted = true
			c.mu.Unlock()
		}
		return err
	}
	return nil
}

// logPoints logs points of the run, and reads in between.
func (c *sweeper) logPoints(ctx context.Context, path string, body []byte, points []events.Point) error {
	if err := c.write(ctx, path, body, nil); err != nil {
		return err
	}
	t := c.current
	t.points = append(t.points, points...)
	c.mu.Lock()
	for _, p := range points {
		t.count++
		t.steps += uint64(p.Step)
		t.values += math.Float64bits(p.Value)
	}
	c.mu.Unlock()
	c.sweeps.points.Add(int64(len(points)))
	if c.logged++; c.logged%readEvery == 0 {
		return c.read(ctx, c.logged/readEvery)
	}
	return nil
}

func file(seed uint64) []byte {
	b := make([]byte, fileBytes)
	rng := rand.New(rand.NewPCG(seed, 2))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func filePath(experiment, id string) string {
	return "/api/2.0/mlflow-artifacts/artifacts/" + experiment + "/" + id + "/artifacts/model.bin"
}

func (c *sweeper) upload(ctx context.Context) error {
	t := c.current
	return c.send(func() *latencies { return c.sweeps.writes }, func() error {
		_, err := c.client.request(ctx, http.MethodPut, filePath(t.experiment, t.id), file(t.seed), nil)
		return err
	})
}

// register makes the run a version of the client's model.
func (c *sweeper) register(ctx context.Context) error {
	name := fmt.Sprintf("model %d", c.number)
	c.mu.Lock()
	known := c.models[name] > 0
	c.mu.Unlock()
	if !known {
		if err := c.write(ctx, "registered-models/create", object{"name": name}, nil); err != nil {
			return err
		}
	}
	var created struct {
		Version struct {
			Version string `json:"version"`
		} `json:"model_version"`
	}
	err := c.write(ctx, "model-versions/create", object{"name": name, "source": "runs:/" + c.current.id + "/model", "run_id": c.current.id}, &created)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.models[name]++
	want := strconv.Itoa(c.models[name])
	c.mu.Unlock()
	c.versions.Add(1)
	if created.Version.Version != want {
		return fmt.Errorf("version %s of %s was created, %s was due", created.Version.Version, name, want)
	}
	return c.write(ctx, "model-versions/transition-stage", object{"name": name, "version": want, "stage": "Staging", "archive_existing_versions": true}, nil)
}

// read does the nth of what a client reads.
func (c *sweeper) read(ctx context.Context, n int) error {
	return c.send(func() *latencies { return c.sweeps.reads }, func() error {
		switch n % 8 {
		case 0, 1:
			return c.readRun(ctx, c.current)
		case 2, 3:
			return c.readHistory(ctx, c.current)
		case 4:
			filter := fmt.Sprintf("metrics.val_loss < 10 AND params.%s = '%s'", paramName(n%runParams), paramValue(n%paramValues))
			return c.search(ctx, filter)
		case 5:
			query := url.Values{"run_ids": c.recent, "metric_key": {metricKeys[0]}, "max_results": {strconv.Itoa(curvePoints)}}
			_, err := c.client.get(ctx, "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?"+query.Encode(), nil)
			return err
		case 6:
			_, err := c.client.get(ctx, "/api/v1/experiments/"+c.experiment+"/catalogue", nil)
			return err
		default:
			_, err := c.client.get(ctx, "/api/2.0/mlflow/artifacts/list?run_id="+c.current.id, nil)
			return err
		}
	})
}

func (s *sweeper) search(ctx context.Context, filter string) error {
	body, err := json.Marshal(object{
		"experiment_ids": []string{s.experiment}, "filter": filter, "order_by": []string{"metrics.val_loss ASC"}, "max_results": 100,
	})
	if err != nil {
		return err
	}
	return s.client.post(ctx, "runs/search", body, nil)
}

// readRun compares a run with what was acknowledged of it.
func (s *sweeps) readRun(ctx context.Context, t *trained) error {
	var got struct {
		Run struct {
			Info struct {
				Status    string `json:"status"`
				Lifecycle string `json:"lifecycle_stage"`
			} `json:"info"`
			Data struct {
				Metrics []struct {
					Key string `json:"key"`
					point
				} `json:"metrics"`
				Params []object `json:"params"`
			} `json:"data"`
		} `json:"run"`
	}
	header, err := s.client.get(ctx, "/api/2.0/mlflow/runs/get?run_id="+t.id, &got)
	if err != nil || s.isStale(header) {
		return err
	}
	latest := make(map[string]point)
	for _, p := range t.points {
		latest[p.Key] = point{Timestamp: p.Timestamp, Step: p.Step, Value: p.Value}
	}
	run := got.Run
	status, lifecycle := "RUNNING", "active"
	if t.finished {
		status = "FINISHED"
	}
	if t.deleted {
		lifecycle = "deleted"
	}
	switch {
	case run.Info.Status != status || run.Info.Lifecycle != lifecycle:
		return fmt.Errorf("run %s is %s and %s, not %s and %s", t.id, run.Info.Status, run.Info.Lifecycle, status, lifecycle)
	case len(run.Data.Params) != t.params:
		return fmt.Errorf("run %s has %d parameters, %d were logged", t.id, len(run.Data.Params), t.params)
	case len(run.Data.Metrics) != len(latest):
		return fmt.Errorf("run %s has %d metrics, %d were logged", t.id, len(run.Data.Metrics), len(latest))
	}
	for _, m := range run.Data.Metrics {
		if m.point != latest[m.Key] {
			return fmt.Errorf("run %s has %v as the last point of %s, %v was logged", t.id, m.point, m.Key, latest[m.Key])
		}
	}
	return nil
}

// readHistory compares the points of a metric with those that were acknowledged.
func (s *sweeps) readHistory(ctx context.Context, t *trained) error {
	key := metricKeys[len(t.points)%len(metricKeys)]
	var want []point
	for _, p := range t.points {
		if p.Key == key {
			want = append(want, point{Timestamp: p.Timestamp, Step: p.Step, Value: p.Value})
		}
	}
	got, stale, err := s.client.history(ctx, t.id, key)
	switch {
	case err != nil:
		return err
	case stale:
		s.stale.Add(1)
	case !slices.Equal(got, want):
		return fmt.Errorf("run %s has %d points of %s, not the %d that were logged", t.id, len(got), key, len(want))
	}
	return nil
}

func (s *sweeps) isStale(h http.Header) bool {
	if h.Get("Runledger-Stale") == "" {
		return false
	}
	s.stale.Add(1)
	return true
}

// caughtUp returns when the tables have all that was acknowledged: a search of all
// experiments waits for them.
func (s *sweeps) caughtUp(ctx context.Context) error {
	ids := make(map[string]bool)
	s.mu.Lock()
	for _, t := range s.tallies {
		ids[t.experiment] = true
	}
	s.mu.Unlock()
	body, err := json.Marshal(object{"experiment_ids": slices.Collect(maps.Keys(ids)), "max_results": 1})
	if err != nil {
		return err
	}
	for {
		header, err := s.client.request(ctx, http.MethodPost, "/api/2.0/mlflow/runs/search", body, nil)
		if err != nil || header.Get("Runledger-Stale") == "" {
			return err
		}
	}
}

// verify compares everything that was acknowledged with the tables, and a sample
// of it with what the API answers.
func (s *sweeps) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("it took more than ten minutes"))
	defer cancel()
	if err := s.verifyAll(ctx); err != nil {
		return errors.Join(fmt.Errorf("what was written is not all there: %w", err), context.Cause(ctx))
	}
	return nil
}

func (s *sweeps) verifyAll(ctx context.Context) error {
	if err := s.caughtUp(ctx); err != nil {
		return err
	}
	rows, err := s.engine.conn.Query(ctx, `SELECT lower(hex(run_id)), count(), sum(reinterpretAsUInt64(step)), sum(reinterpretAsUInt64(value))
		FROM metrics FINAL GROUP BY run_id`)
	if err != nil {
		return fmt.Errorf("ask the engine: %w", err)
	}
	defer rows.Close()
	found := 0
	for rows.Next() {
		var id string
		var got tally
		if err := rows.Scan(&id, &got.count, &got.steps, &got.values); err != nil {
			return fmt.Errorf("ask the engine: %w", err)
		}
		want := s.tallies[id]
		if want == nil {
			return fmt.Errorf("the tables have points of run %s, which nobody logged", id)
		}
		if got.count != want.count || got.steps != want.steps || got.values != want.values {
			return fmt.Errorf("run %s has %d points, not the %d that were logged, or others", id, got.count, want.count)
		}
		found++
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("ask the engine: %w", err)
	}
	ids := make([]string, 0, len(s.tallies))
	with := 0
	for id, t := range s.tallies {
		ids = append(ids, id)
		if t.count > 0 {
			with++
		}
	}
	if found != with {
		return fmt.Errorf("%d runs have points, points of %d were logged", found, with)
	}
	n, err := s.engine.number(ctx, "SELECT count() FROM runs FINAL")
	if err != nil {
		return err
	}
	if n != uint64(len(ids)) {
		return fmt.Errorf("there are %d runs, %d were created", n, len(ids))
	}
	slices.Sort(ids)
	for i := 0; i < len(ids); i += max(1, len(ids)/sampledRuns) {
		if err := s.verifyRun(ctx, ids[i]); err != nil {
			return err
		}
	}
	for name, versions := range s.models {
		if err := s.verifyModel(ctx, name, versions); err != nil {
			return err
		}
	}
	return nil
}

// verifyRun reads a run that was finished through the API, and its file.
func (s *sweeps) verifyRun(ctx context.Context, id string) error {
	t := &trained{tally: s.tallies[id], id: id, params: runParams}
	if !t.finished {
		return nil
	}
	w := workload{seed: t.seed, runs: 1}
	for batch := range runBatches {
		t.points = append(t.points, w.points(batch)...)
		t.points = append(t.points, events.Point{Key: "epoch", Value: float64(batch), Step: int64(batch), Timestamp: firstTimestamp + int64(batch)})
	}
	if err := s.readRun(ctx, t); err != nil {
		return err
	}
	if err := s.readHistory(ctx, t); err != nil {
		return err
	}
	var got bytes.Buffer
	if _, err := s.client.get(ctx, filePath(t.experiment, id), &got); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), file(t.seed)) {
		return fmt.Errorf("the file of run %s is not what was uploaded", id)
	}
	return nil
}

// verifyModel checks that the last version of a model is the one that was
// acknowledged last.
func (s *sweeps) verifyModel(ctx context.Context, name string, versions int) error {
	var got struct {
		Model struct {
			Latest []struct {
				Version string `json:"version"`
			} `json:"latest_versions"`
		} `json:"registered_model"`
	}
	if _, err := s.client.get(ctx, "/api/2.0/mlflow/registered-models/get?"+url.Values{"name": {name}}.Encode(), &got); err != nil {
		return err
	}
	last := 0
	for _, v := range got.Model.Latest {
		n, err := strconv.Atoi(v.Version)
		if err != nil {
			return fmt.Errorf("version of %s: %w", name, err)
		}
		last = max(last, n)
	}
	if last != versions {
		return fmt.Errorf("%s has version %d as its last, %d was created", name, last, versions)
	}
	return nil
}
