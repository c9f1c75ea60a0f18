package filter_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/runledger/runledger/pkg/filter"
)

func TestLimits(t *testing.T) {
	repeat := func(s, sep string, n int) string { return strings.TrimSuffix(strings.Repeat(s+sep, n), sep) }
	for _, c := range []struct {
		name, filter, message string
	}{
		{"comparisons", repeat("params.p = 'a'", " AND ", filter.MaxComparisons), ""},
		{"comparisons", repeat("params.p = 'a'", " AND ", filter.MaxComparisons+1), "more than 200 comparisons"},
		{"list", "run_id IN (" + repeat("'a'", ",", filter.MaxListValues) + ")", ""},
		{"list", "run_id IN (" + repeat("'a'", ",", filter.MaxListValues+1) + ")", "more than 2000 values"},
		{"pattern", "run_id LIKE '" + strings.Repeat("%", filter.MaxPatternBytes) + "'", ""},
		{"pattern", "run_id LIKE '" + strings.Repeat("_", filter.MaxPatternBytes+1) + "'", "1025 bytes long, the limit is 1024"},
		{"pattern", "run_id ILIKE '" + strings.Repeat("_", filter.MaxPatternBytes+1) + "'", "1025 bytes long, the limit is 1024"},
		{"bytes", "params.p = '" + strings.Repeat("a", filter.MaxFilterBytes-13) + "'", ""},
		{"bytes", "params.p = '" + strings.Repeat("a", filter.MaxFilterBytes-12) + "'", "65537 bytes long, the limit is 65536"},
		{"UTF-8", "params.p = '\xff'", "not valid UTF-8"},
	} {
		_, err := filter.ParseRuns(c.filter)
		if c.message == "" && err != nil {
			t.Errorf("%s: at the limit: %v", c.name, err)
		}
		if c.message != "" && (err == nil || !strings.Contains(err.Error(), c.message)) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.message)
		}
	}

	var orders []string
	for i := range filter.MaxOrders {
		orders = append(orders, fmt.Sprintf("metrics.m%d", i))
	}
	if got, err := filter.ParseRunOrder(orders); err != nil || len(got) != filter.MaxOrders {
		t.Errorf("order_by: at the limit: %v", err)
	}
	if _, err := filter.ParseRunOrder(make([]string, filter.MaxOrders+1)); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("order_by: error %v", err)
	}
}

func TestMessagesAreShort(t *testing.T) {
	long := strings.Repeat("é", filter.MaxFilterBytes/4)
	for _, s := range []string{
		long, "a" + long, long + ".x = 'a'", "params.p " + long, "params.p = " + long, "run_id IN (" + long + ")",
		long + " = 'a'", "metrics." + long + " = 'a'", "metrics." + long + " LIKE 'a'",
		"metrics.m > " + long, "params.p " + strings.Repeat("=", len(long)) + " 'a'",
		"datasets." + long + " = 'a'", "metrics." + long + " IS NULL", "params.a." + long + ".`b` = 'a'",
	} {
		_, err := filter.ParseRuns(s)
		if err == nil || len(err.Error()) > 600 || !utf8.ValidString(err.Error()) {
			t.Errorf("%.40q: error of %d bytes: %.600q", s, len(err.Error()), err)
		}
	}
}

func TestOffsets(t *testing.T) {
	for _, c := range []struct {
		filter string
		offset int
	}{
		{"params.p = 'a' AND foo.x = 'b'", 19},
		{"params.p = 'a' AND nope = 'b'", 19},
		{"params.p = 'a' OR params.q = 'b'", 15},
		{"params.p ~ 'a'", 9},
		{"params.p = abc", 11},
		{"metrics.m > 'a'", 12},
		{"run_id IN ('a', 1)", 16},
		{"params.p = 'a", 11},
		{"params.p", 8},
	} {
		_, err := filter.ParseRuns(c.filter)
		var bad *filter.Error
		if !errors.As(err, &bad) || bad.Offset != c.offset {
			t.Errorf("%q: %#v, want offset %d", c.filter, err, c.offset)
		}
	}

	expr, err := filter.ParseRuns("params.p = 'a' AND  metrics.m > 1")
	if err != nil || expr[0].Offset != 0 || expr[1].Offset != 20 {
		t.Errorf("%#v, %v", expr, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range readCorpus(f) {
		if c.Filter != nil {
			f.Add(*c.Filter)
		}
	}
	f.Fuzz(func(t *testing.T, input string) {
		for _, k := range kinds() {
			_, err := k.parse(input)
			if err == nil {
				checkRoundTrip(t, k.parse, input)
				continue
			}
			var bad *filter.Error
			if !errors.As(err, &bad) || bad.Message == "" || bad.Offset < 0 || bad.Offset > len(input) {
				t.Errorf("%q: %#v", input, err)
			}
		}
	})
}

func FuzzOrder(f *testing.F) {
	for _, c := range readCorpus(f) {
		for _, clause := range c.Order {
			f.Add(clause)
		}
	}
	f.Fuzz(func(t *testing.T, clause string) {
		for name, k := range kinds() {
			orders, err := k.order([]string{clause})
			if err != nil || name == "logged_models" {
				continue
			}
			again, err := k.order([]string{orders[0].String()})
			if err != nil || again[0] != orders[0] {
				t.Errorf("%q: %v is %v in canonical form (%v)", clause, orders, again, err)
			}
		}
	})
}
