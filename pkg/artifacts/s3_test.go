package artifacts_test

import (
	"errors"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	_ "gocloud.dev/blob/s3blob"
)

// s3URL starts an S3 server with one bucket, and returns the URL of a store in it.
func s3URL(t *testing.T) string {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	return "s3://bucket?" + url.Values{"endpoint": {server.URL}, "region": {"us-east-1"}, "use_path_style": {"true"}, "prefix": {"some/dir/"}}.Encode()
}

func TestS3(t *testing.T) {
	server, store := serveStore(t, s3URL(t))
	if err := store.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	testProxy(t, server)
	testTraversal(t, server)
}

func TestS3Names(t *testing.T) {
	server, store := serveStore(t, s3URL(t))
	files := server.URL + "/api/2.0/mlflow-artifacts/artifacts/1/r1/artifacts/"
	names := []string{
		"100% done.txt", "k%step%1%time.txt", "a b/c d.txt", "日本語/ñandú.txt", "a+b&c=d;e,f.txt", "~x!(1).txt", "emoji 🎉", "q?x=1", "'quoted' \"twice\"", ".hidden/.x",
	}
	for _, name := range names {
		parts := strings.Split(name, "/")
		for i, p := range parts {
			parts[i] = url.PathEscape(p)
		}
		at := files + strings.Join(parts, "/")
		if status, body, _ := call(t, "PUT", at, name); status != 200 {
			t.Fatalf("PUT %s: %d %s", name, status, body)
		}
		if status, body, _ := call(t, "GET", at, ""); status != 200 || body != name {
			t.Errorf("GET %s: %d %s", name, status, body)
		}
		dir, base := "1/r1/artifacts", name
		if d, b, ok := strings.Cut(name, "/"); ok {
			dir, base = dir+"/"+d, b
		}
		listed, err := store.List(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range listed {
			found = found || f.Name == base && !f.IsDir && f.Size == int64(len(name))
		}
		if !found {
			t.Errorf("%s is not in %v", name, listed)
		}
		if status, body, _ := call(t, "DELETE", at, ""); status != 200 {
			t.Errorf("DELETE %s: %d %s", name, status, body)
		}
		if status, _, _ := call(t, "GET", at, ""); status != 404 {
			t.Errorf("%s is still there: %d", name, status)
		}
	}
	if left, err := store.List(t.Context(), "1/r1/artifacts"); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A file of several parts, as the S3 client uploads them.
func TestS3LargeFile(t *testing.T) {
	server, store := serveStore(t, s3URL(t))
	content := strings.Repeat("0123456789abcdef", 1<<20)
	url := server.URL + "/api/2.0/mlflow-artifacts/artifacts/large"
	if status, body, _ := call(t, "PUT", url, content); status != 200 {
		t.Fatalf("PUT: %d %s", status, body)
	}
	if status, body, _ := call(t, "GET", url, ""); status != 200 || body != content {
		t.Errorf("GET: %d, %d bytes", status, len(body))
	}
	if status, body, _ := call(t, "GET", url, "", "Range", "bytes=10000000-10000015"); status != 206 || body != "0123456789abcdef" {
		t.Errorf("range: %d %s", status, body)
	}
	broken := errors.New("connection reset")
	if err := store.Write(t.Context(), "half", failingAfter(content, broken), unrecorded); !errors.Is(err, broken) {
		t.Errorf("a broken upload: %v", err)
	}
	if listed, err := store.List(t.Context(), ""); err != nil || len(listed) != 1 {
		t.Errorf("left %v, %v", listed, err)
	}
}
