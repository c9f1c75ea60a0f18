package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// auditServer answers as GET /api/v1/audit does, page by page, with so many
// entries, and keeps the last query.
func auditServer(t *testing.T, entries *atomic.Int64) (server string, last func() url.Values) {
	t.Helper()
	var query atomic.Pointer[url.Values]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		query.Store(&q)
		if q.Get("actor") == "\x1b" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error_code":"INVALID_PARAMETER_VALUE","message":"Invalid value"}`)
			return
		}
		from, _ := strconv.Atoi(q.Get("page_token"))
		size, _ := strconv.Atoi(q.Get("max_results"))
		end := min(from+size, int(entries.Load()))
		fmt.Fprint(w, `{"entries":[`)
		for i := from; i < end; i++ {
			fmt.Fprintf(w, `%s{"stream":"RUNS_0","seq":%d,"event_id":"e","time":"2026-03-03T14:00:00.%06dZ","type":"runledger.run_deleted","actor":"a\u001b[2J",`+
				`"reason":"wrong, \"data\"","request_id":"r","entity_kind":"run","entity_id":"x","experiment_id":"1","data":{"run_deleted":{"run_id":"x"}}}`,
				strings.Repeat(",", min(1, i-from)), i+1, i)
		}
		fmt.Fprint(w, `]`)
		if end < int(entries.Load()) {
			fmt.Fprintf(w, `,"next_page_token":"%d"`, end)
		}
		fmt.Fprint(w, `}`)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() url.Values { return *query.Load() }
}

// auditLog runs audit log.
func auditLog(ctx context.Context, args ...string) (out, hints string, err error) {
	var o, e bytes.Buffer
	cmd := root()
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	cmd.SetArgs(append([]string{"audit", "log"}, args...))
	err = cmd.ExecuteContext(ctx)
	return o.String(), e.String(), err
}

func TestAuditLogShowsPagesAndSaysHowToGoOn(t *testing.T) {
	var n atomic.Int64
	n.Store(2500)
	server, last := auditServer(t, &n)
	for _, c := range []struct {
		args  []string
		lines int
		hint  string
	}{
		{nil, 101, "go on with --page-token 100, or see all with --limit 0"},
		{[]string{"--limit", "0"}, 2501, "Entries: 2500. To see whole events, add --json."},
		{[]string{"--limit", "1500", "--json"}, 1500, "--page-token 1500"},
		{[]string{"--limit", "0", "--json"}, 2500, ""},
		{[]string{"--page-token", "2490"}, 11, "Entries: 10."},
		{[]string{"--limit", "0", "--csv"}, 2501, ""},
		{[]string{"--page-token", "2500"}, 0, "No entries."},
	} {
		out, hints, err := auditLog(t.Context(), append(c.args, "--server", server)...)
		if err != nil || strings.Count(out, "\n") != c.lines || !strings.Contains(hints, c.hint) || (c.hint == "") != (hints == "") {
			t.Errorf("%v: %d lines, %q, %v; want %d, %q", c.args, strings.Count(out, "\n"), hints, err, c.lines, c.hint)
		}
	}
	out, _, err := auditLog(t.Context(), "--limit", "2", "--csv", "--server", server)
	records, csvErr := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || csvErr != nil || len(records) != 3 || strings.Join(records[0], ",") != strings.Join(auditColumns, ",") ||
		records[2][1] != "2" || records[2][6] != `wrong, "data"` || records[2][11] != `{"run_deleted":{"run_id":"x"}}` {
		t.Errorf("%q, %v, %v", records, err, csvErr)
	}
	out, _, err = auditLog(t.Context(), "--limit", "1", "--actor", "", "--type", "run_deleted", "--type", "runledger.alias_set", "--entity-id", "a/1", "--server", server)
	if err != nil || strings.Contains(out, "\x1b") || !strings.Contains(out, `run_deleted  run x`) || !strings.Contains(out, `{"run_id":"x"}`) {
		t.Errorf("%q, %v", out, err)
	}
	if q := last(); !q.Has("actor") || q.Has("from") || strings.Join(q["type"], " ") != "runledger.run_deleted runledger.alias_set" || q.Get("entity_id") != "a/1" {
		t.Errorf("query %v", q)
	}
}

func TestAuditLogRefuses(t *testing.T) {
	var n atomic.Int64
	server, _ := auditServer(t, &n)
	for _, c := range []struct{ args, want string }{
		{"--limit -1", "--limit -1: want 0 or more"},
		{"--json --csv", "--json and --csv: want one of them"},
		{"--follow --to 2026-03-03T14:00:00Z", "--follow: goes without --to"},
		{"--follow --from yesterday", `--from "yesterday": want a time with its zone`},
		{"--actor \x1b", "the server refused: Invalid value"},
		{"--server http://127.0.0.1:1", "no server answers there: start one with 'runledger up'"},
		{"--server here", `server "here": want a URL`},
	} {
		_, _, err := auditLog(t.Context(), append([]string{"--server", server}, strings.Fields(c.args)...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.args, err, c.want)
		}
	}
}

// Entries are shown once, as they come.
func TestAuditLogFollows(t *testing.T) {
	var n atomic.Int64
	n.Store(3)
	server, _ := auditServer(t, &n)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &growing{n: &n, most: 8, end: cancel}
	cmd := root()
	cmd.SetOut(out)
	cmd.SetArgs([]string{"audit", "log", "--follow", "--json", "--from", "2026-03-03T14:00:00Z", "--server", server})
	if err := cmd.ExecuteContext(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		if strings.Count(out.String(), fmt.Sprintf(`"seq":%d,`, i+1)) != 1 {
			t.Fatalf("entry %d is not there once: %s", i+1, out)
		}
	}
}

// growing adds an entry whenever one is shown, until there are enough.
type growing struct {
	bytes.Buffer
	n    *atomic.Int64
	most int64
	end  func()
}

func (g *growing) Write(p []byte) (int, error) {
	if n, err := g.Buffer.Write(p); int64(strings.Count(g.String(), "\n")) >= g.most {
		g.end()
		return n, err
	}
	g.n.Store(min(g.n.Load()+1, g.most))
	return len(p), nil
}
