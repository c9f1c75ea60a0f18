package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/internal/ledgertest"
	"github.com/runledger/runledger/services/registry/ledger"
)

func open(t testing.TB, fs vfs.FS, dir string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(dir, ledger.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLedger(t testing.TB, l *ledger.Ledger) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLedgerIsAFunctionOfTheEvents(t *testing.T) {
	for seed := range uint64(6) {
		recs := ledgertest.RandomEvents(t, seed, 150)
		oneByOne, together := t.TempDir(), t.TempDir()
		l := open(t, nil, oneByOne)
		for i, rec := range recs {
			// Every event comes twice, and some much later.
			if err := l.Apply(rec, rec, recs[i/2]); err != nil {
				t.Fatal(err)
			}
			if i == len(recs)/2 {
				closeLedger(t, l)
				l = open(t, nil, oneByOne)
			}
		}
		ledgertest.Verify(t, l, recs)
		closeLedger(t, l)
		m := open(t, nil, together)
		if err := m.Apply(recs...); err != nil {
			t.Fatal(err)
		}
		ledgertest.Verify(t, m, recs)
		closeLedger(t, m)
		if a, b := ledgertest.Dump(t, vfs.Default, oneByOne), ledgertest.Dump(t, vfs.Default, together); !maps.Equal(a, b) {
			t.Fatalf("seed %d: two ledgers of the same events differ", seed)
		}
		m = open(t, nil, together)
		ledgertest.Verify(t, m, recs)
		closeLedger(t, m)
	}
}

// The canonical encoding is what trees were built from: it must not change.
func TestCanonicalEncoding(t *testing.T) {
	l := open(t, vfs.NewMem(), "l")
	defer closeLedger(t, l)
	rec := ledgertest.RandomEvents(t, 0, 1)[0]
	rec.Event = &events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{
		Name: "m", Description: "é\b<", Tags: []*events.Tag{{Key: "b", Value: ""}, {Key: "a", Value: "1"}},
	}}}
	rec.IdempotencyKey, rec.Actor, rec.Reason = "", "ada\xff", ""
	rec.Time = time.Date(2026, 3, 3, 14, 0, 0, 120_000, time.FixedZone("", 3600))
	if err := l.Apply(rec); err != nil {
		t.Fatal(err)
	}
	got, err := l.Canonical(0)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"action":"registered_model_created","actor":"ada` + "\uFFFD" + `","after":{"creation_timestamp":1772542800000,` +
		`"description":"é\b<","id":1,"last_updated_timestamp":1772542800000,"name":"m","next_version":1,"tags":{"a":"1","b":""}},` +
		`"before":null,"event_id":"event-0-1","format":1,"idempotency_key":"","index":0,"model":"m","reason":"","request_id":"r",` +
		`"seq":1,"source":"/test","time":"2026-03-03T13:00:00.00012Z","version":""}`
	if string(got) != want {
		t.Fatalf("\n got %s\nwant %s", got, want)
	}
	head, err := l.Head()
	if err != nil || head.RootHash != ledger.LeafHash([]byte(want)) {
		t.Fatalf("head %v, %v", head, err)
	}
}

func TestApplyRefusesWhatDoesNotFit(t *testing.T) {
	l := open(t, vfs.NewMem(), "l")
	defer closeLedger(t, l)
	recs := ledgertest.RandomEvents(t, 3, 20)
	if err := l.Apply(recs[:5]...); err != nil {
		t.Fatal(err)
	}
	if err := l.Apply(recs[6]); !errors.Is(err, ledger.ErrGap) {
		t.Fatalf("an event after a gap: %v", err)
	}
	misfit := recs[5]
	misfit.Event = &events.Event{Data: &events.Event_RegisteredModelDeleted{RegisteredModelDeleted: &events.RegisteredModelDeleted{Name: "nobody"}}}
	if err := l.Apply(misfit); !errors.Is(err, catalog.ErrMisfit) {
		t.Fatalf("an event about no model: %v", err)
	}
	foreign := recs[5]
	foreign.Event = &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{}}}
	if err := l.Apply(foreign); !errors.Is(err, catalog.ErrMisfit) {
		t.Fatalf("an event of a run: %v", err)
	}
	if err := l.Apply(recs...); err != nil {
		t.Fatal(err)
	}
	ledgertest.Verify(t, l, recs)
}

// After a loss of power the ledger has a prefix of the events, no shorter than
// what Apply had returned for, and goes on from there to the same ledger. Power is
// lost at any moment: between events, while they are written, and while a ledger
// that lost power before is opened.
func TestPowerLoss(t *testing.T) {
	const n, perRound = 120, 250
	losses := 2000
	if text := os.Getenv("RUNLEDGER_POWER_LOSSES"); text != "" {
		var err error
		if losses, err = strconv.Atoi(text); err != nil {
			t.Fatalf("RUNLEDGER_POWER_LOSSES: %v", err)
		}
	}
	states := make(map[uint64]int)
	for round := range uint64(max(1, losses/perRound)) {
		recs := ledgertest.RandomEvents(t, round, n)
		reference := vfs.NewMem()
		l := open(t, reference, "l")
		if err := l.Apply(recs...); err != nil {
			t.Fatal(err)
		}
		closeLedger(t, l)
		want := ledgertest.Dump(t, reference, "l")
		verified := make(map[uint64]bool)
		for _, c := range losePower(t, round, recs, perRound) {
			l := open(t, c.fs, "l")
			at := l.LastSeq()
			states[at]++
			if at < c.synced {
				t.Fatalf("the ledger is at event %d, %d was on disk", at, c.synced)
			}
			if !verified[at] { // what is wrong in another of that length shows in the end
				ledgertest.Verify(t, l, recs[:at])
				verified[at] = true
			}
			if err := l.Apply(recs[at:]...); err != nil {
				t.Fatal(err)
			}
			closeLedger(t, l)
			if !maps.Equal(ledgertest.Dump(t, c.fs, "l"), want) {
				t.Fatalf("the ledger that went on from event %d is another one", at)
			}
		}
	}
	if len(states) < 10 {
		t.Fatalf("the clones are of %d different positions only", len(states))
	}
	t.Logf("%d losses of power at %d positions", losses, len(states))
}

// crash is what is left on disk after a loss of power, and the event up to which
// Apply had returned before.
type crash struct {
	fs     memDisk
	synced uint64
}

// memDisk is a disk whose power can be lost. A MemFS that is cloned while it is in
// Lock or ReuseForWrite can deadlock: both take its lock twice.
type memDisk struct {
	*vfs.MemFS
	cloning *sync.Mutex
}

func (d memDisk) Lock(name string) (io.Closer, error) {
	d.cloning.Lock()
	defer d.cloning.Unlock()
	return d.MemFS.Lock(name)
}

func (d memDisk) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	d.cloning.Lock()
	defer d.cloning.Unlock()
	return d.MemFS.ReuseForWrite(from, to, category)
}

// losePower returns what is left after a loss of power at this moment.
func (d memDisk) losePower(r *rand.Rand) memDisk {
	d.cloning.Lock()
	defer d.cloning.Unlock()
	return memDisk{MemFS: d.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r}), cloning: new(sync.Mutex)}
}

// atMarkers is a disk that loses power while its markers change.
type atMarkers struct {
	memDisk
	left *[]memDisk
}

func (d atMarkers) lose(name string) {
	if strings.HasPrefix(d.PathBase(name), "marker.") {
		for seed := range uint64(20) {
			*d.left = append(*d.left, d.losePower(rand.New(rand.NewPCG(seed, 3))))
		}
	}
}

func (d atMarkers) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.memDisk.Create(name, category)
	d.lose(name)
	return f, err
}

func (d atMarkers) Remove(name string) error {
	err := d.memDisk.Remove(name)
	d.lose(name)
	return err
}

// A marker never names what is not on the disk, and there is always one.
func TestPowerLossAtMarkers(t *testing.T) {
	recs := ledgertest.RandomEvents(t, 1, 12)
	var left []memDisk
	disk := atMarkers{memDisk{MemFS: vfs.NewCrashableMem(), cloning: new(sync.Mutex)}, &left}
	synced := make([]int, 0, 1000)
	for i := range recs {
		l := open(t, disk, "l") // which rotates the MANIFEST
		for len(synced) < len(left) {
			synced = append(synced, i)
		}
		if err := l.Apply(recs[i]); err != nil {
			t.Fatal(err)
		}
		closeLedger(t, l)
	}
	for i, clone := range left[:len(synced)] {
		l := open(t, clone, "l")
		if int(l.LastSeq()) < synced[i] {
			t.Errorf("the ledger is at event %d, %d was on disk", l.LastSeq(), synced[i])
		}
		closeLedger(t, l)
	}
	if len(left) < 200 {
		t.Errorf("power was lost %d times only", len(left))
	}
}

// losePower applies the events, loses power now and then and goes on with what is
// left, and returns what would have been left at n moments.
func losePower(t *testing.T, seed uint64, recs []eventlog.Record, n int) []crash {
	t.Helper()
	var synced atomic.Uint64
	var disk atomic.Value // memDisk
	disk.Store(memDisk{MemFS: vfs.NewCrashableMem(), cloning: new(sync.Mutex)})
	stop := make(chan struct{})
	cloned := make(chan []crash)
	go func() { // ends when it has n, or soon after stop
		r := rand.New(rand.NewPCG(seed, 1))
		var crashes []crash
		for range n {
			c := crash{synced: synced.Load()}
			c.fs = disk.Load().(memDisk).losePower(r)
			crashes = append(crashes, c)
			select {
			case <-stop:
			case <-time.After(time.Duration(r.IntN(300)) * time.Microsecond):
			}
		}
		cloned <- crashes
	}()
	r := rand.New(rand.NewPCG(seed, 2))
	l := open(t, disk.Load().(memDisk), "l")
	for l.LastSeq() < uint64(len(recs)) {
		at := int(l.LastSeq())
		if err := l.Apply(recs[at:min(at+1+r.IntN(4), len(recs))]...); err != nil {
			t.Fatal(err)
		}
		synced.Store(l.LastSeq())
		time.Sleep(time.Duration(r.IntN(400)) * time.Microsecond)
		if r.IntN(8) == 0 {
			left := disk.Load().(memDisk).losePower(r)
			closeLedger(t, l)
			disk.Store(left)
			l = open(t, left, "l")
		}
	}
	close(stop)
	crashes := <-cloned
	closeLedger(t, l)
	return crashes
}

func TestHistoryFollowsTheModel(t *testing.T) {
	l := open(t, vfs.NewMem(), "l")
	defer closeLedger(t, l)
	create := func(name string) *events.Event {
		return &events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: name}}}
	}
	rename := func(name, to string) *events.Event {
		return &events.Event{Data: &events.Event_RegisteredModelRenamed{RegisteredModelRenamed: &events.RegisteredModelRenamed{Name: name, NewName: to}}}
	}
	remove := func(name string) *events.Event {
		return &events.Event{Data: &events.Event_RegisteredModelDeleted{RegisteredModelDeleted: &events.RegisteredModelDeleted{Name: name}}}
	}
	for i, e := range []*events.Event{
		create("a"),      // 0
		create("b"),      // 1
		remove("b"),      // 2
		rename("a", "b"), // 3
		create("a"),      // 4
		create("b\x00c"), // 5
		rename("b", "c"), // 6
		rename("c", "b"), // 7
		remove("a"),      // 8
	} {
		err := l.Apply(eventlog.Record{Seq: uint64(i + 1), Attributes: events.Attributes{ID: fmt.Sprint(i)}, Event: e})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][]uint64{
		"a": {0, 3, 4, 8}, // the first a, until it was renamed, and the second
		"b": {0, 1, 2, 3, 6, 7},
		"c": {0, 3, 6, 7},
	} {
		for limit := 1; limit < 8; limit++ {
			var got []uint64
			for from, more := uint64(0), true; more; {
				var entries []ledger.HistoryEntry
				var known bool
				var err error
				entries, from, more, known, err = l.History(name, from, limit)
				if err != nil || !known || len(entries) > limit {
					t.Fatalf("history of %s: %d entries, known %v, %v", name, len(entries), known, err)
				}
				for _, e := range entries {
					got = append(got, e.Index)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("history of %s, %d at a time: %v, want %v", name, limit, got, want)
			}
		}
	}
	if _, _, _, known, err := l.History("nobody", 0, 10); known || err != nil {
		t.Fatalf("history of nobody: known %v, %v", known, err)
	}
}

func BenchmarkApply(b *testing.B) {
	recs := ledgertest.RandomEvents(b, 1, 5000)
	b.Run("rebuild", func(b *testing.B) {
		for b.Loop() {
			l := open(b, nil, b.TempDir())
			for i := 0; i < len(recs); i += 256 {
				if err := l.Apply(recs[i:min(i+256, len(recs))]...); err != nil {
					b.Fatal(err)
				}
			}
			closeLedger(b, l)
		}
		b.ReportMetric(float64(b.N*len(recs))/b.Elapsed().Seconds(), "entries/s")
	})
	b.Run("one by one", func(b *testing.B) {
		l := open(b, nil, b.TempDir())
		i := 0
		for b.Loop() {
			if i == len(recs) {
				b.StopTimer()
				closeLedger(b, l)
				l, i = open(b, nil, b.TempDir()), 0
				b.StartTimer()
			}
			if err := l.Apply(recs[i]); err != nil {
				b.Fatal(err)
			}
			i++
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		closeLedger(b, l)
	})
}

// waiting is a context that says when somebody waits for its end.
type waiting struct {
	context.Context
	waits chan struct{}
}

func (w waiting) Done() <-chan struct{} {
	w.waits <- struct{}{}
	return w.Context.Done()
}

func TestWaitEndsWithTheEvent(t *testing.T) {
	l := open(t, vfs.NewMem(), "l")
	defer closeLedger(t, l)
	recs := ledgertest.RandomEvents(t, 4, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := waiting{ctx, make(chan struct{})}
	waited := make(chan error, 1)
	go func() { waited <- l.Wait(w, 1) }()
	<-w.waits
	if err := l.Apply(recs[0]); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := l.Wait(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("waited for an event that is not there: %v", err)
	}
	if err := l.Wait(ctx, 1); err != nil {
		t.Errorf("waited for an event that is there: %v", err)
	}
}

// Who only reads makes nothing, and two have not one ledger at a time.
func TestALedgerIsOneOwners(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "l")
	if _, err := ledger.Open(dir, ledger.Options{ReadOnly: true}); err == nil {
		t.Error("opened what is not there")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading made the directory: %v", err)
	}
	l := open(t, nil, dir)
	for _, readOnly := range []bool{false, true} {
		if _, err := ledger.Open(dir, ledger.Options{ReadOnly: readOnly}); err == nil {
			t.Fatal("opened twice")
		}
	}
	closeLedger(t, l)
	closeLedger(t, open(t, nil, dir))
}

// What is damaged is told as such, so that it is known to be built again from the log.
func TestDamageIsToldAsSuch(t *testing.T) {
	dir := t.TempDir()
	l := open(t, nil, dir)
	at := time.UnixMilli(1)
	var recs []eventlog.Record
	for i, e := range []*events.Event{
		{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: "gone"}}},
		{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{Name: "gone", Version: 1}}},
		{Data: &events.Event_RegisteredModelDeleted{RegisteredModelDeleted: &events.RegisteredModelDeleted{Name: "gone"}}},
		{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: "m"}}},
		{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{Name: "m", Version: 1}}},
		{Data: &events.Event_WebhookCreated{WebhookCreated: &events.WebhookCreated{WebhookId: "hook"}}},
	} {
		recs = append(recs, eventlog.Record{Seq: uint64(i + 1), Event: e, Attributes: events.Attributes{
			ID: fmt.Sprint("event ", i), Time: at, IdempotencyKey: fmt.Sprintf("key %d \xff", i),
		}})
	}
	if err := l.Apply(recs...); err != nil {
		t.Fatal(err)
	}
	for i, rec := range recs {
		if e, ok, err := l.ByIdempotencyKey(rec.IdempotencyKey); err != nil || !ok || e.Index != uint64(i) {
			t.Errorf("by key %q: entry %d, %v, %v", rec.IdempotencyKey, e.Index, ok, err)
		}
	}
	closeLedger(t, l)
	l = open(t, nil, dir)
	if m, _ := l.State().Model("m"); l.Incarnation() != "event 0" || m.Last != 5 {
		t.Errorf("opened again: incarnation %q, the last event about the model is %d", l.Incarnation(), m.Last)
	}
	closeLedger(t, l)
	dump := ledgertest.Dump(t, vfs.Default, dir)
	tried := make(map[string]bool) // one key of each kind
	for key, value := range dump {
		changed := "no JSON"
		switch key[:1] {
		case "m", "v":
			if key[9] == 1 {
				t.Errorf("of a deleted model there is still %q", key)
			}
		case "p":
			changed = strings.Replace(value, `"format":1`, `"format":2`, 1)
		case "w":
		case "e":
			changed = strings.Replace(value, `"format":1`, `"format":2`, 1)
		case "h":
			changed = value + "x"
		default:
			continue
		}
		if tried[key[:1]] {
			continue
		}
		tried[key[:1]] = true
		undo := ledgertest.Tamper(t, dir, map[string]string{key: changed})
		l, err := ledger.Open(dir, ledger.Options{})
		if err == nil {
			for i := range l.Size() {
				_, bad := l.Entry(i)
				err = errors.Join(err, bad)
			}
			_, bad := l.Hashes().ReadHashes([]int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
			err = errors.Join(err, bad)
			closeLedger(t, l)
		}
		if !errors.Is(err, ledger.ErrDamaged) {
			t.Errorf("key %q changed: %v", key, err)
		}
		ledgertest.Tamper(t, dir, undo)
	}
}

// A disk that refuses writes ends the ledger with an error, not the process,
// and what was applied before is there when it is opened again.
func TestDiskFailure(t *testing.T) {
	for _, events := range []int{40, 1000} { // all in one block of the write-ahead log, and in many
		t.Run(fmt.Sprint(events), func(t *testing.T) { testDiskFailure(t, events) })
	}
}

func testDiskFailure(t *testing.T, events int) {
	recs := ledgertest.RandomEvents(t, 5, events)
	mem := vfs.NewCrashableMem()
	var full atomic.Bool
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	l := open(t, fs, "l")
	if err := l.Apply(recs[:20]...); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	if err := l.Apply(recs[20:]...); !errors.Is(err, ledger.ErrFailed) {
		t.Fatalf("apply on a full disk: %v", err)
	}
	if err := l.Health(); !errors.Is(err, ledger.ErrFailed) {
		t.Fatalf("health on a full disk: %v", err)
	}
	if err := l.Apply(recs[20:]...); !errors.Is(err, ledger.ErrFailed) {
		t.Fatalf("apply after the failure: %v", err)
	}
	if l.LastSeq() != 20 {
		t.Fatalf("the ledger says it is at event %d", l.LastSeq())
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, crashed, "l")
	defer closeLedger(t, l)
	at := l.LastSeq()
	if at < 20 {
		t.Fatalf("the ledger was at event 20, and is at %d", at)
	}
	if err := l.Apply(recs...); err != nil {
		t.Fatal(err)
	}
	ledgertest.Verify(t, l, recs)
}
