package mlflow

import (
	"github.com/go-json-experiment/json/jsontext"
)

// Metric is one point of a metric. Timestamp is milliseconds since the Unix
// epoch. Value may be NaN or infinite, which travel as the strings "NaN",
// "Infinity" and "-Infinity".
type Metric struct {
	Key       string
	Value     float64
	Timestamp int64
	Step      int64
}

// MarshalJSONTo writes the metric as MLflow's REST API shows it.
func (m Metric) MarshalJSONTo(enc *jsontext.Encoder) error {
	for _, t := range [...]jsontext.Token{
		jsontext.BeginObject,
		jsontext.String("key"), jsontext.String(m.Key),
		jsontext.String("value"), float(m.Value),
		jsontext.String("timestamp"), jsontext.Int(m.Timestamp),
		jsontext.String("step"), jsontext.Int(m.Step),
		jsontext.EndObject,
	} {
		if err := enc.WriteToken(t); err != nil {
			return err
		}
	}
	return nil
}

// LogMetric is the request of runs/log-metric. Timestamp is milliseconds since
// the Unix epoch.
type LogMetric struct {
	RunID     string
	Key       string
	Value     float64
	Timestamp int64
	Step      int64
}

func (r *LogMetric) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "key", required: true, dst: &r.Key},
		{name: "value", required: true, dst: &r.Value},
		{name: "timestamp", required: true, dst: &r.Timestamp},
		{name: "step", dst: &r.Step},
	}
}

// Metric returns the point that the request logs.
func (r *LogMetric) Metric() Metric {
	return Metric{Key: r.Key, Value: r.Value, Timestamp: r.Timestamp, Step: r.Step}
}

// GetMetricHistory is the request of metrics/get-history. A nil MaxResults asks
// for the whole history; check it with ValidateHistoryMaxResults.
type GetMetricHistory struct {
	RunID      string
	MetricKey  string
	PageToken  string
	MaxResults *int64
}

func (r *GetMetricHistory) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "metric_key", required: true, dst: &r.MetricKey},
		{name: "page_token", dst: &r.PageToken},
		{name: "max_results", dst: &r.MaxResults},
	}
}

// GetMetricHistoryResponse answers metrics/get-history.
type GetMetricHistoryResponse struct {
	Metrics       []Metric `json:"metrics,omitempty"`
	NextPageToken string   `json:"next_page_token,omitzero"`
}
