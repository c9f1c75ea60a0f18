// Package chdb runs a ClickHouse server as a child process, so that Runledger
// needs no installed one. The engine is the shared library libchdb, which
// `make build` fetches; the child is this program's own executable, which
// loads it. The child listens on loopback only, behind a generated password,
// is started again when it dies, and never outlives this process.
package chdb

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/template"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/cenkalti/backoff/v5"
)

// The one user that can log in, and the database it finds. The engine's own
// database "default" shows the files of its working directory as tables.
const (
	user     = "runledger"
	database = "runledger"
)

const (
	defaultStartTimeout = 2 * time.Minute
	defaultLockTimeout  = 15 * time.Second
	// stableAfter is how long an engine has run when its death no longer
	// counts as part of a series.
	stableAfter = time.Minute
	// portAttempts is how many ports are tried when another program takes the
	// chosen one before the engine listens on it.
	portAttempts = 5
)

// ErrInUse says that another process holds the data directory: a second
// Runledger, or the engine of an earlier one that has not ended yet.
var ErrInUse = errors.New("the ClickHouse data directory is in use by another process")

var errPortTaken = errors.New("the port was taken by another program")

//go:embed config.xml.tmpl
var configTemplate string

// Config says how to run the engine. Only DataDir is required.
type Config struct {
	// DataDir is the directory that the engine owns; it is created if missing.
	DataDir string
	// Logger receives what the engine logs, warnings and worse; by default
	// nobody does.
	Logger *slog.Logger
	// Library is the path of libchdb; by default what Locate returns.
	Library string
	// Executable is the program to run as the engine: one that calls RunIfChild
	// first. By default this program's own.
	Executable string
	// MaxMemory is how much memory the engine may use, in bytes; 0 is half of
	// the machine's.
	MaxMemory uint64
	// StartTimeout bounds one start of the engine, until it answers; 0 is 2
	// minutes.
	StartTimeout time.Duration
	// LockTimeout bounds the wait for a predecessor that still shuts down on
	// the same DataDir; 0 is 15 seconds.
	LockTimeout time.Duration
}

// Server is a running engine and its supervisor. Its methods can be called
// concurrently.
type Server struct {
	cfg      Config
	password string
	lock     *os.File

	cancel  context.CancelFunc // ends the supervisor
	closing chan context.Context
	once    sync.Once
	done    chan struct{} // closed when the supervisor has ended
	closed  error         // how it ended; valid once done is closed

	mu       sync.Mutex
	addr     string
	pid      int
	restarts int
	down     error
}

// Start starts an engine and returns when it answers queries. It returns
// ErrInUse if another process holds cfg.DataDir for longer than
// cfg.LockTimeout, and the error of Locate if there is no engine to start.
// ctx bounds the start only; Close ends the server.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create the ClickHouse data directory: %w", err)
	}
	lock, err := lockDir(ctx, cfg.DataDir, cfg.LockTimeout)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:      cfg,
		password: rand.Text(),
		lock:     lock,
		closing:  make(chan context.Context, 1),
		done:     make(chan struct{}),
	}
	if err := s.writeConfig(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	proc, err := s.launch(ctx)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go s.supervise(running, proc)
	return s, nil
}

func (c Config) withDefaults() (Config, error) {
	if c.DataDir == "" {
		return c, errors.New("chdb: DataDir is required")
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c, fmt.Errorf("resolve the ClickHouse data directory: %w", err)
	}
	c.DataDir = dir
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Library == "" {
		if c.Library, err = Locate(); err != nil {
			return c, err
		}
	}
	// The engine runs in DataDir.
	if c.Library, err = filepath.Abs(c.Library); err != nil {
		return c, fmt.Errorf("resolve the engine's path: %w", err)
	}
	if c.Executable == "" {
		if c.Executable, err = os.Executable(); err != nil {
			return c, fmt.Errorf("find the executable: %w", err)
		}
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = defaultStartTimeout
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = defaultLockTimeout
	}
	return c, nil
}

// lockDir takes the exclusive lock of a data directory, and waits for it no
// longer than timeout. The lock is an open file, which the engine inherits.
func lockDir(ctx context.Context, dir string, timeout time.Duration) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file of the ClickHouse data directory: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%w: %s", ErrInUse, dir), f.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *Server) configPath() string { return filepath.Join(s.cfg.DataDir, "config.xml") }

func (s *Server) writeConfig() error {
	tmpl, err := template.New("config").Parse(configTemplate)
	if err != nil {
		return fmt.Errorf("parse the engine's configuration: %w", err)
	}
	hash := sha256.Sum256([]byte(s.password))
	var b bytes.Buffer
	err = tmpl.Execute(&b, map[string]any{
		"Path":           s.configPath(),
		"MaxMemory":      s.cfg.MaxMemory,
		"User":           user,
		"PasswordSHA256": hex.EncodeToString(hash[:]),
	})
	if err != nil {
		return fmt.Errorf("render the engine's configuration: %w", err)
	}
	if err := os.WriteFile(s.configPath(), b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write the engine's configuration: %w", err)
	}
	return nil
}

// launch starts an engine and waits until it answers, on the port of its
// predecessor if that is free.
func (s *Server) launch(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout,
		fmt.Errorf("the ClickHouse engine did not answer within %s", s.cfg.StartTimeout))
	defer cancel()
	var err error
	for range portAttempts {
		var proc *process
		if proc, err = s.launchOnce(ctx); err == nil {
			return proc, nil
		}
		if !errors.Is(err, errPortTaken) {
			break
		}
	}
	return nil, err
}

func (s *Server) launchOnce(ctx context.Context) (*process, error) {
	addr, err := freeAddr(s.Addr())
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("split the engine's address: %w", err)
	}
	s.mu.Lock()
	s.addr = addr
	s.mu.Unlock()

	proc, err := launch(s.cfg.Executable, s.cfg.DataDir, childSpec{
		Library: s.cfg.Library,
		Args: []string{
			"--path", filepath.Join(s.cfg.DataDir, "store"),
			"--config-file", s.configPath(),
			"--listen_host", host,
			"--tcp_port", port,
			"--interactive",
			"--query", "SYSTEM START LISTEN TCP; SELECT count() FROM file('/dev/stdin', LineAsString, 'l String')",
		},
	}, s.lock, s.cfg.Logger)
	if err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx, proc); err != nil {
		killed, cancel := context.WithCancel(context.Background())
		cancel()
		_ = proc.stop(killed)
		return nil, err
	}
	s.mu.Lock()
	s.pid, s.down = proc.cmd.Process.Pid, nil
	s.mu.Unlock()
	s.cfg.Logger.Info("clickhouse engine started", "addr", addr, "pid", proc.cmd.Process.Pid)
	return proc, nil
}

// awaitReady waits until proc answers a ping with the generated password,
// which no other program on that port would, and has its database.
func (s *Server) awaitReady(ctx context.Context, proc *process) error {
	opts := s.Options()
	opts.Auth.Database = "system"
	conn, err := clickhouse.Open(opts)
	if err != nil {
		return fmt.Errorf("open a connection to the engine: %w", err)
	}
	defer conn.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-proc.exited:
			return proc.failure()
		case <-ctx.Done():
			return fmt.Errorf("start the ClickHouse engine: %w", context.Cause(ctx))
		case <-tick.C:
		}
		if strings.Contains(proc.log.last(), "Address already in use") {
			return errPortTaken
		}
		if conn.Ping(ctx) != nil {
			continue
		}
		if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+database+" ENGINE = Atomic"); err != nil {
			return fmt.Errorf("create the database: %w", err)
		}
		return nil
	}
}

// freeAddr returns prefer if it can be listened on, otherwise a loopback
// address with a free port.
func freeAddr(prefer string) (string, error) {
	for _, addr := range []string{prefer, "127.0.0.1:0"} {
		if addr == "" {
			continue
		}
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			if addr == prefer {
				continue
			}
			return "", fmt.Errorf("find a free port for the engine: %w", err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return "", fmt.Errorf("release the engine's port: %w", err)
		}
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), nil
	}
	return "", errors.New("find a free port for the engine: no candidates")
}

// supervise keeps the engine running until ctx is done.
func (s *Server) supervise(ctx context.Context, proc *process) {
	defer close(s.done)
	defer func() { s.closed = errors.Join(s.closed, s.lock.Close()) }()

	delays := backoff.NewExponentialBackOff()
	delays.InitialInterval = 100 * time.Millisecond
	delays.MaxInterval = 15 * time.Second
	for {
		started := time.Now()
		select {
		case <-ctx.Done():
			s.setDown(errors.New("the ClickHouse engine is closed"))
			s.closed = proc.stop(<-s.closing)
			return
		case <-proc.exited:
		}
		s.setDown(proc.failure())
		if time.Since(started) > stableAfter {
			delays.Reset()
		}
		if proc = s.relaunch(ctx, delays); proc == nil {
			s.setDown(errors.New("the ClickHouse engine is closed"))
			return
		}
	}
}

// relaunch starts the engine again, as often as it takes. It returns nil once
// ctx is done.
func (s *Server) relaunch(ctx context.Context, delays backoff.BackOff) *process {
	for {
		delay := delays.NextBackOff()
		s.cfg.Logger.Error("clickhouse engine is down", "error", s.Err(), "restart_in", delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		proc, err := s.launch(ctx)
		if err == nil {
			s.mu.Lock()
			s.restarts++
			s.mu.Unlock()
			return proc
		}
		s.setDown(err)
	}
}

func (s *Server) setDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid, s.down = 0, err
}

// Close shuts the engine down and waits until it is gone. It kills the engine
// when ctx is done first; data that was acknowledged is safe either way.
// Further calls wait and return the same error.
func (s *Server) Close(ctx context.Context) error {
	s.once.Do(func() {
		s.closing <- ctx
		s.cancel()
	})
	<-s.done
	return s.closed
}

// Options returns what clickhouse-go needs to connect, with the Atomic
// database "runledger". A pool opened with them goes on working when the engine is
// started again, on another port even.
func (s *Server) Options() *clickhouse.Options {
	return &clickhouse.Options{
		Protocol: clickhouse.Native,
		Addr:     []string{s.Addr()},
		Auth:     clickhouse.Auth{Database: database, Username: user, Password: s.password},
		DialContext: func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp4", s.Addr())
		},
		DialTimeout: 5 * time.Second,
	}
}

// Addr returns the address of the native protocol, host:port. It can change
// when the engine is started again; it rarely does.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Pid returns the process id of the engine, 0 while it is down.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Restarts returns how often the engine was started again.
func (s *Server) Restarts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restarts
}

// Err returns nil while the engine runs, otherwise why it does not.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}
