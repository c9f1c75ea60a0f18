package main

import (
	"context"

	dto "github.com/prometheus/client_model/go"
)

// projection is what the projector says of its work since the server started.
type projection struct {
	inserts map[string]work // by table
	flushes work
	rows    map[string]float64 // by table
}

// work is how often something was done, and how many seconds it took together.
type work struct{ count, seconds float64 }

// meanMillis returns 0 for what was not done.
func (w work) meanMillis() float64 { return 1000 * w.seconds / max(1, w.count) }

// projection reads the server's own metrics.
func (i *instance) projection(ctx context.Context) (projection, error) {
	families, err := i.metrics(ctx)
	if err != nil {
		return projection{}, err
	}
	p := projection{inserts: make(map[string]work), rows: make(map[string]float64)}
	for _, m := range families["runledger_projector_insert_seconds"].GetMetric() {
		p.inserts[label(m, "table")] = histogram(m)
	}
	for _, m := range families["runledger_projector_rows_total"].GetMetric() {
		p.rows[label(m, "table")] = m.GetCounter().GetValue()
	}
	for _, m := range families["runledger_projector_flush_seconds"].GetMetric() {
		h := histogram(m)
		p.flushes.count += h.count
		p.flushes.seconds += h.seconds
	}
	return p, nil
}

func histogram(m *dto.Metric) work {
	return work{count: float64(m.GetHistogram().GetSampleCount()), seconds: m.GetHistogram().GetSampleSum()}
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
