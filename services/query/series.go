package query

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/filter"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	maxSeriesRuns   = 1000
	defaultMaxRuns  = 100
	maxSeriesKeys   = 50
	maxColumns      = 4000
	defaultColumns  = 1000
	maxSeriesWindow = 1000
	// maxSeriesCells bounds series times columns, and so an answer.
	maxSeriesCells = 2_000_000
)

// runSelection says which runs are meant: by their ids, or as a search finds
// them.
type runSelection struct {
	RunIDs        []string `json:"run_ids"`
	ExperimentIDs []string `json:"experiment_ids"`
	Filter        string   `json:"filter"`
	OrderBy       []string `json:"order_by"`
	MaxRuns       *int     `json:"max_runs"`
}

// axisName is what a series is drawn over.
type axisName string

const (
	axisStep     axisName = "step"
	axisTime     axisName = "time"          // milliseconds since the Unix epoch
	axisRelative axisName = "relative_time" // milliseconds since the start of the run
	axisMetric   axisName = "metric"        // the value of another metric at the same step
)

type seriesAxis struct {
	Axis      axisName `json:"axis"`
	MetricKey string   `json:"metric_key"`
}

// seriesRange is a part of an axis, both ends included. An end that is left out
// is that of the data.
type seriesRange struct {
	From *axisValue `json:"from"`
	To   *axisValue `json:"to"`
}

// axisValue is a place on an axis: an int64 where the axis is integral. The
// number is NaN for what is no number of 64 bits.
type axisValue struct {
	number float64
	exact  *int64
}

// UnmarshalJSONFrom reads any value, so that checkRange can say what was wanted;
// of a number it keeps what a double cannot.
func (v *axisValue) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	text, err := dec.ReadValue()
	if err != nil {
		return err
	}
	v.number = math.NaN()
	if text.Kind() != jsontext.KindNumber {
		return nil
	}
	if f, err := strconv.ParseFloat(string(text), 64); err == nil {
		v.number = f
	}
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		v.exact = &n
	}
	return nil
}

// seriesRequest is the body of POST /api/v1/series.
type seriesRequest struct {
	runSelection
	MetricKeys []string     `json:"metric_keys"`
	X          seriesAxis   `json:"x"`
	Range      *seriesRange `json:"range"`
	Columns    *int         `json:"columns"`
	Smoothing  *smoothing   `json:"smoothing"`
}

// smoothing is how a series is smoothed: with method "ema" as TensorBoard does,
// by the weight of what was before, or with "mean" over a window of points.
type smoothing struct {
	Method string   `json:"method"`
	Weight *float64 `json:"weight"`
	Points *int     `json:"points"`
}

func (r *seriesRequest) check() error {
	if err := r.runSelection.check(); err != nil {
		return err
	}
	if len(r.MetricKeys) == 0 || len(r.MetricKeys) > maxSeriesKeys {
		return httpapi.InvalidField("metric_keys", "want 1 to %d keys", maxSeriesKeys)
	}
	if slices.Contains(r.MetricKeys, "") {
		return httpapi.InvalidField("metric_keys", "a key is empty")
	}
	slices.Sort(r.MetricKeys)
	r.MetricKeys = slices.Compact(r.MetricKeys)
	switch r.X.Axis {
	case "":
		r.X.Axis = axisStep
	case axisStep, axisTime, axisRelative, axisMetric:
	default:
		return httpapi.InvalidField("x.axis", "want step, time, relative_time or metric")
	}
	if (r.X.Axis == axisMetric) != (r.X.MetricKey != "") {
		return httpapi.InvalidField("x.metric_key", "it goes with the axis metric, and only with it")
	}
	if err := r.checkRange(); err != nil {
		return err
	}
	if r.Columns == nil {
		columns := defaultColumns
		r.Columns = &columns
	}
	if *r.Columns < 1 || *r.Columns > maxColumns {
		return httpapi.InvalidField("columns", "want 1 to %d", maxColumns)
	}
	return r.Smoothing.check()
}

func (r *seriesRequest) checkRange() error {
	if r.Range == nil {
		r.Range = &seriesRange{}
	}
	from, to := r.Range.From, r.Range.To
	for name, end := range map[string]*axisValue{"range.from": from, "range.to": to} {
		if end != nil && end.exact == nil && r.X.Axis != axisMetric {
			return httpapi.InvalidField(name, "want an integer of 64 bits on this axis")
		}
		if end != nil && math.IsNaN(end.number) {
			return httpapi.InvalidField(name, "want a number that a double can hold")
		}
	}
	if from != nil && to != nil && (from.number > to.number || from.exact != nil && to.exact != nil && *from.exact > *to.exact) {
		return httpapi.InvalidField("range", "from is after to")
	}
	return nil
}

func (s *smoothing) check() error {
	switch {
	case s == nil:
		return nil
	case s.Method == methodEMA:
		if s.Weight == nil || !(*s.Weight >= 0 && *s.Weight < 1) {
			return httpapi.InvalidField("smoothing.weight", "want a number from 0 to less than 1")
		}
		if s.Points != nil {
			return httpapi.InvalidField("smoothing.points", "it goes with the method mean")
		}
	case s.Method == methodMean:
		if s.Points == nil || *s.Points < 1 || *s.Points > maxSeriesWindow {
			return httpapi.InvalidField("smoothing.points", "want 1 to %d", maxSeriesWindow)
		}
		if s.Weight != nil {
			return httpapi.InvalidField("smoothing.weight", "it goes with the method ema")
		}
	default:
		return httpapi.InvalidField("smoothing.method", "want ema or mean")
	}
	return nil
}

func (r *runSelection) check() error {
	switch {
	case len(r.RunIDs) == 0 && len(r.ExperimentIDs) == 0:
		return httpapi.InvalidField("run_ids", "name runs, or experiments in experiment_ids")
	case len(r.RunIDs) > 0 && (len(r.ExperimentIDs) > 0 || r.Filter != "" || len(r.OrderBy) > 0 || r.MaxRuns != nil):
		return httpapi.InvalidField("run_ids", "it does not go with experiment_ids, filter, order_by or max_runs")
	case len(r.RunIDs) > maxSeriesRuns:
		return httpapi.InvalidField("run_ids", "want at most %d runs", maxSeriesRuns)
	}
	if r.MaxRuns == nil {
		most := defaultMaxRuns
		r.MaxRuns = &most
	}
	if *r.MaxRuns < 1 || *r.MaxRuns > maxSeriesRuns {
		return httpapi.InvalidField("max_runs", "want 1 to %d", maxSeriesRuns)
	}
	for i, id := range r.ExperimentIDs {
		if err := mlflow.ValidateExperimentID(id); err != nil {
			return ofField("experiment_ids."+strconv.Itoa(i), err)
		}
	}
	if _, err := filter.ParseRuns(r.Filter); err != nil {
		return ofField("filter", filterError(err))
	}
	if _, err := filter.ParseRunOrder(r.OrderBy); err != nil {
		return ofField("order_by", filterError(err))
	}
	return nil
}

// ofField says of which field an error is that MLflow's rules have found.
func ofField(field string, err error) error {
	if e, ok := errors.AsType[*apierr.Error](err); ok {
		return httpapi.InvalidField(field, "%s", e.Message)
	}
	return err
}

// selectRuns returns the runs that a selection means, and whether there are more
// than it asks for. It waits until the tables hold what the log has of them, and
// returns RESOURCE_DOES_NOT_EXIST for the id of no run. leave gives back the
// request's slot.
func (s *Service) selectRuns(ec echo.Context, r *runSelection) (runs []run, more bool, leave func(), err error) {
	ctx := ec.Request().Context()
	search := runSearch{}
	if len(r.RunIDs) == 0 {
		search, err = newRunSearch(&mlflow.SearchRuns{
			ExperimentIDs: r.ExperimentIDs, Filter: r.Filter, OrderBy: r.OrderBy, MaxResults: int64(*r.MaxRuns), RunViewType: mlflow.ViewActiveOnly,
		})
		if err != nil {
			return nil, false, nil, err
		}
	}
	places, err := s.fresh.ofShards(ctx)
	if err != nil {
		return nil, false, nil, err
	}
	at, err := s.fresh.ofExperiments(ctx)
	if err != nil {
		return nil, false, nil, err
	}
	fresh, err := s.fresh.await(ec, append(places, at)...)
	if err != nil {
		return nil, false, nil, err
	}
	if leave, err = s.db.enter(ctx); err != nil {
		return nil, false, nil, err
	}
	if len(r.RunIDs) > 0 {
		runs, err = s.runsByID(ctx, r.RunIDs, fresh)
	} else if len(search.experiments) > 0 {
		var next string
		runs, next, err = s.findRuns(ctx, search)
		more = next != ""
	}
	if err != nil {
		leave()
		return nil, false, nil, err
	}
	return runs, more, leave, nil
}

// runsByID returns runs in the order of their ids in the request, each once.
func (s *Service) runsByID(ctx context.Context, ids []string, fresh bool) ([]run, error) {
	wanted := make([]string, 0, len(ids))
	place := make(map[uuid.UUID]int, len(ids))
	for _, text := range ids {
		id, ok := parseRunID(text)
		if !ok {
			return nil, mlflow.RunNotFound(text)
		}
		if _, ok := place[id]; !ok {
			place[id] = len(wanted)
			wanted = append(wanted, id.String())
		}
	}
	var st statement
	st.write("SELECT ", runFields, " FROM runs AS r FINAL WHERE r.run_id IN ", st.bind("Array(UUID)", wanted))
	runs := make([]run, len(wanted))
	err := s.db.each(ctx, &st, func(scan func(...any) error) error {
		r, err := scanRun(scan)
		runs[place[r.id]] = r
		return err
	})
	if err != nil {
		return nil, err
	}
	for id, i := range place {
		if runs[i].info.RunID == "" {
			return nil, missing(fresh, mlflow.RunNotFound(formatRunID(id)))
		}
	}
	return runs, nil
}

// selecting is a request about runs that it selects. check returns an
// INVALID_PARAMETER_VALUE that names the field.
type selecting interface {
	check() error
	selection() *runSelection
}

func (r *runSelection) selection() *runSelection { return r }

// decodeSelection reads the body of a request, and selects its runs, see selectRuns.
func (s *Service) decodeSelection(ec echo.Context, req selecting) (runs []run, more bool, leave func(), err error) {
	if err := httpapi.DecodeBody(ec, req); err != nil {
		return nil, false, nil, err
	}
	if err := req.check(); err != nil {
		return nil, false, nil, err
	}
	return s.selectRuns(ec, req.selection())
}

// answerSeries answers POST /api/v1/series.
func (s *Service) answerSeries(ec echo.Context) error {
	var req seriesRequest
	runs, more, leave, err := s.decodeSelection(ec, &req)
	if err != nil {
		return err
	}
	defer leave()
	if req.X.Axis == axisMetric {
		return drawSeries[float64](ec, s, &req, runs, more)
	}
	return drawSeries[int64](ec, s, &req, runs, more)
}

// number is a double that JSON may have no number for: NaN and the infinities
// are strings then.
type number float64

// MarshalJSONTo writes the number.
func (n number) MarshalJSONTo(enc *jsontext.Encoder) error {
	switch f := float64(n); {
	case math.IsNaN(f):
		return enc.WriteToken(jsontext.String("NaN"))
	case math.IsInf(f, 1):
		return enc.WriteToken(jsontext.String("Infinity"))
	case math.IsInf(f, -1):
		return enc.WriteToken(jsontext.String("-Infinity"))
	default:
		return enc.WriteToken(jsontext.Float(f))
	}
}

// noSuchMetric is the answer when none of the runs has a metric.
func noSuchMetric(key string) error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "None of the runs has a metric '%.200s'", key)
}
