package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// In a terminal nothing is changed before the answer is yes, and then what was
// shown, on the condition that it was shown under.
func TestRollbackAsksFirst(t *testing.T) {
	const answer = `{"to":41,"seq":51,"first_seq":52,"last_seq":52,` +
		`"changes":[{"model":"m","version":"","what":"alias","key":"a\u001b[2J","from":"2","to":null}]}`
	for input, want := range map[string]int{"y\n": 2, "YES\n": 2, "yes": 2, "n\n": 1, "\n": 1, "": 1} {
		var requests []map[string]any
		var expect string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var body map[string]any
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			requests, expect = append(requests, body), r.Header.Get("Runledger-Expect-Seq")
			_, _ = io.WriteString(w, answer) // the client says when it is cut off
		}))
		var out strings.Builder
		o := rollbackOptions{to: "2026-03-03T14:00:00Z", reason: "r", server: server.URL + "/", ask: true}
		err := o.run(t.Context(), "/api/v1/models/m/rollback", strings.NewReader(input), &out)
		server.Close()
		if len(requests) != want || (err == nil) != (want == 2) {
			t.Fatalf("%q: %d requests, %v", input, len(requests), err)
		}
		if requests[0]["dry_run"] != true || strings.Contains(out.String(), "\x1b") || !strings.Contains(out.String(), `"2"`) {
			t.Errorf("%q: %v\n%q", input, requests[0], out.String())
		}
		if want == 2 && (requests[1]["dry_run"] != false || requests[1]["to"] != 41.0 || expect != "51") {
			t.Errorf("%q: %v on condition of %q", input, requests[1], expect)
		}
	}
}
