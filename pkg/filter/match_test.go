package filter_test

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/filter"
	"github.com/runledger/runledger/pkg/proptest"
)

type field struct {
	entity filter.Entity
	key    string
}

type record map[field]filter.Value

func (r record) Lookup(entity filter.Entity, key string) (filter.Value, bool) {
	v, ok := r[field{entity, key}]
	return v, ok
}

func TestLike(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		like, fold bool
	}{
		{"", "", true, true},
		{"", "a", false, false},
		{"%", "", true, true},
		{"%%", "a", true, true},
		{"_", "", false, false},
		{"_", "é", true, true},
		{"a%", "abc", true, true},
		{"%c", "abc", true, true},
		{"a%a", "a", false, false},
		{"%b%", "abc", true, true},
		{"a_c", "abc", true, true},
		{"A_C", "abc", false, true},
		{"%_b%", "ab", true, true},
		{"%_b%", "b", false, false},
		{"a.c", "abc", false, false},
		{`a\%`, `a\b`, true, true},
		{`a\%`, "a%", false, false},
		{"a%b", "a\nb", true, true},
		{"ПРИВЕТ%", "привет, мир", false, true},
		{"%ab%ab", "abab", true, true},
		{"%ab%ab", "ab", false, false},
	} {
		if got := filter.Like(c.pattern, c.s, false); got != c.like {
			t.Errorf("%q LIKE %q = %v", c.s, c.pattern, got)
		}
		if got := filter.Like(c.pattern, c.s, true); got != c.fold {
			t.Errorf("%q ILIKE %q = %v", c.s, c.pattern, got)
		}
	}
}

// likeByRegexp is LIKE by other means.
func likeByRegexp(pattern, s string, fold bool) bool {
	if fold {
		pattern, s = strings.ToLower(pattern), strings.ToLower(s)
	}
	expr := strings.NewReplacer("%", "(?s:.*)", "_", "(?s:.)").Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile(`\A` + expr + `\z`).MatchString(s)
}

func text() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune("abAé%_.\\\n")), 0, 12, -1),
		rapid.String(),
	)
}

func TestLikeAgainstRegexp(t *testing.T) {
	proptest.Check(t, func(t *rapid.T) {
		s := text().Draw(t, "s")
		pattern := text().Draw(t, "pattern")
		if rapid.Bool().Draw(t, "likely to match") {
			// That is s, with wildcards for some of it.
			pattern = ""
			for _, r := range s {
				pattern += rapid.SampledFrom([]string{string(r), string(r), "_", "%", ""}).Draw(t, "part")
			}
		}
		fold := rapid.Bool().Draw(t, "fold")
		if got, want := filter.Like(pattern, s, fold), likeByRegexp(pattern, s, fold); got != want {
			t.Fatalf("Like(%q, %q, %v) = %v", pattern, s, fold, got)
		}
	})
}

func TestMatch(t *testing.T) {
	run := record{
		{filter.Metric, "acc"}:           filter.FloatValue(0.5),
		{filter.Metric, "nan"}:           filter.FloatValue(math.NaN()),
		{filter.Param, "lr"}:             filter.StringValue("0.01"),
		{filter.Param, "opt"}:            filter.StringValue("AdamW"),
		{filter.Tag, "null"}:             {},
		{filter.Attribute, "run_id"}:     filter.StringValue("r1"),
		{filter.Attribute, "start_time"}: filter.IntValue(math.MaxInt64),
	}
	for _, c := range []struct {
		filter string
		want   bool
	}{
		{"", true},
		{"metrics.acc > 0.4 AND metrics.acc <= 0.5", true},
		{"metrics.acc > 0.4 AND metrics.acc < 0.5", false},
		{"metrics.missing != 1", false},
		{"metrics.nan != 0", true},
		{"metrics.nan = 0", false},
		{"metrics.nan >= 0", false},
		{"params.opt LIKE 'Adam%'", true},
		{"params.opt LIKE 'adam%'", false},
		{"params.opt LIKE 'ADAM_'", false},
		{"params.opt ILIKE 'adam%'", true},
		{"params.opt ILIKE 'ADAM_'", true},
		{"params.lr = '0.01'", true},
		{"params.lr != '0.01'", false},
		{"params.missing != 'x'", false},
		{"params.missing IS NULL", true},
		{"params.missing IS NOT NULL", false},
		{"params.lr IS NULL", false},
		{"params.lr IS NOT NULL", true},
		{"params.lr LIKE '0._1'", true},
		{"tags.null IS NULL", true},
		{"tags.null != 'x'", false},
		{"run_id IN ('r0', 'r1')", true},
		{"run_id NOT IN ('r0', 'r1')", false},
		{"run_id NOT IN ('r0')", true},
		{"run_id IN ('R1')", false},
		{"run_id NOT IN ('R1')", true},
		{"params.opt = 'adamw'", false},
		{"params.opt != 'adamw'", true},
		{"start_time = 9223372036854775807", true},
		{"start_time = 9223372036854775806", false},
		{"start_time > 1.5", true},
		{"user_id != 'me'", false},
	} {
		expr, err := filter.ParseRuns(c.filter)
		if err != nil {
			t.Errorf("%q: %v", c.filter, err)
		} else if got := filter.Match(expr, run); got != c.want {
			t.Errorf("%q matches: %v", c.filter, got)
		}
	}
}

func TestMatchTypes(t *testing.T) {
	r := record{{filter.Metric, "m"}: filter.StringValue("1"), {filter.Param, "p"}: filter.IntValue(1)}
	for _, s := range []string{"metrics.m = 1", "metrics.m != 1", "params.p = '1'", "params.p != '2'", "params.p LIKE '%'"} {
		expr, err := filter.ParseRuns(s)
		if err != nil {
			t.Fatal(err)
		}
		if filter.Match(expr, r) {
			t.Errorf("%q matches a value of another type", s)
		}
	}
}

// TestMatchAgainstModel compares Match with a plain statement of its rules.
func TestMatchAgainstModel(t *testing.T) {
	keys := rapid.SampledFrom([]string{"a", "b", "c"})
	numbers := rapid.SampledFrom([]float64{-1, 0, 0.5, 1, math.NaN(), math.Inf(1)})
	texts := rapid.StringOfN(rapid.RuneFrom([]rune("abA%_")), 0, 3, -1)
	numeric := map[filter.Op]func(a, b float64) bool{
		filter.OpEq: func(a, b float64) bool { return a == b },
		filter.OpNe: func(a, b float64) bool { return a != b },
		filter.OpLt: func(a, b float64) bool { return a < b },
		filter.OpLe: func(a, b float64) bool { return a <= b },
		filter.OpGt: func(a, b float64) bool { return a > b },
		filter.OpGe: func(a, b float64) bool { return a >= b },
	}
	proptest.Check(t, func(t *rapid.T) {
		metrics := rapid.MapOf(keys, numbers).Draw(t, "metrics")
		tags := rapid.MapOf(keys, texts).Draw(t, "tags")
		r := record{}
		for k, v := range metrics {
			r[field{filter.Metric, k}] = filter.FloatValue(v)
		}
		for k, v := range tags {
			r[field{filter.Tag, k}] = filter.StringValue(v)
		}
		var expr filter.Expr
		want := true
		for range rapid.IntRange(0, 3).Draw(t, "comparisons") {
			key := keys.Draw(t, "key")
			if rapid.Bool().Draw(t, "on metric") {
				op := rapid.SampledFrom([]filter.Op{filter.OpEq, filter.OpNe, filter.OpLt, filter.OpLe, filter.OpGt, filter.OpGe}).Draw(t, "op")
				value := numbers.Draw(t, "value")
				expr = append(expr, filter.Comparison{Entity: filter.Metric, Key: key, Op: op, Value: filter.FloatValue(value)})
				have, ok := metrics[key]
				want = want && ok && numeric[op](have, value)
				continue
			}
			have, ok := tags[key]
			c := filter.Comparison{Entity: filter.Tag, Key: key}
			s := texts.Draw(t, "text")
			list := rapid.SliceOfN(texts, 1, 3).Draw(t, "list")
			switch rapid.IntRange(0, 7).Draw(t, "tag op") {
			case 0:
				c.Op, c.Value, ok = filter.OpEq, filter.StringValue(s), ok && have == s
			case 1:
				c.Op, c.Value, ok = filter.OpNe, filter.StringValue(s), ok && have != s
			case 2:
				c.Op, c.Value, ok = filter.OpLike, filter.StringValue(s), ok && likeByRegexp(s, have, false)
			case 3:
				c.Op, c.Value, ok = filter.OpILike, filter.StringValue(s), ok && likeByRegexp(s, have, true)
			case 4:
				c.Op, c.Value, ok = filter.OpIn, filter.Value{Kind: filter.KindList, List: list}, ok && slices.Contains(list, have)
			case 5:
				c.Op, c.Value, ok = filter.OpNotIn, filter.Value{Kind: filter.KindList, List: list}, ok && !slices.Contains(list, have)
			case 6:
				c.Op, ok = filter.OpIsNull, !ok
			case 7:
				c.Op = filter.OpIsNotNull
			}
			expr = append(expr, c)
			want = want && ok
		}
		if got := filter.Match(expr, r); got != want {
			t.Fatalf("%s on %v: %v", expr, r, got)
		}
	})
}

func FuzzLike(f *testing.F) {
	f.Add("a%b_", "axbc", true)
	f.Add("%_%", "\xff", false)
	f.Fuzz(func(t *testing.T, pattern, s string, fold bool) {
		got := filter.Like(pattern, s, fold)
		if got && !fold && !strings.ContainsAny(pattern, "%_") && s != pattern {
			t.Errorf("Like(%q, %q) without wildcards", pattern, s)
		}
		if !filter.Like("%"+pattern, s, fold) && got {
			t.Errorf("Like(%q, %q) but not after a %%", pattern, s)
		}
	})
}
