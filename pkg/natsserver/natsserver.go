// Package natsserver runs a NATS server with JetStream inside the process. It
// opens no port: clients connect in memory.
package natsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	startTimeout = 20 * time.Second
	// maxMemory bounds JetStream's memory storage, which nothing here uses.
	maxMemory = 64 << 20
	// maxStore bounds what JetStream may reserve on disk: the disk's own limit
	// is watched by its health check.
	maxStore = 1 << 50
)

// ErrUnhealthy means that the server cannot take writes, for example since the
// disk was full: it stays so until it is started again.
var ErrUnhealthy = errors.New("JetStream is unhealthy")

// Config configures Start.
type Config struct {
	DataDir string // JetStream's files
	Logger  *slog.Logger
}

// Server is a running NATS server.
type Server struct {
	server *server.Server
	conn   *nats.Conn
}

// Start starts a server whose acknowledged writes are on disk, and connects to
// it.
func Start(ctx context.Context, c Config) (*Server, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := server.NewServer(&server.Options{
		ServerName:         "runledger",
		DontListen:         true,
		JetStream:          true,
		StoreDir:           c.DataDir,
		SyncAlways:         true,
		JetStreamMaxMemory: maxMemory,
		JetStreamMaxStore:  maxStore,
		NoSigs:             true,
	})
	if err != nil {
		return nil, fmt.Errorf("start NATS in %s: %w", c.DataDir, err)
	}
	var fatal atomic.Pointer[string]
	s.SetLoggerV2(logger{c.Logger, &fatal}, false, false, false)
	s.Start()
	if why := fatal.Load(); why != nil {
		s.Shutdown()
		return nil, fmt.Errorf("start NATS in %s: %s", c.DataDir, *why)
	}
	timeout := startTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d))
	}
	if !s.ReadyForConnections(timeout) {
		s.Shutdown()
		return nil, fmt.Errorf("start NATS in %s: not ready after %v", c.DataDir, timeout)
	}
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.Name("runledger"), nats.MaxReconnects(-1))
	if err != nil {
		s.Shutdown()
		return nil, fmt.Errorf("connect to the NATS server in this process: %w", err)
	}
	return &Server{server: s, conn: nc}, nil
}

// Conn returns the connection to the server. Close closes it.
func (s *Server) Conn() *nats.Conn { return s.conn }

// Health returns ErrUnhealthy, with the server's own words, unless JetStream
// can take writes.
func (s *Server) Health() error {
	if h := s.server.Healthz(&server.HealthzOptions{}); h.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", h.Error, ErrUnhealthy)
	}
	return nil
}

// Close flushes the connection and stops the server.
func (s *Server) Close() error {
	err := s.conn.FlushTimeout(time.Second)
	s.conn.Close()
	s.server.Shutdown()
	s.server.WaitForShutdown()
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("close NATS: %w", err)
	}
	return nil
}

// logger passes the server's log on; its notices are of no use to a user.
type logger struct {
	*slog.Logger
	fatal *atomic.Pointer[string] // why the server gave up
}

func (l logger) Noticef(format string, v ...any) { l.Debug(line(format, v)) }
func (l logger) Warnf(format string, v ...any)   { l.Warn(line(format, v)) }
func (l logger) Errorf(format string, v ...any)  { l.Error(line(format, v)) }
func (l logger) Debugf(format string, v ...any)  { l.Debug(line(format, v)) }
func (l logger) Tracef(format string, v ...any)  { l.Debug(line(format, v)) }

func (l logger) Fatalf(format string, v ...any) {
	l.Error(line(format, v))
	l.fatal.Store(new(fmt.Sprintf(format, v...)))
}

func line(format string, v []any) string {
	return "nats: " + strings.TrimSpace(fmt.Sprintf(format, v...))
}
