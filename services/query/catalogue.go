package query

import (
	"slices"
	"strconv"

	"github.com/google/uuid"
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
func (s *Service) catalogue(ec echo.Context) error {
	p := httpapi.QueryParams(ec)
	kind := p.Choice("kind", "metrics", "parameters", "tags")
	prefix := p.Text("prefix")
	limit := p.Int("max_results", defaultCatalogue, 1, maxCatalogue)
	token := p.Text("page_token")
	if err := p.Err(); err != nil {
		return err
	}
	text := httpapi.PathParam(ec, "id")
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

	place := cataloguePlace{experiment: id, kind: kind, prefix: prefix, keys: limit + 1}
	if after != nil {
		place.after = after[0].(string)
	}
	var found []tally
	for more := true; more && len(found) <= limit; {
		var next []tally
		if next, place.after, more, err = s.catalogues.read(ctx, place); err != nil {
			return err
		}
		found = append(found, next...)
	}
	next := ""
	if len(found) > limit {
		found = found[:limit]
		if next, err = encodeToken(asked, catalogueKeys, []any{found[limit-1].key}); err != nil {
			return err
		}
	}
	out := newAnswer(ec, kind)
	out.empty = true
	for i := range found {
		if err := out.item(found[i].entry(kind)); err != nil {
			return err
		}
	}
	return out.end(next)
}

// tally is what some runs have of a key. Tallies of different runs add up.
type tally struct {
	key      string
	runs     uint64
	finite   uint64 // runs whose value is a finite number
	min, max float64
	lastStep int64
	distinct []uint64 // hashes of different values, beyond maxDistinct not all
	examples []string // some of the values, different ones
}

// add adds what other runs have.
func (t *tally) add(o *tally) {
	if o.runs == 0 {
		return
	}
	if t.lastStep = max(t.lastStep, o.lastStep); t.runs == 0 {
		t.lastStep = o.lastStep
	}
	switch {
	case o.finite == 0:
	case t.finite == 0:
		t.min, t.max = o.min, o.max
	default:
		t.min, t.max = min(t.min, o.min), max(t.max, o.max)
	}
	t.runs += o.runs
	t.finite += o.finite
	t.distinct = addDifferent(t.distinct, o.distinct, maxDistinct+1)
	t.examples = addDifferent(t.examples, o.examples, catalogueExamples)
}

// addDifferent returns a with what of b it does not have, up to so many.
func addDifferent[T comparable](a, b []T, limit int) []T {
	for _, v := range b {
		if len(a) < limit && !slices.Contains(a, v) {
			a = append(a[:len(a):len(a)], v)
		}
	}
	return a
}

func (t *tally) entry(kind string) any {
	least, most := orNull(t.finite > 0, number(t.min)), orNull(t.finite > 0, number(t.max))
	if kind == "metrics" {
		return metricEntry{Key: t.key, Runs: t.runs, Min: least, Max: most, NotFinite: t.runs - t.finite, LastStep: t.lastStep}
	}
	return attributeEntry{
		Key: t.key, Runs: t.runs, Distinct: uint64(len(t.distinct)), Examples: slices.Sorted(slices.Values(t.examples)),
		Numbers: t.finite, Min: least, Max: most,
	}
}

// cataloguePlace is a part of a catalogue: the keys with a prefix that come after
// one, so many at least if there are more.
type cataloguePlace struct {
	experiment    uint64
	kind          string
	prefix, after string
	keys          int
}

// rows writes the rows of the place, up to the key to unless that is empty, and
// returns the table and the condition.
func (p cataloguePlace) rows(st *statement, to string) (table, where string) {
	id := st.bind("UInt64", p.experiment)
	table, where = "latest_metrics", "experiment_id = "+id
	switch p.kind {
	case "parameters":
		table, where = "run_attributes", where+" AND kind = 'parameter'"
	case "tags":
		table, where = "run_attributes", where+" AND kind = 'tag'"
	}
	if p.prefix != "" {
		where += " AND startsWith(key, " + st.bind("String", p.prefix) + ")"
	}
	if p.after != "" {
		where += " AND key > " + st.bind("String", p.after)
	}
	if to != "" {
		where += " AND key <= " + st.bind("String", to)
	}
	return table, where
}

// visible is the condition for rows of runs that are not deleted. The runs that
// ever were are few, and only of them the current row is asked for: FINAL over
// all of them takes as long as the rest.
func (p cataloguePlace) visible(st *statement) string {
	ever := "experiment_id = " + st.bind("UInt64", p.experiment) + " AND lifecycle != 'active'"
	return " AND run_id NOT IN (SELECT run_id FROM runs FINAL WHERE " + ever + " AND run_id IN (SELECT run_id FROM runs WHERE " + ever + "))"
}

// bounds returns the statement for the keys of the place, and one more. A key may
// be of deleted runs only.
func (p cataloguePlace) bounds() *statement {
	st := new(statement)
	table, where := p.rows(st, "")
	st.write("SELECT toString(key) FROM ", table, " WHERE ", where, " GROUP BY key ORDER BY key LIMIT ", st.bind("UInt64", p.keys+1),
		" SETTINGS optimize_aggregation_in_order = 1")
	return st
}

// tallies returns the statement for the tallies of the place up to a key: for
// each key one of the runs that are not apart, and one of each other run.
func (p cataloguePlace) tallies(to string, apart func(*statement) string) *statement {
	st := new(statement)
	p.selectTallies(st, "if("+apart(st)+", run_id, toUUID('"+uuid.Nil.String()+"'))")
	table, where := p.rows(st, to)
	st.write(" FROM ", table, " FINAL WHERE ", where, p.visible(st), ") GROUP BY key, run")
	return st
}

// changes returns the statement for the tallies of each run whose rows of the
// place are new, up to so many.
func (p cataloguePlace) changes(to string, isNew func(*statement) string, limit int) *statement {
	st := new(statement)
	p.selectTallies(st, "run_id")
	table, where := p.rows(st, to)
	st.write(" FROM (SELECT * FROM ", table, " WHERE ", where, " AND ", isNew(st), p.visible(st), " ORDER BY seq DESC LIMIT 1 BY key, run_id)) GROUP BY key, run LIMIT ",
		st.bind("UInt64", limit))
	return st
}

func (p cataloguePlace) selectTallies(st *statement, run string) {
	st.write("SELECT toString(key), run, countIf(live), countIf(finite), minIf(number, finite), maxIf(number, finite), maxIf(step, live), ")
	if p.kind == "metrics" {
		st.write("emptyArrayUInt64(), emptyArrayString() FROM (SELECT key, ", run, " AS run, step, value AS number, isFinite(value) AS finite, 1 AS live")
		return
	}
	st.write("groupUniqArrayIf(", strconv.Itoa(maxDistinct+1), ")(sipHash64(value), live), groupUniqArrayIf(", strconv.Itoa(catalogueExamples), ")(value, live)",
		" FROM (SELECT key, ", run, " AS run, toInt64(0) AS step, value, NOT deleted AS live,",
		" ifNull(toFloat64OrNull(value), nan) AS number, live AND isFinite(number) AS finite")
}
