package ingest

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
)

type instruments struct {
	factory       promauto.Factory
	commands      *prometheus.CounterVec
	commitSeconds *prometheus.HistogramVec
	batchMessages *prometheus.HistogramVec
	failedCommits *prometheus.CounterVec
}

func newInstruments(r prometheus.Registerer) *instruments {
	auto := promauto.With(r)
	return &instruments{
		factory: auto,
		commands: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "runledger_ingest_commands_total", Help: "Commands by action and code; OK for those that succeeded.",
		}, []string{"action", "code"}),
		commitSeconds: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "runledger_ingest_commit_seconds", Help: "Duration of one commit to the log.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}, []string{"stream"}),
		batchMessages: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "runledger_ingest_batch_messages", Help: "Messages of one commit to the log.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}, []string{"stream"}),
		failedCommits: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "runledger_ingest_failed_commits_total", Help: "Commits that other writers forestalled or the log did not take.",
		}, []string{"stream"}),
	}
}

func (m *instruments) command(action string, err error) {
	code := "OK"
	if err != nil {
		code = string(apierr.CodeOf(err))
	}
	m.commands.WithLabelValues(action, code).Inc()
}

// observer returns what a lane tells its commits to.
func (m *instruments) observer(stream string) func(messages int, took time.Duration, err error) {
	seconds, messages, failed := m.commitSeconds.WithLabelValues(stream), m.batchMessages.WithLabelValues(stream), m.failedCommits.WithLabelValues(stream)
	return func(n int, took time.Duration, err error) {
		seconds.Observe(took.Seconds())
		messages.Observe(float64(n))
		if err != nil {
			failed.Inc()
		}
	}
}

func (m *instruments) watchQueue(stream string, lane *eventlog.Lane) {
	m.factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "runledger_ingest_waiting_commands", Help: "Commands that wait for the commit before theirs.",
		ConstLabels: prometheus.Labels{"stream": stream},
	}, func() float64 { return float64(lane.Waiting()) })
}
