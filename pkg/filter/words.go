package filter

import "strings"

// wording chooses among the words of MLflow's parsers, which say the same in
// different ways.
type wording uint8

const (
	runWords wording = iota
	experimentWords
	registryWords
	loggedModelWords
)

// unparsed is said of a filter of nothing but white space.
func (r *rules) unparsed(filter string) string {
	if r.wording == loggedModelWords {
		return "Invalid filter string: " + pyQuote(filter) + ". Expected a single SQL expression."
	}
	return "Invalid filter '" + excerpt(filter) + "'. Could not be parsed."
}

// clauses is said of tokens that are no comparison.
func (r *rules) clauses(filter string, tokens []string) string {
	switch r.wording {
	case registryWords:
		return "Invalid clause(s) in filter string: " + strings.Join(tokens, ", ")
	case loggedModelWords:
		return "Invalid filter string: " + pyQuote(filter) +
			". Expected a list of comparisons separated by 'AND' (e.g. 'metrics.loss > 0.1 AND params.lr = 0.01')."
	default:
		return "Invalid clause(s) in filter string: '" + strings.Join(tokens, "', '") + "'"
	}
}

// comparator is said of an operator that a field does not have. The key is empty
// where it is no operator at all.
func (r *rules) comparator(op string, f field, entity Entity, key string) string {
	switch {
	case r.wording == loggedModelWords:
		name := entity.prefix()
		if entity == Attribute {
			name = "attributes."
		}
		ordered := []Op{OpEq, OpNe, OpLike, OpILike, OpIn, OpNotIn}
		if f.typ == doubleType {
			ordered = []Op{OpLt, OpLe, OpGt, OpGe, OpEq, OpNe}
			if entity == Attribute {
				f.name += "_ms"
			}
		}
		var known []string
		for _, o := range ordered {
			if f.ops.has(o) {
				known = append(known, o.String())
			}
		}
		return "Invalid comparison operator for " + name + excerpt(f.name) + ": '" + excerpt(op) + "'. Expected one of ('" + strings.Join(known, "', '") + "')."
	case key == "":
		return "Invalid comparator '" + excerpt(op) + "' not one of " + f.ops.String()
	default:
		return "Invalid comparator '" + excerpt(op) + "' not one of " + f.ops.String() + " for " + entity.String() + " '" + excerpt(key) + "'"
	}
}

// entityType is said of what stands before a key and is no entity.
func (r *rules) entityType(name string) string {
	switch r.wording {
	case registryWords, experimentWords:
		return "Invalid entity type '" + excerpt(name) + "'. Valid entity types are ('attribute', 'tag', 'tags')"
	case loggedModelWords:
		return "Invalid entity type: '" + excerpt(name) + "'. Expected one of ['attributes', 'metrics', 'params', 'tags']."
	default:
		return "Invalid entity type '" + excerpt(name) + "'. Valid values are " + entitiesOf(r.entities)
	}
}

// pyQuote quotes an excerpt of s as Python's repr does.
func pyQuote(s string) string {
	s = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(excerpt(s))
	switch {
	case !strings.Contains(s, "'"):
		return "'" + s + "'"
	case !strings.Contains(s, `"`):
		return `"` + s + `"`
	default:
		return "'" + strings.ReplaceAll(s, "'", `\'`) + "'"
	}
}

// unparsedOrder is the error of an order_by clause that is none.
func unparsedOrder(clause string) *Error {
	return &Error{"Invalid order_by clause '" + excerpt(clause) + "'. Could not be parsed.", 0}
}
