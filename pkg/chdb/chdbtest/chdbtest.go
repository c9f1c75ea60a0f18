// Package chdbtest gives tests a real ClickHouse: one engine a test binary, one
// database a test.
package chdbtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/chdb"
)

// timeout bounds each step of setting up and taking down.
const timeout = time.Minute

// shared is the engine of this test binary, started by the first test that
// needs it. A test binary has no other place to keep it between tests.
var shared struct {
	sync.Mutex
	server *chdb.Server
	dir    string
}

// Main runs the tests of a package and ends the process. Call it from
// TestMain, first thing: the test binary is also the engine's executable.
func Main(m *testing.M) {
	chdb.RunIfChild()
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "chdbtest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func stop() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := shared.server.Close(ctx); err != nil {
		return err
	}
	return os.RemoveAll(shared.dir)
}

// Start returns the engine that all tests of this binary share. It fails the
// test if the engine cannot be started.
func Start(t testing.TB) *chdb.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		return shared.server
	}
	dir, err := os.MkdirTemp("", "chdbtest-")
	if err != nil {
		t.Fatalf("create the engine's directory: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	server, err := chdb.Start(ctx, chdb.Config{DataDir: dir, MaxMemory: 2 << 30})
	if err != nil {
		_ = os.RemoveAll(dir)
		t.Fatalf("start ClickHouse: %v", err)
	}
	shared.server, shared.dir = server, dir
	return server
}

// Open returns a connection to a new database, and the options to connect to
// it again. Both end with the test: the connection is closed, the database
// dropped.
func Open(t testing.TB) (driver.Conn, *clickhouse.Options) {
	t.Helper()
	server := Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()

	admin, err := clickhouse.Open(server.Options())
	if err != nil {
		t.Fatalf("connect to ClickHouse: %v", err)
	}
	database := "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if err := admin.Exec(ctx, "CREATE DATABASE "+database+" ENGINE = Atomic"); err != nil {
		t.Fatalf("create a database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := admin.Exec(ctx, "DROP DATABASE "+database+" SYNC"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
		if err := admin.Close(); err != nil {
			t.Errorf("close the connection: %v", err)
		}
	})

	opts := server.Options()
	opts.Auth.Database = database
	conn, err := clickhouse.Open(opts)
	if err != nil {
		t.Fatalf("connect to the test's database: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close the connection: %v", err)
		}
	})
	return conn, opts
}
