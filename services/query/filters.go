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
// value of it.
func (s *statement) runFilter(expr filter.Expr, experiments string) []string {
	type subject struct {
		entity filter.Entity
		key    string
	}
	var conditions []string
	var subjects []subject
	values := make(map[subject][]string)
	for _, c := range expr {
		at := subject{c.Entity, c.Key}
		switch {
		case c.Entity == filter.Attribute:
			conditions = append(conditions, s.runAttribute(c))
			continue
		case c.Entity == filter.Dataset:
			conditions = append(conditions, s.datasetCondition(c, experiments))
			continue
		case c.Op == filter.OpIsNull:
			conditions = append(conditions, "r.run_id NOT IN ("+s.having(c.Entity, c.Key, experiments)+")")
			continue
		}
		if _, ok := values[at]; !ok {
			subjects = append(subjects, at)
			values[at] = nil
		}
		if c.Op != filter.OpIsNotNull {
			values[at] = append(values[at], s.compare("value", c.Op, c.Value))
		}
	}
	for _, at := range subjects {
		conditions = append(conditions, "r.run_id IN ("+s.having(at.entity, at.key, experiments, values[at]...)+")")
	}
	return conditions
}

// having returns the query for the runs that have a value for a key which meets
// the conditions.
func (s *statement) having(entity filter.Entity, key, experiments string, conditions ...string) string {
	return "SELECT run_id FROM " + strings.Join(append([]string{s.rowsOf(entity, key, experiments)}, conditions...), " AND ")
}

// rowsOf returns the table of an entity's values, and the condition that they
// are of a key in the experiments.
func (s *statement) rowsOf(entity filter.Entity, key, experiments string) string {
	in := " WHERE experiment_id IN " + experiments
	if entity == filter.Metric {
		return "latest_metrics FINAL" + in + " AND key = " + s.bind("String", key)
	}
	kind := "'tag'"
	if entity == filter.Param {
		kind = "'parameter'"
	}
	return "run_attributes FINAL" + in + " AND kind = " + kind + " AND key = " + s.bind("String", key)
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
		return "r.end_time != 0 AND " + s.compare(column, c.Op, c.Value)
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
// Ties are broken by start time, the newest first, and by id.
func (s *statement) runOrder(orders []filter.Order, experiments string) (joins string, keys []sortKey) {
	var b strings.Builder
	var byStart, byID bool
	for i, o := range orders {
		if o.Entity == filter.Attribute {
			key := runColumns[o.Key]
			key.desc = o.Desc
			if o.Key == "end_time" {
				keys = append(keys, sortKey{expr: "toInt64(r.end_time = 0)", typ: typeInteger})
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
		b.WriteString(" LEFT ANY JOIN (SELECT run_id, " + value + " AS sorted, " + rank + " AS rank FROM " +
			s.rowsOf(o.Entity, o.Key, experiments) + ") AS " + name + " ON " + name + ".run_id = r.run_id")
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
