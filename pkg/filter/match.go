package filter

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Record is what Match evaluates a filter against.
type Record interface {
	// Lookup returns the value of a canonical key, and false if the record has
	// none.
	Lookup(entity Entity, key string) (Value, bool)
}

// Match reports whether the record meets every comparison. A key that the
// record has no value for meets IS NULL and nothing else, not even !=. A value
// of another type than the comparison's meets nothing. NaN is unequal to every
// number.
func Match(expr Expr, record Record) bool {
	for _, c := range expr {
		value, ok := record.Lookup(c.Entity, c.Key)
		if !c.matches(value, ok && value.Kind != KindNull) {
			return false
		}
	}
	return true
}

func (c Comparison) matches(v Value, present bool) bool {
	switch {
	case c.Op == OpIsNull:
		return !present
	case c.Op == OpIsNotNull || !present:
		return present && c.Op == OpIsNotNull
	case c.Value.Kind == KindList:
		return v.Kind == KindString && slices.Contains(c.Value.List, v.Str) == (c.Op == OpIn)
	case c.Value.Kind == KindString && v.Kind == KindString:
		switch c.Op {
		case OpLike, OpILike:
			return Like(c.Value.Str, v.Str, c.Op == OpILike)
		default:
			return compare(c.Op, v.Str, c.Value.Str)
		}
	case c.Value.Kind == KindInt && v.Kind == KindInt:
		return compare(c.Op, v.Int, c.Value.Int)
	default:
		left, ok := v.number()
		right, ok2 := c.Value.number()
		return ok && ok2 && compare(c.Op, left, right)
	}
}

// number returns the value as a double, if it is a number.
func (v Value) number() (float64, bool) {
	switch v.Kind {
	case KindInt:
		return float64(v.Int), true
	case KindFloat:
		return v.Float, true
	default:
		return 0, false
	}
}

func compare[T cmp.Ordered](op Op, left, right T) bool {
	switch op {
	case OpEq:
		return left == right
	case OpNe:
		return left != right
	case OpLt:
		return left < right
	case OpLe:
		return left <= right
	case OpGt:
		return left > right
	case OpGe:
		return left >= right
	default:
		return false
	}
}

// Like reports whether all of s matches an SQL LIKE pattern: "%" stands
// for any text, "_" for any one character, everything else, a backslash too,
// for itself. With fold, the case of letters does not matter. A byte that is
// not UTF-8 is a character of its own.
//
// The time is linear in s for a pattern without "_", and at most the product of
// the two lengths.
func Like(pattern, s string, fold bool) bool {
	if fold {
		pattern, s = strings.Map(unicode.ToLower, pattern), strings.Map(unicode.ToLower, s)
	}
	head, rest, wild := strings.Cut(pattern, "%")
	n, ok := hasPrefix(s, head)
	if !wild || !ok {
		return ok && n == len(s)
	}
	s = s[n:]
	for {
		segment, after, more := strings.Cut(rest, "%")
		if !more {
			return hasSuffix(s, segment)
		}
		end := indexAfter(s, segment)
		if end < 0 {
			return false
		}
		s, rest = s[end:], after
	}
}

// hasPrefix returns how many bytes of s the segment, in which "_" is any
// character, matches at its start.
func hasPrefix(s, segment string) (int, bool) {
	n := 0
	for segment != "" {
		_, size := utf8.DecodeRuneInString(s[n:])
		_, want := utf8.DecodeRuneInString(segment)
		if size == 0 || segment[0] != '_' && s[n:n+size] != segment[:want] {
			return 0, false
		}
		n, segment = n+size, segment[want:]
	}
	return n, true
}

func hasSuffix(s, segment string) bool {
	from := len(s)
	for range segment {
		if from == 0 {
			return false
		}
		_, size := utf8.DecodeLastRuneInString(s[:from])
		from -= size
	}
	_, ok := hasPrefix(s[from:], segment)
	return ok
}

// indexAfter returns where in s the first match of the segment ends, or -1.
func indexAfter(s, segment string) int {
	if !strings.Contains(segment, "_") {
		i := strings.Index(s, segment)
		if i < 0 {
			return -1
		}
		return i + len(segment)
	}
	for i := range s {
		if n, ok := hasPrefix(s[i:], segment); ok {
			return i + n
		}
	}
	return -1
}
