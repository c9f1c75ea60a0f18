package query

import (
	"context"
	"encoding/csv"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	defaultAuditPage = 100
	maxAuditPage     = 10_000
	// auditPart bounds how many entries one statement answers with.
	auditPart = 50_000
	// maxAuditCounts bounds the groups of a count, maxAuditTypes the types of event
	// that a request may name.
	maxAuditCounts = 100_000
	maxAuditTypes  = 50
)

// auditEntry is an event of the log, as GET /api/v1/audit shows it.
type auditEntry struct {
	Stream       string         `json:"stream"`
	Seq          uint64         `json:"seq"` // in the stream
	EventID      string         `json:"event_id"`
	Time         time.Time      `json:"time"`
	Type         string         `json:"type"`
	Actor        string         `json:"actor"`  // "" for nobody who said so
	Reason       string         `json:"reason"` // "" for none
	RequestID    string         `json:"request_id"`
	EntityKind   string         `json:"entity_kind"`
	EntityID     string         `json:"entity_id"`
	ExperimentID string         `json:"experiment_id"` // "" for an entity that has none
	Data         jsontext.Value `json:"data"`          // the event as protobuf's JSON
}

const auditFields = "stream, seq, event_id, time, type, actor, reason, request_id, entity_kind, entity_id, experiment_id, data"

// validUTF8 returns what the log says of a text of an event's header. Tables that
// an earlier build has filled may have it as bytes that are not UTF-8.
func validUTF8(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

func scanAuditEntry(scan func(...any) error) (auditEntry, error) {
	var e auditEntry
	var data string
	err := scan(&e.Stream, &e.Seq, &e.EventID, &e.Time, &e.Type, &e.Actor, &e.Reason, &e.RequestID, &e.EntityKind, &e.EntityID, &e.ExperimentID, &data)
	for _, text := range []*string{&e.Actor, &e.Reason, &e.RequestID} {
		*text = validUTF8(*text)
	}
	e.Data = jsontext.Value(data)
	return e, err
}

// auditFilter is what an entry must be to be shown. A field that is nil or
// empty asks for nothing.
type auditFilter struct {
	actor, requestID, entityKind, entityID, experimentID *string
	types                                                []string
	from, to                                             time.Time
	text                                                 string
	given                                                []any // for the digest of a page token
}

// auditParams are the query parameters of a filter, but for the list type.
var auditParams = []string{"actor", "request_id", "entity_kind", "entity_id", "experiment_id", "from", "to", "text"}

func auditFilterOf(p *httpapi.Params) (auditFilter, error) {
	optional := func(name string) *string {
		if !p.Has(name) {
			return nil
		}
		value := p.Text(name)
		return &value
	}
	f := auditFilter{
		actor: optional("actor"), requestID: optional("request_id"), entityKind: optional("entity_kind"), entityID: optional("entity_id"),
		experimentID: optional("experiment_id"), types: p.Texts("type", maxAuditTypes), from: p.Time("from"), to: p.Time("to"), text: p.Text("text"),
	}
	if !f.from.IsZero() && !f.to.IsZero() && !f.from.Before(f.to) {
		return f, apierr.Errorf(apierr.InvalidParameterValue, "Invalid value '%s' for parameter 'to': it must be after 'from'.", p.Text("to"))
	}
	for _, name := range auditParams {
		f.given = append(f.given, p.Has(name), p.Text(name))
	}
	f.given = append(f.given, f.types)
	return f, nil
}

// condition returns the condition that a row of audit is what f asks for.
func (f auditFilter) condition(st *statement) string {
	conditions := []string{"1"}
	for column, value := range map[string]*string{
		"actor": f.actor, "request_id": f.requestID, "entity_kind": f.entityKind, "entity_id": f.entityID, "experiment_id": f.experimentID,
	} {
		if value == nil {
			continue
		}
		if strings.Contains(*value, "\uFFFD") {
			column = "toValidUTF8(" + column + ")" // as it is shown, see validUTF8
		}
		conditions = append(conditions, column+" = "+st.bind("String", *value))
	}
	if len(f.types) > 0 {
		conditions = append(conditions, "type IN "+st.bind("Array(String)", f.types))
	}
	if !f.from.IsZero() {
		conditions = append(conditions, "time >= "+bindTime(st, f.from))
	}
	if !f.to.IsZero() {
		conditions = append(conditions, "time < "+bindTime(st, f.to))
	}
	if f.text != "" {
		text := st.bind("String", f.text)
		var in []string
		for _, column := range []string{"data", "reason", "entity_id", "actor"} {
			in = append(in, "positionCaseInsensitiveUTF8("+column+", "+text+") > 0")
		}
		conditions = append(conditions, "("+strings.Join(in, " OR ")+")")
	}
	return strings.Join(conditions, " AND ")
}

// bindTime binds a time to the microsecond, as the table has it; what is finer
// is cut off, and what is out of its range is its end.
func bindTime(st *statement, t time.Time) string {
	least, most := time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2299, 12, 31, 23, 59, 59, 0, time.UTC)
	if t.Before(least) {
		t = least
	} else if t.After(most) {
		t = most
	}
	return "fromUnixTimestamp64Micro(" + st.bind("Int64", t.UnixMicro()) + ", 'UTC')"
}

// auditKeys are the order of entries: by time, and at one time by their place in
// the log.
func auditKeys(newestFirst bool) []sortKey {
	return []sortKey{
		{expr: "toUnixTimestamp64Micro(time)", typ: typeInteger, desc: newestFirst},
		{expr: "toString(stream)", typ: typeText, desc: newestFirst},
		{expr: "toInt64(seq)", typ: typeInteger, desc: newestFirst},
	}
}

func auditPlace(e auditEntry) []any { return []any{e.Time.UnixMicro(), e.Stream, int64(e.Seq)} }

// audit answers with the events that are not metric points: who changed what,
// when, and why.
func (s *Service) audit(ec echo.Context) error {
	p := httpapi.QueryParams(ec)
	f, err := auditFilterOf(p)
	order := p.Choice("order", "newest", "oldest")
	format := p.Choice("format", "json", "jsonl", "csv")
	missing := defaultAuditPage
	if format != "json" {
		missing = 0 // all
	}
	limit := p.Int("max_results", missing, 1, maxAuditPage)
	token := p.Text("page_token")
	if paramsErr := p.Err(); paramsErr != nil {
		return paramsErr
	}
	if err != nil {
		return err
	}
	asked := digest("audit", order, f.given)
	keys := auditKeys(order == "newest")
	after, err := decodeToken(token, asked, keys)
	if err != nil {
		return err
	}
	leave, err := s.enterAudit(ec)
	if err != nil {
		return err
	}
	defer leave()
	out := auditAnswer(ec, format)
	last, sent, more := after, 0, true
	for more && (limit == 0 || sent < limit) {
		n := auditPart
		if limit > 0 {
			n = min(n, limit-sent)
		}
		more, err = s.auditPart(ec.Request().Context(), f, keys, last, n, func(e auditEntry) error {
			last = auditPlace(e)
			sent++
			return out.item(e)
		})
		if err != nil {
			return err
		}
	}
	next := ""
	if more {
		if next, err = encodeToken(asked, keys, last); err != nil {
			return err
		}
	}
	return out.end(next)
}

// enterAudit waits until the tables hold all that the log has now, and takes a
// slot.
func (s *Service) enterAudit(ec echo.Context) (leave func(), err error) {
	ctx := ec.Request().Context()
	places, err := s.fresh.ofShards(ctx)
	if err != nil {
		return nil, err
	}
	for _, stream := range []string{events.StreamExperiments, events.StreamRegistry} {
		seq, err := s.log.LastSeq(ctx, stream)
		if err != nil {
			return nil, err
		}
		places = append(places, eventlog.Position{Stream: stream, Seq: seq})
	}
	if _, err := s.fresh.await(ec, places...); err != nil {
		return nil, err
	}
	return s.db.enter(ctx)
}

func (s *Service) auditPart(ctx context.Context, f auditFilter, keys []sortKey, after []any, limit int, visit func(auditEntry) error) (more bool, err error) {
	var st statement
	st.write("SELECT ", auditFields, " FROM audit FINAL WHERE ", f.condition(&st))
	if after != nil {
		op := " >= "
		if keys[0].desc {
			op = " <= "
		}
		at := time.UnixMicro(after[0].(int64)) // so that the index on time is used
		st.write(" AND time", op, bindTime(&st, at), " AND ", st.after(keys, after))
	}
	direction := ""
	if keys[0].desc {
		direction = " DESC"
	}
	st.write(" ORDER BY time", direction, ", toString(stream)", direction, ", seq", direction, " LIMIT ", st.bind("UInt64", limit+1))
	return s.db.some(ctx, &st, limit, func(scan func(...any) error) error {
		e, err := scanAuditEntry(scan)
		if err != nil {
			return err
		}
		return visit(e)
	})
}

// entries writes the entries of an answer in one of its formats.
type entries interface {
	item(v any) error
	end(nextPageToken string) error
}

func auditAnswer(ec echo.Context, format string) entries {
	switch format {
	case "jsonl":
		return &jsonLines{w: lateHead{ec, "application/jsonl"}}
	case "csv":
		return &auditCSV{w: csv.NewWriter(lateHead{ec, "text/csv; charset=utf-8"})}
	default:
		out := newAnswer(ec, "entries")
		out.empty = true
		return out
	}
}

// jsonLines writes one JSON value a line. It has no place for a page token.
type jsonLines struct{ w lateHead }

func (j *jsonLines) item(v any) error {
	line, err := mlflow.Encode(v)
	if err == nil {
		_, err = j.w.Write(append(line, '\n'))
	}
	return err
}

func (j *jsonLines) end(string) error {
	j.w.begin()
	return nil
}

// auditCSV writes entries as RFC 4180 has them, under a line of names. It has no
// place for a page token.
type auditCSV struct {
	w     *csv.Writer
	begun bool
}

func (a *auditCSV) item(v any) error {
	if err := a.begin(); err != nil {
		return err
	}
	e := v.(auditEntry)
	return a.w.Write([]string{
		e.Stream, strconv.FormatUint(e.Seq, 10), e.EventID, e.Time.UTC().Format(time.RFC3339Nano), e.Type, e.Actor, e.Reason, e.RequestID,
		e.EntityKind, e.EntityID, e.ExperimentID, string(e.Data),
	})
}

func (a *auditCSV) begin() error {
	if a.begun {
		return nil
	}
	a.begun = true
	return a.w.Write(strings.Split(auditFields, ", "))
}

func (a *auditCSV) end(string) error {
	if err := a.begin(); err != nil {
		return err
	}
	a.w.Flush()
	return a.w.Error()
}

// auditDimensions are what entries may be counted by.
var auditDimensions = map[string]string{
	"actor": "toString(actor)", "type": "toString(type)", "day": "toString(day)", "entity_kind": "toString(entity_kind)",
	"entity_id": "entity_id", "experiment_id": "experiment_id",
}

// countAudit answers with how many entries there are, by one to three
// dimensions.
func (s *Service) countAudit(ec echo.Context) error {
	p := httpapi.QueryParams(ec)
	f, err := auditFilterOf(p)
	by := strings.Split(p.Text("by"), ",")
	if paramsErr := p.Err(); paramsErr != nil {
		return paramsErr
	}
	if err != nil {
		return err
	}
	columns := make([]string, len(by))
	for i, name := range by {
		if columns[i] = auditDimensions[name]; columns[i] == "" || len(by) > 3 || slices.Contains(by[:i], name) {
			return apierr.Errorf(apierr.InvalidParameterValue,
				"Invalid value '%.200s' for parameter 'by': want one to three of actor, day, entity_id, entity_kind, experiment_id, type, as by=actor,day.", p.Text("by"))
		}
	}
	leave, err := s.enterAudit(ec)
	if err != nil {
		return err
	}
	defer leave()
	return s.answerCounts(ec, f, by, columns)
}

func (s *Service) answerCounts(ec echo.Context, f auditFilter, by, columns []string) error {
	var st statement
	groups := strings.Join(by, ", ")
	st.write("SELECT ", strings.Join(columns, ", "), ", n FROM (SELECT ", groups, ", count() AS n FROM audit FINAL WHERE ", f.condition(&st),
		" GROUP BY ", groups, ") ORDER BY ", groups, " LIMIT ", st.bind("UInt64", maxAuditCounts+1))
	values := make([]string, len(by))
	var n uint64
	dest := make([]any, 0, len(by)+1)
	for i := range values {
		dest = append(dest, &values[i])
	}
	dest = append(dest, &n)
	counts := []map[string]any{}
	more, err := s.db.some(ec.Request().Context(), &st, maxAuditCounts, func(scan func(...any) error) error {
		if err := scan(dest...); err != nil {
			return err
		}
		group := map[string]any{"count": n}
		for i, name := range by {
			group[name] = values[i]
		}
		counts = append(counts, group)
		return nil
	})
	if err != nil {
		return err
	}
	if more {
		return apierr.Errorf(apierr.InvalidParameterValue, "There are more than %d groups: narrow it with 'from', 'to' or another filter.", maxAuditCounts)
	}
	return ec.JSON(http.StatusOK, map[string]any{"counts": counts})
}
