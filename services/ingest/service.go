// Package ingest takes MLflow's tracking writes: it decides each on what the
// log says of the run or experiment, and appends the events that it stands
// for. Any number of ingest processes may write to one log.
package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	source            = "/runledger/ingest"
	defaultCacheBytes = 128 << 20
)

// Config configures New.
type Config struct {
	Log *eventlog.Log
	// CacheBytes bounds the memory for runs' states, by estimate; 0 is 128 MiB.
	CacheBytes int
	// PurgeArtifacts empties the artifact store of what is purged; nil is a server
	// without a store.
	PurgeArtifacts PurgeArtifacts
	// WorkingDir is what relative artifact locations are below; "" is the working
	// directory of the process.
	WorkingDir string
	Logger     *slog.Logger          // nil is silent
	Registerer prometheus.Registerer // nil is none
}

// Service is the ingest service.
type Service struct {
	log            *eventlog.Log
	instruments    *instruments
	queue          *httpapi.Queue
	experiments    *experimentLog
	shards         []*shard
	models         *models
	purgeArtifacts PurgeArtifacts
	workingDir     string
}

// New starts the service. It reads all experiments, and creates the default
// one in an empty log.
func New(ctx context.Context, c Config) (*Service, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.WorkingDir == "" {
		dir, err := os.Getwd()
		if err != nil {
			return nil, fmt.Errorf("ingest: %w", err)
		}
		c.WorkingDir = dir
	}
	m := newInstruments(c.Registerer)
	s := &Service{
		log: c.Log, instruments: m, queue: httpapi.NewQueue(c.Registerer, "ingest"), experiments: newExperimentLog(c.Log, m),
		models: newModels(c.Log, m), purgeArtifacts: c.PurgeArtifacts, workingDir: c.WorkingDir,
	}
	for i := range c.Log.Shards() {
		sh, err := newShard(c.Log, i, c.CacheBytes/c.Log.Shards(), m)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("ingest: %w", err)
		}
		s.shards = append(s.shards, sh)
		m.watchQueue(sh.stream, sh.lane)
	}
	m.watchQueue(events.StreamExperiments, s.experiments.lane)
	if err := s.experiments.start(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("ingest: %w", err)
	}
	c.Logger.Debug("ingest has read the experiments", slog.Uint64("sequence", s.experiments.folded()))
	return s, nil
}

// Close commits what has been accepted, and ends the service.
func (s *Service) Close() {
	s.experiments.lane.Close()
	s.models.close()
	for _, sh := range s.shards {
		sh.lane.Close()
	}
}

// Ready reports whether the log answers.
func (s *Service) Ready(ctx context.Context) error {
	_, err := s.log.LastSeq(ctx, events.StreamExperiments)
	return err
}

// answer tells where the write is in the log, and answers with v.
func answer(c echo.Context, pos eventlog.Position, v any) error {
	if pos.Seq > 0 {
		c.Response().Header().Set(httpapi.HeaderStream, pos.Stream)
		c.Response().Header().Set(httpapi.HeaderSeq, strconv.FormatUint(pos.Seq, 10))
	}
	return mlflow.WriteJSON(c.Response(), v)
}
