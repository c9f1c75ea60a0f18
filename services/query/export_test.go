package query

import (
	"context"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
)

// Answer is a handler that runs a statement as the handlers of sweeps do.
func (s *Service) Answer(sql string) echo.HandlerFunc {
	return func(ec echo.Context) error {
		ctx := (&httpapi.Route{Kind: httpapi.KindSweep}).Context(ec.Request().Context())
		leave, err := s.db.enter(ctx)
		if err != nil {
			return err
		}
		defer leave()
		var st statement
		st.write(sql)
		return s.db.each(ctx, &st, func(func(...any) error) error { return nil })
	}
}

// Enter takes the slot of a sweep or of the read of one run.
func (s *Service) Enter(ctx context.Context, sweep bool) (leave func(), err error) {
	r := httpapi.Route{Kind: httpapi.KindPoint}
	if sweep {
		r.Kind = httpapi.KindSweep
	}
	return s.db.enter(r.Context(ctx))
}

// HistoryToken is the token of the page of a history after a point.
func HistoryToken(runID, key string, timestamp, step int64, value float64) string {
	token, err := encodeToken(digest("history", runID, key), historyKeys, []any{timestamp, step, int64(0), value})
	if err != nil {
		panic(err)
	}
	return token
}

// FetchPlans returns how the engine finds the metrics of runs, and their
// parameters and tags.
func (s *Service) FetchPlans(ctx context.Context, experiment uint64, ids []uuid.UUID) (plans [2]string, err error) {
	var runs []run
	for _, id := range ids {
		runs = append(runs, run{id: id, experimentID: experiment})
	}
	for i, fetch := range []*statement{latestMetricsOf(runs), attributesOf(runs)} {
		st := &statement{args: fetch.args}
		st.write("EXPLAIN ", fetch.text.String())
		var lines []string
		if err := s.db.each(ctx, st, func(scan func(...any) error) error {
			lines = append(lines, "")
			return scan(&lines[len(lines)-1])
		}); err != nil {
			return plans, err
		}
		plans[i] = strings.Join(lines, "\n")
	}
	return plans, nil
}

// ForgetCatalogues makes the next reads of catalogues read them whole.
func (s *Service) ForgetCatalogues() { s.catalogues.parts.Purge() }

// MaxLoggedEvents is up to how many events a run is read from the log.
const MaxLoggedEvents = maxLoggedEvents

// ReadRunsFromTables makes runs/get read no run from the log.
func (s *Service) ReadRunsFromTables() { s.loggedEvents = 0 }

// Marks returns up to where the service has heard that the shards are projected.
func (s *Service) Marks() []uint64 { return s.fresh.marks() }

// Mark returns up to where the service has heard that a stream is projected.
func (s *Service) Mark(stream string) uint64 { return s.fresh.reader.Watermark(stream) }
