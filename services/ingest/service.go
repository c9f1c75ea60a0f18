// Package ingest takes MLflow's tracking writes: it decides each on what the
// log says of the run or experiment, and appends the events that it stands
// for. Any number of ingest processes may write to one log.
package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	source            = "/runledger/ingest"
	maxIdempotencyKey = 255
)

// Config configures New.
type Config struct {
	Log *eventlog.Log
	// CachedRuns is how many runs' states are kept in memory in each shard; 0
	// is 10 000.
	CachedRuns int
	Logger     *slog.Logger          // nil is silent
	Registerer prometheus.Registerer // nil is none
}

// Service is the ingest service.
type Service struct {
	log         *eventlog.Log
	logger      *slog.Logger
	experiments *experiments
	shards      []*shard
}

// New starts the service. It reads all experiments, and creates the default
// one in an empty log.
func New(ctx context.Context, c Config) (*Service, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.CachedRuns == 0 {
		c.CachedRuns = 10_000
	}
	s := &Service{log: c.Log, logger: c.Logger, experiments: newExperiments(c.Log)}
	for i := range c.Log.Shards() {
		sh, err := newShard(c.Log, i, c.CachedRuns)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("ingest: %w", err)
		}
		s.shards = append(s.shards, sh)
	}
	if err := s.experiments.createDefault(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("ingest: %w", err)
	}
	if c.Registerer != nil {
		if err := c.Registerer.Register(collector{s}); err != nil {
			s.Close()
			return nil, fmt.Errorf("ingest: %w", err)
		}
	}
	return s, nil
}

// Close commits what has been accepted, and ends the service.
func (s *Service) Close() {
	s.experiments.lane.Close()
	for _, sh := range s.shards {
		sh.lane.Close()
	}
}

// Ready reports whether the log answers.
func (s *Service) Ready(ctx context.Context) error {
	_, err := s.log.LastSeq(ctx, events.StreamExperiments)
	return err
}

// Register adds the routes to e.
func (s *Service) Register(e *echo.Echo) {
	for path, h := range map[string]echo.HandlerFunc{
		"/experiments/create":                s.createExperiment,
		"/experiments/update":                s.renameExperiment,
		"/experiments/delete":                s.deleteExperiment,
		"/experiments/restore":               s.restoreExperiment,
		"/experiments/set-experiment-tag":    s.setExperimentTag,
		"/experiments/delete-experiment-tag": s.deleteExperimentTag,
		"/runs/create":                       s.createRun,
		"/runs/update":                       s.updateRun,
		"/runs/delete":                       s.deleteRun,
		"/runs/restore":                      s.restoreRun,
		"/runs/log-metric":                   s.logMetric,
		"/runs/log-parameter":                s.logParameter,
		"/runs/log-batch":                    s.logBatch,
		"/runs/set-tag":                      s.setTag,
		"/runs/delete-tag":                   s.deleteTag,
	} {
		httpapi.MLflow(e, http.MethodPost, path, h)
	}
}

// answer tells where the write is in the log, and answers with v.
func answer(c echo.Context, pos eventlog.Position, v any) error {
	if pos.Seq > 0 {
		c.Response().Header().Set(httpapi.HeaderStream, pos.Stream)
		c.Response().Header().Set(httpapi.HeaderSeq, strconv.FormatUint(pos.Seq, 10))
	}
	return mlflow.WriteJSON(c.Response(), v)
}

// attributes returns the attributes of the events that a request causes. The
// idempotency key holds a digest of the request, so that another request with
// the same key is told apart from a repeated one.
func attributes(c echo.Context, request any) (events.Attributes, error) {
	a := httpapi.Attributes(c, source)
	key := a.IdempotencyKey
	if key == "" {
		return a, nil
	}
	if len(key) > maxIdempotencyKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return a, apierr.Errorf(apierr.InvalidParameterValue,
			"%s must be at most %d printable ASCII characters", httpapi.HeaderIdempotencyKey, maxIdempotencyKey)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %+v", c.Path(), request))
	a.IdempotencyKey = key + digestMark + hex.EncodeToString(sum[:8])
	return a, nil
}

const digestMark = "#"

// requests remembers the digests of requests by their idempotency keys.
type requests map[string]string

func (r requests) add(idempotencyKey string) {
	if i := strings.LastIndex(idempotencyKey, digestMark); i >= 0 {
		r[idempotencyKey[:i]] = idempotencyKey[i:]
	}
}

// seen reports whether the request was committed before. A key that came with
// another request is an INVALID_PARAMETER_VALUE.
func (r requests) seen(idempotencyKey string) (bool, error) {
	i := strings.LastIndex(idempotencyKey, digestMark)
	if i < 0 {
		return false, nil
	}
	digest, ok := r[idempotencyKey[:i]]
	if ok && digest != idempotencyKey[i:] {
		return false, apierr.Errorf(apierr.InvalidParameterValue,
			"%s '%s' was used for another request", httpapi.HeaderIdempotencyKey, idempotencyKey[:i])
	}
	return ok, nil
}

// collector shows how many commands wait for their commit.
type collector struct{ *Service }

var waitingDesc = prometheus.NewDesc("runledger_ingest_waiting_commands",
	"Commands that wait for the commit before theirs.", []string{"stream"}, nil)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { ch <- waitingDesc }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	lanes := map[string]*eventlog.Lane{events.StreamExperiments: c.experiments.lane}
	for i, sh := range c.shards {
		lanes[events.RunsStream(i)] = sh.lane
	}
	for stream, lane := range lanes {
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(lane.Waiting()), stream)
	}
}
