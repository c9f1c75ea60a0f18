package main

import (
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// batchPoints is the number of points of a log-batch request: as many as
// MLflow allows.
const batchPoints = mlflow.MaxBatchMetrics

var metricKeys = [...]string{"train_loss", "train_accuracy", "val_loss", "learning_rate"}

const (
	stepsPerBatch  = batchPoints / len(metricKeys)
	millisPerStep  = 50
	firstTimestamp = 1_790_000_000_000 // milliseconds since the Unix epoch
)

// workload is what a number of training runs log: the same points whenever
// they are asked for, no two of them alike. Batches are numbered in the order in
// which they are sent, the runs taking turns.
type workload struct {
	seed    uint64
	runs    int
	batches int
}

func (w workload) total() int { return w.batches * batchPoints }

// runOf returns which run a batch belongs to.
func (w workload) runOf(batch int) int { return batch % w.runs }

// points returns the points of a batch: every key at each of a number of steps,
// with noisy values and uneven times.
func (w workload) points(batch int) []events.Point {
	rng := rand.New(rand.NewPCG(w.seed, uint64(batch)))
	first := batch / w.runs * stepsPerBatch
	out := make([]events.Point, 0, batchPoints)
	for step := first; step < first+stepsPerBatch; step++ {
		x := float64(step)
		for _, key := range metricKeys {
			p := events.Point{Key: key, Step: int64(step), Timestamp: firstTimestamp + int64(step*millisPerStep+rng.IntN(millisPerStep))}
			switch key {
			case "train_loss":
				p.Value = 2*math.Exp(-x/4000) + 0.05*rng.NormFloat64()
			case "train_accuracy":
				p.Value = 1 - math.Exp(-x/3000) + 0.01*rng.NormFloat64()
			case "val_loss":
				p.Value = 2.1*math.Exp(-x/4500) + 0.1 + 0.08*rng.NormFloat64()
			case "learning_rate":
				p.Value = 1e-3 * (1 + math.Cos(x/5000)) / 2
			}
			out = append(out, p)
		}
	}
	return out
}

// runIDOffset is where the run id is in the body of a request about a run.
const runIDOffset = len(`{"run_id": "`)

// encodeBatch returns the body of a log-batch request as MLflow's Python client
// writes it, with room for the run's id.
func encodeBatch(points []events.Point) []byte {
	b := make([]byte, 0, 100*len(points))
	b = append(b, `{"run_id": "00000000000000000000000000000000", "metrics": [`...)
	for i, p := range points {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, '{')
		b = appendPoint(b, p)
		b = append(b, '}')
	}
	return append(b, "]}"...)
}

// encodeMetric appends the body of a log-metric request to b.
func encodeMetric(b []byte, runID string, p events.Point) []byte {
	b = append(b, `{"run_id": "`...)
	b = append(b, runID...)
	b = append(b, `", `...)
	b = appendPoint(b, p)
	return append(b, '}')
}

// appendPoint appends the members of a finite point, whose key needs no
// escaping.
func appendPoint(b []byte, p events.Point) []byte {
	b = append(b, `"key": "`...)
	b = append(b, p.Key...)
	b = append(b, `", "value": `...)
	b = strconv.AppendFloat(b, p.Value, 'g', -1, 64)
	b = append(b, `, "timestamp": `...)
	b = strconv.AppendInt(b, p.Timestamp, 10)
	b = append(b, `, "step": `...)
	return strconv.AppendInt(b, p.Step, 10)
}

// setRunID writes the id of a run, 32 digits, into a body.
func setRunID(body []byte, id string) { copy(body[runIDOffset:runIDOffset+32], id) }

// load is a workload whose requests are encoded, so that sending them costs
// little. Memory: about 100 bytes a point.
type load struct {
	workload
	bodies [][]byte
}

func newLoad(w workload) load {
	l := load{workload: w, bodies: make([][]byte, w.batches)}
	for i := range l.bodies {
		l.bodies[i] = encodeBatch(w.points(i))
	}
	return l
}
