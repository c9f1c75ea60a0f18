package artifacts_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/httpapi"
)

// smallDisk has the test run once more where it may mount a file system, and
// returns a directory on one of so many MiB there, and whether it is there.
func smallDisk(t *testing.T, mib int) (dir string, there bool) {
	t.Helper()
	const mark = "RUNLEDGER_TEST_OWN_MOUNTS"
	if os.Getenv(mark) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
		cmd.Env = append(os.Environ(), mark+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		switch {
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOSPC), bytes.Contains(out, []byte("may not mount")):
			t.Skipf("this machine lets nobody mount a file system: %v", err)
		case err != nil:
			t.Errorf("%v\n%s", err, out)
		}
		return "", false
	}
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Fatal("may not mount:", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir, true
}

func TestAFullStoreSaysSoAndRecovers(t *testing.T) {
	dir, there := smallDisk(t, 4)
	if !there {
		return
	}
	store, err := artifacts.OpenStore(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	e := httpapi.New(httpapi.Config{
		Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Checks: []httpapi.Check{{Name: "artifacts", Ready: store.Writable}},
	})
	artifacts.NewProxy(artifacts.Config{Store: store}).Register(e)
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	files := server.URL + "/api/2.0/mlflow-artifacts/artifacts/"
	full := func(what string) {
		t.Helper()
		status, body, header := call(t, "PUT", files+"large", strings.Repeat("x", 6<<20))
		if status != 503 || header.Get("Retry-After") == "" || !strings.Contains(body, "The artifact store is full") {
			t.Errorf("%s, an upload: %d %s, Retry-After %q", what, status, body, header.Get("Retry-After"))
		}
		if left, err := os.ReadDir(filepath.Join(dir, ".runledger-uploads")); err != nil || len(left) != 0 {
			t.Errorf("%s, an upload left %v, %v", what, left, err)
		}
	}
	ready := func(what string, want int, says string) {
		t.Helper()
		if status, body, _ := call(t, "GET", server.URL+"/readyz", ""); status != want || !strings.Contains(body, says) {
			t.Errorf("%s, /readyz: %d %s", what, status, body)
		}
	}
	put := func(name string, size int) {
		t.Helper()
		if status, body, _ := call(t, "PUT", files+name, strings.Repeat("x", size)); status != 200 {
			t.Errorf("PUT %s: %d %s", name, status, body)
		}
	}
	ready("empty", 200, `"artifacts":"ok"`)
	full("too large a file")
	ready("almost empty", 200, `"artifacts":"ok"`)
	put("half", 2<<20)
	put("most", 3<<19)
	full("full")
	ready("full", 503, "artifact store: full")
	if status, body, _ := call(t, "GET", files+"half", ""); status != 200 || len(body) != 2<<20 {
		t.Errorf("full, a download: %d, %d bytes", status, len(body))
	}
	if status, body, _ := call(t, "DELETE", files+"half", ""); status != 200 {
		t.Errorf("full, a deletion: %d %s", status, body)
	}
	ready("space again", 200, `"artifacts":"ok"`)
	put("half", 1<<20)
}

// A client that goes away in the middle of an upload is told that it did, and
// nobody is warned.
func TestACutUploadIsTheClientsFault(t *testing.T) {
	out := new(locked)
	server := serveChecked(t, t.TempDir(), out)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const path = "/api/2.0/mlflow-artifacts/artifacts/f"
	if _, err := fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf", path); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d", resp.StatusCode)
	}
	if status, _, _ := call(t, "GET", server.URL+path, ""); status != 404 {
		t.Errorf("half of a file is there: %d", status)
	}
	server.Close()
	if said := out.String(); strings.Contains(said, "WARN") || strings.Contains(said, "ERROR") {
		t.Errorf("the log of the process says %s", said)
	}
}
