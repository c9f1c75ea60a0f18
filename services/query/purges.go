package query

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/mlflow"
)

const maxCandidates = 1000 // of one page

// candidate is what a purge would end for good, as /api/v1/gc/candidates shows it.
type candidate struct {
	Kind         string `json:"kind"` // experiment, run or logged_model
	ID           string `json:"id"`
	ExperimentID string `json:"experiment_id"`
	DeletedTime  int64  `json:"deleted_time"` // milliseconds since the Unix epoch, 0 when only its experiment is deleted
	Points       uint64 `json:"points"`       // metric points of a run
	// Purged says that only its artifacts are left.
	Purged bool `json:"purged"`
}

// candidateKeys are the order of candidates: experiments are purged before what
// is in them.
var candidateKeys = []sortKey{{expr: "place", typ: typeInteger}, {expr: "id", typ: typeText}}

// candidates answers with what was deleted at least older_than_ms milliseconds
// ago, alone or with its experiment, and with what is purged and has artifacts
// left. With experiment_ids it is only what belongs to them, with ids only what
// has one of these ids, of whatever kind.
func (s *Service) candidates(ec echo.Context) error {
	search, err := newCandidateSearch(ec.QueryParams(), time.Now())
	if err != nil {
		return err
	}
	ctx := ec.Request().Context()
	places, err := s.fresh.ofShards(ctx)
	if err != nil {
		return err
	}
	at, err := s.fresh.ofExperiments(ctx)
	if err != nil {
		return err
	}
	if _, err := s.fresh.await(ec, append(places, at)...); err != nil {
		return err
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	var page []candidate
	dest, row := scanRow(candidateKeys)
	more, err := s.db.some(ctx, search.compile(), maxCandidates, func(scan func(...any) error) error {
		var c candidate
		var experiment uint64
		err := scan(append([]any{&c.Kind, &c.ID, &experiment, &c.DeletedTime, &c.Purged}, dest...)...)
		c.ExperimentID = formatExperimentID(experiment)
		page = append(page, c)
		return err
	})
	if err != nil {
		return err
	}
	next := ""
	if more {
		if next, err = encodeToken(search.digest, candidateKeys, row()); err != nil {
			return err
		}
	}
	if err := s.fillPoints(ctx, page); err != nil {
		return err
	}
	out := newAnswer(ec, "candidates")
	for _, c := range page {
		if err := out.item(c); err != nil {
			return err
		}
	}
	return out.end(next)
}

// candidateSearch is a checked request of gc/candidates.
type candidateSearch struct {
	cutoff      int64    // milliseconds since the Unix epoch
	experiments []uint64 // nil for all
	ids         []string // nil for all
	after       []any
	digest      string
}

func newCandidateSearch(params url.Values, now time.Time) (search candidateSearch, err error) {
	var age int64
	if params.Has("older_than_ms") {
		text := params.Get("older_than_ms")
		if age, err = strconv.ParseInt(text, 10, 64); err != nil || age < 0 {
			return search, apierr.Errorf(apierr.InvalidParameterValue,
				"Invalid value %q for parameter 'older_than_ms' supplied. It must be a number of milliseconds.", text)
		}
	}
	search.cutoff = now.UnixMilli() - age
	if ids := params.Get("experiment_ids"); ids != "" {
		list := strings.Split(ids, ",")
		for _, id := range list {
			if err := mlflow.ValidateExperimentID(id); err != nil {
				return search, err
			}
		}
		search.experiments = append([]uint64{}, parseExperimentIDs(list)...)
	}
	if ids := params.Get("ids"); ids != "" {
		search.ids = strings.Split(ids, ",")
	}
	search.digest = digest("candidates", age, params.Get("experiment_ids"), search.ids)
	search.after, err = decodeToken(params.Get("page_token"), search.digest, candidateKeys)
	return search, err
}

// compile returns the statement of a search, which finds one candidate more than
// a page has.
func (search candidateSearch) compile() *statement {
	st := new(statement)
	old := "lifecycle = 'deleted' AND %s <= " + st.bind("Int64", search.cutoff)
	of := func(column string) string { return strings.Replace(old, "%s", column, 1) }
	over := "lifecycle != 'purged' AND experiment_id IN (SELECT experiment_id FROM experiments FINAL WHERE lifecycle = 'purged' OR " +
		of("last_update_time") + ")"
	left := "lifecycle = 'purged' AND artifact_uri != ''"
	st.write("SELECT kind, id, experiment_id, deleted_at, purged, place, id FROM (",
		"SELECT 'experiment' AS kind, toString(experiment_id) AS id, experiment_id, last_update_time AS deleted_at, toBool(0) AS purged, toInt64(0) AS place",
		" FROM experiments FINAL WHERE ", of("last_update_time"),
		" UNION ALL SELECT 'run', lower(hex(UUIDToNum(run_id))), experiment_id, deleted_time, toBool(lifecycle = 'purged'), toInt64(1)",
		" FROM runs FINAL WHERE ", of("deleted_time"), " OR ", over, " OR ", left,
		" UNION ALL SELECT 'logged_model', model_id, experiment_id, if(lifecycle = 'deleted', last_update_time, 0), toBool(lifecycle = 'purged'), toInt64(2)",
		" FROM logged_models FINAL WHERE ", of("last_update_time"), " OR ", over, " OR ", left, ") WHERE 1")
	if search.experiments != nil {
		st.write(" AND experiment_id IN ", st.bind("Array(UInt64)", search.experiments))
	}
	if search.ids != nil {
		st.write(" AND id IN ", st.bind("Array(String)", search.ids))
	}
	if search.after != nil {
		st.write(" AND ", st.after(candidateKeys, search.after))
	}
	st.write(" ORDER BY ", orderBy(candidateKeys), " LIMIT ", st.bind("UInt64", maxCandidates+1))
	return st
}

// fillPoints counts the metric points of the runs of a page.
func (s *Service) fillPoints(ctx context.Context, page []candidate) error {
	index := make(map[string]int)
	var ids []string
	for i, c := range page {
		if id, ok := parseRunID(c.ID); ok && c.Kind == "run" {
			index[c.ID] = i
			ids = append(ids, id.String())
		}
	}
	if len(ids) == 0 {
		return nil
	}
	var st statement
	st.write("SELECT run_id, count() FROM metrics WHERE run_id IN ", st.bind("Array(UUID)", ids), " GROUP BY run_id")
	return s.db.each(ctx, &st, func(scan func(...any) error) error {
		var id uuid.UUID
		var n uint64
		err := scan(&id, &n)
		page[index[formatRunID(id)]].Points = n
		return err
	})
}
