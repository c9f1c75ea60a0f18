package mlflow

import (
	"fmt"
	"strings"
	"testing"
)

// batchBody is a log-batch request of 1000 points of 10 metrics, about 80 KB.
func batchBody() []byte {
	var b strings.Builder
	b.WriteString(`{"run_id": "9c054f4aab2c4e75baf55082a4411bde", "metrics": [`)
	for i := range MaxBatchMetrics {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, `{"key": "train/metric_%d", "value": %.16f, "timestamp": %d, "step": %d}`, i%10, 1/float64(i+3), 1795406717112+i, i)
	}
	b.WriteString("]}")
	return []byte(b.String())
}

func BenchmarkDecodeLogBatch(b *testing.B) {
	body := batchBody()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var req LogBatch
		if err := decodeBytes(body, &req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidateBatch(b *testing.B) {
	var req LogBatch
	if err := decodeBytes(batchBody(), &req); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := ValidateBatch(&req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeLogMetric(b *testing.B) {
	body := []byte(`{"run_id":"9c054f4aab2c4e75baf55082a4411bde","key":"loss","value":0.5,"timestamp":1795406717112,"step":3}`)
	b.ReportAllocs()
	for b.Loop() {
		var req LogMetric
		if err := decodeBytes(body, &req); err != nil {
			b.Fatal(err)
		}
	}
}
