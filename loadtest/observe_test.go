package main

import (
	"strings"
	"testing"
	"time"
)

// windowsOf returns an hour's windows whose samples have one figure, and one table
// with as many parts, as they are after a number of minutes.
func windowsOf(name string, at func(minute float64) float64) []*window {
	var out []*window
	for n := range 6 {
		w := &window{from: time.Duration(n) * 10 * time.Minute, to: time.Duration(n+1) * 10 * time.Minute, writes: newLatencies(), reads: newLatencies()}
		for i := range 60 {
			v := at(float64(10*n) + float64(i)/6)
			w.samples = append(w.samples, sample{figures: map[string]float64{name: v}, parts: map[string]float64{"metrics": v}})
		}
		out = append(out, w)
	}
	return out
}

// What grows steadily is found, in whichever figure; what fills in the beginning,
// swings, or jumps once for a moment is not.
func TestGrowthIsFound(t *testing.T) {
	const base = 200 * mega
	for _, c := range []struct {
		name, figure string
		at           func(minute float64) float64
		grows        bool
	}{
		{"flat memory", serverMemory, func(float64) float64 { return base }, false},
		{"a cache that fills in the first minutes", serverMemory, func(m float64) float64 { return base * min(1, 0.3+m/9) }, false},
		{"a heap that swings", serverHeap, func(m float64) float64 { return base * (1 + 0.4*float64(int(6*m)%2)) }, false},
		{"a merge at the end", engineMemory, func(m float64) float64 {
			if m > 58 {
				return 4 * base
			}
			return base
		}, false},
		{"memory that leaks", serverMemory, func(m float64) float64 { return base + m*3*mega }, true},
		{"a heap that leaks", serverHeap, func(m float64) float64 { return base + m*3*mega }, true},
		{"an engine that leaks", engineMemory, func(m float64) float64 { return base + m*5*mega }, true},
		{"goroutines that stay", serverGoroutines, func(m float64) float64 { return 200 + 2*m }, true},
		{"files that stay open", serverFiles, func(m float64) float64 { return 90 + 3*m }, true},
		{"parts that nobody merges", "parts of metrics", func(m float64) float64 { return 5 + m }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := false
			for _, g := range growths(windowsOf(c.figure, c.at)) {
				if g.name == c.figure {
					found = g.grown()
				}
			}
			if found != c.grows {
				t.Errorf("grows: %t, want %t", found, c.grows)
			}
		})
	}
}

func TestReportFailsForGrowth(t *testing.T) {
	var out strings.Builder
	o := &observer{windows: windowsOf(serverGoroutines, func(m float64) float64 { return 200 + 2*m })}
	grown, err := o.report(&out)
	if err != nil {
		t.Fatal(err)
	}
	if grown == nil || !strings.Contains(grown.Error(), serverGoroutines) {
		t.Errorf("%v, want %s to be named", grown, serverGoroutines)
	}
	if !strings.Contains(out.String(), "GREW") {
		t.Errorf("the table does not say what grew:\n%s", &out)
	}
	short := &observer{windows: o.windows[:2]}
	if _, err := short.report(&out); err == nil {
		t.Error("two windows are not enough to tell")
	}
}
