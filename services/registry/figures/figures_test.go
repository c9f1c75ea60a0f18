package figures_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry/figures"
)

const runID = "0123456789abcdef0123456789abcdef"

func openLog(t *testing.T) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Open(t.Context(), natstest.Start(t), eventlog.Config{Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	add(t, log, events.KindMeta, &events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{RunId: runID, ExperimentId: "1"}}})
	return log
}

func add(t *testing.T, log *eventlog.Log, kind events.Kind, list ...*events.Event) {
	t.Helper()
	stream, subject := log.RunSubject("1", runID, kind)
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	defer lane.Close()
	if _, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
		for _, e := range list {
			if err := b.Append(subject, events.New("/test", "", time.Now()), e, eventlog.Expect{}, nil); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func logged(points ...events.Point) *events.Event {
	return &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(runID, points)}}
}

// The latest values are those of all points in the order of MLflow's rule, however
// they came and however often they were asked for in between.
func TestLatestIsThatOfTheGreatestPoint(t *testing.T) {
	log := openLog(t)
	reader := figures.NewReader(log)
	random := rand.New(rand.NewPCG(1, 2))
	order := func(p events.Point) [3]float64 {
		v := p.Value
		if math.IsNaN(v) {
			v = 0
		}
		return [3]float64{float64(p.Step), float64(p.Timestamp), v}
	}
	want := make(map[string]events.Point)
	for range 40 {
		var points []events.Point
		for range 1 + random.IntN(20) {
			p := events.Point{
				Key: fmt.Sprint("k", random.IntN(5)), Step: int64(random.IntN(4) - 1), Timestamp: int64(random.IntN(3)),
				Value: []float64{-1, -0.5, math.NaN(), 0.5, 1, math.Inf(1), math.Inf(-1)}[random.IntN(7)],
			}
			points = append(points, p)
			old, ok := want[p.Key]
			a, b := order(p), order(old)
			if !ok || a[0] > b[0] || a[0] == b[0] && (a[1] > b[1] || a[1] == b[1] && a[2] > b[2]) {
				want[p.Key] = p
			}
		}
		add(t, log, events.KindMetric, logged(points...))
		got, err := reader.Latest(t.Context(), runID)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%v, %v", got, err)
		}
		for key, p := range want {
			if v := got[key]; v != p.Value && !(math.IsNaN(v) && math.IsNaN(p.Value)) {
				t.Fatalf("%s is %v, want %v", key, v, p.Value)
			}
		}
	}
	// Whose artifacts are gone last is purged too.
	add(t, log, events.KindMeta, &events.Event{Data: &events.Event_ArtifactsPurged{ArtifactsPurged: &events.ArtifactsPurged{}}})
	if got, err := reader.Latest(t.Context(), runID); err != nil || len(got) > 0 {
		t.Errorf("of a run that is purged: %v, %v", got, err)
	}
	add(t, log, events.KindMeta, &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: runID}}})
	for _, id := range []string{runID, "ffffffffffffffffffffffffffffffff", "", "any * thing"} {
		if got, err := reader.Latest(t.Context(), id); err != nil || len(got) > 0 {
			t.Errorf("run %q, which is not there: %v, %v", id, got, err)
		}
	}
}

// Those who read a run at once do not read each other's unfinished values.
func TestManyReadOneRun(t *testing.T) {
	log := openLog(t)
	reader := figures.NewReader(log)
	const keys = 2000
	for round := range 3 {
		points := make([]events.Point, keys)
		for i := range points {
			points[i] = events.Point{Key: fmt.Sprint("k", i), Step: int64(round), Value: float64(round)}
		}
		add(t, log, events.KindMetric, logged(points...))
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				got, err := reader.Latest(t.Context(), runID)
				if err != nil || len(got) != keys || got["k7"] != float64(round) {
					t.Errorf("round %d: %d values, %v, %v", round, len(got), got["k7"], err)
				}
			})
		}
		all.Wait()
	}
}

// patience is a context that ends when it was asked often enough.
type patience struct {
	context.Context
	left *atomic.Int64
}

func (p patience) Err() error {
	if p.left.Add(-1) < 0 {
		return context.DeadlineExceeded
	}
	return p.Context.Err()
}

// A run that takes longer to read than a request may last is read in several.
func TestReadGoesOnWhereItStopped(t *testing.T) {
	log := openLog(t)
	const n = 200
	for i := range n {
		add(t, log, events.KindMetric, logged(events.Point{Key: "k", Step: int64(i), Value: float64(i)}))
	}
	reader := figures.NewReader(log)
	broken := 0
	for range n {
		left := new(atomic.Int64)
		left.Store(60)
		got, err := reader.Latest(patience{t.Context(), left}, runID)
		if err == nil {
			if got["k"] != n-1 || broken == 0 {
				t.Errorf("after %d attempts the value is %v", broken, got["k"])
			}
			return
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		broken++
	}
	t.Errorf("not read in %d attempts", broken)
}
