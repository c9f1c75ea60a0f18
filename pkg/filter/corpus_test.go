package filter_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/runledger/runledger/pkg/filter"
)

const corpusPath = "testdata/corpus.jsonl"

var update = flag.Bool("update", false, "write what the parser answers into the corpus; check it with testdata/verify.py")

// corpusCase is one line of the corpus. Why and MLflow are for verify.py.
type corpusCase struct {
	Kind   string   `json:"kind"`
	Filter *string  `json:"filter,omitempty"`
	Order  []string `json:"order,omitempty"`
	Want   *[][]any `json:"want,omitempty"`
	Error  string   `json:"error,omitempty"`
	MLflow string   `json:"mlflow,omitempty"`
	Why    string   `json:"why,omitempty"`
}

type kind struct {
	parse func(string) (filter.Expr, error)
	order func([]string) ([]filter.Order, error)
}

func kinds() map[string]kind {
	return map[string]kind{
		"runs":              {filter.ParseRuns, filter.ParseRunOrder},
		"experiments":       {filter.ParseExperiments, filter.ParseExperimentOrder},
		"registered_models": {filter.ParseRegisteredModels, filter.ParseRegisteredModelOrder},
		"model_versions":    {filter.ParseModelVersions, filter.ParseModelVersionOrder},
		"logged_models":     {filter.ParseLoggedModels, loggedModelOrder},
		"datasets":          {filter.ParseDatasets, filter.ParseDatasetOrder},
	}
}

// loggedModelOrder parses field names, the last letters of which may say DESC.
func loggedModelOrder(fields []string) ([]filter.Order, error) {
	var orders []filter.Order
	for _, f := range fields {
		name, desc := strings.CutSuffix(f, " DESC")
		o, err := filter.ParseLoggedModelOrderField(name, desc)
		if err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, nil
}

// answer returns what the parser makes of a case, in the corpus's terms.
func answer(t *testing.T, c corpusCase) (*[][]any, error) {
	t.Helper()
	k, ok := kinds()[c.Kind]
	if !ok {
		t.Fatalf("unknown kind %q", c.Kind)
	}
	got := [][]any{}
	if c.Filter == nil {
		orders, err := k.order(c.Order)
		if err != nil {
			return nil, err
		}
		for _, o := range orders {
			direction := "ASC"
			if o.Desc {
				direction = "DESC"
			}
			got = append(got, []any{o.Entity.String(), o.Key, direction})
		}
		return &got, nil
	}
	expr, err := k.parse(*c.Filter)
	if err != nil {
		return nil, err
	}
	for _, c := range expr {
		got = append(got, []any{c.Entity.String(), c.Key, c.Op.String(), plain(c.Value)})
	}
	return &got, nil
}

func plain(v filter.Value) any {
	switch v.Kind {
	case filter.KindString:
		return v.Str
	case filter.KindInt:
		return v.Int
	case filter.KindFloat:
		if math.IsInf(v.Float, 0) {
			return strconv.FormatFloat(v.Float, 'g', -1, 64)
		}
		return v.Float
	case filter.KindList:
		return v.List
	default:
		return nil
	}
}

func readCorpus(tb testing.TB) []corpusCase {
	tb.Helper()
	data, err := os.ReadFile(corpusPath)
	if err != nil {
		tb.Fatal(err)
	}
	var cases []corpusCase
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.DisallowUnknownFields()
		var c corpusCase
		if err := decoder.Decode(&c); err != nil {
			tb.Fatalf("%s:%d: %v", corpusPath, len(cases)+1, err)
		}
		cases = append(cases, c)
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	return cases
}

func TestCorpus(t *testing.T) {
	t.Attr("covers", "search-grammar")
	cases := readCorpus(t)
	if *update {
		updateCorpus(t, cases)
		return
	}
	if len(cases) < 500 {
		t.Fatalf("only %d cases", len(cases))
	}
	for i, c := range cases {
		t.Run(fmt.Sprintf("%d", i+1), func(t *testing.T) {
			input := strings.Join(c.Order, ", ")
			if c.Filter != nil {
				input = *c.Filter
			}
			got, err := answer(t, c)
			if c.Want == nil {
				if err == nil {
					t.Fatalf("%s %q accepted as %v, want error %q", c.Kind, input, *got, c.Error)
				}
				var bad *filter.Error
				if !errors.As(err, &bad) || bad.Offset < 0 || bad.Offset > len(input) {
					t.Errorf("%s %q: error %#v is no *filter.Error with an offset in the input", c.Kind, input, err)
				}
				if c.Error == "" || !strings.Contains(err.Error(), c.Error) {
					t.Errorf("%s %q: error %q, want %q", c.Kind, input, err, c.Error)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s %q: %v", c.Kind, input, err)
			}
			if got, want := asJSON(t, got), asJSON(t, c.Want); got != want {
				t.Errorf("%s %q\n got %s\nwant %s", c.Kind, input, got, want)
			}
			if c.Filter != nil {
				checkRoundTrip(t, kinds()[c.Kind].parse, input)
			}
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func updateCorpus(t *testing.T, cases []corpusCase) {
	t.Helper()
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	for _, c := range cases {
		c.Error = ""
		got, err := answer(t, c)
		if c.Want = got; err != nil {
			c.Error = err.Error()
		}
		if err := encoder.Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(corpusPath, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkRoundTrip checks that the canonical form of a filter means the same.
func checkRoundTrip(t *testing.T, parse func(string) (filter.Expr, error), input string) {
	t.Helper()
	first, err := parse(input)
	if err != nil {
		t.Fatal(err)
	}
	canonical := first.String()
	if len(canonical) > filter.MaxFilterBytes {
		return
	}
	second, err := parse(canonical)
	if err != nil {
		t.Fatalf("%q: canonical form %q: %v", input, canonical, err)
	}
	for i := range first {
		first[i].Offset = 0
	}
	for i := range second {
		second[i].Offset = 0
	}
	if len(first)+len(second) > 0 && !reflect.DeepEqual(first, second) {
		t.Fatalf("%q: canonical form %q\n is %#v\nwant %#v", input, canonical, second, first)
	}
	if again := second.String(); again != canonical {
		t.Fatalf("%q: canonical form %q becomes %q", input, canonical, again)
	}
}
