package test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

const (
	// restAfterFailure is how long a writer waits after a write that did not
	// get through.
	restAfterFailure = 20 * time.Millisecond
	// operationsTimeout bounds a workload of a given number of operations.
	operationsTimeout = 2 * time.Minute
	maxPause          = 10 * time.Millisecond // between two writes of a writer
	operationsPerRun  = 60
)

// workload writes through HTTP from several goroutines at once, and remembers
// of every write what its client knows of it.
type workload struct {
	// server returns the client of the server to write to; it can change.
	server   func() *client
	name     string // that no other workload has
	writers  []*writer
	modelers []*modeler

	stopWriting context.CancelFunc
	running     sync.WaitGroup
	counts      counts
}

// counts are figures for the log of the test.
type counts struct {
	acked, doubtful, refused, points, staleReads, failedReads atomic.Int64
}

func (c *counts) String() string {
	return fmt.Sprintf("%d writes acknowledged (%d metric points), %d in doubt, %d not taken; %d stale and %d failed reads",
		c.acked.Load(), c.points.Load(), c.doubtful.Load(), c.refused.Load(), c.staleReads.Load(), c.failedReads.Load())
}

func (c *counts) add(o outcome) {
	switch o {
	case acked:
		c.acked.Add(1)
	case doubtful:
		c.doubtful.Add(1)
	case refused:
		c.refused.Add(1)
	}
}

// goesOn returns when a number of further writes are acknowledged.
func (w *workload) goesOn(t *testing.T, writes int64) {
	t.Helper()
	before := w.counts.acked.Load()
	eventually(t, startTimeout, func() string { return "no writes are acknowledged" }, func(context.Context) bool {
		return w.counts.acked.Load() >= before+writes
	})
}

// startWorkload starts writers of runs and of models. Each ends after a number
// of operations, or at 0 operations when stop is called.
func startWorkload(t *testing.T, server func() *client, seed uint64, writers, modelers, operations int) *workload {
	t.Helper()
	w := &workload{server: server, name: uuid.NewString()[:8]}
	ctx, cancel := context.WithCancel(t.Context())
	if operations > 0 {
		ctx, cancel = context.WithTimeout(t.Context(), operationsTimeout)
	}
	w.stopWriting = cancel
	for i := range writers {
		writer := &writer{actor: newActor(w, seed, i, operations)}
		w.writers = append(w.writers, writer)
		w.running.Go(func() { writer.run(ctx) })
	}
	for i := range modelers {
		modeler := &modeler{actor: newActor(w, seed, 1000+i, operations)}
		w.modelers = append(w.modelers, modeler)
		w.running.Go(func() { modeler.run(ctx) })
	}
	t.Cleanup(w.stop)
	return w
}

// wait returns when every writer has done its operations, and fails the test if
// one could not.
func (w *workload) wait(t *testing.T) {
	t.Helper()
	w.running.Wait()
	for _, a := range w.actors() {
		if a.left > 0 {
			t.Errorf("%s has not done %d operations in %v", a.id, a.left, operationsTimeout)
		}
	}
}

func (w *workload) actors() (all []*actor) {
	for _, w := range w.writers {
		all = append(all, &w.actor)
	}
	for _, m := range w.modelers {
		all = append(all, &m.actor)
	}
	return all
}

// stop ends the writing after the requests that are under way.
func (w *workload) stop() {
	w.stopWriting()
	w.running.Wait()
}

// actor is what writers of runs and of models have in common. Its goroutine
// alone uses it.
type actor struct {
	*workload
	rng        *rand.Rand
	id         string
	left       int // operations, when limited
	limited    bool
	serial     int
	unexpected []string // answers that should not have been given
}

func newActor(w *workload, seed uint64, number, operations int) actor {
	return actor{
		workload: w, rng: newRand(seed, number), id: fmt.Sprintf("%s-%d", w.name, number),
		left: operations, limited: operations > 0,
	}
}

// next returns a name that nothing else has.
func (a *actor) next(kind string) string {
	a.serial++
	return fmt.Sprintf("%s-%s-%d", a.id, kind, a.serial)
}

// more tells whether to go on, and pauses a little.
func (a *actor) more(ctx context.Context) bool {
	if a.limited {
		if a.left == 0 {
			return false
		}
		a.left--
		return ctx.Err() == nil
	}
	return rest(ctx, time.Duration(a.rng.Int64N(int64(maxPause))))
}

func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// once sends a write once. A request that has begun is not broken off when the
// writing stops: its outcome is to be known.
func (a *actor) once(ctx context.Context, what string, write func(context.Context, *client, ...string) error, header ...string) outcome {
	err := write(context.WithoutCancel(ctx), a.server(), header...)
	o := judge(err)
	a.counts.add(o)
	if err != nil {
		a.complain(what, err)
		rest(ctx, restAfterFailure)
	}
	return o
}

// insist sends a write under one idempotency key until it is acknowledged, or
// until the answer is that it never will be.
func (a *actor) insist(ctx context.Context, what string, write func(context.Context, *client, ...string) error, header ...string) outcome {
	header = append(header, idempotencyKey, uuid.NewString())
	sum := refused
	for {
		err := write(context.WithoutCancel(ctx), a.server(), header...)
		o := judge(err)
		a.counts.add(o)
		sum = max(sum, o)
		if o == acked {
			return acked
		}
		if a.complain(what, err) || !rest(ctx, restAfterFailure) {
			return sum
		}
	}
}

// complain notes an error that is neither a broken connection nor the server's
// word that it cannot take the request now, and tells whether it is one.
func (a *actor) complain(what string, err error) bool {
	switch e, ok := err.(*apiError); {
	case !ok, e.Status == http.StatusServiceUnavailable && e.RetryAfter != "", e.Status == http.StatusTooManyRequests && e.RetryAfter != "":
		return false
	default:
		a.unexpected = append(a.unexpected, what+": "+err.Error())
		return true
	}
}

// register is a value that is overwritten: what it can be at the end is what
// was acknowledged last, and whatever was in doubt since.
type register struct{ possible []string }

func newRegister(value string) register { return register{possible: []string{value}} }

func (r *register) wrote(value string, o outcome) {
	switch o {
	case acked:
		r.possible = []string{value}
	case doubtful:
		r.possible = append(r.possible, value)
	}
}

func (r *register) check(what, got string) []string {
	if slices.Contains(r.possible, got) {
		return nil
	}
	return []string{fmt.Sprintf("%s is %q, it can be %q", what, got, r.possible)}
}

// operation is one write to a run that takes place as a whole or not at all. No
// two operations share a point, a parameter or a tag, but one can be sent again.
type operation struct {
	what    string
	outcome outcome
	points  []metric
	params  []pair
	tags    []pair
}

// runBook is what a writer knows of a run.
type runBook struct {
	name       string
	id         string // known once acknowledged
	created    outcome
	operations []*operation
	progress   register // a tag that is overwritten
	status     register
	lifecycle  register
	artifact   register // the content of notes.txt, "" while there is none
	steps      int64
}

// writer writes runs into an experiment of its own.
type writer struct {
	actor
	experimentName string
	experiment     string // its id, "" when it was never acknowledged
	progress       register
	runs           []*runBook
}

var metricKeys = []string{"loss", "accuracy", "grad/norm", "Größe äöü", "with space", "a.b-c_d"}

func (w *writer) run(ctx context.Context) {
	w.experimentName = w.next("experiment")
	w.progress = newRegister("")
	if w.insist(ctx, "create an experiment", func(ctx context.Context, c *client, header ...string) (err error) {
		w.experiment, err = c.createExperiment(ctx, w.experimentName, header...)
		return err
	}) != acked {
		return
	}
	for w.more(ctx) {
		w.oneRun(ctx)
	}
}

func (w *writer) oneRun(ctx context.Context) {
	r := &runBook{name: w.next("run"), progress: newRegister(""), status: newRegister("RUNNING"), lifecycle: newRegister("active"), artifact: newRegister("")}
	w.runs = append(w.runs, r)
	start := time.Now()
	create := func(ctx context.Context, c *client, header ...string) (err error) {
		r.id, err = c.createRun(ctx, w.experiment, r.name, start, header...)
		return err
	}
	if w.rng.IntN(2) == 0 {
		r.created = w.insist(ctx, "create a run", create)
	} else {
		r.created = w.once(ctx, "create a run", create)
	}
	if r.created != acked {
		return
	}
	for range w.rng.IntN(operationsPerRun) {
		if !w.more(ctx) {
			return
		}
		w.operate(ctx, r)
	}
	w.end(ctx, r)
}

func (w *writer) operate(ctx context.Context, r *runBook) {
	switch n := w.rng.IntN(20); {
	case n < 8:
		o := w.newOperation(r, 1+w.rng.IntN(40), w.rng.IntN(4), w.rng.IntN(4))
		w.batch(ctx, r, o)
		w.readBack(ctx, r, o)
	case n < 12:
		o := w.newOperation(r, 1, 0, 0)
		o.outcome = w.once(ctx, "log a metric", func(ctx context.Context, c *client, _ ...string) error {
			return c.logMetric(ctx, r.id, o.points[0])
		})
		w.tally(o)
		w.readBack(ctx, r, o)
	case n < 13:
		o := w.newOperation(r, 0, 1, 0)
		o.outcome = w.once(ctx, "log a parameter", func(ctx context.Context, c *client, _ ...string) error {
			return c.post(ctx, "runs/log-parameter", object{"run_id": r.id, "key": o.params[0].Key, "value": o.params[0].Value})
		})
	case n < 15:
		value := w.next("progress")
		r.progress.wrote(value, w.once(ctx, "set a tag", func(ctx context.Context, c *client, _ ...string) error {
			return c.post(ctx, "runs/set-tag", object{"run_id": r.id, "key": "progress", "value": value})
		}))
	case n < 16:
		value := w.next("progress")
		w.progress.wrote(value, w.once(ctx, "tag an experiment", func(ctx context.Context, c *client, _ ...string) error {
			return c.post(ctx, "experiments/set-experiment-tag", object{"experiment_id": w.experiment, "key": "progress", "value": value})
		}))
	case n < 18:
		// As MLflow's log_model does: points that the run has already.
		if len(r.operations) > 0 {
			if o := r.operations[w.rng.IntN(len(r.operations))]; o.outcome != refused {
				w.batch(ctx, r, o)
			}
		}
	case n < 19:
		content := w.next("notes")
		r.artifact.wrote(content, w.once(ctx, "upload an artifact", func(ctx context.Context, c *client, _ ...string) error {
			return c.upload(ctx, w.experiment, r.id, "notes.txt", content)
		}))
	default:
		w.rewrite(ctx, r)
	}
}

// newOperation adds an operation that has not been sent yet.
func (w *writer) newOperation(r *runBook, points, params, tags int) *operation {
	o := &operation{what: w.next("operation")}
	for range points {
		r.steps++
		o.points = append(o.points, metric{
			Key: metricKeys[w.rng.IntN(len(metricKeys))], Value: w.value(), Step: r.steps,
			Timestamp: time.Now().UnixMilli() - w.rng.Int64N(1000),
		})
	}
	for i := range params {
		o.params = append(o.params, pair{fmt.Sprintf("%s/%d", o.what, i), w.next("parameter")})
	}
	for i := range tags {
		o.tags = append(o.tags, pair{fmt.Sprintf("%s/%d", o.what, i), w.next("tag")})
	}
	r.operations = append(r.operations, o)
	return o
}

func (w *writer) value() number {
	switch w.rng.IntN(40) {
	case 0:
		return number(math.NaN())
	case 1:
		return number(math.Inf(1))
	case 2:
		return number(math.Inf(-1))
	case 3:
		return 0
	default:
		return number(w.rng.NormFloat64() * math.Pow(10, float64(w.rng.IntN(40)-20)))
	}
}

// batch sends an operation, perhaps not for the first time.
func (w *writer) batch(ctx context.Context, r *runBook, o *operation) {
	outcome := w.once(ctx, "log a batch", func(ctx context.Context, c *client, _ ...string) error {
		return c.logBatch(ctx, r.id, o.points, o.params, o.tags)
	})
	if outcome == acked && o.outcome != acked {
		o.outcome = outcome
		w.tally(o)
	}
	o.outcome = max(o.outcome, outcome)
}

func (w *writer) tally(o *operation) {
	if o.outcome == acked {
		w.counts.points.Add(int64(len(o.points)))
	}
}

// rewrite sends a batch that the server must refuse as a whole: it gives a
// parameter that the run has another value.
func (w *writer) rewrite(ctx context.Context, r *runBook) {
	i := slices.IndexFunc(r.operations, func(o *operation) bool { return o.outcome == acked && len(o.params) > 0 })
	if i < 0 {
		return
	}
	o := w.newOperation(r, 1+w.rng.IntN(3), 1, 1)
	o.params = append(o.params, pair{r.operations[i].params[0].Key, "another value"})
	err := w.server().logBatch(context.WithoutCancel(ctx), r.id, o.points, o.params, o.tags)
	if err == nil || code(err) != "" && code(err) != "INVALID_PARAMETER_VALUE" && judge(err) != doubtful {
		w.unexpected = append(w.unexpected, fmt.Sprintf("write a parameter again: got %v, want INVALID_PARAMETER_VALUE", err))
	}
	o.outcome = refused // whether the answer arrived or not
}

// readBack sometimes reads at once what was just acknowledged.
func (w *writer) readBack(ctx context.Context, r *runBook, o *operation) {
	if o.outcome != acked || w.rng.IntN(8) > 0 {
		return
	}
	last := o.points[len(o.points)-1]
	points, isFresh, err := w.server().history(ctx, r.id, last.Key)
	switch {
	case err != nil:
		w.counts.failedReads.Add(1)
		if ctx.Err() == nil {
			w.complain("read a history", err)
		}
	case !isFresh:
		w.counts.staleReads.Add(1)
	case !slices.ContainsFunc(points, func(p metric) bool { return p.same() == last.same() }):
		w.unexpected = append(w.unexpected, fmt.Sprintf("run %s: the next read after an acknowledged write does not have %s", r.id, last.same()))
	}
}

// end finishes a run, and deletes some.
func (w *writer) end(ctx context.Context, r *runBook) {
	r.status.wrote("FINISHED", w.once(ctx, "finish a run", func(ctx context.Context, c *client, _ ...string) error {
		return c.post(ctx, "runs/update", object{"run_id": r.id, "status": "FINISHED", "end_time": time.Now().UnixMilli()})
	}))
	if w.rng.IntN(4) > 0 {
		return
	}
	deleted := w.once(ctx, "delete a run", func(ctx context.Context, c *client, _ ...string) error {
		return c.post(ctx, "runs/delete", object{"run_id": r.id})
	})
	r.lifecycle.wrote("deleted", deleted)
	if deleted != acked {
		return
	}
	o := w.newOperation(r, 2, 0, 0)
	err := w.server().logBatch(context.WithoutCancel(ctx), r.id, o.points, nil, nil)
	if err == nil || code(err) != "" && code(err) != "INVALID_PARAMETER_VALUE" && judge(err) != doubtful {
		w.unexpected = append(w.unexpected, fmt.Sprintf("log to a deleted run: got %v, want INVALID_PARAMETER_VALUE", err))
	}
}

// change is a write to the registry. Its reason, which nothing else has, is in
// the ledger's entry.
type change struct {
	reason  string
	outcome outcome
}

// modeler writes the versions, stages, aliases and tags of a registered model.
type modeler struct {
	actor
	model    string
	changes  []change
	versions []string // that were acknowledged
	champion register // the version that an alias points at
	stages   map[string]*register
	heads    []treeHead // of the ledger, as it grew
}

func (m *modeler) run(ctx context.Context) {
	m.model = m.next("Modell äöü")
	m.champion, m.stages = newRegister(""), map[string]*register{}
	if m.change(ctx, true, "create a model", func(ctx context.Context, c *client, header ...string) error {
		return c.createModel(ctx, m.model, header...)
	}) != acked {
		return
	}
	for m.more(ctx) {
		m.operate(ctx)
	}
}

// change sends a write with a reason of its own, either until it is
// acknowledged or once.
func (m *modeler) change(ctx context.Context, insist bool, what string, write func(context.Context, *client, ...string) error) outcome {
	why := m.next("reason")
	send := m.once
	if insist {
		send = m.insist
	}
	o := send(ctx, what, write, reason, why)
	m.changes = append(m.changes, change{reason: why, outcome: o})
	return o
}

func (m *modeler) operate(ctx context.Context) {
	insist := m.rng.IntN(3) == 0
	n := m.rng.IntN(10)
	if len(m.versions) == 0 {
		n = 0
	}
	switch {
	case n < 3:
		version, source := "", "s3://bucket/"+m.next("source")
		if m.change(ctx, insist, "create a version", func(ctx context.Context, c *client, header ...string) (err error) {
			version, err = c.createVersion(ctx, m.model, source, header...)
			return err
		}) == acked {
			stage := newRegister("None")
			m.versions, m.stages[version] = append(m.versions, version), &stage
		}
	case n < 6:
		version := m.versions[m.rng.IntN(len(m.versions))]
		if slices.Contains(m.champion.possible, version) {
			return // it might change nothing
		}
		m.champion.wrote(version, m.change(ctx, insist, "set an alias", func(ctx context.Context, c *client, header ...string) error {
			return c.setAlias(ctx, m.model, "champion", version, header...)
		}))
	case n < 8:
		version := m.versions[m.rng.IntN(len(m.versions))]
		stage := []string{"None", "Staging", "Production", "Archived"}[m.rng.IntN(4)]
		if slices.Contains(m.stages[version].possible, stage) {
			return
		}
		m.stages[version].wrote(stage, m.change(ctx, insist, "move to a stage", func(ctx context.Context, c *client, header ...string) error {
			return c.setStage(ctx, m.model, version, stage, header...)
		}))
	case n < 9:
		value := m.next("tag")
		m.change(ctx, insist, "tag a model", func(ctx context.Context, c *client, header ...string) error {
			return c.post(ctx, "registered-models/set-tag", object{"name": m.model, "key": "progress", "value": value}, header...)
		})
	default:
		if head, err := m.server().tree(ctx); err == nil {
			m.heads = append(m.heads, head)
		}
	}
}
