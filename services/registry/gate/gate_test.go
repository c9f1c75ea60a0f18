package gate_test

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/runledger/runledger/services/registry/gate"
)

// figures is a version with these figures, by how they are written.
func figures(values map[string]float64) gate.Lookup {
	return func(f gate.Figure) (float64, bool) {
		v, ok := values[f.String()]
		return v, ok
	}
}

func TestConditions(t *testing.T) {
	type values = map[string]float64
	for _, c := range []struct {
		condition          string
		candidate, current values // no current: nothing is there
		want               string // part of why it is not met, "" when it is
	}{
		{"metrics.recall >= 0.95", values{"metrics.recall": 0.95}, nil, ""},
		{"metrics.recall >= 0.95", values{"metrics.recall": 0.94}, nil, "metrics.recall is 0.94, want >= 0.95"},
		{"metrics.recall>0.95", values{"metrics.recall": 0.95}, nil, "is 0.95, want > 0.95"},
		{"  metrics.loss < 1e-3 ", values{"metrics.loss": 0.0005}, nil, ""},
		{"metrics.loss <= -1.5", values{"metrics.loss": -1}, nil, "is -1, want <= -1.5"},
		{"metrics.n = 3", values{"metrics.n": 3}, nil, ""},
		{"metrics.n != 3", values{"metrics.n": 3}, nil, "want != 3"},
		{"metrics.recall >= 0.95", values{}, nil, "the version has no metrics.recall"},
		{"metrics.recall >= 0.95", values{"metrics.recall": math.NaN()}, nil, "is NaN"},
		{"metrics.recall != 0.95", values{"metrics.recall": math.NaN()}, nil, "is NaN"},
		{"metrics.recall > 1", values{"metrics.recall": math.Inf(1)}, nil, ""},
		{`metrics."val loss" < 1`, values{`metrics."val loss"`: 2}, nil, `metrics."val loss" is 2, want < 1`},
		{"metrics.`a\"b` < 1", values{"metrics.`a\"b`": 0}, nil, ""},
		{"metrics.val.loss < 1", values{`metrics."val.loss"`: 2}, nil, `metrics."val.loss" is 2, want < 1`},
		{"metrics.val/loss < 1", values{"metrics.val/loss": 0}, nil, ""},
		{"evaluations.f1 > 0.5", values{"evaluations.f1": 0.6}, nil, ""},
		{`evaluations."night images".f1 > 0.5`, values{`evaluations."night images".f1`: 0.4}, nil, `is 0.4, want > 0.5`},
		{"evaluations.night.f1 > 0.5", values{"evaluations.f1": 1}, nil, "has no evaluations.night.f1"},
		{"metrics.f1 >= current", values{"metrics.f1": 0.5}, values{"metrics.f1": 0.5}, ""},
		{"metrics.f1 >= current", values{"metrics.f1": 0.5}, nil, ""},
		{"metrics.f1 = current", values{"metrics.f1": 0.30000000000000004}, values{"metrics.f1": 0.30000000000000004}, ""},
		{"metrics.f1 >= current", values{"metrics.f1": 0.5}, values{}, "there now has no metrics.f1"},
		{"metrics.f1 >= current", values{"metrics.f1": 0.5}, values{"metrics.f1": math.NaN()}, "want >= NaN"},
		{"metrics.f1 >= current - 1%", values{"metrics.f1": 99}, values{"metrics.f1": 100}, ""},
		{"metrics.f1 >= current - 1%", values{"metrics.f1": 98.5}, values{"metrics.f1": 100}, "is 98.5, want >= 99 (>= current - 1%, current is 100)"},
		{"metrics.gain >= current-1 %", values{"metrics.gain": -101}, values{"metrics.gain": -100}, ""},
		{"metrics.gain >= current-1 %", values{"metrics.gain": -102}, values{"metrics.gain": -100}, "want >= -101"},
		{"metrics.loss <= current + 0.25", values{"metrics.loss": 1.5}, values{"metrics.loss": 1.25}, ""},
		{"metrics.loss <= current + 0.25", values{"metrics.loss": 1.75}, values{"metrics.loss": 1.25}, "is 1.75, want <= 1.5"},
	} {
		parsed, err := gate.Parse(c.condition)
		if err != nil {
			t.Errorf("%q: %v", c.condition, err)
			continue
		}
		var current gate.Lookup
		if c.current != nil {
			current = figures(c.current)
		}
		if got := parsed.Check(figures(c.candidate), current); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%q with %v beside %v: %q, want %q", c.condition, c.candidate, c.current, got, c.want)
		}
	}
}

// Exactly as far below as it may be is near enough, for every decimal: the nearest
// binary numbers of one in nine are on the wrong side.
func TestDistanceFromCurrentIsDecimal(t *testing.T) {
	condition, err := gate.Parse("metrics.a >= current - 1%")
	if err != nil {
		t.Fatal(err)
	}
	of := func(thousandths int, digits string) gate.Lookup {
		f, err := strconv.ParseFloat(fmt.Sprintf("%de%s", thousandths, digits), 64)
		if err != nil {
			t.Fatal(err)
		}
		return func(gate.Figure) (float64, bool) { return f, true }
	}
	for now := 1; now < 1000; now++ {
		if said := condition.Check(of(now*99, "-5"), of(now, "-3")); said != "" {
			t.Errorf("exactly 1%% below: %s", said)
		}
		if condition.Check(of(now*99-1, "-5"), of(now, "-3")) == "" {
			t.Errorf("%d: more than 1%% below is near enough", now)
		}
	}
}

func TestConditionsThatCannotBeRead(t *testing.T) {
	for _, c := range []struct {
		condition string
		offset    int
		message   string
	}{
		{"", 0, "want metrics."},
		{"recall > 1", 0, "want metrics."},
		{"params.lr = 1", 0, "want metrics."},
		{"metrics. > 1", 8, "want a key"},
		{`metrics."" > 1`, 9, "want a key"},
		{`metrics."a > 1`, 9, `want a key and " behind it`},
		{"metrics.a.`b` > 1", 10, "want one of >="},
		{"metrics.a", 9, "want one of >="},
		{"metrics.a ~ 1", 10, "want one of >="},
		{"metrics.a >", 11, "want a number"},
		{"metrics.a > b", 12, "want a number"},
		{"metrics.a > 1e999", 12, "want a number"},
		{"metrics.a > NaN", 12, "want a number"},
		{"metrics.a > 1 %", 14, "want nothing more"},
		{"metrics.a > 1 AND metrics.b > 2", 14, "want nothing more"},
		{"metrics.a > current 1", 20, "want nothing more"},
		{"metrics.a > current -", 21, "want a number"},
		{"metrics.a > current - -1", 22, "want a number"},
		{"metrics.a > current * 2", 20, "want nothing more"},
		{"evaluations.a.b.c > 1", 15, "want one of >="},
		{"metrics." + strings.Repeat("a", 500) + " > 1", 500, "more than 500 bytes"},
	} {
		_, err := gate.Parse(c.condition)
		var at *gate.Error
		if !errors.As(err, &at) || at.Offset != c.offset || !strings.Contains(at.Message, c.message) {
			t.Errorf("%q: %v, want %q at byte %d", c.condition, err, c.message, c.offset)
		}
	}
}

// What is read is read again from how it is written.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"metrics.a >= 1", `evaluations."x".y < current - 1.5%`, "metrics.`a` != current+2", "metrics.a > -1e-3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := gate.Parse(text)
		if err != nil {
			return
		}
		again, err := gate.Parse(c.String())
		if err != nil || again != c {
			t.Fatalf("%q is %+v, and %q is %+v, %v", text, c, c.String(), again, err)
		}
		same := func(gate.Figure) (float64, bool) { return 1, true }
		c.Check(same, same)
		figure, err := gate.Parse(c.Figure.String() + " = 0")
		if err != nil || figure.Figure != c.Figure {
			t.Fatalf("figure %q of %q is %+v, %v", c.Figure, text, figure.Figure, err)
		}
	})
}
