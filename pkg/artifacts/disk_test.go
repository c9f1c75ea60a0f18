package artifacts_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/events"
)

// A symbolic link in the directory of artifacts is no way to what it points at,
// neither outside nor to the artifacts of others; a named pipe holds nobody up.
func TestLinksAndPipesAreNoArtifacts(t *testing.T) {
	t.Attr("covers", "artifact-paths")
	dir, outside := t.TempDir(), t.TempDir()
	server, store := serveStore(t, "file://"+dir)
	write := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("secret"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	others := []string{filepath.Join(outside, "secret"), filepath.Join(outside, "deep/secret"), filepath.Join(dir, "1/r2/artifacts/secret")}
	for _, path := range others {
		write(path)
	}
	home := filepath.Join(dir, "1/r1/artifacts")
	write(filepath.Join(home, "own"))
	for name, target := range map[string]string{
		"file": others[0], "dir": outside, "relative": "../../r2/artifacts", "other": "../../r2/artifacts/secret",
		"uploads": "../../../.runledger-uploads", "dangling": filepath.Join(outside, "new"), "sub/up": "../..",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(home, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(home, "pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	files := server.URL + "/api/2.0/mlflow-artifacts/artifacts"
	for _, path := range []string{
		"file", "dir", "dir/secret", "dir/new", "dir/deep/secret", "relative/secret", "relative/new/er", "other", "dangling", "dangling/x", "sub/up/own", "uploads/x",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			status, body, _ := call(t, method, files+"/1/r1/artifacts/"+path, "mine")
			if status != 400 || !strings.Contains(body, "'1/r1/artifacts/"+path+"' leads through a symbolic link") {
				t.Errorf("%s %s: %d %s", method, path, status, body)
			}
		}
		if status, body, _ := call(t, "GET", files+"?path=1/r1/artifacts/"+path, ""); status != 400 {
			t.Errorf("list %s: %d %s", path, status, body)
		}
	}
	for _, path := range []string{"pipe", "pipe/x"} {
		if status, body, _ := call(t, "GET", files+"/1/r1/artifacts/"+path, ""); status != 404 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if _, body, _ := call(t, "GET", files+"?path=1/r1/artifacts", ""); body != `{"files":[{"path":"own","is_dir":false,"file_size":6},{"path":"sub","is_dir":true}]}` {
		t.Errorf("listed %s", body)
	}
	removed, size, _, err := store.Purge(t.Context(), "mlflow-artifacts:/1/r1/artifacts", "r1", false, func(artifacts.Place, *events.Event) error { return nil })
	if removed != 1 || size != 6 || err != nil {
		t.Errorf("purged %d files of %d bytes, %v", removed, size, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "1/r1")); !os.IsNotExist(err) {
		t.Errorf("the purged directory is still there: %v", err)
	}
	for _, path := range others {
		if data, err := os.ReadFile(path); string(data) != "secret" || err != nil {
			t.Errorf("%s holds %q, %v", path, data, err)
		}
	}
	if _, err := os.Stat(filepath.Join(outside, "new")); !os.IsNotExist(err) {
		t.Errorf("something was written outside: %v", err)
	}
}

// The store may be on a link itself, and tells when its directory is another.
func TestStoreKnowsItsDirectory(t *testing.T) {
	parent := t.TempDir()
	dir, link := filepath.Join(parent, "dir"), filepath.Join(parent, "link")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	_, store := serveStore(t, "file://"+link)
	if err := store.Write(t.Context(), "a/b", strings.NewReader("x"), unrecorded); err != nil {
		t.Fatal(err)
	}
	for _, ready := range []func() error{func() error { return store.Ready(t.Context()) }, func() error { return store.Writable(t.Context()) }} {
		if err := ready(); err != nil {
			t.Error(err)
		}
	}
	if err := os.Rename(dir, filepath.Join(parent, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := store.Ready(t.Context()); err == nil {
		t.Error("ready without a directory")
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := store.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("ready with another directory: %v", err)
	}
}

// What a client sends wrong or not to its end is told to the client as such.
func TestBrokenUploadIsTheClientsFault(t *testing.T) {
	_, store := serve(t)
	told := apierr.Errorf(apierr.InvalidParameterValue, "too slow")
	err := store.Write(t.Context(), "f", failingAfter("half", told), unrecorded)
	if apierr.From(err).Message != "too slow" {
		t.Errorf("got %v", err)
	}
}

// A name that decodes to another is looked for as it was given too, which may be a
// name that no file can have.
func TestWhatCannotBeThereIsNotThere(t *testing.T) {
	server, store := serve(t)
	api := server.URL + "/api/2.0/mlflow-artifacts/artifacts"
	long := strings.Repeat("%C3%A9", 100)
	for _, given := range []string{"\x00", "a/\x00", long, "a/" + long, strings.Repeat("x", 300)} {
		status, body, _ := call(t, "GET", api+"?path="+url.QueryEscape(given), "")
		if status != 200 || body != "{}" {
			t.Errorf("listing %q: %d %s", given, status, body)
		}
	}
	files, bytes, elsewhere, err := store.Purge(t.Context(), "mlflow-artifacts:/"+long+"/r1/artifacts", "r1", false, nil)
	if files != 0 || bytes != 0 || elsewhere || err != nil {
		t.Errorf("purging what has a long location: %d files of %d bytes, %v, %v", files, bytes, elsewhere, err)
	}
	if err := store.Write(t.Context(), "file", strings.NewReader("x"), unrecorded); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file/below", "file/below/further", strings.Repeat("x", 300), strings.Repeat("x", 300) + "/a"} {
		if err := store.Delete(t.Context(), name, func([]string) error { return errors.New("recorded") }); err != nil {
			t.Errorf("deleting %q: %v", name, err)
		}
		if status, body, _ := call(t, "GET", api+"/"+name, ""); status != 404 {
			t.Errorf("reading %q: %d %s", name, status, body)
		}
	}
}
