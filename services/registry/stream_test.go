package registry_test

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry/internal/ledgertest"
	"github.com/runledger/runledger/services/registry/ledger"
)

func readAll(t testing.TB, log *eventlog.Log) []eventlog.Record {
	t.Helper()
	var recs []eventlog.Record
	for rec, err := range log.Read(t.Context(), events.StreamRegistry, "", 1, 0) {
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	return recs
}

// checkLedger opens a ledger that no process has open, and compares it with the
// stream.
func checkLedger(t testing.TB, dir string, recs []eventlog.Record) map[string]string {
	t.Helper()
	l, err := ledger.Open(dir, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Verify(t, l, recs)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return ledgertest.Dump(t, vfs.Default, dir)
}

// request is any command; pick chooses among n.
func request(pick func(n int) int) (method, path string, f fields) {
	name := fmt.Sprint("model ", pick(3))
	version := fmt.Sprint(1 + pick(4))
	key := fmt.Sprint("k", pick(2))
	text := fmt.Sprint("t", pick(3))
	stage := []string{"none", "Staging", "PRODUCTION", "Archived"}[pick(4)]
	tags := []fields{{"key": key, "value": text}}
	switch pick(15) {
	case 0, 1:
		return "POST", "registered-models/create", fields{"name": name, "description": text, "tags": tags}
	case 2:
		return "PATCH", "registered-models/update", fields{"name": name, "description": text}
	case 3:
		return "POST", "registered-models/rename", fields{"name": name, "new_name": fmt.Sprint("model ", pick(3))}
	case 4:
		return "DELETE", "registered-models/delete", fields{"name": name}
	case 5:
		return "POST", "registered-models/set-tag", fields{"name": name, "key": key, "value": text}
	case 6:
		return "DELETE", "registered-models/delete-tag", fields{"name": name, "key": key}
	case 7:
		return "POST", "registered-models/alias", fields{"name": name, "alias": key, "version": version}
	case 8:
		return "DELETE", "registered-models/alias", fields{"name": name, "alias": key}
	case 9:
		return "PATCH", "model-versions/update", fields{"name": name, "version": version, "description": text}
	case 10:
		archive := stage != "none" && stage != "Archived" && pick(2) == 0
		return "POST", "model-versions/transition-stage", fields{"name": name, "version": version, "stage": stage, "archive_existing_versions": archive}
	case 11:
		return "DELETE", "model-versions/delete", fields{"name": name, "version": version}
	case 12:
		return "POST", "model-versions/set-tag", fields{"name": name, "version": version, "key": key, "value": text}
	case 13:
		return "DELETE", "model-versions/delete-tag", fields{"name": name, "version": version, "key": key}
	}
	source := []string{"s3://bucket/model", "models:/" + name + "/" + version}[pick(2)]
	return "POST", "model-versions/create", fields{"name": name, "source": source, "description": text, "tags": tags}
}

// webhookRequest is any command at one of some webhooks, and its headers.
func webhookRequest(pick func(n int) int) (method, path string, f fields, headers []string) {
	key := fmt.Sprint("hook ", pick(8))
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte("runledger:webhook:"+key)).String()
	f = fields{
		"name": fmt.Sprint("hook", pick(3)), "url": "http://127.0.0.1:1/", "status": []string{"ACTIVE", "DISABLED"}[pick(2)],
		"secret": []string{"", "secret"}[pick(2)], "events": []fields{{"entity": "PROMPT", "action": "CREATED"}},
	}
	switch pick(4) {
	case 0:
		return "PATCH", "webhooks/" + id, f, nil
	case 1:
		return "DELETE", "webhooks/" + id, fields{}, nil
	}
	return "POST", "webhooks", f, []string{"Idempotency-Key", key}
}

// Whatever is asked of two processes, at once and in turn, both ledgers are the
// same, are a fold of the stream, and a rebuilt one is the same again.
func TestTwoProcessesHaveOneLedger(t *testing.T) {
	t.Parallel()
	const tries, rounds = 24, 50 // to start servers takes longer than to ask them
	for range tries {
		seed := rand.Uint64()
		if !haveOneLedger(t, rand.New(rand.NewPCG(seed, 0)).IntN, rounds) {
			t.Fatalf("with seed %d", seed)
		}
	}
}

// haveOneLedger asks two processes for up to so many times a few things at once.
func haveOneLedger(t *testing.T, pick func(n int) int, rounds int) bool {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	n, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: filepath.Join(dir, "nats")})
	if err != nil {
		t.Fatal(err)
	}
	log := openLog(t, n.Conn())
	dirs := [2]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	servers := [2]*server{start(t, log, dirs[0]), start(t, log, dirs[1])}
	for range 1 + pick(rounds) {
		var wg sync.WaitGroup
		for range 1 + pick(3) {
			s := servers[pick(2)]
			method, path, f := request(pick)
			wg.Go(func() {
				if a := s.send(method, path, f); a.status >= http.StatusInternalServerError || a.status == http.StatusTooManyRequests {
					t.Errorf("%s %s %v: %d %v", method, path, f, a.status, a.body)
				}
			})
		}
		wg.Wait()
		if method, path, f, headers := webhookRequest(pick); pick(3) == 0 {
			servers[pick(2)].send(method, path, f, headers...)
		}
	}
	// Each answers from the present state.
	for _, s := range servers {
		s.size()
		s.close()
	}
	recs := readAll(t, log)
	a, b := checkLedger(t, dirs[0], recs), checkLedger(t, dirs[1], recs)
	if !maps.Equal(a, b) {
		t.Error("the ledgers of two processes differ")
	}
	if err := os.RemoveAll(dirs[0]); err != nil {
		t.Fatal(err)
	}
	again := start(t, log, dirs[0])
	again.size()
	again.close()
	if !maps.Equal(checkLedger(t, dirs[0], recs), a) {
		t.Error("the rebuilt ledger differs")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return !t.Failed()
}

// What the process that TestKill kills is told: where its ledger is, where its
// webhook is, and where NATS is unless it runs in that process.
const (
	childDir  = "RUNLEDGER_TEST_REGISTRY_DIR"
	childHook = "RUNLEDGER_TEST_WEBHOOK_URL"
	childNATS = "RUNLEDGER_TEST_NATS_URL"
	// killsVariable says how often TestKill kills.
	killsVariable = "RUNLEDGER_TORTURE_KILLS"
	defaultKills  = 24
)

// TestMain runs the process that TestKill kills, when it is told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

// childT lets a process without a test use what tests use.
type childT struct{ testing.TB }

func (childT) Helper()                   {}
func (childT) Context() context.Context  { return context.Background() }
func (childT) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (childT) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (childT) Error(args ...any)         { panic(fmt.Sprint(args...)) }

// toldKey is the idempotency key of the child's webhook, which gives it its id.
const toldKey = "told"

var toldOf = []string{"registered_model.created", "model_version.created", "model_version_alias.created", "model_version_alias.deleted"}

// child runs a server, with NATS in it unless that is elsewhere, and commands at
// it, and prints the reason of each that was acknowledged, until it is killed.
func child(dir string) int {
	t := childT{}
	var nc *nats.Conn
	if url := os.Getenv(childNATS); url != "" {
		var err error
		if nc, err = nats.Connect(url); err != nil {
			t.Fatal(err)
		}
	} else {
		n, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: filepath.Join(dir, "nats")})
		if err != nil {
			t.Fatal(err)
		}
		nc = n.Conn()
	}
	s := start(t, openLog(t, nc), filepath.Join(dir, "ledger"))
	if repeat := os.Getenv(childRepeat); repeat != "" {
		rollBackAgainAndAgain(s, repeat)
	}
	var kinds []fields
	for _, name := range toldOf {
		entity, action, _ := strings.Cut(strings.ToUpper(name), ".")
		kinds = append(kinds, fields{"entity": entity, "action": action})
	}
	told := fields{"name": "told", "url": os.Getenv(childHook), "events": kinds, "secret": "secret"}
	if a := s.send("POST", "webhooks", told, "Idempotency-Key", toldKey); a.status != http.StatusOK {
		t.Fatalf("the webhook: %d %v", a.status, a.body)
	}
	var number atomic.Int64
	fmt.Println("ready")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				method, path, f := request(rand.IntN)
				if strings.HasSuffix(path, "registered-models/delete") && rand.IntN(4) > 0 {
					continue
				}
				reason := fmt.Sprintf("%d-%d", os.Getpid(), number.Add(1))
				headers := []string{"Runledger-Reason", reason}
				if rand.IntN(12) == 0 {
					var more []string
					method, path, f, more = webhookRequest(rand.IntN)
					headers = append(headers, more...)
				}
				a := s.send(method, path, f, headers...)
				if a.status >= http.StatusInternalServerError {
					t.Fatalf("%s %s %v: %d %v", method, path, f, a.status, a.body)
				}
				if seq := a.header.Get("Runledger-Seq"); a.status == http.StatusOK && seq != "" {
					fmt.Printf("%s %s\n", reason, seq)
				}
			}
		})
	}
	wg.Wait()
	return 0
}

// Killed at any moment, alone or together with its log, the registry loses no
// acknowledged command and has none twice, and its webhook is told of each event.
func TestKill(t *testing.T) {
	t.Parallel() // it waits, most of the time
	kills := defaultKills
	if text := os.Getenv(killsVariable); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", killsVariable, err)
		}
	}
	t.Run("with its log", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		told := unreliable(t)
		acknowledged := killAgainAndAgain(t, dir, kills/2, childHook+"="+told.URL)
		n, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: filepath.Join(dir, "nats")})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		checkAcknowledged(t, openLog(t, n.Conn()), dir, acknowledged, told, kills/2)
	})
	t.Run("alone", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		n := startNATS(t, dir)
		told := unreliable(t)
		acknowledged := killAgainAndAgain(t, dir, kills-kills/2, childHook+"="+told.URL, childNATS+"="+n.ClientURL())
		nc, err := nats.Connect(n.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		checkAcknowledged(t, openLog(t, nc), dir, acknowledged, told, kills-kills/2)
	})
}

// startNATS starts a server for processes that are killed without it.
func startNATS(t *testing.T, dir string) *natsd.Server {
	t.Helper()
	n, err := natsd.NewServer(&natsd.Options{
		Host: "127.0.0.1", Port: natsd.RANDOM_PORT, JetStream: true, StoreDir: filepath.Join(dir, "nats"), SyncAlways: true, NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
	if !n.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS does not start")
	}
	return n
}

// unreliable returns a receiver that takes four deliveries of five.
func unreliable(t *testing.T) *receiver {
	t.Helper()
	return newReceiver(t, func(delivery) int {
		if rand.IntN(5) == 0 {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
}

// checkTold waits until the receiver was told of every event of the log that the
// webhook is for, and of no other.
func checkTold(t *testing.T, recs []eventlog.Record, told *receiver) {
	t.Helper()
	hook := uuid.NewSHA1(uuid.NameSpaceURL, []byte("runledger:webhook:"+toldKey)).String()
	want := make(map[string]bool)
	made := false
	for _, rec := range recs {
		switch d := rec.GetData().(type) {
		case *events.Event_WebhookCreated:
			made = made || d.WebhookCreated.GetWebhookId() == hook
		case *events.Event_RegisteredModelCreated, *events.Event_ModelVersionCreated, *events.Event_AliasSet, *events.Event_AliasDeleted:
			if made {
				want[uuid.NewSHA1(uuid.NameSpaceURL, []byte("runledger:"+rec.ID+"/"+hook)).String()] = true
			}
		}
	}
	got := make(map[string]bool)
	eventually(t, fmt.Sprintf("all of %d events told", len(want)), func() bool {
		for _, d := range told.on("/") {
			got[d.id] = true
		}
		return len(got) >= len(want)
	})
	if !maps.Equal(got, want) {
		t.Errorf("told of %d events, want %d, and not the same", len(got), len(want))
	}
	t.Logf("told of %d events in %d deliveries", len(got), len(told.on("/")))
}

// killAgainAndAgain returns the commands that were acknowledged, and where.
func killAgainAndAgain(t *testing.T, dir string, kills int, env ...string) map[string]string {
	t.Helper()
	acknowledged := make(map[string]string)
	for i := range kills {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(append(os.Environ(), childDir+"="+dir), env...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		// Every third one is killed while it starts, or shortly after.
		if i%3 > 0 && (!lines.Scan() || lines.Text() != "ready") {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Fatalf("start %d: %q\n%s", i, lines.Text(), stderr.String())
		}
		killer := time.AfterFunc(time.Duration(rand.IntN(300))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		for lines.Scan() {
			reason, seq, ok := strings.Cut(lines.Text(), " ")
			if ok {
				acknowledged[reason] = seq
			}
		}
		if err := cmd.Wait(); err == nil || strings.Contains(stderr.String(), "panic") {
			t.Fatalf("start %d: %v\n%s", i, err, stderr.String())
		}
		killer.Stop()
	}
	return acknowledged
}

// checkAcknowledged compares what was acknowledged with the ledger, the ledger
// with a fold of the log, and both with a ledger that is made anew.
func checkAcknowledged(t *testing.T, log *eventlog.Log, dir string, acknowledged map[string]string, told *receiver, kills int) {
	t.Helper()
	ledgerDir := filepath.Join(dir, "ledger")
	s := start(t, log, ledgerDir)
	s.size()
	recs := readAll(t, log)
	checkTold(t, recs, told)
	s.close()
	survived := checkLedger(t, ledgerDir, recs)
	l, err := ledger.Open(ledgerDir, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	times := make(map[string]int)
	seqs := make(map[string]string)
	for i := range l.Size() {
		e, err := l.Entry(i)
		if err != nil {
			t.Fatal(err)
		}
		times[e.Reason]++
		seqs[e.Reason] = fmt.Sprint(e.Seq)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for reason, seq := range acknowledged {
		if times[reason] != 1 || seqs[reason] != seq {
			t.Errorf("command %s was acknowledged at %s: in the ledger %d times, at %s", reason, seq, times[reason], seqs[reason])
		}
	}
	rebuiltDir := filepath.Join(dir, "rebuilt")
	rebuilt := start(t, log, rebuiltDir)
	rebuilt.size()
	rebuilt.close()
	if !maps.Equal(checkLedger(t, rebuiltDir, recs), survived) {
		t.Error("the rebuilt ledger differs from the one that survived")
	}
	if len(acknowledged) < kills {
		t.Errorf("only %d commands were acknowledged", len(acknowledged))
	}
	t.Logf("%d kills, %d commands acknowledged, %d entries", kills, len(acknowledged), len(recs))
}

// Commands to the registry, beside what a disk allows at most: as many writers
// that commit to Pebble, synced, and do nothing else.
func BenchmarkCommands(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		run := func(b *testing.B, command func(i int64)) {
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						command(i)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
		}
		b.Run(fmt.Sprint(writers, " writers"), func(b *testing.B) {
			s := start(b, openLog(b, natstest.Start(b)), b.TempDir())
			defer s.close()
			s.create("m")
			s.addVersion("m")
			run(b, func(i int64) {
				s.must("POST", "model-versions/set-tag", fields{"name": "m", "version": "1", "key": "k", "value": fmt.Sprint(i)})
			})
		})
		b.Run(fmt.Sprint(writers, " writers, bare Pebble"), func(b *testing.B) {
			db, err := pebble.Open(b.TempDir(), &pebble.Options{Logger: quiet{}})
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := db.Close(); err != nil {
					b.Error(err)
				}
			}()
			entry := make([]byte, 512)
			run(b, func(i int64) {
				if err := db.Set(fmt.Append(nil, i), entry, pebble.Sync); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// quiet is a logger of Pebble's that says nothing.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}
