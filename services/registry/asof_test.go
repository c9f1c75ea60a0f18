package registry_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
)

// write writes an event to the registry's stream as another process would, with
// its own clock.
func write(t *testing.T, log *eventlog.Log, at time.Time, model string, e *events.Event) {
	t.Helper()
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.StreamRegistry})
	defer lane.Close()
	_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
		return b.Append(events.ModelSubject(model), events.New("/test", "tester", at), e, eventlog.Expect{}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func created(name string) *events.Event {
	return &events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: name}}}
}

// Entries 1 to 6: created, two versions, an alias, a stage, and all undone.
func newPast(t *testing.T) *server {
	s := newServer(t)
	s.create("m")
	s.addVersion("m")
	s.addVersion("m")
	s.must("POST", "registered-models/alias", fields{"name": "m", "alias": "champion", "version": "1"})
	s.must("POST", "model-versions/transition-stage", fields{"name": "m", "version": "1", "stage": "Production"})
	s.must("DELETE", "model-versions/delete", fields{"name": "m", "version": "1"})
	return s
}

func TestEveryReadTakesAMoment(t *testing.T) {
	s := newPast(t)
	for _, test := range []struct {
		method, path string
		fields       fields
		now          int    // its status
		then         string // part of the answer as of entry 5
	}{
		{"GET", "/api/2.0/mlflow/registered-models/get?name=m&as_of=5", nil, 200, `"alias":"champion"`},
		{"GET", "/ajax-api/2.0/mlflow/registered-models/search?as_of=5", nil, 200, `"alias":"champion"`},
		{"GET", "/api/2.0/mlflow/registered-models/get-latest-versions?name=m&stages=Production&as_of=5", nil, 200, `"version":"1"`},
		{"POST", "/api/2.0/mlflow/registered-models/get-latest-versions?as_of=5", fields{"name": "m", "stages": []string{"production"}}, 200, `"version":"1"`},
		{"GET", "/api/2.0/mlflow/registered-models/alias?name=m&alias=champion&as_of=5", nil, 400, `"current_stage":"Production"`},
		{"GET", "/api/2.0/mlflow/model-versions/get?name=m&version=1&as_of=5", nil, 404, `"current_stage":"Production"`},
		{"GET", "/api/2.0/mlflow/model-versions/search?as_of=5", nil, 200, `"version":"1"`},
		{"GET", "/api/2.0/mlflow/model-versions/get-download-uri?name=m&version=1&as_of=5", nil, 404, `"artifact_uri":"s3://`},
		{"GET", "/api/v1/models/m/history?as_of=5", nil, 200, `"action":"model_version_stage_set"`},
	} {
		then := s.raw(test.method, test.path, test.fields)
		if then.status != http.StatusOK || !strings.Contains(toJSON(t, then.body), test.then) {
			t.Errorf("%s: %d %v", test.path, then.status, then.body)
		}
		if got := then.header.Get(httpapi.HeaderAsOf); got != "5" {
			t.Errorf("%s: the header says %q", test.path, got)
		}
		if got := then.header.Get(httpapi.HeaderWatermark); got != "REGISTRY=6" {
			t.Errorf("%s: the watermark is %q", test.path, got)
		}
		path := strings.Replace(strings.Replace(test.path, "&as_of=5", "", 1), "?as_of=5", "", 1)
		now := s.raw(test.method, path, test.fields)
		if now.status != test.now || now.header.Get(httpapi.HeaderAsOf) != "" {
			t.Errorf("%s: %d %v %v", path, now.status, now.body, now.header)
		}
		if toJSON(t, now.body) == toJSON(t, then.body) {
			t.Errorf("%s: now as then, %v", path, now.body)
		}
	}
	if a := s.raw("GET", "/api/2.0/mlflow/model-versions/get?name=m&version=2&as_of=2", nil); a.status != http.StatusNotFound {
		t.Errorf("version 2 before it was made: %d %v", a.status, a.body)
	}
	// What an answer of the past says of itself is no precondition for now.
	seq := s.raw("GET", "/api/2.0/mlflow/registered-models/get?name=m&as_of=4", nil).header.Get(httpapi.HeaderSeq)
	a := s.send("PATCH", "registered-models/update", fields{"name": "m", "description": "d"}, httpapi.HeaderExpectSeq, seq)
	if seq != "4" || a.status != http.StatusConflict {
		t.Errorf("a change on condition of %s: %d %v", seq, a.status, a.body)
	}
}

func TestMomentsThatAreNone(t *testing.T) {
	s := newPast(t)
	for as, want := range map[string]string{
		"":                     "must be the number of an entry, or a time",
		"x":                    "must be the number of an entry, or a time",
		"-1":                   "must be the number of an entry, or a time",
		"1.5":                  "must be the number of an entry, or a time",
		"2026-13-03T14:00:00Z": "must be the number of an entry, or a time",
		"0":                    "the first entry has the number 1",
		"7":                    "the last entry has the number 6",
		"99999999999999999999": "the last entry has the number 6",
		"2026-03-03T14:00:00":  "the time has no zone",
		"2026-03-03T14:00":     "the time has no zone",
		"2001-03-03T14:00:00Z": "it is before the first entry",
		"2999-03-03T14:00:00Z": "it is in the future",
		time.Now().Add(time.Hour).UTC().Format(time.RFC3339): "it is in the future",
	} {
		for path, field := range map[string]string{
			"/api/2.0/mlflow/registered-models/get": "as_of", "/api/v1/models/m/history": "as_of", "/api/2.0/mlflow/model-versions/search": "as_of",
		} {
			query := fields{"name": "m", "as_of": as}
			if strings.HasPrefix(path, "/api/v1/") {
				delete(query, "name") // the path has it
			}
			a := s.raw("GET", path, query)
			message, _ := a.body["message"].(string)
			if a.status != http.StatusBadRequest || a.body["error_code"] != "INVALID_PARAMETER_VALUE" ||
				!strings.Contains(message, want) || !strings.Contains(message, "'"+field+"'") {
				t.Errorf("%s as of %q: %d %v", path, as, a.status, a.body)
			}
		}
		a := s.rollback("m", fields{"to": as, "reason": "r"})
		message, _ := a.body["message"].(string)
		if a.status != http.StatusBadRequest || !strings.Contains(message, want) || !strings.Contains(message, "'to'") {
			t.Errorf("rollback to %q: %d %v", as, a.status, a.body)
		}
	}
	if got := s.size(); got != 6 {
		t.Errorf("%v entries", got)
	}
	empty := newServer(t)
	for _, as := range []string{"1", "2026-03-03T14:00:00Z"} {
		if a := empty.send("GET", "registered-models/search", fields{"as_of": as}); a.status != http.StatusBadRequest {
			t.Errorf("an empty registry as of %s: %d %v", as, a.status, a.body)
		}
	}
}

// An entry whose clock was behind does not come before the one that it follows.
func TestAMomentWithClocksThatDiffer(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	noon := time.Date(2026, 3, 3, 12, 0, 0, 0, time.UTC)
	for _, e := range []struct {
		name  string
		after time.Duration
	}{{"a", 0}, {"b", 10 * time.Minute}, {"c", 5 * time.Minute}, {"d", 10*time.Minute + time.Microsecond}, {"e", 20 * time.Minute}} {
		write(t, log, noon.Add(e.after), e.name, created(e.name))
	}
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	for at, want := range map[string]string{
		"2026-03-03T12:00:00Z":            "1",
		"2026-03-03T13:00:00+01:00":       "1",
		"2026-03-03T13:00:00 01:00":       "1", // a + that was not escaped
		"2026-03-03T12:05:00Z":            "1",
		"2026-03-03T12:09:59.999999999Z":  "1",
		"2026-03-03T12:10:00Z":            "3",
		"2026-03-03T12:10:00.000001Z":     "4",
		"2026-03-03T07:19:59.999-05:00":   "4",
		"2026-03-03T12:20:00Z":            "5",
		"2026-03-04T00:00:00.00000-12:00": "5",
	} {
		a := s.send("GET", "registered-models/search", fields{"as_of": at})
		if got := a.header.Get(httpapi.HeaderAsOf); got != want || len(asList(a.body["registered_models"])) != int(want[0]-'0') {
			t.Errorf("as of %s: entry %s, %v", at, got, a.body)
		}
	}
}

// The history of a name begins when a model takes it, also as of then.
func TestTheHistoryOfANameAsOf(t *testing.T) {
	s := newServer(t)
	s.create("old")
	s.must("POST", "registered-models/rename", fields{"name": "old", "new_name": "new"})
	s.create("old")
	s.must("DELETE", "registered-models/delete", fields{"name": "old"})
	for _, test := range []struct {
		name, as, want string // the numbers of the entries
	}{{"new", "1", ""}, {"new", "2", "12"}, {"new", "4", "12"}, {"old", "1", "1"}, {"old", "2", "12"}, {"old", "3", "123"}, {"old", "4", "1234"}} {
		got := ""
		token := ""
		for {
			a := s.raw("GET", "/api/v1/models/"+test.name+"/history", fields{"as_of": test.as, "max_results": 1, "page_token": token})
			if a.status == http.StatusNotFound {
				break
			}
			for _, e := range asList(a.body["entries"]) {
				got += toJSON(t, e.(map[string]any)["seq"])
			}
			if token, _ = a.body["next_page_token"].(string); token == "" {
				break
			}
		}
		if got != test.want {
			t.Errorf("history of %s as of %s: %q, want %q", test.name, test.as, got, test.want)
		}
	}
}
