package query

import (
	"errors"
	"strings"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/filter"
	"github.com/runledger/runledger/pkg/mlflow"
)

// filterError gives an error of the filter's parser its code.
func filterError(err error) error {
	if e, ok := errors.AsType[*filter.Error](err); ok {
		return apierr.Errorf(apierr.InvalidParameterValue, "%s", e.Message)
	}
	return err
}

// lifecycle returns the condition that a row is in view.
func lifecycle(expr string, view mlflow.ViewType) string {
	switch view {
	case mlflow.ViewAll:
		return expr + " != 'purged'"
	case mlflow.ViewDeletedOnly:
		return expr + " = 'deleted'"
	default:
		return expr + " = 'active'"
	}
}

// runColumns are what a run's attributes are compared and ordered by.
var runColumns = map[string]sortKey{
	"run_id":       {expr: "lower(hex(UUIDToNum(r.run_id)))", typ: typeText},
	"run_name":     {expr: "r.name", typ: typeText},
	"user_id":      {expr: "r.user_id", typ: typeText},
	"status":       {expr: "toString(r.status)", typ: typeText},
	"artifact_uri": {expr: "r.artifact_uri", typ: typeText},
	"start_time":   {expr: "r.start_time", typ: typeInteger},
	"end_time":     {expr: "r.end_time", typ: typeInteger},
}

// runFilter returns the conditions on runs that a filter is. experiments is the
// place holder of the ids of the experiments that are searched.
//
// Comparisons of one metric, parameter or tag share a semi-join: a run has one
// value of it. Those of what the runs are ordered by are in the join for that.
func (s *statement) runFilter(expr filter.Expr, orders []filter.Order, experiments string) []string {
	var conditions []string
	met := make(map[subject]bool)
	for _, o := range orders {
		met[subject{o.Entity, o.Key}] = true
	}
	for _, c := range expr {
		of := subject{c.Entity, c.Key}
		switch {
		case c.Entity == filter.Attribute:
			conditions = append(conditions, s.runAttribute(c))
		case c.Entity == filter.Dataset:
			conditions = append(conditions, s.datasetCondition(c, experiments))
		case c.Op == filter.OpIsNull:
			conditions = append(conditions, "r.run_id NOT IN (SELECT run_id FROM "+s.rowsOf(of, experiments)+")")
		case !met[of]:
			met[of] = true
			rows, _ := s.rowsMeeting(expr, of, experiments)
			conditions = append(conditions, "r.run_id IN (SELECT run_id FROM "+rows+")")
		}
	}
	return conditions
}

// subject is a metric, parameter or tag.
type subject struct {
	entity filter.Entity
	key    string
}

// rowsMeeting returns the table of a subject's values, with the conditions of a
// filter on them, and whether the filter leaves out runs without a value.
func (s *statement) rowsMeeting(expr filter.Expr, of subject, experiments string) (rows string, demanded bool) {
	rows = s.rowsOf(of, experiments)
	for _, c := range expr {
		if c.Entity != of.entity || c.Key != of.key || c.Op == filter.OpIsNull {
			continue
		}
		demanded = true
		if c.Op != filter.OpIsNotNull {
			rows += " AND " + s.compare("value", c.Op, c.Value)
		}
	}
	return rows, demanded
}

// rowsOf returns the table of a subject's values, and the condition that they
// are of it in the experiments.
func (s *statement) rowsOf(of subject, experiments string) string {
	in := " WHERE experiment_id IN " + experiments
	if of.entity == filter.Metric {
		return "latest_metrics FINAL" + in + " AND key = " + s.bind("String", of.key)
	}
	kind := "'tag'"
	if of.entity == filter.Param {
		kind = "'parameter'"
	}
	return "run_attributes FINAL" + in + " AND kind = " + kind + " AND key = " + s.bind("String", of.key)
}

func (s *statement) runAttribute(c filter.Comparison) string {
	column := runColumns[c.Key].expr
	switch c.Key {
	case "run_id":
		switch c.Op {
		case filter.OpEq, filter.OpIn:
			return "r.run_id IN " + s.bind("Array(UUID)", runUUIDs(c.Value))
		case filter.OpNe, filter.OpNotIn:
			return "r.run_id NOT IN " + s.bind("Array(UUID)", runUUIDs(c.Value))
		}
	case "end_time":
		// A run that has not ended has none, which meets nothing.
		return "r.ended AND " + s.compare(column, c.Op, c.Value)
	}
	return s.compare(column, c.Op, c.Value)
}

// runUUIDs returns the run ids of a comparison as the tables have them; text
// that is not a run's id equals none.
func runUUIDs(v filter.Value) []string {
	texts := v.List
	if v.Kind == filter.KindString {
		texts = []string{v.Str}
	}
	ids := []string{}
	for _, text := range texts {
		if id, ok := parseRunID(text); ok {
			ids = append(ids, id.String())
		}
	}
	return ids
}

// runOrder returns the joins that an order of runs needs, and its sort keys.
// What a run does not have comes last in both directions, and NaN before that.
// Ties are broken by start time, the newest first, and by id. A join leaves out
// the runs that do not meet what the filter asks of its values, so that these
// are read once.
func (s *statement) runOrder(orders []filter.Order, expr filter.Expr, experiments string) (joins string, keys []sortKey) {
	var b strings.Builder
	var byStart, byID bool
	for i, o := range orders {
		if o.Entity == filter.Attribute {
			key := runColumns[o.Key]
			key.desc = o.Desc
			if o.Key == "end_time" {
				keys = append(keys, sortKey{expr: "toInt64(NOT r.ended)", typ: typeInteger})
			}
			keys = append(keys, key)
			byStart = byStart || o.Key == "start_time"
			byID = byID || o.Key == "run_id"
			continue
		}
		name := "o" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		value, rank, typ := "value", "1", typeText
		if o.Entity == filter.Metric {
			value, rank, typ = "if(isNaN(value), 0, value)", "if(isNaN(value), 2, 1)", typeFloat
		}
		rows, demanded := s.rowsMeeting(expr, subject{o.Entity, o.Key}, experiments)
		join := " LEFT ANY JOIN "
		if demanded {
			join = " INNER ANY JOIN "
		}
		b.WriteString(join + "(SELECT run_id, " + value + " AS sorted, " + rank + " AS rank FROM " + rows +
			") AS " + name + " ON " + name + ".run_id = r.run_id")
		keys = append(keys,
			// Without a row of the join the rank is 0.
			sortKey{expr: "toInt64(if(" + name + ".rank = 0, 3, " + name + ".rank))", typ: typeInteger},
			sortKey{expr: name + ".sorted", typ: typ, desc: o.Desc})
	}
	if !byStart {
		keys = append(keys, sortKey{expr: "r.start_time", typ: typeInteger, desc: true})
	}
	if !byID {
		keys = append(keys, runColumns["run_id"])
	}
	return b.String(), keys
}
