package artifacts_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	_ "gocloud.dev/blob/s3blob"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/events"
)

// mpu is a client that uploads in parts, as MLflow's does.
type mpu struct {
	t    *testing.T
	base string
	dir  string

	id    string
	urls  []string
	parts []map[string]any
}

func (m *mpu) do(action string, body map[string]any) (int, string) {
	m.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		m.t.Fatal(err)
	}
	status, answer, _ := call(m.t, "POST", m.base+"/api/2.0/mlflow-artifacts/mpu/"+action+"/"+m.dir, string(text), "Content-Type", "application/json")
	return status, answer
}

func (m *mpu) create(file string, parts int) {
	m.t.Helper()
	status, body := m.do("create", map[string]any{"path": file, "num_parts": parts})
	var answer struct {
		UploadID    string `json:"upload_id"`
		Credentials []struct {
			URL        string
			PartNumber int `json:"part_number"`
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK || len(answer.Credentials) != parts {
		m.t.Fatalf("create: %d %s (%v)", status, body, err)
	}
	m.id, m.urls, m.parts = answer.UploadID, nil, nil
	for i, c := range answer.Credentials {
		if c.PartNumber != i+1 {
			m.t.Errorf("part %d has number %d", i+1, c.PartNumber)
		}
		m.urls = append(m.urls, c.URL)
	}
}

func (m *mpu) put(contents ...string) {
	m.t.Helper()
	for i, content := range contents {
		status, body, h := call(m.t, "PUT", m.urls[i], content)
		if status != http.StatusOK || h.Get("ETag") == "" {
			m.t.Fatalf("put part %d: %d %s", i+1, status, body)
		}
		m.parts = append(m.parts, map[string]any{"part_number": i + 1, "etag": h.Get("ETag"), "url": m.urls[i]})
	}
}

func (m *mpu) complete(file string) (int, string) {
	m.t.Helper()
	return m.do("complete", map[string]any{"path": file, "upload_id": m.id, "parts": m.parts})
}

func TestMultipartUpload(t *testing.T) {
	var recorded []string
	var refuse error
	begun := 0
	server, _ := serveRecorded(t, s3URL(t), func(_ echo.Context, at artifacts.Place, e *events.Event) error {
		if refuse != nil {
			return refuse
		}
		if e.GetArtifactReplacementBegun() != nil {
			begun++
			return nil
		}
		u := e.GetArtifactUploaded()
		recorded = append(recorded, fmt.Sprintf("%s %s %d %x %s", at.RunID, at.Path, u.GetSize(), u.GetSha256(), u.GetContentType()))
		return nil
	})
	dir := "1/" + someRun + "/artifacts/d d"
	m := &mpu{t: t, base: server.URL, dir: strings.ReplaceAll(dir, " ", "%20")}
	content := strings.Repeat("0123456789abcdef", 400_000)
	name := "größe 1%.csv"
	want := fmt.Sprintf("%s d d/%s %d %x text/plain", someRun, name, len(content), sha256.Sum256([]byte(content)))
	take := func(when string, want ...string) {
		t.Helper()
		if fmt.Sprint(recorded) != fmt.Sprint(want) {
			t.Errorf("%s: recorded %q, want %q", when, recorded, want)
		}
		recorded = nil
	}
	read := func() (int, string) {
		status, body, _ := call(t, "GET", server.URL+"/api/2.0/mlflow-artifacts/artifacts/"+m.dir+"/gr%C3%B6%C3%9Fe%201%25.csv", "")
		return status, body
	}

	m.create("/home/ada/"+name, 3)
	m.put(content[:3_000_000], content[3_000_000:6_000_000], content[6_000_000:])
	if status, _ := read(); status != http.StatusNotFound {
		t.Errorf("half an upload is there: %d", status)
	}
	take("before it is complete")
	refuse = apierr.Errorf(apierr.TemporarilyUnavailable, "The log is away").WithRetryAfter(1)
	if status, body := m.complete("/home/ada/" + name); status != http.StatusServiceUnavailable || !strings.Contains(body, "The log is away") {
		t.Errorf("complete without the log: %d %s", status, body)
	}
	refuse = nil
	if status, body := m.complete("/home/ada/" + name); status != http.StatusOK || body != "{}" {
		t.Errorf("complete: %d %s", status, body)
	}
	take("complete", want)
	if status, got := read(); status != http.StatusOK || got != content {
		t.Errorf("got %d, %d bytes", status, len(got))
	}

	t.Run("replaced before it was recorded", func(t *testing.T) {
		// In between it is deleted: this server keeps the metadata of what is replaced,
		// as S3 does not.
		call(t, "DELETE", server.URL+"/api/2.0/mlflow-artifacts/artifacts/"+m.dir, "")
		if status, _, _ := call(t, "PUT", server.URL+"/api/2.0/mlflow-artifacts/artifacts/"+m.dir+"/gr%C3%B6%C3%9Fe%201%25.csv", "other"); status != http.StatusOK {
			t.Fatal(status)
		}
		recorded, begun = nil, 0
		if status, body := m.complete(name); status != http.StatusNotFound || !strings.Contains(body, "No such upload") || begun != 0 {
			t.Errorf("complete again: %d %s, %d replacements begun", status, body, begun)
		}
		take("complete again")
	})
	t.Run("aborted", func(t *testing.T) {
		m.create(`C:\data\`+name, 1)
		m.put("x")
		for range 2 {
			if status, body := m.do("abort", map[string]any{"path": name, "upload_id": m.id}); status != http.StatusOK || body != "{}" {
				t.Errorf("abort: %d %s", status, body)
			}
		}
		if status, body := m.complete(name); status != http.StatusNotFound {
			t.Errorf("complete: %d %s", status, body)
		}
		if status, got := read(); status != http.StatusOK || got != "other" {
			t.Errorf("got %d %q", status, got)
		}
		take("aborted")
	})
	t.Run("whose file it is is not said", func(t *testing.T) {
		for _, dir := range []string{"", "/", "/weights"} {
			status, body, _ := call(t, "POST", server.URL+"/api/2.0/mlflow-artifacts/mpu/create"+dir, `{"path":"f","num_parts":1}`, "Content-Type", "application/json")
			if status != http.StatusNotImplemented || !strings.Contains(body, "Multipart upload is not supported for the current artifact repository") {
				t.Errorf("%q: %d %s", dir, status, body)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		m.create(name, 2)
		m.put("one", "two")
		m.parts[0]["etag"] = `"00000000000000000000000000000000"`
		if status, body := m.complete(name); status != http.StatusBadRequest || !strings.Contains(body, "InvalidPart") {
			t.Errorf("wrong ETag: %d %s", status, body)
		}
		for _, n := range []int{0, -1, 10_001, 1 << 40} {
			if status, body := m.do("create", map[string]any{"path": name, "num_parts": n}); status != http.StatusBadRequest || !strings.Contains(body, "num_parts must be from 1 to 10000") {
				t.Errorf("%d parts: %d %s", n, status, body)
			}
			body := map[string]any{"path": name, "upload_id": m.id, "parts": []map[string]any{{"part_number": n, "etag": "x"}}}
			if status, body := m.do("complete", body); status != http.StatusBadRequest || !strings.Contains(body, "part_number must be from 1 to 10000") {
				t.Errorf("part %d: %d %s", n, status, body)
			}
		}
		take("refused")
	})
}

// What is deleted between two attempts to complete it is not recorded.
func TestMultipartUploadIsDeletedBeforeItIsRecorded(t *testing.T) {
	url := s3URL(t)
	server, store := serveStore(t, url)
	m := &mpu{t: t, base: server.URL, dir: "1/" + someRun + "/artifacts/d"}
	m.create("f", 1)
	m.put("x")
	id, parts := m.id, []artifacts.Part{{Number: 1, ETag: m.parts[0]["etag"].(string)}}
	away := errors.New("the log is away")
	if err := store.CompleteUpload(t.Context(), m.dir+"/f", id, parts, func(w artifacts.Written) error {
		if w.Replacing {
			return nil
		}
		return away
	}); !errors.Is(err, away) {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), m.dir+"/f", func([]string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	err := store.CompleteUpload(t.Context(), m.dir+"/f", id, parts, func(artifacts.Written) error { t.Error("recorded"); return nil })
	if apierr.CodeOf(err) != apierr.ResourceDoesNotExist {
		t.Errorf("complete what was deleted: %v", err)
	}
}

func TestPresignedDownload(t *testing.T) {
	server, _ := serveStore(t, s3URL(t))
	for _, name := range []string{"1/r/artifacts/a.txt", "1/r/artifacts/gr%C3%B6%C3%9Fe%201%25"} {
		if status, body, _ := call(t, "PUT", server.URL+"/api/2.0/mlflow-artifacts/artifacts/"+name, "0123456789"); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		status, body, _ := call(t, "GET", server.URL+"/api/2.0/mlflow-artifacts/presigned/"+name, "")
		var answer struct {
			URL      string
			Headers  map[string]string
			FileSize int64 `json:"file_size"`
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK || answer.FileSize != 10 || answer.Headers == nil || len(answer.Headers) != 0 {
			t.Fatalf("%d %s (%v)", status, body, err)
		}
		if status, body, _ := call(t, "GET", answer.URL, "", "Range", "bytes=2-4"); status != http.StatusPartialContent || body != "234" {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for name, want := range map[string]string{"1/r/artifacts/nope": "No such artifact", "1/%2e%2e/x": "Invalid path", "": "Invalid path"} {
		if status, body, _ := call(t, "GET", server.URL+"/api/2.0/mlflow-artifacts/presigned/"+name, ""); status/100 != 4 || !strings.Contains(body, want) {
			t.Errorf("%q: %d %s", name, status, body)
		}
	}
}
