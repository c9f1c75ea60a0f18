package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"

	"github.com/runledger/runledger/pkg/events"
)

const (
	// fillConnections is how many clients fill a server at a time.
	fillConnections = 8
	// runMetrics and runParams are what each run of the search has.
	runMetrics = 20
	runParams  = 5
	// paramValues is how many different values a parameter has.
	paramValues = 10
	// seriesRuns have a metric of seriesPoints points each.
	seriesRuns   = 5
	seriesPoints = 25_000
	seriesKey    = "loss"
)

// side is one of the servers that are compared.
type side struct {
	name       string
	client     *client
	pids       []int    // the first processes of its trees
	experiment string   // of the runs to search through
	series     []string // runs with a long metric
	greatest   float64  // memory that was seen, in bytes
}

// fill creates what is read later, the same on every server, and returns how
// long that took.
func (s *side) fill(ctx context.Context, runs int) (time.Duration, error) {
	began := time.Now()
	var created struct {
		ExperimentID string `json:"experiment_id"`
	}
	if err := s.client.post(ctx, "experiments/create", []byte(`{"name": "many runs"}`), &created); err != nil {
		return 0, err
	}
	s.experiment = created.ExperimentID
	s.series = make([]string, seriesRuns)
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(fillConnections)
	for n := range s.series {
		group.Go(func() (err error) {
			s.series[n], err = s.fillSeries(inner, n)
			return err
		})
	}
	for n := range runs {
		group.Go(func() error { return s.fillRun(inner, n) })
	}
	err := group.Wait()
	return time.Since(began), err
}

// fillRun creates the nth run to search through: of its own start time, and
// with values that no other run has.
func (s *side) fillRun(ctx context.Context, n int) error {
	id, err := s.client.createRunIn(ctx, s.experiment, fmt.Sprintf("run-%05d", n), firstTimestamp+int64(n))
	if err != nil {
		return err
	}
	type param struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	type metric struct {
		Key       string  `json:"key"`
		Value     float64 `json:"value"`
		Timestamp int64   `json:"timestamp"`
		Step      int64   `json:"step"`
	}
	batch := struct {
		RunID   string   `json:"run_id"`
		Metrics []metric `json:"metrics"`
		Params  []param  `json:"params"`
	}{RunID: id}
	rng := rand.New(rand.NewPCG(2, uint64(n)))
	for k := range runMetrics {
		batch.Metrics = append(batch.Metrics, metric{Key: metricName(k), Value: rng.Float64(), Timestamp: firstTimestamp + int64(n), Step: 1})
	}
	for k := range runParams {
		batch.Params = append(batch.Params, param{Key: paramName(k), Value: paramValue(rng.IntN(paramValues))})
	}
	body, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	return s.client.post(ctx, "runs/log-batch", body, nil)
}

func metricName(k int) string { return fmt.Sprintf("m%02d", k) }
func paramName(k int) string  { return fmt.Sprintf("p%d", k) }
func paramValue(v int) string { return fmt.Sprintf("value-%d", v) }

// fillSeries creates the nth run with a long metric.
func (s *side) fillSeries(ctx context.Context, n int) (string, error) {
	id, err := s.client.createRun(ctx)
	if err != nil {
		return "", err
	}
	rng := rand.New(rand.NewPCG(3, uint64(n)))
	for first := 0; first < seriesPoints; first += batchPoints {
		points := make([]events.Point, batchPoints)
		for i := range points {
			step := int64(first + i)
			points[i] = events.Point{Key: seriesKey, Value: rng.Float64(), Step: step, Timestamp: firstTimestamp + step*millisPerStep}
		}
		body := encodeBatch(points)
		setRunID(body, id)
		if err := s.client.post(ctx, "runs/log-batch", body, nil); err != nil {
			return "", err
		}
	}
	return id, nil
}

// resident returns the memory that the server's processes have now, in bytes.
// Pages that several of them share count once: PostgreSQL's buffers, and what
// forked workers have in common.
func (s *side) resident() (float64, error) {
	var sum float64
	err := s.processes(func(p procfs.Proc) error {
		rollup, err := p.ProcSMapsRollup()
		sum += float64(rollup.Pss)
		return err
	})
	return sum, err
}

// cpu returns the processor seconds that the server's processes have used,
// ended ones included.
func (s *side) cpu() (float64, error) {
	var sum float64
	err := s.processes(func(p procfs.Proc) error {
		stat, err := p.Stat()
		// CPUTime is of the process alone; the ended children it waited for are counted apart.
		ended := procfs.ProcStat{UTime: uint(stat.CUTime), STime: uint(stat.CSTime)}
		sum += stat.CPUTime() + ended.CPUTime()
		return err
	})
	return sum, err
}

// processes calls f with each process of the server. One that ends meanwhile,
// as a connection's in PostgreSQL may, is left out.
func (s *side) processes(f func(procfs.Proc) error) error {
	all, err := procfs.AllProcs()
	if err != nil {
		return fmt.Errorf("list the processes: %w", err)
	}
	children := make(map[int][]procfs.Proc)
	own := make([]procfs.Proc, 0, len(s.pids))
	for _, p := range all {
		stat, err := p.Stat()
		if err != nil {
			continue
		}
		children[stat.PPID] = append(children[stat.PPID], p)
	}
	for _, pid := range s.pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			return fmt.Errorf("processes of %s: %w", s.name, err)
		}
		own = append(own, p)
	}
	for n := 0; n < len(own); n++ {
		own = append(own, children[own[n].PID]...)
		if err := f(own[n]); err != nil && n < len(s.pids) {
			return fmt.Errorf("processes of %s: %w", s.name, err)
		}
	}
	return nil
}
