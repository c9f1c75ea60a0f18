package query

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
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

// Ready reports whether both the log and ClickHouse answer.
func (s *Service) Ready(ctx context.Context) error {
	_, err := s.log.LastSeq(ctx, events.StreamExperiments)
	return errors.Join(err, s.db.ready(ctx))
}

// Close ends the service's connections. No request may be under way.
func (s *Service) Close() error { return errors.Join(s.fresh.close(), s.db.close()) }
