package test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/runledger/runledger/pkg/chdb"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/natsserver"
	"github.com/runledger/runledger/pkg/tables/foldcheck"
)

// verify reads everything that the workload may have written, and fails the
// test unless it is what was acknowledged, no more and no less, and what was in
// doubt as a whole or not at all. The workload has ended.
func (w *workload) verify(t *testing.T, c *client) {
	t.Helper()
	if w.counts.acked.Load() == 0 {
		t.Fatal("no write was acknowledged: there is nothing to verify")
	}
	var (
		mu       sync.Mutex
		findings []string
		group    sync.WaitGroup
		limit    = make(chan struct{}, 4)
	)
	check := func(f func() []string) {
		group.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			found := f()
			mu.Lock()
			defer mu.Unlock()
			findings = append(findings, found...)
		})
	}
	for _, writer := range w.writers {
		check(func() []string { return writer.verify(t.Context(), c) })
	}
	group.Wait()
	for _, writer := range w.writers {
		for _, r := range writer.runs {
			if r.created == acked {
				check(func() []string { return r.verify(t.Context(), c) })
			}
		}
	}
	check(func() []string { return w.verifyModels(t.Context(), c) })
	group.Wait()
	if len(findings) > 0 {
		t.Errorf("%d findings:%s", len(findings), short(findings))
	}
}

// verify checks the experiment of a writer, and which runs there are.
func (w *writer) verify(ctx context.Context, c *client) []string {
	findings := w.unexpected
	if w.experiment == "" {
		return findings
	}
	e, err := c.experimentByName(ctx, w.experimentName)
	if err != nil {
		return append(findings, fmt.Sprintf("experiment %s: %v", w.experimentName, err))
	}
	if e.ID != w.experiment {
		findings = append(findings, fmt.Sprintf("experiment %s has id %s, %s was acknowledged", w.experimentName, e.ID, w.experiment))
	}
	findings = append(findings, w.progress.check("tag of experiment "+w.experimentName, valueOf(e.Tags, "progress"))...)
	runs, isFresh, err := c.searchRuns(ctx, w.experiment)
	if err != nil || !isFresh {
		return append(findings, fmt.Sprintf("runs of experiment %s: fresh %t, %v", w.experimentName, isFresh, err))
	}
	return append(findings, checkRuns(w.runs, runs)...)
}

// checkRuns compares the runs of an experiment with those that were created.
func checkRuns(books []*runBook, runs []run) (findings []string) {
	byName := map[string][]string{}
	for _, r := range runs {
		byName[r.Info.RunName] = append(byName[r.Info.RunName], r.Info.RunID)
	}
	for _, b := range books {
		ids := byName[b.name]
		delete(byName, b.name)
		switch {
		case b.created == acked && !slices.Equal(ids, []string{b.id}):
			findings = append(findings, fmt.Sprintf("run %s was acknowledged as %s, there are %v", b.name, b.id, ids))
		case b.created == doubtful && len(ids) > 1, b.created == refused && len(ids) > 0:
			findings = append(findings, fmt.Sprintf("run %s (created: %d) is there as %v", b.name, b.created, ids))
		}
	}
	for name, ids := range byName {
		findings = append(findings, fmt.Sprintf("run %s was never created, there are %v", name, ids))
	}
	return findings
}

// verify reads a run and all its histories.
func (b *runBook) verify(ctx context.Context, c *client) []string {
	r, isFresh, err := c.getRun(ctx, b.id)
	if err != nil || !isFresh {
		return []string{fmt.Sprintf("run %s: fresh %t, %v", b.id, isFresh, err)}
	}
	keys := map[string]bool{}
	for _, m := range r.Data.Metrics {
		keys[m.Key] = true
	}
	for _, o := range b.operations {
		for _, p := range o.points {
			keys[p.Key] = true
		}
	}
	var points []metric
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		history, isFresh, err := c.history(ctx, b.id, key)
		if err != nil || !isFresh {
			return []string{fmt.Sprintf("history of %q of run %s: fresh %t, %v", key, b.id, isFresh, err)}
		}
		points = append(points, history...)
	}
	findings, err := b.checkArtifact(ctx, c, r.Info.ExperimentID)
	if err != nil {
		return []string{fmt.Sprintf("artifacts of run %s: %v", b.id, err)}
	}
	return append(findings, b.check(r, points)...)
}

// checkArtifact compares what is stored, and what the log says is stored, with
// what was uploaded.
func (b *runBook) checkArtifact(ctx context.Context, c *client, experiment string) (findings []string, err error) {
	status, body, err := c.get(ctx, artifactPath(experiment, b.id, "notes.txt"))
	if err != nil {
		return nil, err
	}
	if status == http.StatusNotFound {
		body = nil
	}
	findings = b.artifact.check("artifact of run "+b.id, string(body))
	recorded, err := c.artifacts(ctx, b.id)
	if err != nil {
		return nil, err
	}
	var digests []string
	for _, content := range b.artifact.possible {
		if content != "" {
			digests = append(digests, fmt.Sprintf("%x", sha256.Sum256([]byte(content))))
		}
	}
	switch {
	case len(recorded) == 0:
		if !slices.Contains(b.artifact.possible, "") {
			findings = append(findings, fmt.Sprintf("artifact of run %s: its upload was acknowledged, and the log has none", b.id))
		}
	case len(recorded) > 1, recorded[0].Path != "notes.txt", !slices.Contains(digests, recorded[0].SHA256):
		findings = append(findings, fmt.Sprintf("artifacts of run %s: the log has %v, want one of %v", b.id, recorded, digests))
	}
	return findings, nil
}

// check compares a run as it was read with what is known of it.
func (b *runBook) check(r run, points []metric) (findings []string) {
	find := func(format string, args ...any) {
		findings = append(findings, fmt.Sprintf("run %s: ", b.id)+fmt.Sprintf(format, args...))
	}
	there := map[string]int{} // what was read, how often
	latest := map[string]metric{}
	for _, p := range points {
		there["point "+p.same()]++
		if p.Step > latest[p.Key].Step {
			latest[p.Key] = p
		}
	}
	for _, p := range r.Data.Params {
		there[fmt.Sprintf("parameter %q", p)]++
	}
	for _, p := range r.Data.Tags {
		switch p.Key {
		case "progress", "first", "mlflow.runName", "mlflow.user":
		default:
			there[fmt.Sprintf("tag %q", p)]++
		}
	}
	known := map[string]bool{}
	for _, o := range b.operations {
		found := 0
		parts := o.parts()
		for _, part := range parts {
			known[part] = known[part] || o.outcome != refused
			if there[part] > 0 {
				found++
			}
		}
		switch {
		case o.outcome == acked && found < len(parts):
			find("%s was acknowledged, and %d of its %d parts are there", o.what, found, len(parts))
		case o.outcome == doubtful && found > 0 && found < len(parts):
			find("%s was in doubt, and is there in part: %d of %d", o.what, found, len(parts))
		case o.outcome == refused && found > 0:
			find("%s was refused, and %d of its %d parts are there", o.what, found, len(parts))
		}
	}
	for part, times := range there {
		if times > 1 {
			find("%s is there %d times", part, times)
		}
		if !known[part] {
			find("%s was never written", part)
		}
	}
	if len(r.Data.Metrics) != len(latest) {
		find("it has the latest points of %d metrics, and histories of %d", len(r.Data.Metrics), len(latest))
	}
	for _, m := range r.Data.Metrics {
		if m.same() != latest[m.Key].same() {
			find("its latest point is %s, by its history %s", m.same(), latest[m.Key].same())
		}
	}
	if first := valueOf(r.Data.Tags, "first"); first != b.name || r.Info.RunName != b.name {
		find("its name is %q and its first tag %q, both were created as %q", r.Info.RunName, first, b.name)
	}
	findings = append(findings, b.progress.check("tag of run "+b.id, valueOf(r.Data.Tags, "progress"))...)
	findings = append(findings, b.status.check("status of run "+b.id, r.Info.Status)...)
	findings = append(findings, b.lifecycle.check("lifecycle of run "+b.id, r.Info.LifecycleStage)...)
	return findings
}

// parts names each thing that an operation writes.
func (o *operation) parts() []string {
	var parts []string
	for _, p := range o.points {
		parts = append(parts, "point "+p.same())
	}
	for _, p := range o.params {
		parts = append(parts, fmt.Sprintf("parameter %q", p))
	}
	for _, p := range o.tags {
		parts = append(parts, fmt.Sprintf("tag %q", p))
	}
	return parts
}

func valueOf(pairs []pair, key string) string {
	for _, p := range pairs {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}

// verifyModels checks every model's ledger entries and state, and the tree over
// all of them.
func (w *workload) verifyModels(ctx context.Context, c *client) (findings []string) {
	var all []historyEntry
	var heads []treeHead
	for _, m := range w.modelers {
		findings = append(findings, m.unexpected...)
		heads = append(heads, m.heads...)
		entries, err := c.modelHistory(ctx, m.model)
		if err != nil {
			if len(m.changes) > 0 && m.changes[0].outcome == acked {
				findings = append(findings, fmt.Sprintf("history of %s: %v", m.model, err))
			}
			continue
		}
		all = append(all, entries...)
		findings = append(findings, m.check(entries)...)
		findings = append(findings, m.checkState(ctx, c)...)
	}
	if len(w.modelers) == 0 {
		return findings
	}
	head, err := c.tree(ctx)
	if err != nil {
		return append(findings, fmt.Sprintf("head of the tree: %v", err))
	}
	return append(findings, checkTree(all, append(heads, head), head.Size)...)
}

// check compares a model's history with the changes that were sent.
func (m *modeler) check(entries []historyEntry) (findings []string) {
	at := map[string][]int{}
	version := 0
	for i, e := range entries {
		at[e.Reason] = append(at[e.Reason], i)
		if e.Action == "model_version_created" {
			if version++; e.Version != strconv.Itoa(version) {
				findings = append(findings, fmt.Sprintf("%s: version %s was created where %d was due", m.model, e.Version, version))
			}
		}
	}
	last := -1
	for _, c := range m.changes {
		places := at[c.reason]
		delete(at, c.reason)
		switch {
		case c.outcome == acked && len(places) != 1, c.outcome == doubtful && len(places) > 1, c.outcome == refused && len(places) > 0:
			findings = append(findings, fmt.Sprintf("%s: the change %s (outcome %d) has %d entries", m.model, c.reason, c.outcome, len(places)))
		case c.outcome == acked && places[0] < last:
			findings = append(findings, fmt.Sprintf("%s: the change %s is entered before an earlier one", m.model, c.reason))
		}
		if len(places) > 0 {
			last = places[0]
		}
	}
	for why, places := range at {
		findings = append(findings, fmt.Sprintf("%s: %d entries with the reason %q, which nobody gave", m.model, len(places), why))
	}
	return findings
}

func (m *modeler) checkState(ctx context.Context, c *client) (findings []string) {
	v, err := c.byAlias(ctx, m.model, "champion")
	if err != nil && !slices.Contains(m.champion.possible, "") {
		findings = append(findings, fmt.Sprintf("alias of %s: %v", m.model, err))
	}
	if err == nil {
		findings = append(findings, m.champion.check("alias of "+m.model, v.Version)...)
	}
	for number, stage := range m.stages {
		answer, _, err := do[struct {
			Version modelVersion `json:"model_version"`
		}](ctx, c, "GET", api+"model-versions/get?"+url.Values{"name": {m.model}, "version": {number}}.Encode(), nil)
		if err != nil {
			findings = append(findings, fmt.Sprintf("version %s of %s: %v", number, m.model, err))
			continue
		}
		findings = append(findings, stage.check(fmt.Sprintf("stage of version %s of %s", number, m.model), answer.Version.CurrentStage)...)
	}
	return findings
}

// checkTree computes the tree over all entries, and compares it with each head
// that was ever seen: nothing was taken out or changed since.
func checkTree(entries []historyEntry, heads []treeHead, size uint64) (findings []string) {
	slices.SortFunc(entries, func(a, b historyEntry) int { return int(a.Index) - int(b.Index) })
	var leaves [][]byte
	for i, e := range entries {
		leaf, err := base64.StdEncoding.DecodeString(e.LeafHash)
		if err != nil || e.Index != uint64(i) {
			return []string{fmt.Sprintf("entry %d where %d was due, leaf hash %q: %v", e.Index, i, e.LeafHash, err)}
		}
		leaves = append(leaves, leaf)
	}
	if uint64(len(leaves)) != size {
		return []string{fmt.Sprintf("the tree has %d entries, the models' histories %d", size, len(leaves))}
	}
	for _, head := range heads {
		if head.Size > size {
			findings = append(findings, fmt.Sprintf("the tree had %d entries, and has %d", head.Size, size))
			continue
		}
		if root := base64.StdEncoding.EncodeToString(merkle(leaves[:head.Size])); root != head.RootHash {
			findings = append(findings, fmt.Sprintf("the root of the first %d entries was %s, and is %s", head.Size, head.RootHash, root))
		}
	}
	return findings
}

// merkle returns the Merkle tree hash of RFC 6962, section 2.1, over leaf hashes.
func merkle(leaves [][]byte) []byte {
	switch len(leaves) {
	case 0:
		sum := sha256.Sum256(nil)
		return sum[:]
	case 1:
		return leaves[0]
	}
	split := 1
	for split*2 < len(leaves) {
		split *= 2
	}
	sum := sha256.Sum256(slices.Concat([]byte{1}, merkle(leaves[:split]), merkle(leaves[split:])))
	return sum[:]
}

// verifyTables opens the log and the tables of a data directory, which no
// program uses, and compares the tables with a fold of the log.
func verifyTables(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), verifyTimeout)
	defer cancel()
	nats, err := natsserver.Start(ctx, natsserver.Config{DataDir: dir + "/nats"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := nats.Close(); err != nil {
			t.Error(err)
		}
	}()
	engine, err := chdb.Start(ctx, chdb.Config{DataDir: dir + "/clickhouse"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := engine.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	log, err := eventlog.Open(ctx, nats.Conn(), eventlog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	compareTables(ctx, t, log, engine.Options())
}

// compareTables compares the tables with a fold of the log, of which they must
// have all.
func compareTables(ctx context.Context, t *testing.T, log *eventlog.Log, opts *clickhouse.Options) {
	t.Helper()
	want, err := foldcheck.Fold(ctx, log)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := clickhouse.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := want.Compare(ctx, conn); err != nil {
		t.Errorf("the tables are not what the log says:\n%v", err)
	}
	t.Logf("tables compared with a fold of the log: %d points, %d runs, %d audit rows", want.Rows("metrics"), want.Rows("runs"), want.Rows("audit"))
}
