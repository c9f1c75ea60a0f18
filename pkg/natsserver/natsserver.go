// Package natsserver runs a NATS server with JetStream inside the process. It
// opens no port: clients connect in memory.
package natsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/runledger/runledger/pkg/diskroom"
	"github.com/runledger/runledger/pkg/natsfiles"
)

const (
	startTimeout = 20 * time.Second
	// reconnectWait is how often the connection looks for a server that is started
	// again.
	reconnectWait = 100 * time.Millisecond
	// maxMemory bounds JetStream's memory storage, which nothing here uses.
	maxMemory = 64 << 20
	// maxStore bounds what JetStream may reserve on disk: the disk's own limit
	// is watched by its health check.
	maxStore = 1 << 50
)

// ErrUnhealthy means that the server takes no writes, for example since its disk
// is full. It takes them again by itself when the disk does.
var ErrUnhealthy = errors.New("JetStream is unhealthy")

const (
	// watchEvery is how often the server's health is looked at, unless it says
	// something itself.
	watchEvery = time.Second
	// restartFirst is how long a restart waits, and restartLast how long one does
	// that follows many others.
	restartFirst = 500 * time.Millisecond
	restartLast  = 30 * time.Second
	// settled is after what time the next failure is not counted with the last one.
	settled = time.Minute
	// writeError is in what the server says of a stream that has failed a write.
	// It takes no more until the server is started again.
	writeError = "write error"
)

// Config configures Start.
type Config struct {
	DataDir string // JetStream's files
	// Check, unless nil, is called before a server starts on the files, also again
	// after a failed write. An error of it keeps the server from starting.
	Check  func(dataDir string) error
	Logger *slog.Logger
}

// Server is a running NATS server. It takes no writes while its disk is full. After a
// failed write it is started again, when the disk takes writes; connections to it
// find it again.
type Server struct {
	config Config
	conn   *nats.Conn
	server atomic.Pointer[server.Server]
	hint   chan struct{} // the server has said that a write failed

	mu       sync.Mutex
	writable context.Context
	fail     context.CancelCauseFunc // of writable

	stop    context.CancelFunc
	watched sync.WaitGroup
}

// Start starts a server whose acknowledged writes are on disk, and connects to
// it.
func Start(ctx context.Context, c Config) (*Server, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{config: c, hint: make(chan struct{}, 1)}
	s.writable, s.fail = context.WithCancelCause(context.Background())
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.Name("runledger"),
		nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(0, 0))
	if err != nil {
		s.server.Load().Shutdown()
		return nil, fmt.Errorf("connect to the NATS server in this process: %w", err)
	}
	s.conn = nc
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.watched.Go(func() { s.watch(watching) })
	return s, nil
}

// start starts a server in place of one that has ended.
func (s *Server) start(ctx context.Context) error {
	if s.config.Check != nil {
		if err := s.config.Check(s.config.DataDir); err != nil {
			return fmt.Errorf("start NATS in %s: %w", s.config.DataDir, err)
		}
	}
	next, err := server.NewServer(&server.Options{
		ServerName:         "runledger",
		DontListen:         true,
		JetStream:          true,
		StoreDir:           s.config.DataDir,
		SyncAlways:         true,
		JetStreamMaxMemory: maxMemory,
		JetStreamMaxStore:  maxStore,
		NoSigs:             true,
	})
	if err != nil {
		return fmt.Errorf("start NATS in %s: %w", s.config.DataDir, err)
	}
	var fatal atomic.Pointer[string]
	next.SetLoggerV2(logger{s.config.Logger, &fatal, s.hint}, false, false, false)
	next.Start()
	if why := fatal.Load(); why != nil {
		next.Shutdown()
		return fmt.Errorf("start NATS in %s: %s", s.config.DataDir, *why)
	}
	timeout := startTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d))
	}
	if !next.ReadyForConnections(timeout) {
		next.Shutdown()
		return fmt.Errorf("start NATS in %s: not ready after %v", s.config.DataDir, timeout)
	}
	s.server.Store(next)
	return nil
}

// InProcessConn connects to the server that runs now: see nats.InProcessServer.
func (s *Server) InProcessConn() (net.Conn, error) { return s.server.Load().InProcessConn() }

// Conn returns the connection to the server. Close closes it.
func (s *Server) Conn() *nats.Conn { return s.conn }

// Writable returns a context that ends once the server takes no more writes, with
// the reason as its cause. When it takes them again, Writable returns another one.
func (s *Server) Writable() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writable
}

// Health returns ErrUnhealthy, with the server's own words, unless JetStream
// can take writes.
func (s *Server) Health() error {
	if ctx := s.Writable(); ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.health()
}

func (s *Server) health() error {
	if h := s.server.Load().Healthz(&server.HealthzOptions{}); h.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", h.Error, ErrUnhealthy)
	}
	return nil
}

// broken returns ErrUnhealthy if a write has failed: the server takes no more until
// it is started again.
func (s *Server) broken() error {
	if err := s.health(); err != nil && strings.Contains(err.Error(), writeError) {
		return err
	}
	return nil
}

// watch ends Writable when the disk is full or a write has failed, and has the
// server take writes again when the disk does, until ctx ends.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	pause, last := restartFirst, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.hint:
		case <-tick.C:
		}
		err := s.broken()
		if low := diskroom.Low(s.config.DataDir); err == nil && errors.Is(low, syscall.ENOSPC) {
			err = fmt.Errorf("%w: %w", low, ErrUnhealthy)
		}
		if err == nil {
			continue
		}
		s.config.Logger.Error("the event log takes no writes until its disk does", slog.Any("error", err))
		s.fail(err)
		if time.Since(last) > settled {
			pause = restartFirst
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			if err = diskroom.Check(s.config.DataDir); err != nil {
				s.config.Logger.Debug("the event log's disk takes no writes", slog.Any("error", err))
				continue
			}
			if err = s.recover(ctx); err == nil {
				break
			}
			s.config.Logger.Error("start the event log again", slog.Any("error", err))
			pause = min(2*pause, restartLast)
		}
		last, pause = time.Now(), min(2*pause, restartLast)
		s.config.Logger.Info("the event log takes writes again")
	}
}

// recover starts another server on the files if a write has failed, and makes the
// log writable.
func (s *Server) recover(ctx context.Context) error {
	if s.health() != nil {
		old := s.server.Load()
		old.Shutdown()
		old.WaitForShutdown()
		if err := natsfiles.DropIndexes(s.config.DataDir); err != nil {
			return err
		}
		if err := s.start(ctx); err != nil {
			return err
		}
		if err := s.health(); err != nil {
			return err
		}
	}
	select {
	case <-s.hint: // of what is over
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writable, s.fail = context.WithCancelCause(context.Background())
	return nil
}

// Close flushes the connection and stops the server.
func (s *Server) Close() error {
	s.stop()
	s.watched.Wait()
	var err error
	broken := s.broken() != nil
	if s.Writable().Err() == nil {
		err = s.conn.FlushTimeout(time.Second)
	}
	s.conn.Close()
	s.fail(nats.ErrConnectionClosed)
	running := s.server.Load()
	running.Shutdown()
	running.WaitForShutdown()
	if broken {
		err = natsfiles.DropIndexes(s.config.DataDir)
	}
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("close NATS: %w", err)
	}
	return nil
}

// logger passes the server's log on; its notices are of no use to a user.
type logger struct {
	*slog.Logger
	fatal *atomic.Pointer[string] // why the server gave up
	hint  chan<- struct{}         // told when a write fails
}

func (l logger) Noticef(format string, v ...any) { l.Debug(line(format, v)) }
func (l logger) Warnf(format string, v ...any)   { l.Warn(line(format, v)) }
func (l logger) Debugf(format string, v ...any)  { l.Debug(line(format, v)) }
func (l logger) Tracef(format string, v ...any)  { l.Debug(line(format, v)) }

func (l logger) Errorf(format string, v ...any) {
	text := line(format, v)
	l.Error(text)
	if strings.Contains(text, writeError) {
		select {
		case l.hint <- struct{}{}:
		default:
		}
	}
}

func (l logger) Fatalf(format string, v ...any) {
	l.Error(line(format, v))
	l.fatal.Store(new(fmt.Sprintf(format, v...)))
}

func line(format string, v []any) string {
	return "nats: " + strings.TrimSpace(fmt.Sprintf(format, v...))
}
