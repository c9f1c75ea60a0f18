package query

import (
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

	var st statement
	st.write("SELECT timestamp, step, value FROM metrics FINAL WHERE run_id = ", st.bind("UUID", id.String()),
		" AND key = ", st.bind("String", req.MetricKey))
	if after != nil {
		st.write(" AND ", st.after(historyKeys, after))
	}
	st.write(" ORDER BY ", orderBy(historyKeys))
	if limit > 0 {
		st.write(" LIMIT ", st.bind("UInt64", limit+1))
	}
	m := mlflow.Metric{Key: req.MetricKey}
	more, err := s.db.some(ctx, &st, limit, func(scan func(...any) error) error {
		if err := scan(&m.Timestamp, &m.Step, &m.Value); err != nil {
			return err
		}
		return out.item(m)
	})
	if err != nil {
		return err
	}
	next := ""
	if more {
		if next, err = encodeToken(asked, historyKeys, historyRow(m)); err != nil {
			return err
		}
	}
	return out.end(next)
}

// historyRow returns the sort keys of a point.
func historyRow(m mlflow.Metric) []any {
	if m.Value != m.Value {
		return []any{m.Timestamp, m.Step, int64(1), 0.0}
	}
	return []any{m.Timestamp, m.Step, int64(0), m.Value}
}
