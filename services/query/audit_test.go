package query_test

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/proptest"
)

// auditRow is an entry, as the table and an answer have it.
type auditRow struct {
	Stream       string          `json:"stream"`
	Seq          uint64          `json:"seq"`
	EventID      string          `json:"event_id"`
	Time         time.Time       `json:"time"`
	Type         string          `json:"type"`
	Actor        string          `json:"actor"`
	Reason       string          `json:"reason"`
	RequestID    string          `json:"request_id"`
	EntityKind   string          `json:"entity_kind"`
	EntityID     string          `json:"entity_id"`
	ExperimentID string          `json:"experiment_id"`
	Data         json.RawMessage `json:"data"`
}

// auditOrder is by time, and at one time by the place in the log.
func auditOrder(a, b auditRow) int {
	return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Seq, b.Seq))
}

type auditPage struct {
	Entries       []auditRow
	NextPageToken string `json:"next_page_token"`
}

func (f *fixture) insertAudit(rows []auditRow) {
	f.t.Helper()
	f.batch("INSERT INTO audit (stream, seq, event_id, time, type, actor, reason, request_id, entity_kind, entity_id, experiment_id, data)", func(b driver.Batch) error {
		for _, r := range rows {
			if err := b.Append(r.Stream, r.Seq, r.EventID, r.Time, r.Type, r.Actor, r.Reason, r.RequestID, r.EntityKind, r.EntityID, r.ExperimentID, string(r.Data)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *fixture) auditAll(args ...string) []auditRow {
	f.t.Helper()
	var rows []auditRow
	token := ""
	for range maxPages {
		page := decode[auditPage](f.t, f.do(f.request("/api/v1/audit", append(slices.Clone(args), "page_token", token)...)))
		rows = append(rows, page.Entries...)
		if token = page.NextPageToken; token == "" {
			return rows
		}
	}
	f.t.Fatalf("more than %d pages of %v", maxPages, args)
	return nil
}

var auditStart = time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)

// someAudit returns entries of which many share what a filter may ask for.
func someAudit(t *rapid.T) []auditRow {
	var rows []auditRow
	for _, stream := range []string{"RUNS_0", "RUNS_1", "EXPERIMENTS", "REGISTRY"} {
		for seq := range rapid.IntRange(0, 12).Draw(t, stream) {
			id := rapid.SampledFrom([]string{"a", "b", "É", ""}).Draw(t, "entity")
			rows = append(rows, auditRow{
				Stream: stream, Seq: uint64(seq + 1), EventID: stream + strconv.Itoa(seq),
				Time:       auditStart.Add(time.Duration(rapid.Int64Range(0, 5).Draw(t, "hours"))*time.Hour + time.Duration(rapid.Int64Range(0, 2).Draw(t, "microseconds"))*time.Microsecond),
				Type:       rapid.SampledFrom([]string{"run_created", "run_deleted", "alias_set"}).Draw(t, "type"),
				Actor:      rapid.SampledFrom([]string{"", "ada", "bob'; DROP TABLE audit"}).Draw(t, "actor"),
				Reason:     rapid.SampledFrom([]string{"", "Drift", "100%"}).Draw(t, "reason"),
				RequestID:  rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "request"),
				EntityKind: rapid.SampledFrom([]string{"run", "model_version"}).Draw(t, "kind"),
				EntityID:   id, ExperimentID: rapid.SampledFrom([]string{"", "1"}).Draw(t, "experiment"),
				Data: json.RawMessage(`{"x":{"id":` + strconv.Quote(id) + `}}`),
			})
		}
	}
	return rows
}

func TestAuditFindsWhatTheFilterSays(t *testing.T) {
	f := newFixture(t)
	f.project()
	proptest.Check(t, func(rt *rapid.T) {
		if err := f.conn.Exec(t.Context(), "TRUNCATE TABLE audit"); err != nil {
			t.Fatal(err)
		}
		rows := someAudit(rt)
		f.insertAudit(rows)
		want := slices.Clone(rows)
		keep := func(what func(auditRow) bool) {
			want = slices.DeleteFunc(want, func(r auditRow) bool { return !what(r) })
		}
		var args []string
		filter := func(name string, values []string, field func(auditRow) string) {
			if rapid.IntRange(0, 3).Draw(rt, name+"?") == 0 {
				value := rapid.SampledFrom(values).Draw(rt, name)
				args = append(args, name, value)
				keep(func(r auditRow) bool { return field(r) == value })
			}
		}
		filter("actor", []string{"", "ada", "bob'; DROP TABLE audit", "nobody"}, func(r auditRow) string { return r.Actor })
		filter("entity_kind", []string{"run", "model_version", "x"}, func(r auditRow) string { return r.EntityKind })
		filter("entity_id", []string{"a", "", "É"}, func(r auditRow) string { return r.EntityID })
		filter("experiment_id", []string{"1", ""}, func(r auditRow) string { return r.ExperimentID })
		filter("request_id", []string{"r1"}, func(r auditRow) string { return r.RequestID })
		if types := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"run_created", "run_deleted", "none"}), 0, 2, rapid.ID).Draw(rt, "types"); len(types) > 0 {
			for _, typ := range types {
				args = append(args, "type", typ)
			}
			keep(func(r auditRow) bool { return slices.Contains(types, r.Type) })
		}
		if text := rapid.SampledFrom([]string{"", "", "dRIFT", "100%", "%", "é", "drop table"}).Draw(rt, "text"); text != "" {
			args = append(args, "text", text)
			keep(func(r auditRow) bool {
				return slices.ContainsFunc([]string{r.Reason, r.EntityID, r.Actor, string(r.Data)}, func(s string) bool {
					return strings.Contains(strings.ToLower(s), strings.ToLower(text))
				})
			})
		}
		from := auditStart.Add(time.Duration(rapid.Int64Range(-1, 3).Draw(rt, "from")) * time.Hour)
		to := from.Add(time.Duration(rapid.Int64Range(1, 6).Draw(rt, "to")) * time.Hour)
		if rapid.Bool().Draw(rt, "times?") {
			zone := time.FixedZone("", 5400)
			args = append(args, "from", from.In(zone).Format(time.RFC3339), "to", to.Format(time.RFC3339Nano))
			keep(func(r auditRow) bool { return !r.Time.Before(from) && r.Time.Before(to) })
		}
		slices.SortFunc(want, auditOrder)
		counts := make(map[string]int)
		for _, r := range want {
			counts[r.Actor+"|"+r.Time.Format(time.DateOnly)]++
		}
		if got := f.auditCounts(args); fmt.Sprint(got) != fmt.Sprint(counts) {
			rt.Fatalf("%v: counts %v, want %v", args, got, counts)
		}
		if rapid.Bool().Draw(rt, "oldest") {
			args = append(args, "order", "oldest")
		} else {
			slices.Reverse(want)
		}
		args = append(args, "max_results", strconv.Itoa(rapid.IntRange(1, 20).Draw(rt, "page")))
		got := f.auditAll(args...)
		if len(got) != len(want) {
			rt.Fatalf("%v: %d entries, want %d", args, len(got), len(want))
		}
		for i := range got {
			if g, w := fmt.Sprintf("%+v", got[i]), fmt.Sprintf("%+v", want[i]); g != w {
				rt.Fatalf("%v: entry %d is %s, want %s", args, i, g, w)
			}
		}
	})
}

// auditCounts returns the numbers of entries by actor and day.
func (f *fixture) auditCounts(args []string) map[string]int {
	f.t.Helper()
	answer := decode[struct {
		Counts []struct {
			Actor, Day string
			Count      int
		}
	}](f.t, f.do(f.request("/api/v1/audit/counts", append(slices.Clone(args), "by", "actor,day")...)))
	counts := make(map[string]int)
	for _, c := range answer.Counts {
		counts[c.Actor+"|"+c.Day] += c.Count
	}
	return counts
}

func TestAuditStreamsLinesAndCSV(t *testing.T) {
	f := newFixture(t)
	f.project()
	var rows []auditRow
	for i := range 1234 {
		rows = append(rows, auditRow{
			Stream: "RUNS_0", Seq: uint64(i + 1), EventID: strconv.Itoa(i), Time: auditStart.Add(time.Duration(i) * time.Microsecond), Type: "run_tags_set",
			Actor: "ada, \"countess\"", Reason: "two\nlines", EntityKind: "run", EntityID: "x", Data: json.RawMessage(`{"a":1}`),
		})
	}
	f.insertAudit(rows)
	w := f.do(f.request("/api/v1/audit", "format", "jsonl", "order", "oldest"))
	if got := w.Header().Get("Content-Type"); got != "application/jsonl" {
		t.Errorf("content type %q", got)
	}
	n := 0
	for lines := bufio.NewScanner(w.Body); lines.Scan(); n++ {
		var got auditRow
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", rows[n]) {
			t.Fatalf("line %d is %+v, want %+v", n, got, rows[n])
		}
	}
	if n != len(rows) {
		t.Errorf("%d lines, want %d", n, len(rows))
	}
	records, err := csv.NewReader(f.do(f.request("/api/v1/audit", "format", "csv", "order", "oldest", "max_results", "1000")).Body).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != 1001 || records[0][0] != "stream" || records[1000][1] != "1000" || records[1][5] != rows[0].Actor || records[1][6] != rows[0].Reason {
		t.Errorf("%d records, first %q, last %q", len(records), records[:2], records[len(records)-1])
	}
	for format, want := range map[string]string{"json": `{"entries":[]}` + "\n", "jsonl": "", "csv": strings.Join(records[0], ",") + "\n"} {
		if w := f.do(f.request("/api/v1/audit", "format", format, "actor", "nobody")); w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("no entries as %s: %d %q", format, w.Code, w.Body)
		}
	}
}

func TestAuditRefuses(t *testing.T) {
	f := newFixture(t)
	f.project()
	for _, c := range []struct{ path, args, want string }{
		{"", "from=2026-03-03T14:00:00", "Invalid value '2026-03-03T14:00:00' for parameter 'from': want a time with its zone"},
		{"", "to=yesterday", "Invalid value 'yesterday' for parameter 'to'"},
		{"", "from=2026-03-03T14:00:00Z&to=2026-03-03T14:00:00Z", "Invalid value '2026-03-03T14:00:00Z' for parameter 'to': it must be after 'from'."},
		{"", "actr=ada", "Unknown parameter 'actr'. There are: actor, "},
		{"", "actor=a&actor=b", "Invalid value 'b' for parameter 'actor': it may be there once"},
		{"", "order=up", "Invalid value 'up' for parameter 'order': want one of newest, oldest"},
		{"", "format=xml", "Invalid value 'xml' for parameter 'format'"},
		{"", "max_results=0", "Invalid value '0' for parameter 'max_results': want an integer from 1 to 10000"},
		{"", "max_results=10001", "Invalid value '10001' for parameter 'max_results'"},
		{"", "page_token=x", "Invalid page token"},
		{"", strings.Repeat("type=x&", 51), "Invalid value 'x' for parameter 'type': it may be there at most 50 times"},
		{"/counts", "", "Invalid value '' for parameter 'by'"},
		{"/counts", "by=actor,actor", "Invalid value 'actor,actor' for parameter 'by'"},
		{"/counts", "by=data", "Invalid value 'data' for parameter 'by'"},
		{"/counts", "by=actor&max_results=1", "Unknown parameter 'max_results'"},
	} {
		r := f.request("/api/v1/audit" + c.path)
		r.URL.RawQuery = c.args
		wantError(t, f.do(r), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", c.want)
	}
	page := decode[auditPage](t, f.do(f.request("/api/v1/audit", "actor", "ada")))
	if page.Entries == nil || len(page.Entries) != 0 {
		t.Errorf("entries of an empty table: %v", page.Entries)
	}
	f.insertAudit([]auditRow{{Stream: "RUNS_0", Seq: 1, Time: auditStart, Data: json.RawMessage("{}")}, {Stream: "RUNS_0", Seq: 2, Time: auditStart, Data: json.RawMessage("{}")}})
	token := decode[auditPage](t, f.do(f.request("/api/v1/audit", "max_results", "1"))).NextPageToken
	wantError(t, f.do(f.request("/api/v1/audit", "page_token", token, "order", "oldest")), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid page token")
}

// Tables that an earlier build has filled hold header texts that are not UTF-8:
// they are shown as a rebuild would have them.
func TestAuditShowsTextThatIsNotUTF8(t *testing.T) {
	f := newFixture(t)
	f.project()
	row := auditRow{
		Stream: "RUNS_0", Seq: 1, EventID: "1", Time: auditStart, Type: "run_created", Actor: "caf\xe9", Reason: "\xff\xfe because", RequestID: "r\xc3",
		EntityKind: "run", Data: json.RawMessage(`{"x":{}}`),
	}
	f.insertAudit([]auditRow{row})
	want := row
	want.Actor, want.Reason, want.RequestID = "caf\uFFFD", "\uFFFD because", "r\uFFFD"
	for _, args := range [][]string{nil, {"actor", want.Actor}, {"request_id", want.RequestID, "actor", row.Actor}} {
		if got := f.auditAll(args...); len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
			t.Errorf("%q: got %v, want %v", args, got, want)
		}
	}
	lines := f.do(f.request("/api/v1/audit", "format", "jsonl")).Body.String()
	rows, err := csv.NewReader(f.do(f.request("/api/v1/audit", "format", "csv")).Body).ReadAll()
	if err != nil || len(rows) != 2 || rows[1][5] != want.Actor || rows[1][6] != want.Reason || !strings.Contains(lines, want.Reason) {
		t.Errorf("as lines %q, as CSV %q %v", lines, rows, err)
	}
	if counts := f.do(f.request("/api/v1/audit/counts", "by", "actor")).Body.String(); !strings.Contains(counts, `"caf\ufffd"`) {
		t.Errorf("counts: %q", counts)
	}
}
