package query

import (
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	defaultCatalogue = 100
	maxCatalogue     = 1000
	// catalogueExamples is how many values of a parameter or tag are shown.
	catalogueExamples = 5
	// maxDistinct is up to how many different values are counted.
	maxDistinct = 100
)

// metricEntry says what the runs of an experiment have of a metric: of the
// latest value of each run.
type metricEntry struct {
	Key       string  `json:"key"`
	Runs      uint64  `json:"runs"`
	Min       *number `json:"min"` // of the finite values, null without one
	Max       *number `json:"max"`
	NotFinite uint64  `json:"not_finite"` // runs whose value is NaN or infinite
	LastStep  int64   `json:"last_step"`  // of any run
}

// attributeEntry says what the runs of an experiment have of a parameter or tag.
type attributeEntry struct {
	Key      string   `json:"key"`
	Runs     uint64   `json:"runs"`
	Distinct uint64   `json:"distinct"` // values, up to 100: 101 says that there are more
	Examples []string `json:"examples"`
	Numbers  uint64   `json:"numbers"` // runs whose value is a finite number
	Min      *number  `json:"min"`     // of these, null without one
	Max      *number  `json:"max"`
}

var catalogueKeys = []sortKey{{expr: "toString(key)", typ: typeText}}

// catalogue answers GET /api/v1/experiments/:id/catalogue: a page of the metric
// keys, parameters or tags of the runs that are not deleted, in the order of
// their keys.
//
// The tables are ordered by experiment and key, so that a page reads the rows of
// its keys only: as many as it has keys, times the runs that have them.
func (s *Service) catalogue(ec echo.Context) error {
	p := httpapi.QueryParams(ec)
	kind := p.Choice("kind", "metrics", "parameters", "tags")
	prefix := p.Text("prefix")
	limit := p.Int("max_results", defaultCatalogue, 1, maxCatalogue)
	token := p.Text("page_token")
	if err := p.Err(); err != nil {
		return err
	}
	text := ec.Param("id")
	asked := digest("catalogue", text, kind, prefix)
	after, err := decodeToken(token, asked, catalogueKeys)
	if err != nil {
		return err
	}
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil || formatExperimentID(id) != text {
		return mlflow.ExperimentNotFound(text)
	}
	ctx := ec.Request().Context()
	if at, err := s.fresh.ofExperiment(ctx, id); err != nil {
		return err
	} else if at.Seq == 0 {
		return mlflow.ExperimentNotFound(text)
	}
	places, err := s.fresh.ofRuns(ctx, []uint64{id})
	if err != nil {
		return err
	}
	if _, err := s.fresh.await(ec, places...); err != nil {
		return err
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()

	st, scanEntry := catalogueStatement(id, kind, prefix, after, limit)
	out := newAnswer(ec, kind)
	out.empty = true
	last, sent := "", 0
	more, err := s.db.some(ctx, st, limit, func(scan func(...any) error) error {
		key, entry, err := scanEntry(scan)
		if err != nil {
			return err
		}
		last = key
		sent++
		return out.item(entry)
	})
	if err != nil {
		return err
	}
	next := ""
	if more {
		if next, err = encodeToken(asked, catalogueKeys, []any{last}); err != nil {
			return err
		}
	}
	return out.end(next)
}

// catalogueStatement returns the statement for one entry more than a page has,
// and what reads an entry.
func catalogueStatement(experiment uint64, kind, prefix string, after []any, limit int) (*statement, func(scan func(...any) error) (string, any, error)) {
	st := new(statement)
	id := st.bind("UInt64", experiment)
	table, of := "run_attributes", ""
	switch kind {
	case "metrics":
		table = "latest_metrics"
		st.write("SELECT toString(key), count(), countIf(finite), minIf(value, finite), maxIf(value, finite), max(step)",
			" FROM (SELECT key, value, step, isFinite(value) AS finite")
	default:
		of = " AND kind = '" + map[string]string{"parameters": "parameter", "tags": "tag"}[kind] + "'"
		st.write("SELECT toString(key), count(), countIf(finite), minIf(parsed, finite), maxIf(parsed, finite), uniqUpTo(", strconv.Itoa(maxDistinct), ")(value),",
			" arraySort(groupUniqArray(", strconv.Itoa(catalogueExamples), ")(value))",
			" FROM (SELECT key, value, ifNull(toFloat64OrNull(value), nan) AS parsed, isFinite(parsed) AS finite")
	}
	// The runs that ever were deleted are few, and only of them the current row is
	// asked for: FINAL over all of them takes as long as the rest.
	ever := "experiment_id = " + id + " AND lifecycle != 'active'"
	st.write(" FROM ", table, " FINAL WHERE experiment_id = ", id, of,
		" AND run_id NOT IN (SELECT run_id FROM runs FINAL WHERE ", ever, " AND run_id IN (SELECT run_id FROM runs WHERE ", ever, "))")
	if prefix != "" {
		st.write(" AND startsWith(key, ", st.bind("String", prefix), ")")
	}
	if after != nil {
		st.write(" AND key > ", st.bind("String", after[0]))
	}
	st.write(") GROUP BY key ORDER BY key LIMIT ", st.bind("UInt64", limit+1), " SETTINGS optimize_aggregation_in_order = 1")
	if kind == "metrics" {
		return st, func(scan func(...any) error) (string, any, error) {
			var e metricEntry
			var finite uint64
			var least, most float64
			err := scan(&e.Key, &e.Runs, &finite, &least, &most, &e.LastStep)
			e.NotFinite = e.Runs - finite
			e.Min, e.Max = orNull(finite > 0, number(least)), orNull(finite > 0, number(most))
			return e.Key, e, err
		}
	}
	return st, func(scan func(...any) error) (string, any, error) {
		var e attributeEntry
		var least, most float64
		err := scan(&e.Key, &e.Runs, &e.Numbers, &least, &most, &e.Distinct, &e.Examples)
		e.Min, e.Max = orNull(e.Numbers > 0, number(least)), orNull(e.Numbers > 0, number(most))
		return e.Key, e, err
	}
}
