package artifacts_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/events"
)

const (
	someRun   = "0123456789abcdef0123456789abcdef"
	someModel = "m-0123456789abcdef0123456789abcdef"
)

func TestPlaceOf(t *testing.T) {
	for path, want := range map[string]artifacts.Place{
		"1/" + someRun + "/artifacts/a/b.txt":                     {ExperimentID: "1", RunID: someRun, Path: "a/b.txt"},
		"1/models/" + someModel + "/artifacts/MLmodel":            {ExperimentID: "1", ModelID: someModel, Path: "MLmodel"},
		"team/x/" + someRun + "/artifacts/a":                      {RunID: someRun, Path: "a"},
		"1/" + someRun + "/artifacts/" + someRun + "/artifacts/a": {ExperimentID: "1", RunID: someRun, Path: someRun + "/artifacts/a"},
		"1/" + someRun + "/artifacts":                             {Path: "1/" + someRun + "/artifacts"},
		"1/" + someRun + "/other/a":                               {Path: "1/" + someRun + "/other/a"},
		"1/" + strings.ToUpper(someRun) + "/artifacts/a":          {Path: "1/" + strings.ToUpper(someRun) + "/artifacts/a"},
		"1/" + someModel + "/artifacts/a":                         {Path: "1/" + someModel + "/artifacts/a"},
		someRun + "/artifacts/a":                                  {Path: someRun + "/artifacts/a"},
		"a.txt":                                                   {Path: "a.txt"},
		"artifacts/artifacts/artifacts":                           {Path: "artifacts/artifacts/artifacts"},
	} {
		if got := artifacts.PlaceOf(path); got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
}

func unrecorded(artifacts.Written) error { return nil }

// The log is told of every byte that is kept and every file that goes, before
// the client is.
func TestChangesAreRecorded(t *testing.T) {
	for name, url := range map[string]string{"file": "file://" + t.TempDir(), "s3": s3URL(t)} {
		t.Run(name, func(t *testing.T) {
			var recorded []*events.Event
			var owners []string
			var refuse error
			server, _ := serveRecorded(t, url, func(_ echo.Context, at artifacts.Place, e *events.Event) error {
				if e.GetArtifactReplacementBegun() != nil {
					return nil
				}
				recorded, owners = append(recorded, e), append(owners, at.Owner())
				return refuse
			})
			root := "/api/2.0/mlflow-artifacts/artifacts/1/" + someRun + "/artifacts/"
			digest := sha256.Sum256([]byte("hello"))
			status, _, header := call(t, "PUT", server.URL+root+"dir/a.txt", "hello")
			if want := "sha-256=:" + base64.StdEncoding.EncodeToString(digest[:]) + ":"; status != 200 || header.Get("Repr-Digest") != want {
				t.Errorf("%d, Repr-Digest %q, want %q", status, header.Get("Repr-Digest"), want)
			}
			u := recorded[0].GetArtifactUploaded()
			if u.GetPath() != "1/"+someRun+"/artifacts/dir/a.txt" || u.GetRunId() != someRun || u.GetArtifactPath() != "dir/a.txt" || u.GetSize() != 5 ||
				hex.EncodeToString(u.GetSha256()) != hex.EncodeToString(digest[:]) || u.GetContentType() != "text/plain" || owners[0] != someRun {
				t.Errorf("recorded %v of %q", u, owners[0])
			}
			if status, _, _ := call(t, "POST", server.URL+"/ajax-api/2.0/mlflow/upload-artifact?run_id=r1&path=b.txt", "small"); status != 200 || recorded[1].GetArtifactUploaded().GetSize() != 5 {
				t.Errorf("%d, recorded %v", status, recorded)
			}
			if status, _, _ := call(t, "PUT", server.URL+root+"dir/c.txt", ""); status != 200 || recorded[2].GetArtifactUploaded().GetSize() != 0 {
				t.Errorf("%d, recorded %v", status, recorded)
			}
			status, _, _ = call(t, "DELETE", server.URL+root+"dir", "")
			want := []string{"1/" + someRun + "/artifacts/dir/a.txt", "1/" + someRun + "/artifacts/dir/c.txt"}
			if got := recorded[3].GetArtifactsDeleted(); status != 200 || !slices.Equal(got.GetPaths(), want) || got.GetRunId() != someRun {
				t.Errorf("%d, recorded %v", status, got)
			}
			if status, _, _ := call(t, "DELETE", server.URL+root+"dir", ""); status != 200 || len(recorded) != 4 {
				t.Errorf("nothing was deleted, and %d, %v", status, recorded[4:])
			}
			refuse = apierr.Errorf(apierr.TemporarilyUnavailable, "The log is away").WithRetryAfter(1)
			if status, body, header := call(t, "PUT", server.URL+root+"d.txt", "x"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
				t.Errorf("an upload that was not recorded: %d %s", status, body)
			}
			if status, body, _ := call(t, "DELETE", server.URL+root+"d.txt", ""); status != http.StatusServiceUnavailable {
				t.Errorf("a deletion that was not recorded: %d %s", status, body)
			}
			if status, _, _ := call(t, "GET", server.URL+root+"d.txt", ""); status != http.StatusOK {
				t.Errorf("was deleted, though that was refused: %d", status)
			}
		})
	}
}

func TestManyDeletionsAreAFewEvents(t *testing.T) {
	var paths, batches int
	server, store := serveRecorded(t, "file://"+t.TempDir(), func(_ echo.Context, _ artifacts.Place, e *events.Event) error {
		if d := e.GetArtifactsDeleted(); d != nil {
			paths += len(d.GetPaths())
			batches++
		}
		return nil
	})
	const files = 2000
	dir := "1/" + someRun + "/artifacts/" + strings.Repeat("d", 200)
	for i := range files {
		if err := store.Write(t.Context(), fmt.Sprintf("%s/%d", dir, i), strings.NewReader(""), unrecorded); err != nil {
			t.Fatal(err)
		}
	}
	if status, body, _ := call(t, "DELETE", server.URL+"/api/2.0/mlflow-artifacts/artifacts/"+dir, ""); status != 200 || paths != files || batches != 2 {
		t.Errorf("%d %s: %d paths in %d events, want %d in 2", status, body, paths, batches, files)
	}
}

// Of uploads to one path at once, the one that is recorded last is the one that
// stays.
func TestUploadsAtOnce(t *testing.T) {
	var mu sync.Mutex
	var last string
	server, _ := serveRecorded(t, "file://"+t.TempDir(), func(_ echo.Context, _ artifacts.Place, e *events.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if e.GetArtifactReplacementBegun() != nil {
			return nil
		}
		last = hex.EncodeToString(e.GetArtifactUploaded().GetSha256())
		return nil
	})
	url := server.URL + "/api/2.0/mlflow-artifacts/artifacts/f"
	for range 20 {
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() { call(t, "PUT", url, fmt.Sprint("content ", i)) })
		}
		group.Wait()
		_, stays, _ := call(t, "GET", url, "")
		if digest := sha256.Sum256([]byte(stays)); last != hex.EncodeToString(digest[:]) {
			t.Fatalf("recorded %s last, and %q stays", last, stays)
		}
	}
}
