package query

import (
	"context"
	"math"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// historyKeys are the order of a metric's history.
var historyKeys = []sortKey{
	{expr: "timestamp", typ: typeInteger},
	{expr: "step", typ: typeInteger},
	{expr: "toInt64(isNaN(value))", typ: typeInteger},
	{expr: "if(isNaN(value), 0, value)", typ: typeFloat},
}

// historyPart bounds how many points one statement answers with. What sorts
// them, and how long it takes, is bounded with it: a history of any length goes
// out in parts, as fast as the client takes it.
const historyPart = 500_000

func (s *Service) getMetricHistory(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetMetricHistory](ec.Request())
	if err != nil {
		return err
	}
	limit := 0
	if req.MaxResults != nil {
		if err := mlflow.ValidateHistoryMaxResults(*req.MaxResults); err != nil {
			return err
		}
		limit = int(min(*req.MaxResults, 1<<40))
	}
	asked := digest("history", req.RunID, req.MetricKey)
	after, err := decodeToken(req.PageToken, asked, historyKeys)
	if err != nil {
		return err
	}
	out := newAnswer(ec, "metrics")
	id, ok := parseRunID(req.RunID)
	if !ok {
		return out.end("")
	}
	ctx := ec.Request().Context()
	at, _, err := s.fresh.ofRun(ctx, req.RunID, events.KindMetric)
	if err != nil {
		return err
	}
	if at.Seq == 0 {
		return out.end("")
	}
	if _, err := s.fresh.await(ec, at); err != nil {
		return err
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	last, sent, more := after, 0, true
	for more && (limit == 0 || sent < limit) {
		n := historyPart
		if limit > 0 {
			n = min(n, limit-sent)
		}
		more, err = s.history(ctx, series{id, req.MetricKey}, last, n, func(m mlflow.Metric) error {
			last = historyRow(m)
			sent++
			return out.item(m)
		})
		if err != nil {
			return err
		}
	}
	next := ""
	if more {
		if next, err = encodeToken(asked, historyKeys, last); err != nil {
			return err
		}
	}
	return out.end(next)
}

// series are the points of one metric of a run.
type series struct {
	run uuid.UUID
	key string
}

// in returns the condition that a point is of the series.
func (x series) in(st *statement) string {
	return "run_id = " + st.bind("UUID", x.run.String()) + " AND key = " + st.bind("String", x.key)
}

// history visits the points of a series in the order of historyKeys, from after
// a place (nil: from the first), at most limit of them, and reports whether there
// are more.
func (s *Service) history(ctx context.Context, x series, after []any, limit int, visit func(mlflow.Metric) error) (more bool, err error) {
	var st statement
	st.write("SELECT timestamp, step, value FROM metrics FINAL WHERE ", x.in(&st))
	if after != nil {
		st.write(" AND timestamp >= ", st.bind("Int64", after[0]), " AND ", st.after(historyKeys, after))
	}
	st.write(" AND timestamp <= ", pageEnd(&st, x, after, limit), " ORDER BY ", orderBy(historyKeys), " LIMIT ", st.bind("UInt64", limit+1))
	st.write(exactIndexes)
	m := mlflow.Metric{Key: x.key}
	return s.db.some(ctx, &st, limit, func(scan func(...any) error) error {
		if err := scan(&m.Timestamp, &m.Step, &m.Value); err != nil {
			return err
		}
		return visit(m)
	})
}

// exactIndexes says that an index drops all the duplicates of a point or none,
// so that FINAL needs nothing of what it dropped. It holds for conditions on
// columns of the sorting key only.
const exactIndexes = " SETTINGS use_skip_indexes_if_final_exact_mode = 0"

// pageSpread is how many times a page is looked through in the order of steps
// to find where the page ends. With 4 the end is close even when up to four
// sequences of steps with timestamps of their own are interleaved, as after
// restarts.
const pageSpread = 4

// pageEnd returns an expression for a timestamp up to which there are more than
// limit points after a place, so that a page need not read the whole rest of the
// series. It takes the points that follow in the order of the table, which has
// them at hand: any of them will do, and when timestamps grow with steps they
// are those of the page or close. Without enough of them there is no such bound.
func pageEnd(st *statement, x series, after []any, limit int) string {
	near := "SELECT timestamp FROM metrics FINAL WHERE " + x.in(st)
	if after != nil {
		near += " AND step >= " + st.bind("Int64", after[1]) + " AND " + st.after(historyKeys, after)
	}
	near += " ORDER BY step, timestamp, value LIMIT " + st.bind("UInt64", pageSpread*(uint64(limit)+1))
	return "ifNull((SELECT timestamp FROM (" + near + ") ORDER BY timestamp LIMIT 1 OFFSET " + st.bind("UInt64", limit) +
		"), " + st.bind("Int64", int64(math.MaxInt64)) + ")"
}

// historyRow returns the sort keys of a point.
func historyRow(m mlflow.Metric) []any {
	if m.Value != m.Value {
		return []any{m.Timestamp, m.Step, int64(1), 0.0}
	}
	return []any{m.Timestamp, m.Step, int64(0), m.Value}
}
