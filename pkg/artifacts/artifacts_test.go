package artifacts_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	_ "gocloud.dev/blob/fileblob"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/httpapi"
)

func serve(t *testing.T) (*httptest.Server, *artifacts.Store) {
	t.Helper()
	store, err := artifacts.OpenStore(t.Context(), "file://"+t.TempDir()+"?metadata=skip&no_tmp_dir=true")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	artifacts.NewProxy(store, func(_ context.Context, run string) (string, error) {
		switch run {
		case "r1":
			return "mlflow-artifacts:/1/r1/artifacts", nil
		case "s3":
			return "s3://elsewhere/r1", nil
		}
		return "", apierr.Errorf(apierr.ResourceDoesNotExist, "Run with id=%s not found", run)
	}).Register(e)
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
		{"below a file", "PUT", files + "/1/r1/artifacts/a.txt/b", "", 400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"'1/r1/artifacts/a.txt/b' cannot be a file here"}`},
		{"over a directory", "PUT", files + "/1/r1/artifacts/dir", "", 400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"'1/r1/artifacts/dir' cannot be a file here"}`},
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
	server, _ := serve(t)
	files := server.URL + "/api/2.0/mlflow-artifacts/artifacts"
	for _, name := range []string{
		"../x", "a/../../x", "%2e%2e/x", "%252e%252e/x", "%25252e%25252e%25252fx", "a/%2e%2e", "%2Fetc/passwd", "%5c..%5cx",
		"a%5cb", "x%23y", "file:%2F%2F%2Fetc", "C:%2Fx", "%25252525252525252e%2e",
	} {
		for _, method := range []string{"PUT", "GET", "DELETE"} {
			status, body, _ := call(t, method, files+"/"+name, "x")
			if status != 400 || body != `{"error_code":"INVALID_PARAMETER_VALUE","message":"Invalid path"}` {
				t.Errorf("%s %s: %d %s", method, name, status, body)
			}
		}
		if status, body, _ := call(t, "GET", files+"?path="+name, ""); status != 400 {
			t.Errorf("list %s: %d %s", name, status, body)
		}
	}
}

func TestBrokenUploadLeavesNothing(t *testing.T) {
	_, store := serve(t)
	broken := errors.New("connection reset")
	if err := store.Write(t.Context(), "1/r/artifacts/f", io.MultiReader(strings.NewReader("half"), failing{broken})); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	files, err := store.List(t.Context(), "1/r/artifacts")
	if err != nil || len(files) != 0 {
		t.Errorf("left %v, %v", files, err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
