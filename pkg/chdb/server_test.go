package chdb_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/runledger/runledger/pkg/chdb"
)

// parentEnv makes this test binary a program that runs an engine in the
// directory it names until it is killed.
const parentEnv = "CHDB_TEST_PARENT"

// eventually bounds every wait of these tests.
const eventually = time.Minute

func TestMain(m *testing.M) {
	chdb.RunIfChild()
	if dir := os.Getenv(parentEnv); dir != "" {
		parent(dir)
	}
	os.Exit(m.Run())
}

// parent starts an engine, keeps a long query running on it, prints the
// engine's process id and waits for its own end.
func parent(dir string) {
	s, err := chdb.Start(context.Background(), chdb.Config{DataDir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	conn, err := clickhouse.Open(s.Options())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() { // ends with the process
		_ = conn.Exec(context.Background(), "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number)) FORMAT Null")
	}()
	for deadline := time.Now().Add(eventually); ; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, "the query does not run")
			os.Exit(1)
		}
		var n uint64
		err := conn.QueryRow(context.Background(), "SELECT count() FROM system.processes WHERE query LIKE '%1000000000000%' AND user = currentUser()").Scan(&n)
		if err == nil && n > 1 {
			break
		}
	}
	fmt.Println(s.Pid())
	select {}
}

func start(t *testing.T, dir string) *chdb.Server {
	t.Helper()
	s, err := chdb.Start(t.Context(), chdb.Config{DataDir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() { closeServer(t, s) })
	return s
}

func closeServer(t *testing.T, s *chdb.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), eventually)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func open(t *testing.T, opts *clickhouse.Options) driver.Conn {
	t.Helper()
	conn, err := clickhouse.Open(opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func exec1(t *testing.T, conn driver.Conn, query string) {
	t.Helper()
	if err := conn.Exec(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func scalar[T any](t *testing.T, conn driver.Conn, query string) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), query).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func insert(t *testing.T, conn driver.Conn, from, to int64) {
	t.Helper()
	ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"async_insert": 0}))
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO points")
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	defer batch.Close()
	for x := from; x < to; x++ {
		if err := batch.Append(x); err != nil {
			t.Fatalf("append: %v", err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatalf("send: %v", err)
	}
}

const createPoints = "CREATE TABLE points (x Int64) ENGINE = MergeTree ORDER BY x SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"

// wait polls until ok, and fails the test if that takes too long.
func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(eventually); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

func alive(pid int) bool {
	// A zombie that nobody reaps has ended as well.
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err == nil {
		_, state, _ := strings.Cut(string(stat), ") ")
		return !strings.HasPrefix(state, "Z")
	}
	return syscall.Kill(pid, 0) == nil
}

func TestDataSurvivesCloseAndReopen(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	conn := open(t, s.Options())
	exec1(t, conn, createPoints)
	insert(t, conn, 0, 1000)
	exec1(t, conn, "CREATE TABLE next AS points")
	exec1(t, conn, "EXCHANGE TABLES points AND next")
	if n := scalar[uint64](t, conn, "SELECT count() FROM points"); n != 0 {
		t.Errorf("after the exchange points has %d rows, want 0", n)
	}
	pid := s.Pid()
	closeServer(t, s)
	if alive(pid) {
		t.Error("the engine lives on after Close")
	}
	if s.Err() == nil {
		t.Error("a closed server reports no error")
	}

	conn = open(t, start(t, dir).Options())
	if n := scalar[uint64](t, conn, "SELECT count() FROM next"); n != 1000 {
		t.Errorf("after reopening there are %d rows, want 1000", n)
	}
}

func TestServerSettings(t *testing.T) {
	t.Setenv("TZ", "Asia/Tokyo")
	dir := t.TempDir()
	s := start(t, dir)
	conn := open(t, s.Options())
	if engine := scalar[string](t, conn, "SELECT engine FROM system.databases WHERE name = currentDatabase()"); engine != "Atomic" {
		t.Errorf("the database is %s, want Atomic", engine)
	}
	if epoch := scalar[string](t, conn, "SELECT toString(toDateTime(0))"); epoch != "1970-01-01 00:00:00" {
		t.Errorf("the epoch is %s, want it in UTC", epoch)
	}
	exec1(t, conn, createPoints)
	insert(t, conn, 0, 10)
	if n := scalar[uint64](t, conn, "SELECT count() FROM system.tables WHERE database = 'system' AND name LIKE '%\\_log'"); n != 0 {
		t.Errorf("the engine keeps %d system logs, want none", n)
	}

	info, err := os.Stat(filepath.Join(dir, "config.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the configuration's mode is %o, want 600", info.Mode().Perm())
	}
	config, err := os.ReadFile(filepath.Join(dir, "config.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(config), s.Options().Auth.Password) {
		t.Error("the configuration holds the password in plain")
	}
}

func TestMemoryLimit(t *testing.T) {
	s, err := chdb.Start(t.Context(), chdb.Config{DataDir: t.TempDir(), MaxMemory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeServer(t, s) })
	conn := open(t, s.Options())
	err = conn.Exec(t.Context(), "SELECT length(groupArray(number)) FROM numbers(1000000000) SETTINGS max_memory_usage = 0")
	var exception *clickhouse.Exception
	if !errors.As(err, &exception) || exception.Name != "DB::Exception" || !strings.Contains(exception.Message, "memory") {
		t.Fatalf("a query of 8 GB under a limit of 1 GB: %v, want the memory limit's exception", err)
	}
	if s.Restarts() != 0 {
		t.Errorf("the query cost %d restarts", s.Restarts())
	}
}

func TestListensOnLoopbackOnly(t *testing.T) {
	s := start(t, t.TempDir())
	host, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if !net.ParseIP(host).IsLoopback() {
		t.Errorf("the address is %s", s.Addr())
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip := a.(*net.IPNet).IP
		if ip.IsLoopback() || ip.IsLinkLocalUnicast() {
			continue
		}
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip.String(), port), time.Second)
		if err == nil {
			_ = conn.Close()
			t.Errorf("the engine listens on %s", ip)
		}
	}
}

func TestStrangersAreRefusedAndDoNoHarm(t *testing.T) {
	s := start(t, t.TempDir())
	pid := s.Pid()
	for _, tt := range []struct{ name, user, password string }{
		{"wrong password", "runledger", "wrong"},
		{"no password", "runledger", ""},
		{"default user without password", "default", ""},
		{"default user with the password", "default", s.Options().Auth.Password},
		{"unknown user", "nobody", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := s.Options()
			opts.Auth.Username, opts.Auth.Password = tt.user, tt.password
			err := open(t, opts).Ping(t.Context())
			var exception *clickhouse.Exception
			if !errors.As(err, &exception) {
				t.Fatalf("ping: %v, want a refusal", err)
			}
		})
	}
	t.Run("garbage", func(t *testing.T) {
		for _, b := range []string{"", "GET / HTTP/1.0\r\n\r\n", "\x00\x05abc", strings.Repeat("\xff", 4096)} {
			conn, err := net.Dial("tcp", s.Addr())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write([]byte(b))
			_ = conn.Close()
		}
	})
	conn := open(t, s.Options())
	t.Run("cancelled query", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := conn.Exec(ctx, "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))"); err == nil {
			t.Fatal("the query ended")
		}
	})
	if err := conn.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	if s.Pid() != pid || s.Restarts() != 0 {
		t.Errorf("the engine was restarted %d times", s.Restarts())
	}
}

func TestKilledEngineIsRestartedUnderAnOpenPool(t *testing.T) {
	s := start(t, t.TempDir())
	conn := open(t, s.Options())
	exec1(t, conn, createPoints)
	for round := range 3 {
		insert(t, conn, int64(round)*100, int64(round+1)*100)
		if err := syscall.Kill(s.Pid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		wait(t, "the engine was restarted", func() bool { return s.Restarts() == round+1 && s.Err() == nil })
		wait(t, "the pool works again", func() bool { return conn.Ping(t.Context()) == nil })
		if n, want := scalar[uint64](t, conn, "SELECT count() FROM points"), uint64(round+1)*100; n != want {
			t.Errorf("after kill %d there are %d rows, want %d", round+1, n, want)
		}
	}
}

func TestRestartOnAnotherPortWhenTheOldOneIsTaken(t *testing.T) {
	s := start(t, t.TempDir())
	conn := open(t, s.Options())
	addr := s.Addr()
	if err := syscall.Kill(s.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var squatter net.Listener
	wait(t, "the port is taken", func() bool {
		var err error
		squatter, err = net.Listen("tcp4", addr)
		return err == nil
	})
	defer squatter.Close()
	wait(t, "the pool works again", func() bool { return s.Restarts() == 1 && conn.Ping(t.Context()) == nil })
	if s.Addr() == addr {
		t.Errorf("the engine claims to listen on the taken %s", addr)
	}
}

func TestCloseWhileDown(t *testing.T) {
	s := start(t, t.TempDir())
	if err := syscall.Kill(s.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, "the death is noticed", func() bool { return s.Err() != nil || s.Restarts() > 0 })
	closeServer(t, s)
	closeServer(t, s)
}

func TestTwoServersSideBySide(t *testing.T) {
	one, two := start(t, t.TempDir()), start(t, t.TempDir())
	if one.Addr() == two.Addr() {
		t.Fatalf("both listen on %s", one.Addr())
	}
	exec1(t, open(t, one.Options()), createPoints)
	if n := scalar[uint64](t, open(t, two.Options()), "SELECT count() FROM system.tables WHERE name = 'points'"); n != 0 {
		t.Error("the second server has the first one's table")
	}
}

func TestSecondServerOnADirectory(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	_, err := chdb.Start(t.Context(), chdb.Config{DataDir: dir, LockTimeout: 100 * time.Millisecond})
	if !errors.Is(err, chdb.ErrInUse) {
		t.Fatalf("a second server: %v, want ErrInUse", err)
	}
	if err := open(t, s.Options()).Ping(t.Context()); err != nil {
		t.Errorf("the first server: %v", err)
	}
}

func TestStartErrors(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		cfg  chdb.Config
		want string
	}{
		{"no directory", chdb.Config{}, "DataDir is required"},
		{"not a library", chdb.Config{DataDir: t.TempDir(), Library: empty}, "load the ClickHouse engine from"},
		{"not an executable", chdb.Config{DataDir: t.TempDir(), Executable: empty}, "start the engine process"},
		{"an executable that is no engine", chdb.Config{DataDir: t.TempDir(), Executable: "/bin/true"}, "the ClickHouse engine ended: exit status 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := chdb.Start(t.Context(), tt.cfg)
			if err == nil {
				closeServer(t, s)
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error is %q, want it to say %q", err, tt.want)
			}
		})
	}
}

func TestLocateNamesTheVariable(t *testing.T) {
	t.Setenv("RUNLEDGER_LIBCHDB", filepath.Join(t.TempDir(), "missing.so"))
	_, err := chdb.Locate()
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "RUNLEDGER_LIBCHDB") {
		t.Errorf("Locate: %v", err)
	}
}

func TestEngineDiesWithItsParent(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), parentEnv+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the parent's first line: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !alive(pid) {
		t.Fatal("the engine is not running")
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// Waits for the engine to let go of the directory.
	s := start(t, dir)
	if alive(pid) {
		t.Error("the engine outlives its parent")
	}
	if err := open(t, s.Options()).Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
}
