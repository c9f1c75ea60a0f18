package main

import (
	"bytes"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

const someRun = "0123456789abcdef0123456789abcdef"

func request(body []byte) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func TestPointsAreTheSameEveryTime(t *testing.T) {
	w := workload{seed: 7, runs: 3, batches: 9}
	for batch := range w.batches {
		if !slices.Equal(w.points(batch), w.points(batch)) {
			t.Fatalf("batch %d differs from itself", batch)
		}
	}
	other := workload{seed: 8, runs: 3, batches: 9}
	if slices.Equal(w.points(0), other.points(0)) {
		t.Error("another seed makes the same points")
	}
}

func TestPointsOfARun(t *testing.T) {
	w := workload{seed: 1, runs: 3, batches: 12}
	type identity struct {
		run int
		events.Identity
	}
	seen := make(map[identity]bool)
	next := make(map[int]int64) // step by run
	for batch := range w.batches {
		run := w.runOf(batch)
		points := w.points(batch)
		if len(points) != batchPoints {
			t.Fatalf("batch %d has %d points", batch, len(points))
		}
		for i, p := range points {
			if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
				t.Fatalf("%v cannot be encoded", p)
			}
			if want := next[run] + int64(i/len(metricKeys)); p.Step != want {
				t.Fatalf("step %d in batch %d, want %d", p.Step, batch, want)
			}
			if id := (identity{run, p.Identity()}); seen[id] {
				t.Fatalf("%v is logged twice", p)
			} else {
				seen[id] = true
			}
		}
		next[run] += int64(stepsPerBatch)
	}
	if len(seen) != w.total() {
		t.Errorf("%d distinct points, want %d", len(seen), w.total())
	}
}

func TestEncodeBatchIsWhatTheServerDecodes(t *testing.T) {
	points := workload{seed: 1, runs: 1, batches: 50}.points(49)
	body := encodeBatch(points)
	setRunID(body, someRun)
	if len(body) > mlflow.MaxBatchBytes {
		t.Errorf("%d bytes", len(body))
	}
	got, err := mlflow.Decode[mlflow.LogBatch](request(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := mlflow.ValidateBatch(got); err != nil {
		t.Error(err)
	}
	want := make([]mlflow.Metric, len(points))
	for i, p := range points {
		want[i] = mlflow.Metric{Key: p.Key, Value: p.Value, Timestamp: p.Timestamp, Step: p.Step}
	}
	if got.RunID != someRun || !slices.Equal(got.Metrics, want) {
		t.Errorf("decoded %s with %d metrics, which are not those encoded", got.RunID, len(got.Metrics))
	}
}

func TestEncodeMetricIsWhatTheServerDecodes(t *testing.T) {
	p := events.Point{Key: "loss", Value: 1.0 / 3, Timestamp: firstTimestamp, Step: 12}
	got, err := mlflow.Decode[mlflow.LogMetric](request(encodeMetric(nil, someRun, p)))
	if err != nil {
		t.Fatal(err)
	}
	if want := (mlflow.LogMetric{RunID: someRun, Key: p.Key, Value: p.Value, Timestamp: p.Timestamp, Step: p.Step}); *got != want {
		t.Errorf("decoded %+v, want %+v", *got, want)
	}
}

// TestBareInserts checks that the bare engine is given the same points as
// Runledger.
func TestBareInserts(t *testing.T) {
	w := workload{seed: 1, runs: 4, batches: 2*bareRows/batchPoints + 3}
	inserts := bareInserts(w)
	if len(inserts) != 3 {
		t.Fatalf("%d inserts, want 3", len(inserts))
	}
	column := func(in proto.Input, name string) proto.ColInput {
		for _, c := range in {
			if c.Name == name {
				return c.Data
			}
		}
		t.Fatalf("no column %s", name)
		return nil
	}
	ids := make(map[uuid.UUID]int) // the run of each id
	batch, rows := 0, 0
	for _, in := range inserts {
		run := *column(in, "run_id").(*proto.ColUUID)
		key := column(in, "key").(*proto.ColLowCardinality[string])
		step := *column(in, "step").(*proto.ColInt64)
		timestamp := *column(in, "timestamp").(*proto.ColInt64)
		value := *column(in, "value").(*proto.ColFloat64)
		for first := 0; first < len(run); first += batchPoints {
			if _, ok := ids[run[first]]; !ok {
				ids[run[first]] = len(ids)
			}
			if got, want := ids[run[first]], w.runOf(batch); got != want {
				t.Fatalf("batch %d belongs to run %d, want %d", batch, got, want)
			}
			for i, p := range w.points(batch) {
				at := first + i
				got := events.Point{Key: key.Row(at), Step: step[at], Timestamp: timestamp[at], Value: value[at]}
				if got != p || run[at] != run[first] {
					t.Fatalf("row %d of batch %d is %v, want %v", i, batch, got, p)
				}
			}
			batch++
		}
		rows += len(run)
	}
	if rows != w.total() {
		t.Errorf("%d rows, want %d", rows, w.total())
	}
}

func TestOnlyLoopback(t *testing.T) {
	for address, ok := range map[string]bool{
		"http://127.0.0.1:5000":     true,
		"http://[::1]:5000":         true,
		"http://192.0.2.1:5000":     false,
		"http://0.0.0.0:5000":       false,
		"http://example.com":        false,
		"http://127.0.0.1.nip.test": false,
		"":                          false,
	} {
		if _, err := newClient(address, 1); (err == nil) != ok {
			t.Errorf("newClient(%q): %v", address, err)
		}
	}
}

func TestBannerURL(t *testing.T) {
	banner := "\n  Runledger dev is up.\n\n  Tracking URI   http://127.0.0.1:41234\n  Health         http://127.0.0.1:41234/readyz\n"
	got, err := bannerURL(strings.NewReader(banner))
	if err != nil || got != "http://127.0.0.1:41234" {
		t.Errorf("bannerURL: %q, %v", got, err)
	}
	if got, err := bannerURL(strings.NewReader("nothing here\n")); err == nil {
		t.Errorf("bannerURL found %q", got)
	}
}
