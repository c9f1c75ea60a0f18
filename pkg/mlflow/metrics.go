package mlflow

import (
	"fmt"
	"math"

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
	Link      *MetricLink // nil: not a metric of a logged model
}

// MetricLink says of which logged model a point is a metric, and on which data
// set it was measured, if that is known. RunID is the run that it was logged to;
// requests name that themselves.
type MetricLink struct {
	ModelID       string
	DatasetName   string
	DatasetDigest string
	RunID         string
}

// orNil returns nil for a link to no model: the data set says nothing then.
func (l MetricLink) orNil() *MetricLink {
	if l.ModelID == "" {
		return nil
	}
	return &l
}

// writePoint begins an object with the key, the value and the time of a point.
func (m Metric) writePoint(enc *jsontext.Encoder) error {
	err := writeTokens(enc, jsontext.BeginObject, jsontext.String("key"), jsontext.String(m.Key), jsontext.String("value"))
	if err != nil {
		return err
	}
	if err := writeFloat(enc, m.Value); err != nil {
		return err
	}
	return writeTokens(enc,
		jsontext.String("timestamp"), jsontext.Int(m.Timestamp), jsontext.String("step"), jsontext.Int(m.Step))
}

func writeTokens(enc *jsontext.Encoder, tokens ...jsontext.Token) error {
	for _, t := range tokens {
		if err := enc.WriteToken(t); err != nil {
			return err
		}
	}
	return nil
}

// MarshalJSONTo writes the metric as MLflow's REST API shows it.
func (m Metric) MarshalJSONTo(enc *jsontext.Encoder) error {
	if err := m.writePoint(enc); err != nil {
		return err
	}
	if l := m.Link; l != nil {
		for _, member := range [...][2]string{
			{"dataset_name", l.DatasetName}, {"dataset_digest", l.DatasetDigest}, {"model_id", l.ModelID}, {"run_id", l.RunID},
		} {
			if member[1] == "" {
				continue
			}
			if err := writeTokens(enc, jsontext.String(member[0]), jsontext.String(member[1])); err != nil {
				return err
			}
		}
	}
	return enc.WriteToken(jsontext.EndObject)
}

// LogMetric is the request of runs/log-metric. Timestamp is milliseconds since
// the Unix epoch.
type LogMetric struct {
	RunID     string
	Key       string
	Value     float64
	Timestamp int64
	Step      int64
	Link      MetricLink
}

func (r *LogMetric) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "key", required: true, dst: &r.Key},
		{name: "value", required: true, dst: &r.Value},
		{name: "timestamp", required: true, dst: &r.Timestamp},
		{name: "step", dst: &r.Step},
		{name: "model_id", dst: &r.Link.ModelID},
		{name: "dataset_name", dst: &r.Link.DatasetName},
		{name: "dataset_digest", dst: &r.Link.DatasetDigest},
	}
}

// Metric returns the point that the request logs.
func (r *LogMetric) Metric() Metric {
	return Metric{Key: r.Key, Value: r.Value, Timestamp: r.Timestamp, Step: r.Step, Link: r.Link.orNil()}
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

// RunMetric is a point of a metric and the run that it belongs to.
type RunMetric struct {
	Metric
	RunID string
}

// MarshalJSONTo writes the point as MLflow's REST API shows it.
func (m RunMetric) MarshalJSONTo(enc *jsontext.Encoder) error {
	if err := m.writePoint(enc); err != nil {
		return err
	}
	return writeTokens(enc, jsontext.String("run_id"), jsontext.String(m.RunID), jsontext.EndObject)
}

// AppendPython appends the point to b as Python writes a dictionary in JSON,
// which is how metrics/get-history-bulk shows it: NaN and the infinities are
// bare words, that most JSON parsers refuse.
func (m RunMetric) AppendPython(b []byte) []byte {
	value := pyFloat(m.Value)
	switch {
	case math.IsNaN(m.Value):
		value = "NaN"
	case math.IsInf(m.Value, 1):
		value = "Infinity"
	case math.IsInf(m.Value, -1):
		value = "-Infinity"
	}
	return fmt.Appendf(b, `{"key":%s,"run_id":%s,"step":%d,"timestamp":%d,"value":%s}`,
		jsonQuote(m.Key), jsonQuote(m.RunID), m.Step, m.Timestamp, value)
}

// GetMetricHistoryBulk is the request of metrics/get-history-bulk. Check it
// with ValidateHistoryBulk.
type GetMetricHistoryBulk struct {
	RunIDs     []string
	MetricKey  *string
	MaxResults int64 // of all runs together; MaxHistoryBulk unless given
}

func (r *GetMetricHistoryBulk) fields() []field {
	return []field{
		{name: "run_id", dst: &r.RunIDs},
		{name: "metric_key", dst: &r.MetricKey},
		{name: "max_results", def: MaxHistoryBulk, dst: &r.MaxResults},
	}
}

// GetMetricHistoryBulkInterval is the request of
// metrics/get-history-bulk-interval. Check it with ValidateHistoryInterval.
type GetMetricHistoryBulkInterval struct {
	RunIDs    []string
	MetricKey string
	// StartStep and EndStep, both or neither, are the first and the last step.
	StartStep, EndStep *int64
	MaxResults         int64 // of each run; MaxHistorySample unless given
}

func (r *GetMetricHistoryBulkInterval) fields() []field {
	return []field{
		{name: "run_ids", required: true, dst: &r.RunIDs},
		{name: "metric_key", required: true, dst: &r.MetricKey},
		{name: "start_step", dst: &r.StartStep},
		{name: "end_step", dst: &r.EndStep},
		{name: "max_results", def: MaxHistorySample, dst: &r.MaxResults},
	}
}
