package filter

import (
	"maps"
	"slices"
	"strings"
)

// ops is a set of operators.
type ops uint16

func (s ops) has(o Op) bool { return s&(1<<o) != 0 }

func (s ops) String() string {
	var names []string
	for o := OpEq; o <= OpIsNotNull; o++ {
		if s.has(o) {
			names = append(names, o.String())
		}
	}
	return quoteSet(names)
}

const (
	equalOps  = ops(1<<OpEq | 1<<OpNe)
	textOps   = equalOps | 1<<OpLike | 1<<OpILike
	listOps   = ops(1<<OpIn | 1<<OpNotIn)
	nullOps   = ops(1<<OpIsNull | 1<<OpIsNotNull)
	numberOps = equalOps | 1<<OpLt | 1<<OpLe | 1<<OpGt | 1<<OpGe
)

// valueType is what a key can be compared with.
type valueType uint8

const (
	textType   valueType = iota
	numberType           // an integer stays one, a fraction is a double
	doubleType           // always a double
	intType              // integers only
	quotedInt            // integers, also in quotes
	idType               // integers in quotes, kept as strings
	statusType           // a logged model's status
)

// field is one key that may be compared.
type field struct {
	name string // canonical
	typ  valueType
	ops  ops
}

// rules say what can be searched of one kind of record.
type rules struct {
	entities   map[string]Entity // by the names they go by
	attributes map[string]field  // by their names and aliases
	datasets   map[string]field
	params     ops
	tags       ops
	// bareStrings accepts a string value without quotes.
	bareStrings bool
	wording     wording

	orderEntities map[string]Entity
	orderKeys     map[string]string // attribute name or alias -> canonical
	// plainOrder has orders name a key and nothing else.
	plainOrder bool
}

// field returns the rule for a key, or what is wrong with it.
func (r *rules) field(entity Entity, key string) (f field, message string) {
	switch entity {
	case Metric:
		return field{key, doubleType, numberOps}, ""
	case Param:
		return field{key, textType, r.params}, ""
	case Tag:
		return field{key, textType, r.tags}, ""
	}
	known := r.attributes
	if entity == Dataset {
		known = r.datasets
	}
	f, ok := known[key]
	if !ok {
		return f, "Invalid " + entity.String() + " key '" + excerpt(key) + "' specified. Valid keys are " + keysOf(known)
	}
	return f, ""
}

// nullable says what IS NULL can be asked of.
func (r *rules) nullable() string {
	switch {
	case r.params.has(OpIsNull):
		return "only supported for tags and params, not for"
	case r.tags.has(OpIsNull):
		return "only supported for tags, not for"
	default:
		return "not supported for"
	}
}

// listKeys names the attributes that can be compared with a list.
func (r *rules) listKeys() string {
	var names []string
	for name, f := range r.attributes {
		if f.ops.has(OpIn) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return quoteNames(names)
}

// keysOf lists the keys of m as MLflow prints a Python set.
func keysOf[V any](m map[string]V) string { return quoteSet(slices.Sorted(maps.Keys(m))) }

// entitiesOf lists the entities of m by their own names, in MLflow's order.
func entitiesOf(m map[string]Entity) string {
	known := slices.Collect(maps.Values(m))
	var names []string
	for _, e := range []Entity{Metric, Param, Tag, Attribute, Dataset} {
		if slices.Contains(known, e) {
			names = append(names, e.String())
		}
	}
	return quoteNames(names)
}

func quoteNames(names []string) string {
	if len(names) == 0 {
		return "[]"
	}
	return "['" + strings.Join(names, "', '") + "']"
}

func quoteSet(names []string) string {
	return "'{'" + strings.Join(names, "', '") + "'}'"
}

// The tables below are never written to.

var runRules = rules{
	entities: map[string]Entity{
		"metric": Metric, "metrics": Metric,
		"parameter": Param, "parameters": Param, "param": Param, "params": Param,
		"tag": Tag, "tags": Tag,
		"attribute": Attribute, "attributes": Attribute, "attr": Attribute, "run": Attribute,
		"dataset": Dataset, "datasets": Dataset,
	},
	attributes: map[string]field{
		"run_id":       {"run_id", textType, textOps | listOps},
		"run_name":     {"run_name", textType, textOps},
		"run name":     {"run_name", textType, textOps},
		"Run name":     {"run_name", textType, textOps},
		"Run Name":     {"run_name", textType, textOps},
		"user_id":      {"user_id", textType, textOps},
		"status":       {"status", textType, textOps},
		"artifact_uri": {"artifact_uri", textType, textOps},
		"start_time":   {"start_time", numberType, numberOps},
		"created":      {"start_time", numberType, numberOps},
		"Created":      {"start_time", numberType, numberOps},
		"end_time":     {"end_time", numberType, numberOps},
	},
	datasets: map[string]field{
		"name":    {"name", textType, textOps | listOps},
		"digest":  {"digest", textType, textOps | listOps},
		"context": {"context", textType, textOps | listOps},
	},
	params: textOps | nullOps,
	tags:   textOps | nullOps,
	orderEntities: map[string]Entity{
		"metric": Metric, "metrics": Metric,
		"parameter": Param, "parameters": Param, "param": Param, "params": Param,
		"tag": Tag, "tags": Tag,
		"attribute": Attribute, "attributes": Attribute, "attr": Attribute, "run": Attribute,
	},
	orderKeys: map[string]string{
		"run_id": "run_id", "run_name": "run_name", "user_id": "user_id", "status": "status",
		"artifact_uri": "artifact_uri", "start_time": "start_time", "end_time": "end_time",
		"created": "start_time", "Created": "start_time",
	},
}

var experimentRules = rules{
	wording: experimentWords,
	entities: map[string]Entity{
		"attribute": Attribute, "attributes": Attribute, "tag": Tag, "tags": Tag,
	},
	attributes: map[string]field{
		"name":             {"name", textType, textOps},
		"experiment_id":    {"experiment_id", idType, equalOps | listOps},
		"creation_time":    {"creation_time", intType, numberOps},
		"last_update_time": {"last_update_time", intType, numberOps},
	},
	tags:          textOps | nullOps,
	orderEntities: map[string]Entity{"attribute": Attribute, "attributes": Attribute},
	orderKeys: map[string]string{
		"name": "name", "experiment_id": "experiment_id",
		"creation_time": "creation_time", "last_update_time": "last_update_time",
	},
}

var registeredModelRules = rules{
	wording:  registryWords,
	entities: map[string]Entity{"attribute": Attribute, "tag": Tag, "tags": Tag},
	attributes: map[string]field{
		"name": {"name", textType, textOps | listOps},
	},
	tags:       textOps,
	plainOrder: true,
	orderKeys: map[string]string{
		"name": "name", "timestamp": "last_updated_timestamp",
		"last_updated_timestamp": "last_updated_timestamp",
	},
}

var modelVersionRules = rules{
	wording:  registryWords,
	entities: map[string]Entity{"attribute": Attribute, "tag": Tag, "tags": Tag},
	attributes: map[string]field{
		"name":           {"name", textType, textOps | listOps},
		"run_id":         {"run_id", textType, textOps | listOps},
		"source_path":    {"source_path", textType, textOps},
		"version_number": {"version_number", quotedInt, numberOps},
	},
	tags:          textOps,
	orderEntities: map[string]Entity{"attribute": Attribute, "attributes": Attribute},
	orderKeys: map[string]string{
		"name": "name", "version_number": "version_number",
		"creation_timestamp": "creation_timestamp", "last_updated_timestamp": "last_updated_timestamp",
	},
}

var loggedModelRules = rules{
	wording: loggedModelWords,
	entities: map[string]Entity{
		"attributes": Attribute, "metrics": Metric, "params": Param, "tags": Tag,
	},
	attributes: map[string]field{
		"name":                      {"name", textType, textOps | listOps},
		"model_id":                  {"model_id", textType, textOps | listOps},
		"model_type":                {"model_type", textType, textOps | listOps},
		"source_run_id":             {"source_run_id", textType, textOps | listOps},
		"status":                    {"status", statusType, equalOps | listOps},
		"creation_time":             {"creation_timestamp", doubleType, numberOps},
		"creation_timestamp":        {"creation_timestamp", doubleType, numberOps},
		"creation_timestamp_ms":     {"creation_timestamp", doubleType, numberOps},
		"last_updated_timestamp":    {"last_updated_timestamp", doubleType, numberOps},
		"last_updated_timestamp_ms": {"last_updated_timestamp", doubleType, numberOps},
	},
	params:      textOps | listOps,
	tags:        textOps | listOps,
	bareStrings: true,
	orderKeys: map[string]string{
		"name": "name", "model_id": "model_id", "model_type": "model_type",
		"source_run_id": "source_run_id", "status": "status",
		"creation_time": "creation_timestamp", "creation_timestamp": "creation_timestamp",
		"creation_timestamp_ms":     "creation_timestamp",
		"last_updated_timestamp":    "last_updated_timestamp",
		"last_updated_timestamp_ms": "last_updated_timestamp",
	},
}

var datasetRules = rules{
	entities: map[string]Entity{"tags": Tag},
	attributes: map[string]field{
		"name":             {"name", textType, textOps | 1<<OpIn},
		"created_by":       {"created_by", textType, textOps},
		"last_updated_by":  {"last_updated_by", textType, textOps},
		"created_time":     {"created_time", intType, numberOps},
		"last_update_time": {"last_update_time", intType, numberOps},
	},
	tags: textOps,
	orderKeys: map[string]string{
		"name": "name", "created_time": "created_time", "last_update_time": "last_update_time",
	},
}
