package filter

import (
	"math"
	"strconv"
	"strings"
)

// Limits on one filter. All are checked before the work they bound.
const (
	// MaxFilterBytes bounds a filter and each order_by clause.
	MaxFilterBytes = 64 << 10
	// MaxComparisons bounds the comparisons of a filter.
	MaxComparisons = 200
	// MaxListValues bounds the strings of one IN list.
	MaxListValues = 2000
	// MaxPatternBytes bounds a LIKE or ILIKE pattern.
	MaxPatternBytes = 1024
	// MaxOrders bounds the clauses of an order_by.
	MaxOrders = 32
)

// Error is what is wrong with a filter or an order_by clause. It is always the
// caller's mistake.
type Error struct {
	// Message says what is wrong, in MLflow's words where it has them.
	Message string
	// Offset is where, in bytes from the start of the filter or of the clause.
	Offset int
}

func (e *Error) Error() string { return e.Message }

// Entity is the part of a record that a key belongs to.
type Entity uint8

// The entities.
const (
	Attribute Entity = iota
	Metric
	Param
	Tag
	Dataset
)

// String returns MLflow's word for the entity.
func (e Entity) String() string {
	switch e {
	case Metric:
		return "metric"
	case Param:
		return "parameter"
	case Tag:
		return "tag"
	case Dataset:
		return "dataset"
	default:
		return "attribute"
	}
}

// prefix is the spelling of the entity that every kind that has it accepts.
func (e Entity) prefix() string {
	switch e {
	case Metric:
		return "metrics."
	case Param:
		return "params."
	case Tag:
		return "tags."
	case Dataset:
		return "datasets."
	default:
		return ""
	}
}

// Op is a comparison operator.
type Op uint8

// The operators.
const (
	OpEq Op = iota
	OpNe
	OpLt
	OpLe
	OpGt
	OpGe
	OpLike
	OpILike
	OpIn
	OpNotIn
	OpIsNull
	OpIsNotNull
)

// String returns the operator as it is written in a filter.
func (o Op) String() string {
	names := [...]string{"=", "!=", "<", "<=", ">", ">=", "LIKE", "ILIKE", "IN", "NOT IN", "IS NULL", "IS NOT NULL"}
	if int(o) >= len(names) {
		return "Op(" + strconv.Itoa(int(o)) + ")"
	}
	return names[o]
}

// ValueKind says which field of a Value holds it.
type ValueKind uint8

// The kinds of value. KindNull is the value of IS NULL and IS NOT NULL.
const (
	KindNull ValueKind = iota
	KindString
	KindInt
	KindFloat
	KindList
)

// Value is the right side of a comparison, or what a record holds for a key.
// Only the field that Kind names is set.
type Value struct {
	Kind  ValueKind
	Str   string
	Int   int64
	Float float64
	List  []string
}

// StringValue returns s as a Value.
func StringValue(s string) Value { return Value{Kind: KindString, Str: s} }

// IntValue returns i as a Value.
func IntValue(i int64) Value { return Value{Kind: KindInt, Int: i} }

// FloatValue returns f as a Value.
func FloatValue(f float64) Value { return Value{Kind: KindFloat, Float: f} }

// Comparison is one condition of a filter.
type Comparison struct {
	Entity Entity
	// Key is canonical: aliases of attributes are resolved.
	Key string
	Op  Op
	// Value is of KindFloat for metrics, of KindInt (or, for the times of runs
	// and logged models, KindFloat) for numeric attributes, of KindList for OpIn
	// and OpNotIn, of KindNull for OpIsNull and OpIsNotNull, else of KindString.
	Value Value
	// Offset is where the comparison starts in the filter, in bytes.
	Offset int
}

// Expr is a parsed filter: all of its comparisons must hold. The empty Expr
// matches everything.
type Expr []Comparison

// String returns the filter in canonical form. Parsed again as the same kind,
// it gives the same comparisons.
func (e Expr) String() string {
	var b strings.Builder
	for i, c := range e {
		if i > 0 {
			b.WriteString(" AND ")
		}
		b.WriteString(c.String())
	}
	return b.String()
}

// String returns the comparison in canonical form.
func (c Comparison) String() string {
	s := renderIdentifier(c.Entity, c.Key) + " " + c.Op.String()
	if c.Value.Kind == KindNull {
		return s
	}
	return s + " " + c.Value.String()
}

// String returns the value as it is written in a filter.
func (v Value) String() string {
	switch v.Kind {
	case KindString:
		return requote(v.Str, '\'', '"')
	case KindInt:
		return strconv.FormatInt(v.Int, 10)
	case KindFloat:
		if math.IsInf(v.Float, 0) {
			// A literal too large for a double is an infinity.
			if v.Float < 0 {
				return "-1e999"
			}
			return "1e999"
		}
		s := strconv.FormatFloat(v.Float, 'g', -1, 64)
		if !strings.ContainsAny(s, ".e") {
			s += ".0" // or it would read back as an Int
		}
		return s
	case KindList:
		escape := strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`, "\t", `\t`)
		quoted := make([]string, len(v.List))
		for i, s := range v.List {
			quoted[i] = "'" + escape.Replace(s) + "'"
		}
		return "(" + strings.Join(quoted, ", ") + ")"
	default:
		return "NULL"
	}
}

// Order is one clause of an order_by.
type Order struct {
	Entity Entity
	// Key is canonical: aliases of attributes are resolved.
	Key  string
	Desc bool
}

// String returns the clause in canonical form.
func (o Order) String() string {
	if o.Desc {
		return renderIdentifier(o.Entity, o.Key) + " DESC"
	}
	return renderIdentifier(o.Entity, o.Key) + " ASC"
}

func renderIdentifier(entity Entity, key string) string {
	bare := key != "" && !strings.HasPrefix(key, ".") && !strings.HasSuffix(key, ".") && !strings.Contains(key, "..")
	for _, r := range key {
		bare = bare && (r == '.' || isWord(r))
	}
	if !bare {
		key = requote(key, '`', '"', '\'')
	}
	return entity.prefix() + key
}

// requote puts s, taken from between some quotes, between the first quotes
// that read back as s.
func requote(s string, quotes ...byte) string {
	for _, q := range quotes {
		out := string(q) + s + string(q)
		if end := closingQuote(out, 0); end == len(out)-1 {
			return out
		}
	}
	return string(quotes[0]) + s + string(quotes[0])
}
