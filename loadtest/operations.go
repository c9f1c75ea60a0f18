package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/runledger/runledger/pkg/events"
)

const (
	// batchConnections is how many clients log batches at a time.
	batchConnections = 8
	// requests is how many different requests a search consists of, and how many
	// batches a run is given.
	requests = 256
	pageRuns = 1000
	// curvePoints is the number of points of a run that MLflow's user interface
	// asks for to draw a curve.
	curvePoints = 320
)

// operation is something that clients do, measured on both servers.
type operation struct {
	name        string
	connections int
	run         func(ctx context.Context, s *side, d time.Duration) (result, error)
}

// result is how an operation went for a while.
type result struct {
	took      *latencies
	perSecond float64
	answers   map[int]answer // of a read, by the number of its request
}

// answer tells what a server answered: how much there was, and a sum of all of
// it that does not depend on who answered.
type answer struct {
	items int
	sum   uint64
}

var operations = []operation{
	write("log-metric", smallConnections, (*client).logMetrics),
	write("log-batch of 10", batchConnections, batches(10)),
	write("log-batch of 1000", batchConnections, batches(batchPoints)),
	write("create-run and log-batch of 10", batchConnections, (*client).createAndLog),
	read("search by metric and parameter, 100 runs a page", searchBy, readRuns),
	read("search, 1000 runs with 20 metrics in one page", searchPage, readRuns),
	read("history of 25 k points", history, readPoints),
	read("bulk-interval history of 5 runs with 25 k points", interval, readPoints),
}

func write(name string, connections int, f func(*client, context.Context, time.Duration, int) (*latencies, float64, error)) operation {
	return operation{name: name, connections: connections, run: func(ctx context.Context, s *side, d time.Duration) (result, error) {
		took, perSecond, err := f(s.client, ctx, d, connections)
		return result{took: took, perSecond: perSecond}, err
	}}
}

// batches returns an operation that logs batches, each connection those of a
// run of its own, and then checks what the server says of one of the runs.
func batches(size int) func(*client, context.Context, time.Duration, int) (*latencies, float64, error) {
	points := make([]events.Point, 0, (size*requests/batchPoints+1)*batchPoints)
	w := workload{seed: 1, runs: 1}
	for batch := 0; len(points) < size*requests; batch++ {
		points = append(points, w.points(batch)...)
	}
	return func(c *client, ctx context.Context, d time.Duration, connections int) (*latencies, float64, error) {
		var bodies [][]byte
		var steps []int64
		for chunk := range slices.Chunk(points[:size*requests], size) {
			bodies = append(bodies, encodeBatch(chunk))
			steps = append(steps, chunk[len(chunk)-1].Step)
		}
		logging := make([]struct {
			run  string
			body []byte
			last int64
		}, connections)
		took, perSecond, err := closedLoop(ctx, d, connections, func(ctx context.Context, connection, n int) (err error) {
			own := &logging[connection]
			if n%requests == 0 {
				if own.run, err = c.createRun(ctx); err != nil {
					return err
				}
			}
			own.body = append(own.body[:0], bodies[n%requests]...)
			own.last = steps[n%requests]
			setRunID(own.body, own.run)
			return c.post(ctx, "runs/log-batch", own.body, nil)
		})
		if err != nil {
			return nil, 0, err
		}
		step, err := c.latestStep(ctx, logging[0].run)
		if err == nil && step != logging[0].last {
			err = fmt.Errorf("the latest step is %d, %d was logged", step, logging[0].last)
		}
		return took, perSecond, err
	}
}

// latestStep returns the greatest step of a run's latest metrics.
func (c *client) latestStep(ctx context.Context, run string) (int64, error) {
	var got struct {
		Run struct {
			Data struct {
				Metrics []point `json:"metrics"`
			} `json:"data"`
		} `json:"run"`
	}
	_, err := c.get(ctx, "/api/2.0/mlflow/runs/get?run_id="+run, &got)
	latest := int64(-1)
	for _, m := range got.Run.Data.Metrics {
		latest = max(latest, m.Step)
	}
	return latest, err
}

// read returns an operation that one client does over and over. What it does
// with an answer is not measured.
func read(name string, ask func(context.Context, *side, int, *bytes.Buffer) error, understand func(*side, []byte) ([]string, error)) operation {
	return operation{name: name, connections: 1, run: func(ctx context.Context, s *side, d time.Duration) (result, error) {
		r := result{took: newLatencies(), answers: make(map[int]answer)}
		var body bytes.Buffer
		var asked time.Duration
		for n := 0; asked < d; n++ {
			n := n % requests
			began := time.Now()
			if err := ask(ctx, s, n, &body); err != nil {
				return r, err
			}
			took := time.Since(began)
			r.took.add(took)
			asked += took
			if _, ok := r.answers[n]; ok {
				continue
			}
			items, err := understand(s, body.Bytes())
			if err != nil {
				return r, err
			}
			r.answers[n] = sum(items)
		}
		r.perSecond = float64(r.took.count()) / asked.Seconds()
		return r, nil
	}}
}

func sum(items []string) answer {
	h := fnv.New64a()
	for _, item := range items {
		_, _ = h.Write([]byte(item + "\n")) // never fails
	}
	return answer{items: len(items), sum: h.Sum64()}
}

// agree adds a server's answers to those that are known, and fails when one is
// not the same.
func agree(known, got map[int]answer, name string) error {
	for n, a := range got {
		before, ok := known[n]
		if !ok {
			known[n] = a
			continue
		}
		if a != before {
			return fmt.Errorf("answers differ: to request %d, %s answered %d items, other than the %d that were answered before", n, name, a.items, before.items)
		}
	}
	return nil
}

func searchBy(ctx context.Context, s *side, n int, body *bytes.Buffer) error {
	filter := fmt.Sprintf("metrics.%s > %.2f AND params.%s = '%s'", metricName(n%7), 0.2+0.6*float64(n)/requests, paramName(n%runParams), paramValue(n%paramValues))
	return s.search(ctx, body, map[string]any{"filter": filter, "order_by": []string{"metrics." + metricName(7+n%13) + " DESC"}, "max_results": 100})
}

func searchPage(ctx context.Context, s *side, _ int, body *bytes.Buffer) error {
	return s.search(ctx, body, map[string]any{"max_results": pageRuns})
}

func (s *side) search(ctx context.Context, body *bytes.Buffer, request map[string]any) error {
	request["experiment_ids"] = []string{s.experiment}
	encoded, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return s.client.post(ctx, "runs/search", encoded, body)
}

// readRuns returns the runs of a page in its order, each with all of its
// metrics and parameters.
func readRuns(_ *side, body []byte) ([]string, error) {
	var page struct {
		Runs []struct {
			Info struct {
				Name string `json:"run_name"`
			} `json:"info"`
			Data struct {
				Metrics []struct {
					Key string `json:"key"`
					point
				} `json:"metrics"`
				Params []struct {
					Key   string `json:"key"`
					Value string `json:"value"`
				} `json:"params"`
			} `json:"data"`
		} `json:"runs"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, err
	}
	if len(page.Runs) == 0 {
		return nil, fmt.Errorf("no runs were found: %.200s", body)
	}
	out := make([]string, len(page.Runs))
	for i, r := range page.Runs {
		data := make([]string, 0, runMetrics+runParams)
		for _, m := range r.Data.Metrics {
			data = append(data, fmt.Sprint(m.Key, m.point))
		}
		for _, p := range r.Data.Params {
			data = append(data, p.Key+"="+p.Value)
		}
		slices.Sort(data) // which order they have means nothing
		out[i] = r.Info.Name + " " + strings.Join(data, " ")
	}
	return out, nil
}

func history(ctx context.Context, s *side, n int, body *bytes.Buffer) error {
	query := url.Values{"run_id": {s.series[n%seriesRuns]}, "metric_key": {seriesKey}, "max_results": {strconv.Itoa(seriesPoints)}}
	_, err := s.client.get(ctx, "/api/2.0/mlflow/metrics/get-history?"+query.Encode(), body)
	return err
}

func interval(ctx context.Context, s *side, _ int, body *bytes.Buffer) error {
	query := url.Values{"run_ids": s.series, "metric_key": {seriesKey}, "max_results": {strconv.Itoa(curvePoints)}}
	_, err := s.client.get(ctx, "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?"+query.Encode(), body)
	return err
}

// readPoints returns the points of a history, of each run in its order.
func readPoints(s *side, body []byte) ([]string, error) {
	var page struct {
		Metrics []struct {
			Run string `json:"run_id"`
			point
		} `json:"metrics"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, err
	}
	if len(page.Metrics) == 0 {
		return nil, fmt.Errorf("no points were found: %.200s", body)
	}
	// The ids of the runs are the server's: their numbers are compared.
	slices.SortStableFunc(page.Metrics, func(a, b struct {
		Run string `json:"run_id"`
		point
	},
	) int {
		return slices.Index(s.series, a.Run) - slices.Index(s.series, b.Run)
	})
	out := make([]string, len(page.Metrics))
	for i, m := range page.Metrics {
		out[i] = fmt.Sprint(slices.Index(s.series, m.Run), m.point)
	}
	return out, nil
}
