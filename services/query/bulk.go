package query

import (
	"context"
	"net/http"
	"slices"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// getMetricHistoryBulk answers with the first points of the histories of
// several runs, one run after the other in the order of their ids.
func (s *Service) getMetricHistoryBulk(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetMetricHistoryBulk](ec.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateHistoryBulk(req); err != nil {
		return err
	}
	ctx := ec.Request().Context()
	slices.Sort(req.RunIDs)
	runs, err := s.withMetrics(ec, slices.Compact(req.RunIDs))
	if err != nil {
		return err
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	left := int(min(req.MaxResults, mlflow.MaxHistoryBulk))
	body := []byte(`{"metrics":[`)
	for _, run := range runs {
		if left == 0 {
			break
		}
		_, err := s.history(ctx, series{run, *req.MetricKey}, nil, left, func(m mlflow.Metric) error {
			if body[len(body)-1] != '[' {
				body = append(body, ',')
			}
			body = mlflow.RunMetric{Metric: m, RunID: formatRunID(run)}.AppendPython(body)
			left--
			return nil
		})
		if err != nil {
			return err
		}
	}
	return ec.Blob(http.StatusOK, echo.MIMEApplicationJSON, append(body, "]}"...))
}

// getMetricHistoryBulkInterval answers with evenly spaced points of the
// histories of several runs, one run after the other as they are asked for.
func (s *Service) getMetricHistoryBulkInterval(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetMetricHistoryBulkInterval](ec.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateHistoryInterval(req); err != nil {
		return err
	}
	ctx := ec.Request().Context()
	runs, err := s.withMetrics(ec, req.RunIDs)
	if err != nil {
		return err
	}
	out := newAnswer(ec, "metrics")
	if len(runs) == 0 {
		return out.end("")
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	steps := interval{key: req.MetricKey, start: req.StartStep, end: req.EndStep}
	counts, err := s.countPoints(ctx, runs, steps)
	if err != nil {
		return err
	}
	for _, run := range runs {
		err := s.samplePoints(ctx, run, steps, counts[run], uint64(req.MaxResults), func(m mlflow.Metric) error {
			return out.item(mlflow.RunMetric{Metric: m, RunID: formatRunID(run)})
		})
		if err != nil {
			return err
		}
	}
	return out.end("")
}

// withMetrics returns those of the runs that have metrics, after it has waited
// for the tables to have them.
func (s *Service) withMetrics(ec echo.Context, runIDs []string) ([]uuid.UUID, error) {
	var runs []uuid.UUID
	last := map[string]uint64{} // by stream
	for _, runID := range runIDs {
		id, ok := parseRunID(runID)
		if !ok {
			continue
		}
		at, _, err := s.fresh.ofRun(ec.Request().Context(), runID, events.KindMetric)
		if err != nil {
			return nil, err
		}
		if at.Seq > 0 {
			runs = append(runs, id)
			last[at.Stream] = max(last[at.Stream], at.Seq)
		}
	}
	places := make([]eventlog.Position, 0, len(last))
	for stream, seq := range last {
		places = append(places, eventlog.Position{Stream: stream, Seq: seq})
	}
	_, err := s.fresh.await(ec, places...)
	return runs, err
}

// interval is a range of the steps of a metric: all, unless it has both ends.
type interval struct {
	key        string
	start, end *int64
}

// in returns the condition that a point is of the metric and in the range.
func (x interval) in(st *statement) string {
	condition := "key = " + st.bind("String", x.key)
	if x.start != nil && x.end != nil {
		condition += " AND step BETWEEN " + st.bind("Int64", *x.start) + " AND " + st.bind("Int64", *x.end)
	}
	return condition
}

// countPoints returns how many points each run has in an interval.
func (s *Service) countPoints(ctx context.Context, runs []uuid.UUID, steps interval) (map[uuid.UUID]uint64, error) {
	ids := make([]string, len(runs))
	for i, run := range runs {
		ids[i] = run.String()
	}
	var st statement
	st.write("SELECT run_id, count() FROM metrics FINAL WHERE run_id IN ", st.bind("Array(UUID)", ids),
		" AND ", steps.in(&st), " GROUP BY run_id", exactIndexes)
	counts := make(map[uuid.UUID]uint64, len(runs))
	err := s.db.each(ctx, &st, func(scan func(...any) error) error {
		var (
			run   uuid.UUID
			count uint64
		)
		if err := scan(&run, &count); err != nil {
			return err
		}
		counts[run] = count
		return nil
	})
	return counts, err
}

// samplePoints visits limit points of a run, or all if it has no more, in the
// order of (step, timestamp, value), NaN last. They are what MLflow takes: the
// first of each of limit equal parts (SQL's NTILE: the first parts are one point
// longer when it does not come out even), but of the last part the last point.
//
// The points are numbered as the table is read, in its own order: neither side
// keeps more than it is about to send.
func (s *Service) samplePoints(ctx context.Context, run uuid.UUID, steps interval, count, limit uint64, visit func(mlflow.Metric) error) error {
	if count == 0 {
		return nil
	}
	var st statement
	st.write("SELECT timestamp, step, value FROM (SELECT timestamp, step, value, rowNumberInAllBlocks() AS place FROM (",
		"SELECT timestamp, step, value FROM metrics FINAL WHERE run_id = ", st.bind("UUID", run.String()), " AND ", steps.in(&st),
		" ORDER BY step, timestamp, value))")
	if count > limit {
		size, longer := count/limit, count%limit
		first := st.bind("UInt64", longer*(size+1)) // of the shorter parts
		st.write(" WHERE place = ", st.bind("UInt64", count-1), " OR place < ", st.bind("UInt64", count-size),
			" AND if(place < ", first, ", place % ", st.bind("UInt64", size+1), ", (place - ", first, ") % ", st.bind("UInt64", size), ") = 0")
	}
	st.write(" LIMIT ", st.bind("UInt64", limit))
	st.write(exactIndexes)
	m := mlflow.Metric{Key: steps.key}
	return s.db.each(ctx, &st, func(scan func(...any) error) error {
		if err := scan(&m.Timestamp, &m.Step, &m.Value); err != nil {
			return err
		}
		return visit(m)
	})
}
