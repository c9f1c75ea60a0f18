package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/runledger/runledger/pkg/chdb"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
	readyPoll    = 20 * time.Millisecond
	// saidBytes is how much of what a failed server said is shown.
	saidBytes = 2 << 10
)

// program is what is measured.
type program struct {
	bin     string // the runledger binary
	library string // of the engine
}

func findProgram(bin string) (program, error) {
	path, err := filepath.Abs(bin)
	if err != nil {
		return program{}, fmt.Errorf("--bin: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return program{}, fmt.Errorf("--bin: %w (run `make build`)", err)
	}
	// Beside the binary, where `make build` leaves it.
	found, err := filepath.Glob(filepath.Join(filepath.Dir(path), "..", "engine", "node_modules", "@chdb", "*", "libchdb.so"))
	if err == nil && len(found) == 1 {
		return program{bin: path, library: found[0]}, nil
	}
	library, err := chdb.Locate()
	return program{bin: path, library: library}, err
}

// engine is a ClickHouse engine on an empty directory, with the configuration
// that `runledger up` gives it.
type engine struct {
	*chdb.Server
	conn driver.Conn
}

func (p program) startEngine(ctx context.Context, dir string) (*engine, error) {
	server, err := chdb.Start(ctx, chdb.Config{DataDir: dir, Library: p.library, Executable: p.bin})
	if err != nil {
		return nil, err
	}
	e := &engine{Server: server}
	if e.conn, err = clickhouse.Open(server.Options()); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the engine: %w", err), e.close())
	}
	return e, nil
}

func (e *engine) close() error {
	var err error
	if e.conn != nil {
		err = e.conn.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return errors.Join(err, e.Server.Close(ctx))
}

// count returns how many rows the table of metrics has.
func (e *engine) count(ctx context.Context) (uint64, error) {
	return e.number(ctx, "SELECT count() FROM metrics")
}

// number runs a query that answers one number.
func (e *engine) number(ctx context.Context, query string, args ...any) (uint64, error) {
	var n uint64
	if err := e.conn.QueryRow(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("ask the engine: %w", err)
	}
	return n, nil
}

// instance is a `runledger up` on an empty directory. Its engine is a process
// like the one that it would start itself, but started here, so that the tables
// can be counted without asking what is measured.
type instance struct {
	engine *engine
	cmd    *exec.Cmd
	stderr *os.File
	client *client
	pprof  string // address of the profiler, "" without one
}

// startInstance starts an instance for a number of connections, and returns
// when it is ready.
func (p program) startInstance(ctx context.Context, dir string, connections int, pprof string) (_ *instance, err error) {
	i := &instance{pprof: pprof}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.close())
		}
	}()
	if i.engine, err = p.startEngine(ctx, filepath.Join(dir, "clickhouse")); err != nil {
		return nil, err
	}
	if i.stderr, err = os.Create(filepath.Join(dir, "stderr")); err != nil {
		return nil, err
	}
	o := i.engine.Options()
	dsn := url.URL{Scheme: "clickhouse", User: url.UserPassword(o.Auth.Username, o.Auth.Password), Host: i.engine.Addr(), Path: o.Auth.Database}
	args := []string{"up", "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--clickhouse-url", dsn.String(), "--log-level", "WARN"}
	if pprof != "" {
		args = append(args, "--pprof", pprof)
	}
	cmd := exec.CommandContext(ctx, p.bin, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	cmd.Stderr = i.stderr
	// An interrupt from the terminal is for this program, which ends the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	i.cmd = cmd
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	address, err := bannerURL(stdout)
	if err != nil {
		return nil, fmt.Errorf("the server did not come up: %w: %s", err, i.said())
	}
	if i.client, err = newClient(address, connections); err != nil {
		return nil, err
	}
	for {
		if _, err = i.client.get(ctx, "/readyz", nil); err == nil {
			return i, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the server is not ready: %w: %s", err, i.said())
		case <-time.After(readyPoll):
		}
	}
}

var urlPattern = regexp.MustCompile(`http://[^\s/]+`)

// bannerURL returns the first address that the server prints.
func bannerURL(stdout io.Reader) (string, error) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if address := urlPattern.FindString(lines.Text()); address != "" {
			return address, nil
		}
	}
	return "", errors.Join(errors.New("it printed no address"), lines.Err())
}

// said returns the end of the server's log.
func (i *instance) said() string { return endOf(i.stderr.Name()) }

// endOf returns the end of a file, or why it cannot be read.
func endOf(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-saidBytes):])
}

func (i *instance) pids() map[string]int {
	return map[string]int{procServer: i.cmd.Process.Pid, procEngine: i.engine.Pid()}
}

// close ends the processes.
func (i *instance) close() error {
	var errs []error
	if i.client != nil {
		i.client.close()
	}
	if i.cmd != nil {
		kill := time.AfterFunc(stopTimeout, func() { _ = i.cmd.Process.Kill() })
		if err := i.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("stop the server: %w", err))
		}
		// Not an error: that the caller's time ended, and the server with it.
		if failed, ok := errors.AsType[*exec.ExitError](i.cmd.Wait()); ok {
			errs = append(errs, fmt.Errorf("the server ended: %w: %s", failed, i.said()))
		}
		kill.Stop()
	}
	if i.stderr != nil {
		errs = append(errs, i.stderr.Close())
	}
	if i.engine != nil {
		errs = append(errs, i.engine.close())
	}
	return errors.Join(errs...)
}
