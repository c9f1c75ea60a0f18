package ingest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/services/ingest"
)

// uploaded records an upload as the proxy of the artifacts does, and returns
// what the answer's headers say of its place.
func uploaded(t testing.TB, s *ingest.Service, run, path string) (stream, seq string, err error) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/", nil)
	req.SetBasicAuth("ada", "")
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
