package query

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/filter"
	"github.com/runledger/runledger/pkg/fold"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	// runsPerFetch is of how many runs the data is read and written at a time:
	// each time costs a pass over the keys of their experiments.
	runsPerFetch = 10_000
	// maxFetchedRows bounds the metrics, parameters and tags that are held in
	// memory at a time. Where runs have more, fewer are fetched at a time; one
	// run is never divided.
	maxFetchedRows = 250_000
	// maxFetchedDatasets bounds the data sets likewise: each has a schema and a
	// profile.
	maxFetchedDatasets = 2500
)

// run is a row of runs.
type run struct {
	id           uuid.UUID
	experimentID uint64
	info         mlflow.RunInfo
}

const (
	// A run is deleted also while its experiment is, and until it is purged itself.
	runLifecycle = "multiIf(r.lifecycle = 'purged', 'purged', r.lifecycle = 'deleted' OR r.experiment_id IN (" +
		"SELECT experiment_id FROM experiments FINAL WHERE lifecycle != 'active'), 'deleted', 'active')"
	runFields = "r.run_id, r.experiment_id, r.name, r.user_id, toString(r.status), r.start_time, r.end_time, r.artifact_uri, " + runLifecycle
)

func scanRun(scan func(...any) error, more ...any) (run, error) {
	var r run
	var status string
	err := scan(append([]any{
		&r.id, &r.experimentID, &r.info.RunName, &r.info.UserID, &status, &r.info.StartTime, &r.info.EndTime,
		&r.info.ArtifactURI, &r.info.LifecycleStage,
	}, more...)...)
	r.info.Status = mlflow.RunStatus(status)
	r.info.RunID = formatRunID(r.id)
	r.info.RunUUID = r.info.RunID
	r.info.ExperimentID = formatExperimentID(r.experimentID)
	return r, err
}

func (s *Service) getRun(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetRun](ec.Request())
	if err != nil {
		return err
	}
	ctx := ec.Request().Context()
	id, ok := parseRunID(req.RunID)
	if !ok {
		return mlflow.RunNotFound(req.RunID)
	}
	at, experimentID, err := s.fresh.ofRun(ctx, req.RunID, events.KindAny)
	if err != nil {
		return err
	}
	experiments := parseExperimentIDs([]string{experimentID})
	if at.Seq == 0 || len(experiments) == 0 {
		return mlflow.RunNotFound(req.RunID)
	}
	if done, err := s.answerLogged(ec, experimentID, req.RunID, at); done || err != nil {
		return err
	}
	experimentAt, err := s.fresh.ofExperiment(ctx, experiments[0])
	if err != nil {
		return err
	}
	fresh, err := s.fresh.await(ec, at, experimentAt)
	if err != nil {
		return err
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()

	var st statement
	st.write("SELECT ", runFields, " FROM runs AS r FINAL WHERE r.experiment_id = ", st.bind("UInt64", experiments[0]),
		" AND r.run_id = ", st.bind("UUID", id.String()), " AND ", lifecycle(runLifecycle, mlflow.ViewAll))
	var found []run
	err = s.db.each(ctx, &st, func(scan func(...any) error) error {
		r, err := scanRun(scan)
		found = append(found, r)
		return err
	})
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return missing(fresh, mlflow.RunNotFound(req.RunID))
	}
	data, _, err := s.fetch(ctx, found)
	if err != nil {
		return err
	}
	return mlflow.WriteJSON(ec.Response(), mlflow.RunResponse{Run: data[0]})
}

// missing returns the answer for what the log has and the tables have not: not
// there, if they are up to date, else ask again.
func missing(fresh bool, notFound error) error {
	if fresh {
		return notFound
	}
	return unavailable(notFound)
}

func (s *Service) searchRuns(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.SearchRuns](ec.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateSearchMaxResults(req.MaxResults); err != nil {
		return err
	}
	search, err := newRunSearch(req)
	if err != nil {
		return err
	}
	out := newAnswer(ec, "runs")
	if len(search.experiments) == 0 {
		return out.end("")
	}
	ctx := ec.Request().Context()
	places, err := s.fresh.ofRuns(ctx, search.experiments)
	if err != nil {
		return err
	}
	if _, err := s.fresh.await(ec, places...); err != nil {
		return err
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()

	page, next, err := s.findRuns(ctx, search)
	if err != nil {
		return err
	}
	for size := runsPerFetch; len(page) > 0; {
		size = min(size, len(page))
		data, tooMany, err := s.fetch(ctx, page[:size])
		if err != nil {
			return err
		}
		if tooMany {
			size /= 2
			continue
		}
		for _, r := range data {
			if err := out.item(r); err != nil {
				return err
			}
		}
		page = page[len(data):]
	}
	return out.end(next)
}

// runSearch is a checked request of runs/search.
type runSearch struct {
	experiments []uint64
	filter      filter.Expr
	orders      []filter.Order
	view        mlflow.ViewType
	limit       int
	token       string
	digest      string
}

func newRunSearch(req *mlflow.SearchRuns) (runSearch, error) {
	for _, id := range req.ExperimentIDs {
		if err := mlflow.ValidateExperimentID(id); err != nil {
			return runSearch{}, err
		}
	}
	expr, err := filter.ParseRuns(req.Filter)
	if err != nil {
		return runSearch{}, filterError(err)
	}
	orders, err := filter.ParseRunOrder(req.OrderBy)
	if err != nil {
		return runSearch{}, filterError(err)
	}
	search := runSearch{
		experiments: parseExperimentIDs(req.ExperimentIDs), filter: expr, orders: orders,
		view: req.RunViewType, limit: int(req.MaxResults), token: req.PageToken,
	}
	search.digest = digest("runs", search.experiments, req.Filter, req.OrderBy, req.RunViewType)
	// A token that does not fit is refused also where nothing can be found.
	_, keys := new(statement).runOrder(orders, expr, "")
	_, err = decodeToken(req.PageToken, search.digest, keys)
	return search, err
}

// compile returns the statement of a search, which finds one run more than a
// page has, and the sort keys that it returns after each run.
func (search runSearch) compile() (*statement, []sortKey, error) {
	st := new(statement)
	experiments := st.bind("Array(UInt64)", search.experiments)
	joins, keys := st.runOrder(search.orders, search.filter, experiments)
	after, err := decodeToken(search.token, search.digest, keys)
	if err != nil {
		return nil, nil, err
	}
	st.write("SELECT ", runFields)
	for _, k := range keys {
		st.write(", ", k.expr)
	}
	st.write(" FROM runs AS r FINAL", joins, " WHERE r.experiment_id IN ", experiments, " AND ", lifecycle(runLifecycle, search.view))
	for _, condition := range st.runFilter(search.filter, search.orders, experiments) {
		st.write(" AND ", condition)
	}
	if after != nil {
		st.write(" AND ", st.after(keys, after))
	}
	st.write(" ORDER BY ", orderBy(keys), " LIMIT ", st.bind("UInt64", search.limit+1))
	return st, keys, nil
}

// findRuns returns a page of runs, and the token of the next one, "" when there
// is none.
func (s *Service) findRuns(ctx context.Context, search runSearch) (page []run, next string, err error) {
	st, keys, err := search.compile()
	if err != nil {
		return nil, "", err
	}
	dest, row := scanRow(keys)
	var last []any
	more := false
	err = s.db.each(ctx, st, func(scan func(...any) error) error {
		r, err := scanRun(scan, dest...)
		if err != nil {
			return err
		}
		if len(page) == search.limit {
			more = true
			return nil
		}
		if page = append(page, r); len(page) == search.limit {
			last = row()
		}
		return nil
	})
	if err == nil && more {
		next, err = encodeToken(search.digest, keys, last)
	}
	return page, next, err
}

// ofRuns returns the condition that a row is of one of the runs.
func (s *statement) ofRuns(runs []run) string {
	ids, experiments := make([]string, len(runs)), make([]uint64, len(runs))
	for i, r := range runs {
		ids[i], experiments[i] = r.id.String(), r.experimentID
	}
	slices.Sort(experiments)
	return "experiment_id IN " + s.bind("Array(UInt64)", slices.Compact(experiments)) + " AND run_id IN " + s.bind("Array(UUID)", ids)
}

// Metrics, parameters and tags of runs are read from the copies that the tables
// keep in the order of runs. Neither FINAL reads these, so that the newest row is
// looked for, nor any read that applies deletes which wait for their turn: what
// they delete is of purged runs, and none of these is found.
const fromCopy = " SETTINGS apply_mutations_on_fly = 0"

func latestMetricsOf(runs []run) *statement {
	st := new(statement)
	st.write("SELECT run_id, key, value, timestamp, step FROM latest_metrics WHERE ", st.ofRuns(runs),
		" ORDER BY seq DESC LIMIT 1 BY run_id, key", fromCopy)
	return st
}

func attributesOf(runs []run) *statement {
	st := new(statement)
	st.write("SELECT run_id, kind = 'tag', key, value FROM (SELECT run_id, kind, key, value, deleted FROM run_attributes WHERE ", st.ofRuns(runs),
		" ORDER BY seq DESC LIMIT 1 BY run_id, kind, key) WHERE NOT deleted", fromCopy)
	return st
}

// fetch returns the runs with what was logged to them, or that it is more than
// maxFetchedRows or maxFetchedDatasets, which one run alone may have.
func (s *Service) fetch(ctx context.Context, runs []run) (full []mlflow.Run, tooMany bool, err error) {
	limit, datasetLimit := maxFetchedRows, maxFetchedDatasets
	if len(runs) == 1 {
		limit, datasetLimit = 0, 0
	}
	data := make([]mlflow.RunData, len(runs))
	inputs := make([]mlflow.RunInputs, len(runs))
	outputs := make([]mlflow.RunOutputs, len(runs))
	index := make(map[uuid.UUID]int, len(runs))
	for i, r := range runs {
		index[r.id] = i
	}
	// The statements fill different fields.
	var tooManyMetrics, tooManyAttributes, tooManyDatasets, tooManyModels bool
	group, ctx := newTasks(ctx)
	group.SetLimit(connsPerRequest)
	group.Go(func() (err error) {
		tooManyMetrics, err = s.db.some(ctx, latestMetricsOf(runs), limit, func(scan func(...any) error) error {
			var id uuid.UUID
			var m mlflow.Metric
			err := scan(&id, &m.Key, &m.Value, &m.Timestamp, &m.Step)
			d := &data[index[id]]
			d.Metrics = append(d.Metrics, m)
			return err
		})
		return err
	})
	group.Go(func() (err error) {
		tooManyAttributes, err = s.db.some(ctx, attributesOf(runs), limit, func(scan func(...any) error) error {
			var id uuid.UUID
			var tag bool
			var key, value string
			err := scan(&id, &tag, &key, &value)
			d := &data[index[id]]
			if tag {
				d.Tags = append(d.Tags, mlflow.Tag{Key: key, Value: value})
			} else {
				d.Params = append(d.Params, mlflow.Param{Key: key, Value: value})
			}
			return err
		})
		return err
	})
	group.Go(func() (err error) {
		st := new(statement)
		st.write("SELECT run_id, name, digest, source_type, source, schema, profile, tags FROM run_datasets FINAL WHERE ", st.ofRuns(runs), " ORDER BY seq, idx")
		tooManyDatasets, err = s.db.some(ctx, st, datasetLimit, func(scan func(...any) error) error {
			var id uuid.UUID
			var in mlflow.DatasetInput
			var tags map[string]string
			d := &in.Dataset
			err := scan(&id, &d.Name, &d.Digest, &d.SourceType, &d.Source, &d.Schema, &d.Profile, &tags)
			in.Tags = fold.Tags(tags)
			to := &inputs[index[id]]
			to.DatasetInputs = append(to.DatasetInputs, in)
			return err
		})
		return err
	})
	group.Go(func() (err error) {
		st := new(statement)
		st.write("SELECT run_id, direction = 'output', model_id, step FROM run_models FINAL WHERE ", st.ofRuns(runs), " ORDER BY seq, idx")
		tooManyModels, err = s.db.some(ctx, st, limit, func(scan func(...any) error) error {
			var id uuid.UUID
			var output bool
			var m mlflow.ModelOutput
			err := scan(&id, &output, &m.ModelID, &m.Step)
			if i := index[id]; output {
				outputs[i].ModelOutputs = append(outputs[i].ModelOutputs, m)
			} else {
				inputs[i].ModelInputs = append(inputs[i].ModelInputs, mlflow.ModelInput{ModelID: m.ModelID})
			}
			return err
		})
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, false, err
	}
	full = make([]mlflow.Run, len(runs))
	for i, d := range data {
		slices.SortFunc(d.Metrics, func(a, b mlflow.Metric) int { return strings.Compare(a.Key, b.Key) })
		slices.SortFunc(d.Params, func(a, b mlflow.Param) int { return strings.Compare(a.Key, b.Key) })
		slices.SortFunc(d.Tags, func(a, b mlflow.Tag) int { return strings.Compare(a.Key, b.Key) })
		full[i] = mlflow.Run{Info: runs[i].info, Data: d, Inputs: &inputs[i], Outputs: &outputs[i]}
	}
	return full, tooManyMetrics || tooManyAttributes || tooManyDatasets || tooManyModels, nil
}
