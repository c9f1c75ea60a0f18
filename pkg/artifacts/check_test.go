package artifacts_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
)

// logged is a log of uploads.
type logged struct {
	mu      sync.Mutex
	digests map[string][]byte
}

func (l *logged) record(_ echo.Context, _ artifacts.Place, e *events.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := e.GetArtifactUploaded(); u != nil {
		l.digests[u.GetPath()] = u.GetSha256()
	}
	return nil
}

func (l *logged) digest(_ context.Context, name string) (artifacts.Sums, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sum, ok := l.digests[name]; ok {
		return artifacts.Sums{[sha256.Size]byte(sum)}, nil
	}
	return nil, nil
}

// serveChecked serves a store in a directory, whose log is kept in memory.
func serveChecked(t *testing.T, dir string, out io.Writer) *httptest.Server {
	t.Helper()
	store, err := artifacts.OpenStore(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	log := &logged{digests: make(map[string][]byte)}
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.NewTextHandler(out, nil)), Registry: prometheus.NewRegistry()})
	artifacts.NewProxy(artifacts.Config{Store: store, Record: log.record, Digest: log.digest}).Register(e)
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return server
}

// locked is a buffer for several goroutines.
type locked struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

// No whole answer has other bytes than were uploaded, whatever becomes of them on
// the disk; what is not compared with the log says so.
func TestADamagedArtifactIsNoAnswer(t *testing.T) {
	for _, tc := range []struct {
		name    string
		size    int // bytes
		checked string
	}{{"small", 1000, "before"}, {"large", 17 << 20, "while-sent"}} {
		t.Run(tc.name, func(t *testing.T) {
			dir, out := t.TempDir(), new(locked)
			server := serveChecked(t, dir, out)
			url := server.URL + "/api/2.0/mlflow-artifacts/artifacts/1/r1/artifacts/f"
			content := strings.Repeat("0123456789", tc.size/10)
			status, _, header := call(t, "PUT", url, content)
			digest := header.Get("Repr-Digest")
			if status != 200 || digest == "" {
				t.Fatalf("PUT: %d, digest %q", status, digest)
			}
			check := func(what string, wantStatus int, wantBody, wantChecked string, method string, header ...string) {
				t.Helper()
				status, body, h := call(t, method, url, "", header...)
				if status != wantStatus || body != wantBody || h.Get("Runledger-Checked") != wantChecked || h.Get("Repr-Digest") != digest {
					t.Errorf("%s: %d, %d bytes, checked %q, digest %q", what, status, len(body), h.Get("Runledger-Checked"), h.Get("Repr-Digest"))
				}
			}
			check("whole", 200, content, tc.checked, "GET")
			check("range", 206, "23", "no", "GET", "Range", "bytes=2-3")
			check("HEAD", 200, "", "no", "HEAD")

			file := filepath.Join(dir, "1/r1/artifacts/f")
			flip(t, file, 1)
			req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			switch {
			case tc.checked == "before" && (resp.StatusCode != 500 || !strings.Contains(string(body), "'1/r1/artifacts/f' is damaged") || err != nil):
				t.Errorf("damaged: %d %.300s, %v", resp.StatusCode, body, err)
			case tc.checked == "while-sent" && (!errors.Is(err, io.ErrUnexpectedEOF) || len(body) >= len(content)):
				t.Errorf("damaged: %d, %d of %d bytes, %v", resp.StatusCode, len(body), len(content), err)
			}
			server.Close() // waits for what is written to the log
			if !strings.Contains(out.String(), "is not the one in the log") {
				t.Errorf("the log of the process says %.300s", out.String())
			}
		})
	}
}

// flip changes a bit of a file.
func flip(t *testing.T, file string, at int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A file that the log does not know is served, and so is a range of a damaged
// one, which both say that they are not checked.
func TestWhatIsNotCheckedSaysSo(t *testing.T) {
	dir := t.TempDir()
	server := serveChecked(t, dir, io.Discard)
	files := server.URL + "/api/2.0/mlflow-artifacts/artifacts/"
	if err := os.WriteFile(filepath.Join(dir, "old"), []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	if status, body, h := call(t, "GET", files+"old", ""); status != 200 || body != "old" || h.Get("Runledger-Checked") != "no" || h.Get("Repr-Digest") != "" {
		t.Errorf("%d %s %v", status, body, h)
	}
	if status, _, _ := call(t, "PUT", files+"f", "abc"); status != 200 {
		t.Fatal(status)
	}
	flip(t, filepath.Join(dir, "f"), 0)
	if status, body, h := call(t, "GET", files+"f", "", "Range", "bytes=0-"); status != 206 || body != "`bc" || h.Get("Runledger-Checked") != "no" {
		t.Errorf("%d %s %v", status, body, h)
	}
	if status, _, _ := call(t, "PUT", files+"f", "abc"); status != 200 {
		t.Fatal(status)
	}
	if status, body, h := call(t, "GET", files+"f", ""); status != 200 || body != "abc" || h.Get("Runledger-Checked") != "before" {
		t.Errorf("uploaded again: %d %s %v", status, body, h)
	}
}

// Uploads over a file while it is read never make it look damaged.
func TestReplacedArtifactIsNotTakenForDamaged(t *testing.T) {
	server := serveChecked(t, t.TempDir(), io.Discard)
	url := server.URL + "/api/2.0/mlflow-artifacts/artifacts/f"
	call(t, "PUT", url, "first")
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for j := range 50 {
				if i == 0 {
					call(t, "PUT", url, strings.Repeat("x", j*1000))
				} else if status, body, _ := call(t, "GET", url, ""); status != 200 {
					t.Errorf("%d %s", status, body)
				}
			}
		})
	}
	group.Wait()
}
