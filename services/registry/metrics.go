package registry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/services/registry/ledger"
)

type metrics struct {
	entries  prometheus.Counter
	latency  prometheus.Histogram
	commands *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, l *ledger.Ledger) *metrics {
	f := promauto.With(r)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "runledger_registry_tree_size", Help: "Entries in the registry's ledger.",
	}, func() float64 { return float64(l.Size()) })
	return &metrics{
		entries: f.NewCounter(prometheus.CounterOpts{
			Name: "runledger_registry_entries_applied_total", Help: "Events applied to the registry's ledger.",
		}),
		latency: f.NewHistogram(prometheus.HistogramOpts{
			Name: "runledger_registry_apply_seconds", Help: "Time to apply the events that came together, synced.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14),
		}),
		commands: f.NewCounterVec(prometheus.CounterOpts{
			Name: "runledger_registry_commands_total", Help: "Commands by action and code; OK for those that succeeded.",
		}, []string{"action", "code"}),
	}
}

func (m *metrics) applied(entries uint64, took time.Duration) {
	m.entries.Add(float64(entries))
	m.latency.Observe(took.Seconds())
}

func (m *metrics) command(action string, err error) {
	code := "OK"
	if err != nil {
		code = string(apierr.CodeOf(err))
	}
	m.commands.WithLabelValues(action, code).Inc()
}
