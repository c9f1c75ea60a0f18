package main

import (
	"bytes"
	"encoding/json"
	"math"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	l := newLatencies()
	if got := l.percentile(99); got != 0 {
		t.Errorf("p99 of nothing is %v", got)
	}
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < 10_000; i += 4 {
				l.add(time.Duration(i+1) * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if got := l.count(); got != 10_000 {
		t.Errorf("%d values", got)
	}
	for p, want := range map[float64]time.Duration{
		0.01: time.Millisecond, 50: 5 * time.Second, 99: 9900 * time.Millisecond, 100: 10 * time.Second,
	} {
		if got := l.percentile(p); math.Abs(float64(got-want)) > float64(want)/1000 {
			t.Errorf("p%v is %v, want %v to three digits", p, got, want)
		}
	}
}

func TestLatenciesOutOfRange(t *testing.T) {
	l := newLatencies()
	l.add(-time.Second)
	l.add(0)
	l.add(time.Hour)
	if got := l.count(); got != 3 {
		t.Errorf("%d values, want 3", got)
	}
	if got := l.percentile(1); got != leastLatency {
		t.Errorf("least value is %v", got)
	}
	if got := l.percentile(100); math.Abs(float64(got-mostLatency)) > float64(mostLatency)/1000 {
		t.Errorf("greatest value is %v", got)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{9, 1, 5, 7}, 6},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	var r report
	r.add("ingest", "rate", "points/s", 300)
	r.add("bare", "rate", "points/s", 1000)
	r.add("ingest", "rate", "points/s", 100)
	if got := r.value("ingest", "rate"); got != 200 {
		t.Errorf("median of the rounds is %v, want 200", got)
	}
	if got := r.value("ingest", "other"); !math.IsNaN(got) {
		t.Errorf("a figure that was not measured is %v", got)
	}
	var b bytes.Buffer
	if err := r.lines(&b); err != nil {
		t.Fatal(err)
	}
	var got figure
	if err := json.NewDecoder(&b).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Group != "ingest" || got.Name != "rate" || got.Unit != "points/s" || got.Value != 200 || len(got.Rounds) != 2 {
		t.Errorf("first line is %+v", got)
	}
	b.Reset()
	if err := r.table(&b); err != nil {
		t.Fatal(err)
	}
	want := "\ningest\n  rate  200  points/s  (300, 100)\n\nbare\n  rate  1000  points/s  \n"
	if b.String() != want {
		t.Errorf("table:\n%q\nwant:\n%q", b.String(), want)
	}
}

func TestMeter(t *testing.T) {
	m, err := startMeter(nil)
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	// Work until the system's clock of processor time has moved.
	var used map[string]usage
	for used[procGenerator].cpu <= 0 {
		for i := range 1_000_000 {
			runtime.KeepAlive(math.Sqrt(float64(i)))
		}
		if used, _, err = m.end(); err != nil {
			t.Fatal(err)
		}
	}
	got := used[procGenerator]
	if got.memory < 1<<20 {
		t.Errorf("a Go program that uses %v bytes of memory", got.memory)
	}
}
