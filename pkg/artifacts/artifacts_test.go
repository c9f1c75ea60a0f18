package artifacts_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/httpapi"
)

func serve(t *testing.T) (*httptest.Server, *artifacts.Store) {
	t.Helper()
	return serveStore(t, "file://"+t.TempDir())
}

func serveStore(t *testing.T, url string) (*httptest.Server, *artifacts.Store) {
	t.Helper()
	return serveRecorded(t, url, nil)
}

func serveRecorded(t *testing.T, url string, record artifacts.Record) (*httptest.Server, *artifacts.Store) {
	t.Helper()
	store, err := artifacts.OpenStore(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	proxy := artifacts.NewProxy(artifacts.Config{Store: store, Record: record, Locate: func(_ context.Context, run string) (string, error) {
		switch run {
		case "r1":
			return "mlflow-artifacts:/1/r1/artifacts", nil
		case "s3":
			return "s3://elsewhere/r1", nil
		}
		return "", apierr.Errorf(apierr.ResourceDoesNotExist, "Run with id=%s not found", run)
	}})
	proxy.Register(e)
	proxy.RegisterModelVersions(e, func(_ context.Context, name, version string) (string, error) {
		switch name + "/" + version {
		case "m/1":
			return "mlflow-artifacts:/1/r1/artifacts/dir", nil
		case "m/2":
			return "s3://elsewhere/m", nil
		}
		return "", apierr.Errorf(apierr.ResourceDoesNotExist, "Model Version (name=%s, version=%s) not found", name, version)
	})
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return server, store
}

func call(t *testing.T, method, url, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(data)), resp.Header
}

func TestProxy(t *testing.T) {
	server, _ := serve(t)
	testProxy(t, server)
	files := server.URL + "/api/2.0/mlflow-artifacts/artifacts"
	if status, body, _ := call(t, "PUT", files+"/1/r1/artifacts/d/f", "x"); status != 200 {
		t.Fatalf("PUT: %d %s", status, body)
	}
	// What only a file system cannot hold.
	for _, tc := range []struct{ name, path string }{
		{"below a file", "1/r1/artifacts/d/f/b"},
		{"over a directory", "1/r1/artifacts/d"},
	} {
		status, body, _ := call(t, "PUT", files+"/"+tc.path, "")
		if want := `{"error_code":"INVALID_PARAMETER_VALUE","message":"'` + tc.path + `' cannot be a file here"}`; status != 400 || body != want {
			t.Errorf("%s: got %d %s, want %s", tc.name, status, body, want)
		}
	}
}

// testProxy is what holds for every kind of store.
func testProxy(t *testing.T, server *httptest.Server) {
	t.Helper()
	files := server.URL + "/api/2.0/mlflow-artifacts/artifacts"
	for _, name := range []string{"1/r1/artifacts/a.txt", "1/r1/artifacts/dir/k%25step%201.json", "1/r1/artifacts/dir/gr%C3%B6%C3%9Fe", "1/r1/artifacts/MLmodel"} {
		if status, body, _ := call(t, "PUT", files+"/"+name, "content of "+name); status != 200 || body != "{}" {
			t.Fatalf("PUT %s: %d %s", name, status, body)
		}
		if status, body, _ := call(t, "GET", files+"/"+name, ""); status != 200 || body != "content of "+name {
			t.Fatalf("GET %s: %d %s", name, status, body)
		}
	}
	for _, tc := range []struct {
		name, method, url, header string
		status                    int
		body                      string
	}{
		{"list", "GET", files + "?path=1/r1/artifacts", "", 200, `{"files":[{"path":"MLmodel","is_dir":false,"file_size":33},{"path":"a.txt","is_dir":false,"file_size":31},{"path":"dir","is_dir":true}]}`},
		{"list a file", "GET", files + "?path=1/r1/artifacts/a.txt", "", 200, `{}`},
		{"list nothing", "GET", files + "?path=nothing", "", 200, `{}`},
		{"list a run", "GET", server.URL + "/api/2.0/mlflow/artifacts/list?run_id=r1&path=dir", "", 200, `{"root_uri":"mlflow-artifacts:/1/r1/artifacts","files":[{"path":"dir/größe","is_dir":false,"file_size":45},{"path":"dir/k%step 1.json","is_dir":false,"file_size":47}]}`},
		{"list a run elsewhere", "GET", server.URL + "/api/2.0/mlflow/artifacts/list?run_id=s3", "", 400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"The artifacts of run 's3' are at 's3://elsewhere/r1', which this server does not serve"}`},
		{"list an unknown run", "GET", server.URL + "/api/2.0/mlflow/artifacts/list?run_id=zz", "", 404, `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Run with id=zz not found"}`},
		{"list no run", "GET", server.URL + "/api/2.0/mlflow/artifacts/list", "", 400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"Missing value for required parameter 'run_id'. See the API docs for more information about request parameters."}`},
		{"get-artifact", "GET", server.URL + "/get-artifact?run_id=r1&path=a.txt", "", 200, "content of 1/r1/artifacts/a.txt"},
		{"range", "GET", files + "/1/r1/artifacts/a.txt", "bytes=0-6", 206, "content"},
		{"missing", "GET", files + "/1/r1/artifacts/nope", "", 404, `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"No such artifact: '1/r1/artifacts/nope'"}`},
		{"a directory", "GET", files + "/1/r1/artifacts/dir", "", 404, `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"No such artifact: '1/r1/artifacts/dir'"}`},
		{"version", "GET", server.URL + "/model-versions/get-artifact?name=m&version=1&path=gr%C3%B6%C3%9Fe", "", 200, "content of 1/r1/artifacts/dir/gr%C3%B6%C3%9Fe"},
		{"version: range", "GET", server.URL + "/model-versions/get-artifact?name=m&version=1&path=gr%C3%B6%C3%9Fe", "bytes=-9", 206, "B6%C3%9Fe"},
		{"version: no path", "GET", server.URL + "/model-versions/get-artifact?name=m&version=1", "", 400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"Missing value for required parameter 'path'. See the API docs for more information about request parameters."}`},
		{"version: out of its directory", "GET", server.URL + "/model-versions/get-artifact?name=m&version=1&path=../a.txt", "", 400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"Invalid path"}`},
		{"version elsewhere", "GET", server.URL + "/model-versions/get-artifact?name=m&version=2&path=x", "", 400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"The artifacts of model version 'm/2' are at 's3://elsewhere/m', which this server does not serve"}`},
		{"version missing", "GET", server.URL + "/model-versions/get-artifact?name=m&version=3&path=x", "", 404, `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Model Version (name=m, version=3) not found"}`},
		{"range of the end", "GET", files + "/1/r1/artifacts/a.txt", "bytes=-5", 206, "a.txt"},
		{"range from the middle", "GET", files + "/1/r1/artifacts/a.txt", "bytes=26-", 206, "a.txt"},
		{"range out of the file", "GET", files + "/1/r1/artifacts/a.txt", "bytes=31-", 416, "invalid range: failed to overlap"},
		{"delete a directory", "DELETE", files + "/1/r1/artifacts/dir", "", 200, `{}`},
		{"is gone", "GET", files + "?path=1/r1/artifacts/dir", "", 200, `{}`},
		{"delete again", "DELETE", files + "/1/r1/artifacts/dir", "", 200, `{}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var header []string
			if tc.header != "" {
				header = []string{"Range", tc.header}
			}
			status, body, h := call(t, tc.method, tc.url, "", header...)
			if status != tc.status || body != tc.body {
				t.Errorf("got %d %s\nwant %d %s", status, body, tc.status, tc.body)
			}
			if tc.name == "get-artifact" && (h.Get("Content-Type") != "text/plain" || h.Get("Content-Disposition") != "attachment; filename=a.txt" || h.Get("X-Content-Type-Options") != "nosniff") {
				t.Errorf("headers %v", h)
			}
		})
	}
}

func TestTraversalIsRefused(t *testing.T) {
	t.Attr("covers", "artifact-paths")
	server, _ := serve(t)
	testTraversal(t, server)
}

func testTraversal(t *testing.T, server *httptest.Server) {
	t.Helper()
	files := server.URL + "/api/2.0/mlflow-artifacts/artifacts"
	for _, name := range []string{
		"../x", "a/../../x", "%2e%2e/x", "%252e%252e/x", "%25252e%25252e%25252fx", "a/%2e%2e", "%2Fetc/passwd", "%5c%5chost%5cshare",
		"x%23y", "file:%2F%2F%2Fetc", "C:%2Fx", "%25252525252525252e%2e",
	} {
		for _, method := range []string{"PUT", "GET", "DELETE"} {
			status, body, _ := call(t, method, files+"/"+name, "x")
			want := `{"error_code":"INVALID_PARAMETER_VALUE","message":"Invalid path"}`
			if method == "PUT" { // the client may be sending a whole directory
				given, err := url.PathUnescape(name)
				if err != nil {
					t.Fatal(err)
				}
				want = fmt.Sprintf(`{"error_code":"INVALID_PARAMETER_VALUE","message":%q}`, fmt.Sprintf("Invalid path: %q", given))
			}
			if status != 400 || body != want {
				t.Errorf("%s %s: %d %s, want %s", method, name, status, body, want)
			}
		}
		for _, route := range []struct{ method, path string }{
			{"GET", "/api/2.0/mlflow-artifacts/artifacts?path="},
			{"GET", "/api/2.0/mlflow/artifacts/list?run_id=r1&path="},
			{"GET", "/get-artifact?run_id=r1&path="},
			{"GET", "/model-versions/get-artifact?name=m&version=1&path="},
			{"POST", "/ajax-api/2.0/mlflow/upload-artifact?run_id=r1&path="},
		} {
			if status, body, _ := call(t, route.method, server.URL+route.path+name, "x"); status != 400 {
				t.Errorf("%s %s%s: %d %s", route.method, route.path, name, status, body)
			}
		}
	}
}

func TestBrokenUploadLeavesNothing(t *testing.T) {
	_, store := serve(t)
	broken := errors.New("connection reset")
	if err := store.Write(t.Context(), "1/r/artifacts/f", failingAfter("half", broken), unrecorded); !errors.Is(err, broken) || apierr.CodeOf(err) != apierr.BadRequest {
		t.Fatalf("got %v", err)
	}
	files, err := store.List(t.Context(), "1/r/artifacts")
	if err != nil || len(files) != 0 {
		t.Errorf("left %v, %v", files, err)
	}
}

// failingAfter reads the text, and then fails.
func failingAfter(text string, err error) io.Reader {
	return io.MultiReader(strings.NewReader(text), failing{err})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

const missingIn = " See the API docs for more information about request parameters."

func TestUploadOfABrowser(t *testing.T) {
	server, _ := serve(t)
	upload := server.URL + "/ajax-api/2.0/mlflow/upload-artifact"
	large := strings.Repeat("x", 10<<20)
	for _, tc := range []struct {
		name, query, body string
		status            int
		message           string
	}{
		{"a file", "run_uuid=r1&path=up/a.json", "{}", 200, ""},
		{"the largest", "run_id=r1&path=large", large, 200, ""},
		{"too large", "run_id=r1&path=larger", large + "x", 400, "Artifact size is too large. Max size is 10MB."},
		{"empty", "run_id=r1&path=empty", "", 400, "Request must specify data."},
		{"no run", "path=a", "x", 400, "Request must specify run_id or run_uuid."},
		{"no path", "run_id=r1", "x", 400, "Request must specify path."},
		{"a directory", "run_id=r1&path=a/", "x", 400, "Invalid path"},
		{"unknown run", "run_id=zz&path=a", "x", 404, "Run with id=zz not found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, body, h := call(t, "POST", upload+"?"+tc.query, tc.body)
			if status != tc.status || !strings.Contains(body, tc.message) || h.Get("Content-Type") != "application/json" {
				t.Errorf("got %d %.200s %v", status, body, h)
			}
		})
	}
	if status, body, _ := call(t, "GET", server.URL+"/get-artifact?run_id=r1&path=up/a.json", ""); status != 200 || body != "{}" {
		t.Errorf("read back: %d %s", status, body)
	}
	if _, body, _ := call(t, "GET", server.URL+"/api/2.0/mlflow/artifacts/list?run_id=r1", ""); strings.Contains(body, "larger") || strings.Contains(body, "empty") {
		t.Errorf("a refused upload left a file: %s", body)
	}
	// A body whose length nobody says is bounded all the same.
	req, err := http.NewRequestWithContext(t.Context(), "POST", upload+"?run_id=r1&path=endless", io.LimitReader(zeros{}, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err == nil { // otherwise the server hung up on it
		_ = resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("endless body: %d", resp.StatusCode)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestUnsupported(t *testing.T) {
	server, _ := serve(t)
	const notImplemented, invalid = "NOT_IMPLEMENTED", "INVALID_PARAMETER_VALUE"
	for _, tc := range []struct {
		method, path, body string
		status             int
		code, message      string
	}{
		{"POST", "2.0/mlflow-artifacts/mpu/create/1/r1/artifacts", `{"path":"f","num_parts":2}`, 501, notImplemented, "Multipart upload is not supported for the current artifact repository"},
		{"POST", "2.0/mlflow-artifacts/mpu/complete/1/r1/artifacts", `{"path":"f","parts":[{"part_number":0}]}`, 501, notImplemented, "Multipart upload is not supported for the current artifact repository"},
		{"POST", "2.0/mlflow-artifacts/mpu/abort/1/r1/artifacts", `{"path":"f"}`, 501, notImplemented, "Multipart upload is not supported for the current artifact repository"},
		{"POST", "2.0/mlflow-artifacts/mpu/create/%2e%2e/x", `{}`, 400, invalid, "Invalid path"},
		{"POST", "2.0/mlflow-artifacts/mpu/create/1/r1/artifacts", `{"path":"a/.."}`, 400, invalid, `Invalid path: \"..\"`},
		{"POST", "2.0/mlflow-artifacts/mpu/create/1/r1/artifacts", `{"path":"a/"}`, 400, invalid, `Invalid path: \"\"`},
		{"POST", "2.0/mlflow-artifacts/mpu/create/1/r1/artifacts", `{"path":"%2e%2e%2fx"}`, 400, invalid, `Invalid path: \"%2e%2e%2fx\"`},
		{"POST", "2.0/mlflow-artifacts/mpu/create/1/r1/artifacts", `{}`, 400, invalid, "Missing value for required parameter 'path'." + missingIn},
		{"POST", "2.0/mlflow-artifacts/mpu/complete/1/r1/artifacts", `{"path":"f"}`, 400, invalid, "Missing value for required parameter 'parts'." + missingIn},
		{"POST", "2.0/mlflow-artifacts/mpu/abort/1/r1/artifacts", `{}`, 400, invalid, "Missing value for required parameter 'path'." + missingIn},
		{"GET", "2.0/mlflow-artifacts/presigned/1/r1/artifacts/f", "", 501, notImplemented, "Multipart download is not supported for the current artifact repository"},
		{"GET", "2.0/mlflow-artifacts/presigned/%252e%252e/f", "", 400, invalid, "Invalid path"},
		{"POST", "2.0/mlflow/artifacts/presigned-upload-url", `{"run_id":"r1","path":"f"}`, 400, invalid, "Presigned upload is not supported for proxied artifact storage (artifact URI scheme: mlflow-artifacts). This endpoint requires a direct cloud storage artifact URI."},
		{"POST", "2.0/mlflow/artifacts/presigned-upload-url", `{"model_id":"m-1","path":"f"}`, 400, invalid, "Presigned upload is not supported for proxied artifact storage (artifact URI scheme: mlflow-artifacts). This endpoint requires a direct cloud storage artifact URI."},
		{"POST", "2.0/mlflow/artifacts/presigned-upload-url", `{"run_id":"s3","path":"f"}`, 501, notImplemented, "Presigned upload is not supported for the current artifact repository"},
		{"POST", "2.0/mlflow/artifacts/presigned-upload-url", `{"path":"f"}`, 400, invalid, "Exactly one of run_id and model_id must be provided."},
		{"POST", "2.0/mlflow/artifacts/presigned-upload-url", `{"run_id":"r1","model_id":"m-1","path":"f"}`, 400, invalid, "Exactly one of run_id and model_id must be provided."},
		{"POST", "2.0/mlflow/artifacts/presigned-upload-url", `{"run_id":"r1"}`, 400, invalid, "Missing value for required parameter 'path'." + missingIn},
		{"POST", "2.0/mlflow/artifacts/presigned-upload-url", `{"run_id":"r1","path":"../f"}`, 400, invalid, "Invalid path"},
		{"POST", "2.0/mlflow/artifacts/presigned-download-url", `{"run_id":"r1","path":"f"}`, 400, invalid, "Presigned download is not supported for runs with proxied artifact storage (artifact URI scheme: mlflow-artifacts). This endpoint requires a run with a direct cloud storage artifact URI."},
		{"POST", "2.0/mlflow/artifacts/presigned-download-url", `{"run_id":"s3","path":"f"}`, 501, notImplemented, "Presigned download is not supported for the current artifact repository"},
		{"POST", "2.0/mlflow/artifacts/presigned-download-url", `{"run_id":"zz","path":"f"}`, 404, "RESOURCE_DOES_NOT_EXIST", "Run with id=zz not found"},
		{"POST", "2.0/mlflow/artifacts/presigned-download-url", `{"run_id":"r1","path":"f","expiration":604801}`, 400, invalid, "expiration must be between 1 and 604800 seconds (got 604801)."},
	} {
		for _, api := range []string{"/api/", "/ajax-api/"} {
			status, body, _ := call(t, tc.method, server.URL+api+tc.path, tc.body, "Content-Type", "application/json")
			if want := `{"error_code":"` + tc.code + `","message":"` + tc.message + `"}`; status != tc.status || body != want {
				t.Errorf("%s %s%s %s:\ngot  %d %s\nwant %d %s", tc.method, api, tc.path, tc.body, status, body, tc.status, want)
			}
		}
	}
}

// A file is passed on piece by piece: what the process allocates on the way,
// together with the client here, does not grow with the file.
func TestLargeFilesAreStreamed(t *testing.T) {
	server, _ := serve(t)
	testStreaming(t, server, 32<<20)
}

func testStreaming(t *testing.T, server *httptest.Server, bound uint64) {
	t.Helper()
	const size = 200 << 20 // bytes
	url := server.URL + "/api/2.0/mlflow-artifacts/artifacts/1/r1/artifacts/large.bin"
	allocated := func(do func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	send := func(method string, body io.Reader, header ...string) (n int64) {
		req, err := http.NewRequestWithContext(t.Context(), method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		if body != nil {
			req.ContentLength = size
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode >= 300 {
			t.Fatalf("%s: status %d", method, resp.StatusCode)
		}
		if n, err = io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := allocated(func() { send("PUT", io.LimitReader(zeros{}, size)) }); n > bound {
		t.Errorf("an upload of %d MB allocated %d MB", size>>20, n>>20)
	}
	var got int64
	if n := allocated(func() { got = send("GET", nil) }); n > bound || got != size {
		t.Errorf("a download of %d MB allocated %d MB, and got %d bytes", size>>20, n>>20, got)
	}
	if n := allocated(func() { got = send("GET", nil, "Range", "bytes=150000000-150000009") }); n > bound/4 || got != 10 {
		t.Errorf("a range of 10 bytes allocated %d KB, and got %d bytes", n>>10, got)
	}
}

// What the store keeps while it receives an upload is out of every client's reach,
// and no name is kept from clients for it.
func TestNoNameIsTheStoresOwn(t *testing.T) {
	t.Attr("covers", "artifact-paths")
	dir := t.TempDir()
	server, store := serveStore(t, "file://"+dir)
	files := server.URL + "/api/2.0/mlflow-artifacts/artifacts"
	names := []string{
		".runledger-uploads", ".runledger-uploads~/a", ".runledger-uploads~~", ".runledger-uploads-of-mine", "d/.runledger-uploads/a",
		"d/a.txt.18ea96dd3f37df70.tmp", "a.18ea96dd3f37df70.tmp", ".tmp", "a.attrs", "d/.attrs", "a.lock", ".lock", "__0x2f__", "d/__0x41__",
		".mlflow-tmp-x", ".git/config", ".nfs0001", "~", "a~",
	}
	var list func(dir string) []string
	list = func(dir string) (all []string) {
		found, err := store.List(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if name := path.Join(dir, f.Name); f.IsDir {
				all = append(all, list(name)...)
			} else {
				all = append(all, name)
			}
		}
		return all
	}
	slices.Sort(names)
	killed := errors.New("killed")
	read := io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) {
		if all := list(""); len(all) != 0 {
			t.Errorf("an unfinished upload is listed: %q", all)
		}
		unfinished, err := os.ReadDir(filepath.Join(dir, ".runledger-uploads"))
		if err != nil || len(unfinished) != 1 {
			t.Fatalf("%d unfinished uploads, %v", len(unfinished), err)
		}
		at := ".runledger-uploads/" + unfinished[0].Name()
		for _, method := range []string{"GET", "DELETE"} {
			if status, body, _ := call(t, method, files+"/"+at, ""); method == "GET" && status != 404 || method == "DELETE" && status != 200 {
				t.Errorf("%s of an unfinished upload: %d %s", method, status, body)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, at)); err != nil {
			t.Errorf("an unfinished upload is gone: %v", err)
		}
		return 0, killed
	}))
	if err := store.Write(t.Context(), "a.txt", read, unrecorded); apierr.CodeOf(err) != apierr.BadRequest || !errors.Is(err, killed) {
		t.Fatal(err)
	}
	for _, name := range names {
		if status, body, _ := call(t, "PUT", files+"/"+name, name); status != 200 {
			t.Errorf("PUT %s: %d %s", name, status, body)
		}
	}
	// All of it is old, and the store cleans up when it is opened.
	long := time.Now().Add(-1000 * time.Hour)
	abandoned := filepath.Join(dir, ".runledger-uploads", "abandoned")
	if err := os.WriteFile(abandoned, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Chtimes(p, long, long)) })
	if err != nil {
		t.Fatal(err)
	}
	again, err := artifacts.OpenStore(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(abandoned); os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("an abandoned upload stays")
		}
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	all := list("")
	if slices.Sort(all); !slices.Equal(all, names) {
		t.Errorf("listed %q\nwant   %q", all, names)
	}
	for _, name := range names {
		if status, body, _ := call(t, "GET", files+"/"+name, ""); status != 200 || body != name {
			t.Errorf("GET %s: %d %s", name, status, body)
		}
		if status, body, _ := call(t, "DELETE", files+"/"+name, ""); status != 200 {
			t.Errorf("DELETE %s: %d %s", name, status, body)
		}
	}
	if all := list(""); len(all) != 0 {
		t.Errorf("left %q", all)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
