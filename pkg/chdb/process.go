package chdb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
)

// process is one run of the engine.
type process struct {
	cmd    *exec.Cmd
	input  *os.File // its end is the order to shut down
	log    *logWriter
	exited chan struct{}
	err    error // how it ended; valid once exited is closed
}

// launch starts an engine. lock is inherited, so that the data directory stays
// locked for as long as the engine lives, even if this process dies.
func launch(executable, dir string, spec childSpec, lock *os.File, logger *slog.Logger) (*process, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode the engine's arguments: %w", err)
	}
	// A terminal, because without one `clickhouse local` ends the whole process
	// on an exception in a connection's thread, and a login with a wrong
	// password is such an exception.
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal for the engine: %w", err)
	}
	defer slave.Close()

	p := &process{input: master, log: &logWriter{logger: logger}, exited: make(chan struct{})}
	p.cmd = exec.Command(executable)
	p.cmd.Args = []string{"runledger-clickhouse"}
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(raw), "TERM=dumb", "TZ=UTC")
	p.cmd.Stdin = slave
	p.cmd.Stderr = p.log
	p.cmd.ExtraFiles = []*os.File{lock}
	// Its own process group: an interrupt from the terminal is for this
	// process, which shuts the engine down when it has drained.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the engine process: %w", err), master.Close())
	}
	go func() { // ends with the engine; everybody who launches waits for exited
		defer close(p.exited)
		p.err = p.cmd.Wait()
		p.log.flush()
		_ = p.input.Close()
	}()
	return p, nil
}

// stop shuts the engine down: cleanly, or once ctx is done with a kill. It
// returns when the process is gone.
func (p *process) stop(ctx context.Context) error {
	closeErr := p.input.Close()
	if errors.Is(closeErr, os.ErrClosed) {
		closeErr = nil
	}
	select {
	case <-p.exited:
		if p.err != nil {
			p.log.logger.Warn("clickhouse engine did not shut down cleanly", "error", p.err)
		}
		return closeErr
	case <-ctx.Done():
	}
	killErr := p.cmd.Process.Kill()
	if errors.Is(killErr, os.ErrProcessDone) {
		killErr = nil
	}
	<-p.exited
	return errors.Join(closeErr, killErr, fmt.Errorf("the engine did not shut down in time and was killed: %w", context.Cause(ctx)))
}

// failure says how the engine ended, with the last thing it said.
func (p *process) failure() error {
	err := p.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	if said := p.log.last(); said != "" {
		return fmt.Errorf("the ClickHouse engine ended: %w: %s", err, said)
	}
	return fmt.Errorf("the ClickHouse engine ended: %w", err)
}

// logWriter turns the engine's standard error into log records.
type logWriter struct {
	logger *slog.Logger

	mu      sync.Mutex
	partial []byte
	said    string
}

// maxLogLine bounds a line of the engine's log, in bytes.
const maxLogLine = 8 << 10

func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partial = append(w.partial, b...)
	for {
		line, rest, ok := bytes.Cut(w.partial, []byte("\n"))
		if !ok {
			break
		}
		w.line(line)
		w.partial = rest
	}
	if len(w.partial) > maxLogLine {
		w.line(w.partial)
		w.partial = nil
	}
	return len(b), nil
}

// flush logs what came after the last line break.
func (w *logWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.line(w.partial)
	w.partial = nil
}

func (w *logWriter) line(b []byte) {
	line := strings.TrimSpace(string(b))
	_, message, ok := strings.Cut(line, "} <")
	level, message, _ := strings.Cut(message, "> ")
	if !ok {
		// A line of a stack trace, or what the engine says last.
		own, isOwn := strings.CutPrefix(line, childPrefix)
		if isOwn || strings.Contains(line, "DB::Exception") {
			w.said = own
			w.logger.Warn("clickhouse", "message", own)
			return
		}
		if line != "" {
			w.logger.Debug("clickhouse", "message", line)
		}
		return
	}
	switch {
	case level == "Fatal", level == "Critical":
		w.said = message
		w.logger.Error("clickhouse", "message", message)
	case strings.Contains(message, "Temporarily pause scheduling of tasks"),
		strings.HasPrefix(message, "executeQuery: "), strings.HasPrefix(message, "TCPHandler: "):
		// The first is repeated with every few inserts; merges go on all the
		// same. The others tell of a statement's error, which its sender is
		// told as well.
		w.logger.Debug("clickhouse", "message", message)
	default:
		w.logger.Warn("clickhouse", "message", message)
	}
}

func (w *logWriter) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said
}
