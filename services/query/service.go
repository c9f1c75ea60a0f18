package query

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/watermark"
)

// Config configures New. Log, NATS and ClickHouse are required; what else is
// zero takes its default.
type Config struct {
	// Log is asked what a read has to wait for.
	Log *eventlog.Log
	// NATS carries the projector's watermarks.
	NATS *nats.Conn
	// ClickHouse says how to connect, and which database has the tables.
	ClickHouse *clickhouse.Options
	// Registerer takes the service's metrics; nil for none.
	Registerer prometheus.Registerer

	// Wait bounds how long a read waits for the tables to catch up with the
	// log; 0 is 5 seconds.
	Wait time.Duration
	// Timeout bounds one statement; 0 is 30 seconds.
	Timeout time.Duration
	// MaxMemory is how much memory ClickHouse may use for one statement, in
	// bytes; 0 is 1 GiB.
	MaxMemory uint64
	// MaxThreads bounds the threads that ClickHouse uses for one statement; 0
	// is 4. All but searches get half of it.
	MaxThreads int
	// MaxRequests bounds how many requests of a kind read from ClickHouse at a
	// time; 0 is 16. Series and audits get a quarter of it, sweeps an eighth.
	// Further ones wait for SlotWait, a few for each that is under way.
	MaxRequests int
	// MaxSilence is how long ClickHouse may say nothing at all on a statement, not
	// even how far it is, before the read is refused; 0 is 10 seconds.
	MaxSilence time.Duration
	// SlotWait bounds how long a request waits for others to finish before it is
	// refused; 0 is 5 seconds.
	SlotWait time.Duration
}

func (c Config) withDefaults() (Config, error) {
	if c.Log == nil || c.NATS == nil || c.ClickHouse == nil {
		return c, errors.New("query: Log, NATS and ClickHouse are required")
	}
	setDefault(&c.Wait, 5*time.Second)
	setDefault(&c.Timeout, 30*time.Second)
	setDefault(&c.MaxMemory, 1<<30)
	setDefault(&c.MaxThreads, 4)
	setDefault(&c.MaxRequests, 16)
	setDefault(&c.MaxSilence, 10*time.Second)
	setDefault(&c.SlotWait, 5*time.Second)
	return c, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Service answers reads. It is safe for concurrent use.
type Service struct {
	log        *eventlog.Log
	db         *database
	fresh      *freshness
	catalogues *catalogues

	experiments  *loggedExperiments
	loggedEvents uint64 // up to how many a run is read from the log
}

// New connects to ClickHouse and begins to listen for watermarks. ClickHouse
// need not be there yet. Close ends the service.
func New(_ context.Context, c Config) (*Service, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	reader, err := watermark.NewReader(c.NATS)
	if err != nil {
		return nil, fmt.Errorf("start the query service: %w", err)
	}
	fresh, err := newFreshness(c.Log, reader, c.Wait, c.Registerer)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the query service: %w", err), reader.Close())
	}
	db, err := openDatabase(c, fresh.replaced)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the query service: %w", err), reader.Close())
	}
	catalogues, err := newCatalogues(db, fresh)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the query service: %w", err), db.close(), reader.Close())
	}
	return &Service{
		log: c.Log, db: db, fresh: fresh, catalogues: catalogues, experiments: newLoggedExperiments(c.Log, c.Wait), loggedEvents: maxLoggedEvents,
	}, nil
}

// Register adds the routes.
func (s *Service) Register(e *echo.Echo) {
	e.Use(s.steady)
	httpapi.MLflow(e, http.MethodGet, "/experiments/get", as(kindPoint, s.getExperiment))
	httpapi.MLflow(e, http.MethodGet, "/experiments/get-by-name", as(kindPoint, s.getExperimentByName))
	httpapi.MLflow(e, http.MethodGet, "/experiments/search", s.searchExperiments)
	httpapi.MLflow(e, http.MethodPost, "/experiments/search", s.searchExperiments)
	httpapi.MLflow(e, http.MethodGet, "/runs/get", as(kindPoint, s.getRun))
	httpapi.MLflow(e, http.MethodPost, "/runs/search", s.searchRuns)
	httpapi.MLflow(e, http.MethodGet, "/metrics/get-history", s.getMetricHistory)
	httpapi.MLflow(e, http.MethodGet, "/metrics/get-history-bulk-interval", s.getMetricHistoryBulkInterval)
	e.GET("/ajax-api/2.0/mlflow/metrics/get-history-bulk", s.getMetricHistoryBulk)
	httpapi.MLflow(e, http.MethodGet, "/logged-models/:model_id", as(kindPoint, s.getModel))
	httpapi.MLflow(e, http.MethodPost, "/logged-models/search", s.searchModels)
	httpapi.MLflow(e, http.MethodPost, "/experiments/search-datasets", s.searchDatasets)
	httpapi.API(e, http.MethodGet, "/api/v1/audit", httpapi.Takes{
		Query: append([]string{"order", "format", "max_results", "page_token"}, auditParams...), Lists: []string{"type"},
	}, as(kindAudit, s.audit))
	httpapi.API(e, http.MethodGet, "/api/v1/audit/counts", httpapi.Takes{
		Query: append([]string{"by"}, auditParams...), Lists: []string{"type"},
	}, as(kindAudit, s.countAudit))
	httpapi.API(e, http.MethodGet, "/api/v1/lineage", httpapi.Takes{
		Query: []string{"run_id", "model_id", "dataset_digest", "dataset_name", "commit", "max_results", "page_token"},
	}, as(kindAudit, s.lineage))
	httpapi.API(e, http.MethodGet, "/api/v1/artifacts", httpapi.Takes{Query: []string{"run_id", "model_id", "max_results", "page_token"}}, s.listArtifacts)
	httpapi.API(e, http.MethodGet, "/api/v1/gc/candidates", httpapi.Takes{Query: []string{"older_than_ms", "experiment_ids", "ids", "page_token"}}, s.candidates)
	httpapi.API(e, http.MethodPost, "/api/v1/series", httpapi.Takes{Body: true, Reads: true}, as(kindSeries, s.answerSeries))
	httpapi.API(e, http.MethodGet, "/api/v1/experiments/:id/catalogue", httpapi.Takes{Query: []string{"kind", "prefix", "max_results", "page_token"}}, s.catalogue)
	httpapi.API(e, http.MethodPost, "/api/v1/runs/compare", httpapi.Takes{Body: true, Reads: true}, as(kindSweep, s.compareRuns))
	httpapi.API(e, http.MethodPost, "/api/v1/sweeps/curves", httpapi.Takes{Body: true, Reads: true}, as(kindSweep, s.sweepCurves))
	httpapi.API(e, http.MethodPost, "/api/v1/sweeps/top", httpapi.Takes{Body: true, Reads: true}, as(kindSweep, s.sweepTop))
	httpapi.API(e, http.MethodPost, "/api/v1/sweeps/coordinates", httpapi.Takes{Body: true, Reads: true}, as(kindSweep, s.sweepCoordinates))
	httpapi.API(e, http.MethodPost, "/api/v1/sweeps/importance", httpapi.Takes{Body: true, Reads: true}, as(kindSweep, s.sweepImportance))
	httpapi.API(e, http.MethodPost, "/api/v1/sweeps/pareto", httpapi.Takes{Body: true, Reads: true}, as(kindSweep, s.sweepPareto))
	httpapi.API(e, http.MethodPost, "/api/v1/sweeps/progress", httpapi.Takes{Body: true, Reads: true}, as(kindSweep, s.sweepProgress))
}

// Ready reports whether both the log and ClickHouse answer.
func (s *Service) Ready(ctx context.Context) error {
	_, err := s.log.LastSeq(ctx, events.StreamExperiments)
	return errors.Join(err, s.db.ready(ctx))
}

// Close ends the service's connections. No request may be under way.
func (s *Service) Close() error { return errors.Join(s.fresh.close(), s.db.close()) }
