package projector

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type instruments struct {
	watermark     *prometheus.GaugeVec
	rows          *prometheus.CounterVec
	suspects      *prometheus.CounterVec
	flushes       *prometheus.CounterVec
	insertSeconds *prometheus.HistogramVec
	flushSeconds  *prometheus.HistogramVec
	rollupSeconds *prometheus.HistogramVec
	rebuilds      prometheus.Counter
	rebuilding    prometheus.Gauge
}

func newInstruments(r prometheus.Registerer) *instruments {
	auto := promauto.With(r)
	buckets := prometheus.ExponentialBuckets(0.001, 2, 14)
	return &instruments{
		watermark: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "runledger_projector_watermark", Help: "Sequence up to which every table holds the stream.",
		}, []string{"stream"}),
		rows: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "runledger_projector_rows_total", Help: "Rows inserted.",
		}, []string{"table"}),
		suspects: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "runledger_projector_suspects_total", Help: "Metric points looked up in the table because they may be repeated.",
		}, []string{"stream"}),
		flushes: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "runledger_projector_flushes_total", Help: "Batches written, by what ended them.",
		}, []string{"stream", "reason"}),
		insertSeconds: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "runledger_projector_insert_seconds", Help: "Duration of one insert.", Buckets: buckets,
		}, []string{"table"}),
		flushSeconds: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "runledger_projector_flush_seconds", Help: "Duration of folding and writing one batch.", Buckets: buckets,
		}, []string{"stream"}),
		rollupSeconds: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "runledger_projector_rollup_seconds", Help: "Duration of rolling up one long series.", Buckets: buckets,
		}, []string{"stream"}),
		rebuilds: auto.NewCounter(prometheus.CounterOpts{
			Name: "runledger_projector_rebuilds_total", Help: "How often damaged tables were set aside and built again from the log.",
		}),
		rebuilding: auto.NewGauge(prometheus.GaugeOpts{
			Name: "runledger_projector_rebuilding", Help: "1 while damaged tables are built again from the log.",
		}),
	}
}

// collectTimeout bounds what a scrape asks of the log.
const collectTimeout = 2 * time.Second

var (
	lastDesc = prometheus.NewDesc("runledger_log_last_sequence", "Last sequence of the stream in the log.", []string{"stream"}, nil)
	lagDesc  = prometheus.NewDesc("runledger_projector_lag_events", "Events of the stream that are not in the tables yet.", []string{"stream"}, nil)
)

// lag asks the log for its ends when it is scraped.
type lag struct{ *Projector }

func (l lag) Describe(ch chan<- *prometheus.Desc) {
	ch <- lastDesc
	ch <- lagDesc
}

func (l lag) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	for _, w := range l.workers {
		s := w.get()
		last, err := l.config.Log.LastSeq(ctx, w.stream)
		if err != nil {
			continue
		}
		ch <- prometheus.MustNewConstMetric(lastDesc, prometheus.GaugeValue, float64(last), w.stream)
		if s.holder == "" {
			ch <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, float64(last-min(last, s.watermark)), w.stream)
		}
	}
}
