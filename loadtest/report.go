package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is one measured number, the median when it was measured several times.
type figure struct {
	Group  string    `json:"group"`
	Name   string    `json:"name"`
	Value  float64   `json:"value"`
	Unit   string    `json:"unit"`
	Rounds []float64 `json:"rounds,omitempty"`
}

// report gathers figures in the order in which they are shown.
type report struct {
	figures []*figure
}

// add adds a measurement of a figure.
func (r *report) add(group, name, unit string, value float64) {
	for _, f := range r.figures {
		if f.Group == group && f.Name == name {
			f.Rounds = append(f.Rounds, value)
			f.Value = median(f.Rounds)
			return
		}
	}
	r.figures = append(r.figures, &figure{Group: group, Name: name, Unit: unit, Value: value, Rounds: []float64{value}})
}

// value returns a figure that was added.
func (r *report) value(group, name string) float64 {
	for _, f := range r.figures {
		if f.Group == group && f.Name == name {
			return f.Value
		}
	}
	return math.NaN()
}

func (r *report) latencies(group, name string, l *latencies) {
	r.add(group, name+" p50", "ms", millis(l.percentile(50)))
	r.add(group, name+" p99", "ms", millis(l.percentile(99)))
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// table writes the figures for people, group by group, those of the rounds
// behind a median.
func (r *report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var groups []string
	for _, f := range r.figures {
		if !slices.Contains(groups, f.Group) {
			groups = append(groups, f.Group)
		}
	}
	for _, group := range groups {
		fmt.Fprintf(t, "\n%s\n", group)
		for _, f := range r.figures {
			if f.Group == group {
				fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", f.Name, number(f.Value), f.Unit, f.rounds())
			}
		}
	}
	return t.Flush()
}

// rounds returns the measurements behind a median.
func (f *figure) rounds() string {
	if len(f.Rounds) < 2 {
		return ""
	}
	shown := make([]string, len(f.Rounds))
	for i, v := range f.Rounds {
		shown[i] = number(v)
	}
	return "(" + strings.Join(shown, ", ") + ")"
}

// number shows three significant digits, whole numbers from 100 on.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	default:
		return strconv.FormatFloat(v, 'f', 3, 64)
	}
}

// lines writes one JSON object a figure.
func (r *report) lines(w io.Writer) error {
	enc := json.NewEncoder(w)
	for _, f := range r.figures {
		if err := enc.Encode(f); err != nil {
			return fmt.Errorf("write the figures: %w", err)
		}
	}
	return nil
}
