package ingest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/caller"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/services/ingest"
)

// uploaded records an upload as the proxy of the artifacts does, and returns
// what the answer's headers say of its place.
func uploaded(t testing.TB, s *ingest.Service, run, path string) (stream, seq string, err error) {
	t.Helper()
	req := httptest.NewRequestWithContext(caller.With(t.Context(), caller.Caller{Name: "ada"}), http.MethodPut, "/", nil)
	c := echo.New().NewContext(req, httptest.NewRecorder())
	err = s.RecordArtifact(c, "0", run, &events.Event{Data: &events.Event_ArtifactUploaded{ArtifactUploaded: &events.ArtifactUploaded{RunId: run, Path: path}}})
	h := c.Response().Header()
	return h.Get(httpapi.HeaderStream), h.Get(httpapi.HeaderSeq), err
}

// Uploads to a run that two processes write to are recorded once each, where the
// run is, and where the answer says.
func TestArtifactsOfABusyRun(t *testing.T) {
	log := openLog(t)
	s, url := startService(t, ingest.Config{Log: log})
	urls := []string{url, serve(t, log, 0)}
	run, _ := createRun(t, url, object{})
	const n = 40
	places := make([]string, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			stream, seq, err := uploaded(t, s, run, fmt.Sprint(i))
			if err != nil {
				t.Error(err)
			}
			places[i] = stream + " " + seq
		})
		group.Go(func() { must(t, urls[i%2], "/runs/set-tag", object{"run_id": run, "key": fmt.Sprint(i), "value": "v"}) })
	}
	group.Wait()
	stream, _ := log.RunSubject("0", run, events.KindMeta)
	_, subject := log.ArtifactSubject("0", run)
	found := 0
	for rec, err := range log.Read(t.Context(), stream, subject, 1, 0) {
		if err != nil {
			t.Fatal(err)
		}
		found++
		var i int
		if _, err := fmt.Sscan(rec.GetArtifactUploaded().GetPath(), &i); err != nil || places[i] != fmt.Sprintf("%s %d", stream, rec.Seq) || rec.Actor != "ada" {
			t.Errorf("%s is at %s %d by %s, the answer said %s (%v)", rec.GetArtifactUploaded().GetPath(), stream, rec.Seq, rec.Actor, places[i], err)
		}
	}
	if found != n {
		t.Errorf("%d uploads are recorded, want %d", found, n)
	}
}

// An upload to what is purged is refused, whichever process has purged it.
func TestNoArtifactIsRecordedForWhatIsPurged(t *testing.T) {
	log := openLog(t)
	one, url := startService(t, ingest.Config{Log: log})
	two, otherURL := startService(t, ingest.Config{Log: log})
	run, _ := createRun(t, url, object{})
	model := createModel(t, url, object{"experiment_id": "0", "name": "m"})
	owners := map[string]func(){
		run:   func() { must(t, url, "/runs/delete", object{"run_id": run}) },
		model: func() { exchange(t, http.MethodDelete, url+"/api/2.0/mlflow/logged-models/"+model, nil) },
	}
	record := func(what string, want apierr.Code) {
		t.Helper()
		for name, s := range map[string]*ingest.Service{"one": one, "two": two} {
			for owner := range owners {
				if _, _, err := uploaded(t, s, owner, "f"); apierr.CodeOf(err) != want {
					t.Errorf("service %s, %s, %s: %v, want %q", name, what, owner, err, want)
				}
			}
		}
	}
	must(t, otherURL, "/runs/set-tag", object{"run_id": run, "key": "k", "value": "v"})
	record("active", "")
	for _, remove := range owners {
		remove()
	}
	record("deleted", "")
	for _, path := range []string{"/runs/" + run, "/logged-models/" + model} {
		if r := purge(t, http.MethodPost, url, path); r.status != 200 {
			t.Fatalf("purge: %d %v", r.status, r.body)
		}
	}
	record("purged", apierr.ResourceDoesNotExist)
	three, _ := startService(t, ingest.Config{Log: log})
	for owner := range owners {
		if _, _, err := uploaded(t, three, owner, "f"); apierr.CodeOf(err) != apierr.ResourceDoesNotExist {
			t.Errorf("a new service, %s: %v", owner, err)
		}
	}
	for _, owner := range []string{events.NoOwner, strings.Repeat("0", 32), "m-" + strings.Repeat("0", 32)} {
		if _, _, err := uploaded(t, one, owner, "f"); err != nil {
			t.Errorf("%s, which nobody has purged: %v", owner, err)
		}
	}
}

// Whatever is uploaded while a run is purged, nothing of it stays.
func TestAPurgeLeavesNothingOfUploadsAtOnce(t *testing.T) {
	log := openLog(t)
	dir := t.TempDir()
	store, err := artifacts.OpenStore(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s, url := startService(t, ingest.Config{
		Log: log,
		PurgeArtifacts: func(ctx context.Context, uri, id string, dry bool, record ingest.RecordArtifacts) (int64, int64, bool, error) {
			return store.Purge(ctx, uri, id, dry, func(at artifacts.Place, e *events.Event) error {
				return record(at.ExperimentID, at.Owner(), e)
			})
		},
	})
	e := echo.New()
	artifacts.NewProxy(artifacts.Config{Store: store, Record: func(c echo.Context, at artifacts.Place, event *events.Event) error {
		return s.RecordArtifact(c, at.ExperimentID, at.Owner(), event)
	}}).Register(e)
	e.HTTPErrorHandler = func(err error, c echo.Context) { _ = c.NoContent(apierr.CodeOf(err).HTTPStatus()) }
	var refused, taken atomic.Int64
	for range 15 {
		run, _ := createRun(t, url, object{})
		must(t, url, "/runs/delete", object{"run_id": run})
		var group sync.WaitGroup
		for i := range 6 {
			group.Go(func() {
				for j := range 4 {
					path := fmt.Sprintf("/api/2.0/mlflow-artifacts/artifacts/0/%s/artifacts/%d/%d", run, i, j)
					answer := httptest.NewRecorder()
					e.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPut, path, strings.NewReader("x")))
					switch answer.Code {
					case http.StatusOK:
						taken.Add(1)
					case http.StatusNotFound:
						refused.Add(1)
					default:
						t.Errorf("an upload: %d %s", answer.Code, answer.Body)
					}
				}
			})
		}
		group.Go(func() {
			if r := purge(t, http.MethodPost, url, "/runs/"+run); r.status != 200 {
				t.Errorf("purge: %d %v", r.status, r.body)
			}
		})
		group.Wait()
		if _, err := os.Stat(filepath.Join(dir, "0", run)); !os.IsNotExist(err) {
			t.Errorf("run %s is purged, and its directory is there: %v", run, err)
		}
	}
	t.Logf("%d uploads were before a purge, and %d behind it", taken.Load(), refused.Load())
}

// The digest of an artifact is that of the log's last event about it, whoever wrote
// that.
func TestDigestsAreThoseOfTheLog(t *testing.T) {
	log := openLog(t)
	s, url := startService(t, ingest.Config{Log: log})
	run, _ := createRun(t, url, object{})
	digests, err := artifacts.NewDigests(log)
	if err != nil {
		t.Fatal(err)
	}
	record := func(experiment, owner string, e *events.Event) {
		t.Helper()
		c := echo.New().NewContext(httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/", nil), httptest.NewRecorder())
		if err := s.RecordArtifact(c, experiment, owner, e); err != nil {
			t.Fatal(err)
		}
	}
	for _, owner := range []string{run, "m-" + strings.Repeat("0", 32), events.NoOwner} {
		dir := map[bool]string{true: "0/", false: "0/models/"}[owner == run] + owner + "/artifacts/"
		experiment := "0"
		if owner == events.NoOwner {
			dir, experiment = "elsewhere/", events.NoOwner
		}
		upload := func(name string, fill byte) {
			t.Helper()
			sum := bytes.Repeat([]byte{fill}, sha256.Size)
			record(experiment, owner, &events.Event{Data: &events.Event_ArtifactUploaded{ArtifactUploaded: &events.ArtifactUploaded{Path: dir + name, Sha256: sum}}})
		}
		begin := func(name string, fill ...byte) {
			t.Helper()
			sum := bytes.Repeat(fill, sha256.Size)
			record(experiment, owner, &events.Event{Data: &events.Event_ArtifactReplacementBegun{ArtifactReplacementBegun: &events.ArtifactReplacementBegun{Path: dir + name, Sha256: sum}}})
		}
		want := func(name string, fill ...byte) {
			t.Helper()
			var sums artifacts.Sums
			for _, b := range fill {
				sums = append(sums, [sha256.Size]byte(bytes.Repeat([]byte{b}, sha256.Size)))
			}
			if got, err := digests.Of(t.Context(), dir+name); err != nil || !slices.Equal(got, sums) {
				t.Errorf("%s: %x, %v", dir+name, got, err)
			}
		}
		want("a")
		upload("a", 1)
		upload("b", 2)
		want("a", 1)
		upload("a", 3) // as builds did that recorded no beginning
		want("a", 3)
		want("b", 2)

		// A replacement that has not ended may be in the store, or may not.
		begin("a", 4)
		want("a", 3, 4)
		begin("a", 5)
		upload("a", 5)
		want("a", 5, 4)
		upload("a", 4)
		want("a", 4, 5) // which were put there at the same time
		begin("a", 6)
		upload("a", 6)
		want("a", 6)

		// Of one that found nothing in its place, the end may be recorded last.
		begin("c", 8)
		upload("c", 8)
		upload("c", 7)
		want("c", 7, 8)

		// The bytes of one in parts are not known before.
		begin("a")
		want("a")
		upload("a", 9)
		want("a", 9)
		for i := range byte(20) {
			begin("a", 100+i)
		}
		if sums, err := digests.Of(t.Context(), dir+"a"); err != nil || len(sums) != 17 || sums[16] != [sha256.Size]byte(bytes.Repeat([]byte{119}, sha256.Size)) {
			t.Errorf("%d sums, %v", len(sums), err)
		}
		begin("b", 2)
		record(experiment, owner, &events.Event{Data: &events.Event_ArtifactsDeleted{ArtifactsDeleted: &events.ArtifactsDeleted{Paths: []string{dir + "b"}}}})
		want("b")
	}
}

// A process that is killed anywhere while it replaces a file leaves the old bytes or
// the new ones, and these can be read.
func TestAnInterruptedReplacementLeavesOneOfTheFiles(t *testing.T) {
	log := openLog(t)
	store, err := artifacts.OpenStore(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s, url := startService(t, ingest.Config{Log: log})
	digests, err := artifacts.NewDigests(log)
	if err != nil {
		t.Fatal(err)
	}
	killed := errors.New("killed")
	var kill func(*events.Event) bool
	e := echo.New()
	artifacts.NewProxy(artifacts.Config{Store: store, Digest: digests.Of, Record: func(c echo.Context, at artifacts.Place, event *events.Event) error {
		if kill(event) {
			return killed
		}
		return s.RecordArtifact(c, at.ExperimentID, at.Owner(), event)
	}}).Register(e)
	run, _ := createRun(t, url, object{})
	do := func(method, body string) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		e.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), method, "/api/2.0/mlflow-artifacts/artifacts/0/"+run+"/artifacts/f", strings.NewReader(body)))
		return answer
	}
	never := func(*events.Event) bool { return false }
	for _, step := range []struct {
		body, stays string
		kill        func(*events.Event) bool
	}{
		{"one", "one", func(e *events.Event) bool { return e.GetArtifactUploaded() != nil }}, // the first: nothing is replaced
		{"two", "two", never},
		{"three", "two", func(e *events.Event) bool { return e.GetArtifactReplacementBegun() != nil }},
		{"four", "four", func(e *events.Event) bool { return e.GetArtifactUploaded() != nil }},
		{"five", "five", func(e *events.Event) bool { return e.GetArtifactUploaded() != nil }},
		{"six", "six", never},
	} {
		kill = step.kill
		do(http.MethodPut, step.body)
		if got := do(http.MethodGet, ""); got.Code != http.StatusOK || got.Body.String() != step.stays {
			t.Errorf("after an upload of %q: %d %q, want %q", step.body, got.Code, got.Body, step.stays)
		}
	}
}

// A relative location is kept as the directory that it is on the server, and
// repeating the request is repeating it.
func TestRelativeLocationsAreKeptWhole(t *testing.T) {
	log := openLog(t)
	_, url := startService(t, ingest.Config{Log: log, WorkingDir: "/srv/dir"})
	for given, want := range map[string]string{
		"rel": "/srv/dir/rel", "./a%20b/": "/srv/dir/a b", "file:rel": "file:///srv/dir/rel", "/abs": "/abs", "s3://b/x": "s3://b/x", "": "",
	} {
		body := object{"name": "in " + given, "artifact_location": given}
		id := must(t, url, "/experiments/create", body).body["experiment_id"]
		if want == "" {
			want = fmt.Sprintf("mlflow-artifacts:/%s", id)
		}
		rec, err := log.Last(t.Context(), events.StreamExperiments, events.ExperimentSubject(id.(string)))
		if got := rec.GetExperimentCreated().GetArtifactLocation(); got != want || err != nil {
			t.Errorf("%q is kept as %q, %v; want %q", given, got, err, want)
		}
	}
	for _, body := range []object{{"name": "a", "artifact_location": "file://host/x"}, {"name": "b", "artifact_location": strings.Repeat("x", 2048)}} {
		if r := call(t, url, "/experiments/create", body); r.status != 400 {
			t.Errorf("%d %v", r.status, r.body)
		}
	}
}

func TestClosedServiceRecordsNothing(t *testing.T) {
	log := openLog(t)
	s, _ := startService(t, ingest.Config{Log: log})
	s.Close()
	if _, _, err := uploaded(t, s, events.NoOwner, "f"); err == nil {
		t.Error("a closed service acknowledges an upload")
	}
}

// A log of a build that knew no artifacts takes them once it is opened.
func TestOldLogTakesArtifacts(t *testing.T) {
	log := openLog(t)
	js := log.JetStream()
	for _, name := range log.RunStreams() {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		config.Subjects = config.Subjects[:2]
		if _, err := js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := eventlog.Open(t.Context(), js.Conn(), eventlog.Config{}); err != nil {
		t.Fatal(err)
	}
	s, _ := startService(t, ingest.Config{Log: log})
	if _, _, err := uploaded(t, s, events.NoOwner, "f"); err != nil {
		t.Error(err)
	}
}
