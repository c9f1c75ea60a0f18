package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// startTimeout bounds a start until the banner or readiness, stopTimeout an
	// orderly shutdown.
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	pollInterval = 20 * time.Millisecond
)

// program is one running process of Runledger, with those that it starts.
type program struct {
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	exited chan struct{} // closed once the process has ended
}

// binary returns the path of the program under test.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("RUNLEDGER_BIN")
	if path == "" {
		path = filepath.Join("..", "bin", "runledger")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no program to test: %v (run `make build`, or set RUNLEDGER_BIN)", err)
	}
	return path
}

// launch starts the program, and does not wait for it. Whatever is left of it
// is killed when the test ends; what it said is shown when the test failed.
func launch(t *testing.T, args ...string) *program {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("finding child processes needs /proc")
	}
	p := &program{cmd: exec.Command(binary(t), args...), stdout: newOutput(), stderr: newOutput(), exited: make(chan struct{})}
	p.cmd.Dir = t.TempDir() // so that nothing depends on where it is started
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.cmd, err)
	}
	go func() { // ends with the process, which kill sees to
		defer close(p.exited)
		_ = p.cmd.Wait() // its outcome is in ProcessState
	}()
	t.Cleanup(func() {
		p.kill(t)
		if t.Failed() {
			t.Logf("%s said last:\n%s", strings.Join(append([]string{"runledger"}, args...), " "), p.stderr.tail(4<<10))
		}
		text := p.stderr.String()
		for _, bad := range []string{"panic", "internal error", "DATA RACE"} {
			if at := strings.Index(text, bad); at >= 0 {
				t.Errorf("the program reported %q:\n%.4000s", bad, text[max(0, at-200):])
			}
		}
	})
	return p
}

// up starts `runledger up` on a data directory, and returns when it is ready.
func up(t *testing.T, dir string, more ...string) *program {
	t.Helper()
	p := launch(t, append([]string{"up", "--data", dir, "--listen", "127.0.0.1:0"}, more...)...)
	p.awaitReady(t)
	return p
}

var bannerURL = regexp.MustCompile(`http://[0-9.]+:[0-9]+`)

// url returns where the program answers, once it has said so.
func (p *program) url(ctx context.Context) (string, error) {
	for {
		wait := p.stdout.changed()
		if url := bannerURL.FindString(p.stdout.String()); url != "" {
			return url, nil
		}
		select {
		case <-wait:
		case <-p.exited:
			return "", fmt.Errorf("the program ended before it was up (%s):\n%s", p.cmd.ProcessState, p.stderr.tail(4<<10))
		case <-ctx.Done():
			return "", fmt.Errorf("the program is not up: %w", ctx.Err())
		}
	}
}

func (p *program) client(t *testing.T) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	url, err := p.url(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(url)
}

// awaitReady waits until the program says that it is ready.
func (p *program) awaitReady(t *testing.T) {
	t.Helper()
	c := p.client(t)
	said := ""
	eventually(t, startTimeout, func() string { return "the program is not ready: " + said }, func(ctx context.Context) bool {
		status, body, err := c.get(ctx, "/readyz")
		said = fmt.Sprint(status, " ", string(body), " ", err)
		return err == nil && status == http.StatusOK
	})
}

// children returns the processes that p has started, of which the engine is one.
func (p *program) children(t *testing.T) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, path := range stats {
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		if _, parent, ok := processState(pid); ok && parent == p.cmd.Process.Pid {
			found = append(found, pid)
		}
	}
	return found
}

// engine returns the process id of the ClickHouse engine, 0 when it is down.
func (p *program) engine(t *testing.T) int {
	t.Helper()
	for _, pid := range p.children(t) {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.HasPrefix(name, []byte("runledger-clickhouse")) {
			return pid
		}
	}
	return 0
}

// processState returns the state and the parent of a process, and false when
// it is gone. One that only waits for its parent to notice is gone.
func processState(pid int) (state string, parent int, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	parent, err = strconv.Atoi(fields[1])
	return fields[0], parent, err == nil && fields[0] != "Z" && fields[0] != "X"
}

// kill ends the program and all that it started, at once: nobody gets to say a
// last word, as when the machine loses power.
func (p *program) kill(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
		return
	default:
	}
	// Stopped, it starts no further child and does not see one die.
	p.signal(t, syscall.SIGSTOP)
	children := p.children(t)
	for _, pid := range children {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("kill the child process %d: %v", pid, err)
		}
	}
	p.signal(t, syscall.SIGKILL)
	<-p.exited
	awaitGone(t, children)
}

// killAlone ends the program but not what it started.
func (p *program) killAlone(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	<-p.exited
}

// signal sends a signal to the program's process group, where the engine is not.
func (p *program) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("send %s: %v", sig, err)
	}
}

// stop asks the program to end, and fails the test unless it does so with
// status 0 and leaves no process behind.
func (p *program) stop(t *testing.T, sig syscall.Signal) {
	t.Helper()
	children := p.children(t)
	p.signal(t, sig)
	if status := p.wait(t, stopTimeout); status != 0 {
		t.Fatalf("exit status after %s: got %d, want 0; standard error:\n%s", sig, status, p.stderr.tail(4<<10))
	}
	for _, pid := range children {
		if _, _, running := processState(pid); running {
			t.Errorf("the child process %d runs on after %s", pid, sig)
		}
	}
}

// wait returns the exit status, once there is one.
func (p *program) wait(t *testing.T, timeout time.Duration) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(timeout):
		t.Fatalf("the program has not ended after %v; standard error:\n%s", timeout, p.stderr.tail(4<<10))
		return 0
	}
}

func awaitGone(t *testing.T, pids []int) {
	t.Helper()
	eventually(t, stopTimeout, func() string { return fmt.Sprintf("child processes %v run on", pids) }, func(context.Context) bool {
		return !slices.ContainsFunc(pids, func(pid int) bool { _, _, running := processState(pid); return running })
	})
}

// eventually waits until ok returns true, and fails the test with what problem
// returns when it does not within the timeout.
func eventually(t *testing.T, timeout time.Duration, problem func() string, ok func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout)
	defer cancel()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("after %v: %s", timeout, problem())
		case <-time.After(pollInterval):
		}
	}
}

// output collects what a process says, and tells when there is more.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func newOutput() *output { return &output{more: make(chan struct{})} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.buf.Write(b)
}

// changed returns a channel that is closed with the next output.
func (o *output) changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.more
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) tail(n int) string {
	text := o.String()
	return text[max(0, len(text)-n):]
}

// size returns how many bytes a directory holds.
func size(t *testing.T, dir string) int64 {
	t.Helper()
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}
