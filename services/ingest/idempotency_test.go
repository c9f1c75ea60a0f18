package ingest

import (
	"testing"

	"github.com/runledger/runledger/pkg/mlflow"
)

// Digests stay as they are, since they are in logs: one that is computed in another
// way needs another version, and those of this one must be recognised then too.
func TestDigestsStay(t *testing.T) {
	for _, tt := range []struct {
		route string
		path  []string
		req   mlflow.Message
		want  string
	}{
		{"POST runs/create", nil, &mlflow.CreateRun{ExperimentID: "0", RunName: "n", StartTime: mlflow.NoStartTime}, "#1:421dab50b3489090f1e8efbfec1decf5"},
		{"POST runs/log-batch", nil, &mlflow.LogBatch{RunID: "r", Metrics: []mlflow.Metric{{Key: "m", Value: 0.5, Timestamp: 1, Link: &mlflow.MetricLink{ModelID: "m-1"}}}}, "#1:ecc13b12eee963617456e721781cf516"},
		{"DELETE logged-models/:model_id/tags/:tag_key", []string{"m-1", "k"}, nil, "#1:4b2af8e44fd1cfea74bce649d054278b"},
	} {
		if got := digest(tt.route, tt.path, tt.req); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.route, got, tt.want)
		}
	}
}
