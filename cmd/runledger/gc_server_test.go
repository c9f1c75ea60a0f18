package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/httpapi"
)

// gcServer answers as the routes of gc do, with pages of candidates of one entry each.
// Things whose id begins with "bad" are refused.
type gcServer struct {
	*httptest.Server
	pages []string // items as JSON

	mu    sync.Mutex
	asked []string // method, path and parameters in order, and the reason
}

func newGCServer(t *testing.T, pages ...string) *gcServer {
	t.Helper()
	s := &gcServer{pages: pages}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, strings.TrimSpace(fmt.Sprintf("%s %s?%s %s", r.Method, r.URL.EscapedPath(), r.URL.Query().Encode(), r.Header.Get(httpapi.HeaderReason))))
		s.mu.Unlock()
		path := strings.TrimPrefix(r.URL.Path, "/api/v1/gc/")
		if path != "candidates" {
			if _, id, _ := strings.Cut(path, "/"); strings.HasPrefix(id, "bad") {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"error_code":"INVALID_PARAMETER_VALUE","message":"%s is not deleted"}`, id)
				return
			}
			fmt.Fprint(w, `{"files":2,"bytes":30}`)
			return
		}
		n := len(r.URL.Query().Get("page_token"))
		if n >= len(s.pages) {
			fmt.Fprint(w, `{"candidates":[]}`)
			return
		}
		next := ""
		if n+1 < len(s.pages) {
			next = strings.Repeat("x", n+1)
		}
		fmt.Fprintf(w, `{"candidates":[%s],"next_page_token":%q}`, s.pages[n], next)
	}))
	t.Cleanup(s.Close)
	return s
}

// requests returns what was asked so far that has a text in it.
func (s *gcServer) requests(with string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.asked), func(a string) bool { return !strings.Contains(a, with) })
}

func runGC(t *testing.T, s *gcServer, o gcOptions) (string, error) {
	t.Helper()
	o.server = s.URL + "/"
	var out bytes.Buffer
	quiet, err := os.Create(t.TempDir() + "/progress")
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	err = gc(t.Context(), o, &out, quiet)
	return out.String(), err
}

const (
	gcExperiment = `{"kind":"experiment","id":"7"}`
	gcRun        = `{"kind":"run","id":"a/b","points":5}`
	gcBad        = `{"kind":"run","id":"bad"}`
	gcModel      = `{"kind":"logged_model","id":"m-1"}`
)

// Every candidate of every page is removed, on the condition of its age and with the
// reason, and what the server refuses is said at the end, when the rest is done.
func TestGCRemovesEveryCandidate(t *testing.T) {
	s := newGCServer(t, gcExperiment+","+gcBad+","+gcRun, gcModel)
	out, err := runGC(t, s, gcOptions{olderThan: age(90 * time.Second), reason: "request 4711"})
	if err == nil || !strings.Contains(err.Error(), "1 could not be removed") || !strings.Contains(err.Error(), "bad is not deleted") {
		t.Errorf("the one that was refused: %v", err)
	}
	if !strings.Contains(out, "Removed 1 experiments, 1 runs with 5 points, 1 logged models, 6 artifact files of 90 bytes.") {
		t.Errorf("it says %s", out)
	}
	removed := s.requests("POST")
	slices.Sort(removed)
	want := []string{
		"POST /api/v1/gc/experiments/7?older_than_ms=90000 request 4711",
		"POST /api/v1/gc/logged-models/m-1?older_than_ms=90000 request 4711",
		"POST /api/v1/gc/runs/a%2Fb?older_than_ms=90000 request 4711",
		"POST /api/v1/gc/runs/bad?older_than_ms=90000 request 4711",
	}
	if !slices.Equal(removed, want) {
		t.Errorf("removed with %q, want %q", removed, want)
	}
	for _, a := range s.requests("candidates") {
		if !strings.Contains(a, "older_than_ms=90000") {
			t.Errorf("asked for candidates of any age: %s", a)
		}
	}
	// Experiments go first, with what is in them.
	all := s.requests("POST")
	if !strings.Contains(all[0], "experiments") || !strings.Contains(all[len(all)-1], "logged-models") {
		t.Errorf("removed in the order of %q", all)
	}
}

func TestGCChangesNothing(t *testing.T) {
	for name, o := range map[string]gcOptions{
		"dry run":                         {dry: true},
		"one that is named is refused":    {runs: []string{"a", "bad"}},
		"an experiment that is refused":   {experiments: []string{"7", "bad"}},
		"a logged model that is refused":  {modelNames: []string{"bad-model"}, runs: []string{"a"}},
		"only one that is named, refused": {runs: []string{"bad"}},
	} {
		s := newGCServer(t, gcExperiment+","+gcRun, gcModel)
		out, err := runGC(t, s, o)
		if removed := s.requests("POST"); len(removed) > 0 {
			t.Errorf("%s: removed with %q", name, removed)
		}
		if o.dry && (err != nil || !strings.Contains(out, "Would remove 1 experiments, 1 runs with 5 points, 1 logged models") || !strings.Contains(out, "Nothing was changed")) ||
			!o.dry && (err == nil || !strings.Contains(err.Error(), "nothing was removed")) {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}

// What was named is all that is asked for, however much that is.
func TestGCAsksForWhatIsNamed(t *testing.T) {
	s := newGCServer(t)
	o := gcOptions{modelNames: []string{"m-1"}, experiments: []string{"7", "8"}}
	for i := range gcIDs {
		o.runs = append(o.runs, fmt.Sprintf("run%d", i))
	}
	if _, err := runGC(t, s, o); err != nil {
		t.Fatal(err)
	}
	asked := s.requests("candidates")
	if len(asked) != 3 || !strings.Contains(asked[0], "experiment_ids=7%2C8") || !strings.Contains(asked[1], "ids=run0%2Crun1%2C") || !strings.Contains(asked[2], "&ids=m-1&") && !strings.Contains(asked[2], "?ids=m-1&") {
		t.Errorf("%d requests for candidates: %.200q", len(asked), asked)
	}
}

func TestGCOfAServerThatCannot(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	var out bytes.Buffer
	if err := gc(t.Context(), gcOptions{server: s.URL}, &out, os.Stderr); err == nil || !strings.Contains(err.Error(), "no Runledger server") || strings.Contains(out.String(), "emoved") {
		t.Errorf("%v, %s", err, out.String())
	}
}
