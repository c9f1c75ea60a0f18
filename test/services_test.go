package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/runledger/runledger/pkg/chdb"
	"github.com/runledger/runledger/pkg/eventlog"
)

// outside is a NATS server and a ClickHouse server that no Runledger started,
// as an operator would run them.
type outside struct {
	natsURL       string
	clickhouseURL string
	engine        *chdb.Server
}

func startOutside(t *testing.T) outside {
	t.Helper()
	n, err := server.NewServer(&server.Options{
		ServerName: "outside", Host: "127.0.0.1", Port: server.RANDOM_PORT,
		JetStream: true, StoreDir: t.TempDir(), SyncAlways: true, NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(func() {
		n.Shutdown()
		n.WaitForShutdown()
	})
	if !n.ReadyForConnections(startTimeout) {
		t.Fatal("the NATS server does not start")
	}
	engine, err := chdb.Start(t.Context(), chdb.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := engine.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	auth := engine.Options().Auth
	dsn := url.URL{Scheme: "clickhouse", User: url.UserPassword(auth.Username, auth.Password), Host: engine.Addr(), Path: "/" + auth.Database}
	return outside{natsURL: n.ClientURL(), clickhouseURL: dsn.String(), engine: engine}
}

func (o outside) start(t *testing.T, service, dir string, more ...string) *program {
	t.Helper()
	args := append([]string{service, "--nats-url", o.natsURL, "--data", filepath.Join(dir, service)}, more...)
	if service == "projector" || service == "query" {
		args = append(args, "--clickhouse-url", o.clickhouseURL)
	}
	if service == "ingest" || service == "registry" {
		args = append(args, "--artifacts", filepath.Join(dir, "artifacts"))
	}
	return launch(t, args...)
}

// verify compares the tables with the log.
func (o outside) verify(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), verifyTimeout)
	defer cancel()
	conn, err := nats.Connect(o.natsURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	log, err := eventlog.Open(ctx, conn, eventlog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	compareTables(ctx, t, log, o.engine.Options())
}

func withPassword(t *testing.T, dsn, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String()
}

// TestAServiceWaitsForItsServers starts services before there is anything that they
// could talk to.
func TestAServiceWaitsForItsServers(t *testing.T) {
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := reserved.Addr().(*net.TCPAddr)
	if err := reserved.Close(); err != nil {
		t.Fatal(err)
	}
	servers := outside{natsURL: "nats://" + address.String(), clickhouseURL: "clickhouse://127.0.0.1:1/db"}
	dir := t.TempDir()
	ingest, query := servers.start(t, "ingest", dir), servers.start(t, "query", dir)
	for _, p := range []*program{ingest, query} {
		eventually(t, startTimeout, func() string { return "it does not say what it waits for: " + p.stderr.String() }, func(context.Context) bool {
			return strings.Contains(p.stderr.String(), "waiting for NATS")
		})
	}
	n, err := server.NewServer(&server.Options{
		ServerName: "late", Host: "127.0.0.1", Port: address.Port, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	defer func() {
		n.Shutdown()
		n.WaitForShutdown()
	}()
	ingest.awaitReady(t)
	if _, err := ingest.client(t).createExperiment(t.Context(), "late"); err != nil {
		t.Error(err)
	}
	eventually(t, startTimeout, func() string { return "query does not wait for ClickHouse: " + query.stderr.String() }, func(ctx context.Context) bool {
		status, _, err := query.client(t).get(ctx, "/health")
		return err == nil && status == http.StatusOK && strings.Contains(query.stderr.String(), "waiting for ClickHouse")
	})
	ingest.stop(t, syscall.SIGTERM)
	query.stop(t, syscall.SIGTERM)
}

// TestServicesRunOneAtATimeAgainstOutsideServers runs every service as a
// process of its own, ingest twice, and replaces a projector that is killed.
func TestServicesRunOneAtATimeAgainstOutsideServers(t *testing.T) {
	whole := t // outlives its parts
	servers := startOutside(t)
	dir := t.TempDir()
	ingest1, ingest2 := servers.start(t, "ingest", dir), servers.start(t, "ingest", dir)
	projector := servers.start(t, "projector", dir)
	query, registry := servers.start(t, "query", dir), servers.start(t, "registry", dir)
	all := []*program{ingest1, ingest2, query, registry, projector}
	for _, p := range all {
		p.awaitReady(t)
	}
	write1, write2, read, models := ingest1.client(t), ingest2.client(t), query.client(t), registry.client(t)
	ctx := t.Context()

	experimentID, err := write1.createExperiment(ctx, "across processes")
	if err != nil {
		t.Fatal(err)
	}

	t.Run("each reads what another has acknowledged", func(t *testing.T) {
		b := &runBook{name: "shared", created: acked, progress: newRegister(""), status: newRegister("RUNNING"), lifecycle: newRegister("active"), artifact: newRegister("")}
		if b.id, err = write1.createRun(ctx, experimentID, b.name, time.Now()); err != nil {
			t.Fatal(err)
		}
		for i := range int64(30) {
			o := &operation{what: fmt.Sprintf("batch %d", i), outcome: acked, params: []pair{{fmt.Sprintf("p%d", i), "x"}}}
			for j := range int64(10) {
				o.points = append(o.points, metric{Key: "loss", Step: 1 + i*10 + j, Timestamp: i, Value: number(j)})
			}
			b.operations = append(b.operations, o)
			if err := []*client{write1, write2}[i%2].logBatch(ctx, b.id, o.points, o.params, nil); err != nil {
				t.Fatal(err)
			}
			if found := b.verify(ctx, read); len(found) > 0 {
				t.Fatalf("after batch %d:%s", i, short(found))
			}
		}
	})

	t.Run("refused credentials and malformed addresses end a service at once", func(t *testing.T) {
		for _, args := range [][]string{
			{"query", "--nats-url", servers.natsURL, "--clickhouse-url", withPassword(t, servers.clickhouseURL, "wrong")},
			{"projector", "--nats-url", servers.natsURL, "--clickhouse-url", withPassword(t, servers.clickhouseURL, "wrong")},
			{"ingest", "--nats-url", "nats://:4222", "--artifacts", dir},
			{"ingest", "--nats-url", "http://127.0.0.1:4222", "--artifacts", dir},
		} {
			p := launch(t, append(args, "--data", filepath.Join(dir, "refused"))...)
			select {
			case <-p.exited:
			case <-time.After(startTimeout):
				t.Fatalf("%v goes on", args)
			}
			if text := p.stderr.String(); p.cmd.ProcessState.Success() || !strings.Contains(text, "-url") || strings.Contains(text, "wrong") {
				t.Errorf("%v ended with %v and said %s", args[0], p.cmd.ProcessState, text)
			}
		}
	})

	t.Run("of two writers at once one wins", func(t *testing.T) {
		const rounds = 20
		runID, err := write1.createRun(ctx, experimentID, "contended", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for i := range rounds {
			key, name := fmt.Sprintf("param %d", i), fmt.Sprintf("experiment %d", i)
			values, ids, param, create := [2]string{"one", "two"}, [2]string{}, [2]error{}, [2]error{}
			var both sync.WaitGroup
			for n, c := range []*client{write1, write2} {
				both.Go(func() { param[n] = c.logBatch(ctx, runID, nil, []pair{{key, values[n]}}, nil) })
				both.Go(func() { ids[n], create[n] = c.createExperiment(ctx, name) })
			}
			both.Wait()
			winner := oneWinner(t, "parameter", param, "INVALID_PARAMETER_VALUE")
			r, _, err := read.getRun(ctx, runID)
			if got := valueOf(r.Data.Params, key); err != nil || got != values[winner] {
				t.Errorf("parameter %s is %q, %v; %q was acknowledged", key, got, err, values[winner])
			}
			winner = oneWinner(t, "experiment", create, "RESOURCE_ALREADY_EXISTS")
			if e, err := read.experimentByName(ctx, name); err != nil || e.ID != ids[winner] {
				t.Errorf("experiment %s has id %q, %v; %q was acknowledged", name, e.ID, err, ids[winner])
			}
		}
	})

	t.Run("the registry has its ledger", func(t *testing.T) {
		work := startWorkload(t, func() *client { return models }, seed(t), 0, 2, 50)
		work.wait(t)
		t.Log(&work.counts)
		work.verify(t, models)
	})

	t.Run("another projector takes over from one that was killed", func(t *testing.T) {
		projector.kill(t)
		runID, err := write1.createRun(ctx, experimentID, "taken over", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var points []metric
		for i := range int64(100) {
			points = append(points, metric{Key: "loss", Step: i, Timestamp: i, Value: number(i)})
		}
		if err := write2.logBatch(ctx, runID, points, nil, nil); err != nil {
			t.Fatal(err)
		}
		_, _, err = read.history(ctx, runID, "loss")
		if e, ok := errors.AsType[*apiError](err); !ok || e.Status != http.StatusServiceUnavailable || e.RetryAfter == "" {
			t.Errorf("without a projector a read is answered with %v; want a 503 with Retry-After", err)
		}
		begin := time.Now()
		successor := servers.start(whole, "projector", dir)
		all[slices.Index(all, projector)] = successor
		var got []metric
		eventually(t, startTimeout, func() string { return fmt.Sprintf("there are %d points of %d", len(got), len(points)) }, func(ctx context.Context) bool {
			var isFresh bool
			got, isFresh, err = read.history(ctx, runID, "loss")
			return err == nil && isFresh && len(got) == len(points)
		})
		t.Logf("fresh reads %v after the successor was started", time.Since(begin).Round(time.Millisecond))
		successor.awaitReady(t)
		successor.awaitProjected(t)
		servers.verify(t)
	})

	for _, p := range all {
		p.stop(t, syscall.SIGTERM)
	}
}

// oneWinner returns which of two writes was acknowledged; the other one must
// have been refused with a code.
func oneWinner(t *testing.T, what string, errs [2]error, want string) int {
	t.Helper()
	for i := range errs {
		if errs[i] == nil && code(errs[1-i]) == want {
			return i
		}
	}
	t.Fatalf("%s written twice at once: got %v and %v, want one nil and one %s", what, errs[0], errs[1], want)
	return 0
}
