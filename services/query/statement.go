package query

import (
	"math"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/filter"
)

// statement is SQL under construction. Its text is made of this package's
// constants; whatever a request says gets in through bind, as a parameter that
// the server keeps apart from the text.
type statement struct {
	text strings.Builder
	args []any
}

func (s *statement) write(parts ...string) {
	for _, p := range parts {
		s.text.WriteString(p)
	}
}

// bind adds a parameter of a ClickHouse type and returns its place holder.
func (s *statement) bind(typ string, value any) string {
	name := "p" + strconv.Itoa(len(s.args))
	s.args = append(s.args, clickhouse.Named(name, value))
	return "{" + name + ":" + typ + "}"
}

// bindFloat binds the bits of a double: as text it would lose the last one.
func (s *statement) bindFloat(f float64) string {
	return "reinterpretAsFloat64(" + s.bind("UInt64", math.Float64bits(f)) + ")"
}

// parameters returns the bound parameters for what is read block by block.
func (s *statement) parameters() []proto.Parameter {
	values := make(map[string]any, len(s.args))
	for _, arg := range s.args {
		if named, ok := arg.(driver.NamedValue); ok {
			values[named.Name] = named.Value
		}
	}
	return chconn.Parameters(values)
}

// compare returns the condition that expr meets the operator and the value.
func (s *statement) compare(expr string, op filter.Op, v filter.Value) string {
	switch op {
	case filter.OpIn:
		return expr + " IN " + s.bind("Array(String)", v.List)
	case filter.OpNotIn:
		return expr + " NOT IN " + s.bind("Array(String)", v.List)
	case filter.OpLike:
		return expr + " LIKE " + s.bind("String", likePattern(v.Str))
	case filter.OpILike:
		return "lowerUTF8(" + expr + ") LIKE lowerUTF8(" + s.bind("String", likePattern(v.Str)) + ")"
	}
	var value string
	switch v.Kind {
	case filter.KindInt:
		value = s.bind("Int64", v.Int)
	case filter.KindFloat:
		value = s.bindFloat(v.Float)
	default:
		value = s.bind("String", v.Str)
	}
	return expr + " " + op.String() + " " + value
}

// likePattern turns an SQL pattern, where a backslash is a character like any
// other, into one of ClickHouse, where it escapes.
func likePattern(p string) string { return strings.ReplaceAll(p, `\`, `\\`) }

// valueType is the type of a sort key, in ClickHouse's words.
type valueType string

const (
	typeText    valueType = "String"
	typeInteger valueType = "Int64"
	typeFloat   valueType = "Float64"
)

// sortKey is one expression that rows are ordered by. It is never NULL or NaN:
// what may be missing has a rank before it.
type sortKey struct {
	expr string
	typ  valueType
	desc bool
}

func orderBy(keys []sortKey) string {
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = k.expr
		if k.desc {
			parts[i] += " DESC"
		}
	}
	return strings.Join(parts, ", ")
}

// after returns the condition that a row comes after the place that values, of
// the types of keys, describe.
func (s *statement) after(keys []sortKey, values []any) string {
	var b strings.Builder
	for i, k := range keys {
		var place string
		switch v := values[i].(type) {
		case float64:
			place = s.bindFloat(v)
		default:
			place = s.bind(string(k.typ), v)
		}
		op := " > "
		if k.desc {
			op = " < "
		}
		b.WriteString("(" + k.expr + op + place)
		if i < len(keys)-1 {
			b.WriteString(" OR " + k.expr + " = " + place + " AND ")
		}
	}
	b.WriteString(strings.Repeat(")", len(keys)))
	return b.String()
}
