package query

import (
	"context"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/filter"
	"github.com/runledger/runledger/pkg/fold"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const modelFields = "m.experiment_id, m.model_id, m.name, m.artifact_uri, m.model_type, m.source_run_id, toString(m.status), " +
	"m.creation_time, m.last_update_time, m.params, m.tags"

// modelColumns are what a logged model's attributes are compared and ordered by.
var modelColumns = map[string]sortKey{
	"name":                   {expr: "m.name", typ: typeText},
	"model_id":               {expr: "m.model_id", typ: typeText},
	"model_type":             {expr: "m.model_type", typ: typeText},
	"source_run_id":          {expr: "m.source_run_id", typ: typeText},
	"status":                 {expr: "toInt64(m.status)", typ: typeInteger},
	"creation_timestamp":     {expr: "m.creation_time", typ: typeInteger},
	"last_updated_timestamp": {expr: "m.last_update_time", typ: typeInteger},
}

// modelStatuses are MLflow's words for the statuses of the table, which are
// those of a filter.
var modelStatuses = map[string]mlflow.LoggedModelStatus{
	"PENDING": mlflow.LoggedModelPending, "READY": mlflow.LoggedModelReady, "FAILED": mlflow.LoggedModelFailed,
}

func scanModel(scan func(...any) error, more ...any) (mlflow.LoggedModel, error) {
	var m mlflow.LoggedModel
	var experiment uint64
	var status string
	var params, tags map[string]string
	err := scan(append([]any{
		&experiment, &m.Info.ModelID, &m.Info.Name, &m.Info.ArtifactURI, &m.Info.ModelType, &m.Info.SourceRunID, &status,
		&m.Info.CreationTimestamp, &m.Info.LastUpdatedTimestamp, &params, &tags,
	}, more...)...)
	m.Info.ExperimentID, m.Info.Status = formatExperimentID(experiment), modelStatuses[status]
	m.Info.Tags = fold.Tags(tags)
	for _, t := range fold.Tags(params) {
		m.Data.Params = append(m.Data.Params, mlflow.Param(t))
	}
	return m, err
}

func (s *Service) getModel(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetLoggedModel](ec.Request())
	if err != nil {
		return err
	}
	id := httpapi.PathParam(ec, "model_id")
	notFound := mlflow.LoggedModelNotFound(id)
	if !events.ValidLoggedModelID(id) {
		return notFound
	}
	ctx := ec.Request().Context()
	stream, subject := s.log.LoggedModelSubject(events.Any, id)
	subject, seq, err := s.log.LastFor(ctx, stream, subject)
	if err != nil {
		return err
	}
	experiments := parseExperimentIDs([]string{events.ExperimentOfLoggedModelSubject(subject)})
	if seq == 0 || len(experiments) == 0 {
		return notFound
	}
	places, err := s.fresh.ofShards(ctx)
	if err != nil {
		return err
	}
	fresh, err := s.fresh.await(ec, places...)
	if err != nil {
		return err
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()

	var st statement
	st.write("SELECT ", modelFields, ", m.lifecycle = 'deleted' FROM logged_models AS m FINAL WHERE m.experiment_id = ",
		st.bind("UInt64", experiments[0]), " AND m.model_id = ", st.bind("String", id),
		" AND ", lifecycle("m.lifecycle", mlflow.ViewAll))
	var found []mlflow.LoggedModel
	var deleted bool
	err = s.db.each(ctx, &st, func(scan func(...any) error) error {
		m, err := scanModel(scan, &deleted)
		found = append(found, m)
		return err
	})
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return missing(fresh, notFound)
	case deleted && !req.AllowDeleted:
		return notFound
	}
	if _, err := s.fetchPoints(ctx, found); err != nil {
		return err
	}
	return mlflow.WriteJSON(ec.Response(), mlflow.LoggedModelResponse{Model: found[0]})
}

func (s *Service) searchModels(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.SearchLoggedModels](ec.Request())
	if err != nil {
		return err
	}
	switch req.MaxResults {
	case -1:
		// MLflow answers an empty page, and a token to go on in circles.
		return mlflow.WriteJSON(ec.Response(), mlflow.Empty{})
	case 0:
		req.MaxResults = mlflow.SearchLoggedModelsForZero
	}
	if err := mlflow.ValidateSearchMaxResults(req.MaxResults); err != nil {
		return err
	}
	search, err := compileModels(req)
	if err != nil {
		return err
	}
	ctx := ec.Request().Context()
	places, err := s.fresh.ofShards(ctx)
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

	var page []mlflow.LoggedModel
	dest, row := scanRow(search.keys)
	more, err := s.db.some(ctx, search.statement, int(req.MaxResults), func(scan func(...any) error) error {
		m, err := scanModel(scan, dest...)
		page = append(page, m)
		return err
	})
	if err != nil {
		return err
	}
	next := ""
	if more {
		if next, err = encodeToken(search.digest, search.keys, row()); err != nil {
			return err
		}
	}
	out := newAnswer(ec, "models")
	for size := len(page); len(page) > 0; {
		size = min(size, len(page))
		tooMany, err := s.fetchPoints(ctx, page[:size])
		if err != nil {
			return err
		}
		if tooMany {
			size /= 2
			continue
		}
		for _, m := range page[:size] {
			if err := out.item(m); err != nil {
				return err
			}
		}
		page = page[size:]
	}
	return out.end(next)
}

// fetchPoints puts the points of models into them, or says that they are more
// than maxFetchedRows, which one model alone may have.
func (s *Service) fetchPoints(ctx context.Context, models []mlflow.LoggedModel) (tooMany bool, err error) {
	limit := maxFetchedRows
	if len(models) == 1 {
		limit = 0
	}
	index := make(map[string]int, len(models))
	ids := make([]string, len(models))
	for i := range models {
		ids[i] = models[i].Info.ModelID
		index[ids[i]] = i
		models[i].Data.Metrics = nil
	}
	var st statement
	st.write("SELECT model_id, key, value, timestamp, step, run_id, dataset_name, dataset_digest FROM logged_model_metrics FINAL WHERE model_id IN ",
		st.bind("Array(String)", ids), " ORDER BY model_id, key, timestamp, step, value")
	return s.db.some(ctx, &st, limit, func(scan func(...any) error) error {
		var run uuid.UUID
		m := mlflow.Metric{Link: new(mlflow.MetricLink)}
		err := scan(&m.Link.ModelID, &m.Key, &m.Value, &m.Timestamp, &m.Step, &run, &m.Link.DatasetName, &m.Link.DatasetDigest)
		m.Link.RunID = formatRunID(run)
		data := &models[index[m.Link.ModelID]].Data
		data.Metrics = append(data.Metrics, m)
		return err
	})
}

// modelSearch is a checked request of logged-models/search. Its statement finds
// one model more than a page has, and returns the sort keys after each.
type modelSearch struct {
	*statement
	keys   []sortKey
	digest string
}

func compileModels(req *mlflow.SearchLoggedModels) (modelSearch, error) {
	expr, err := filter.ParseLoggedModels(req.Filter)
	if err != nil {
		return modelSearch{}, filterError(err)
	}
	for _, d := range req.Datasets {
		if d.Name == "" {
			return modelSearch{}, mlflow.LoggedModelsDatasetNameMissing()
		}
	}
	st := new(statement)
	search := modelSearch{statement: st, digest: digest("models", req.ExperimentIDs, req.Filter, req.Datasets, req.OrderBy)}
	experiments := st.bind("Array(UInt64)", parseExperimentIDs(req.ExperimentIDs))
	joins, err := search.order(req, experiments)
	if err != nil {
		return search, err
	}
	after, err := decodeToken(req.PageToken, search.digest, search.keys)
	if err != nil {
		return search, err
	}
	st.write("SELECT ", modelFields)
	for _, k := range search.keys {
		st.write(", ", k.expr)
	}
	st.write(" FROM logged_models AS m FINAL", joins, " WHERE m.experiment_id IN ", experiments, " AND m.lifecycle = 'active'")
	ofMetrics := false
	for _, c := range expr {
		st.write(" AND ", st.modelCondition(c, experiments, req.Datasets))
		ofMetrics = ofMetrics || c.Entity == filter.Metric
	}
	if len(req.Datasets) > 0 && !ofMetrics {
		st.write(" AND m.model_id IN (SELECT model_id FROM ", st.pointsOf(experiments, req.Datasets), ")")
	}
	if after != nil {
		st.write(" AND ", st.after(search.keys, after))
	}
	st.write(" ORDER BY ", orderBy(search.keys), " LIMIT ", st.bind("UInt64", req.MaxResults+1))
	return search, nil
}

// order sets the sort keys, and returns the joins that they need. A metric that
// a model does not have comes last in both directions, and NaN before that. Ties
// are broken by creation time, the newest first, and by id.
func (search *modelSearch) order(req *mlflow.SearchLoggedModels, experiments string) (joins string, err error) {
	if len(req.OrderBy) > filter.MaxOrders {
		return "", filterError(&filter.Error{Message: "Invalid order_by: too many clauses"})
	}
	var b strings.Builder
	var byTime, byID bool
	for i, clause := range req.OrderBy {
		o, err := filter.ParseLoggedModelOrderField(clause.Field, clause.Ascending != nil && !*clause.Ascending)
		if err != nil {
			return "", filterError(err)
		}
		if o.Entity == filter.Attribute {
			key := modelColumns[o.Key]
			key.desc = o.Desc
			search.keys = append(search.keys, key)
			byTime = byTime || o.Key == "creation_timestamp"
			byID = byID || o.Key == "model_id"
			continue
		}
		name := "o" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		b.WriteString(" LEFT ANY JOIN (SELECT model_id, if(isNaN(latest), 0, latest) AS sorted, if(isNaN(latest), 2, 1) AS rank FROM (" +
			search.latest(o.Key, experiments, clause.Dataset) + ")) AS " + name + " ON " + name + ".model_id = m.model_id")
		search.keys = append(search.keys,
			// Without a row of the join the rank is 0.
			sortKey{expr: "toInt64(if(" + name + ".rank = 0, 3, " + name + ".rank))", typ: typeInteger},
			sortKey{expr: name + ".sorted", typ: typeFloat, desc: o.Desc})
	}
	if !byTime {
		search.keys = append(search.keys, sortKey{expr: "m.creation_time", typ: typeInteger, desc: true})
	}
	if !byID {
		search.keys = append(search.keys, modelColumns["model_id"])
	}
	return b.String(), nil
}

func (s *statement) modelCondition(c filter.Comparison, experiments string, datasets []mlflow.DatasetName) string {
	switch c.Entity {
	case filter.Metric:
		// Any point counts, not the latest alone. The points are a set: what is
		// there twice matches twice.
		return "m.model_id IN (SELECT model_id FROM " + s.pointsOf(experiments, datasets) + " AND key = " + s.bind("String", c.Key) +
			" AND " + s.compare("value", c.Op, c.Value) + ")"
	case filter.Param, filter.Tag:
		column, key := "m.params", s.bind("String", c.Key)
		if c.Entity == filter.Tag {
			column = "m.tags"
		}
		return "mapContains(" + column + ", " + key + ") AND " + s.compare(column+"["+key+"]", c.Op, c.Value)
	}
	if c.Key == "status" {
		return s.compare("toString(m.status)", c.Op, c.Value)
	}
	return s.compare(modelColumns[c.Key].expr, c.Op, c.Value)
}

// latest returns the query for the latest value of a metric of each model: the
// greatest by timestamp, step and value, NaN compared as 0. What an order asks of
// its data set restricts it; the data sets of the filter do not.
func (s *statement) latest(key, experiments string, of mlflow.DatasetName) string {
	from := s.pointsOf(experiments, nil) + " AND key = " + s.bind("String", key)
	if of != (mlflow.DatasetName{}) {
		from += " AND " + s.ofDataset(of)
	}
	return "SELECT model_id, argMax(value, (timestamp, step, if(isNaN(value), 0, value))) AS latest FROM " + from + " GROUP BY model_id"
}

// pointsOf returns the table of the points of models, and the condition that
// they are of the experiments, and on one of the data sets if there are any.
func (s *statement) pointsOf(experiments string, datasets []mlflow.DatasetName) string {
	from := "logged_model_metrics WHERE model_id IN (SELECT model_id FROM logged_models WHERE experiment_id IN " + experiments + ")"
	if len(datasets) == 0 {
		return from
	}
	conditions := make([]string, len(datasets))
	for i, d := range datasets {
		conditions[i] = s.ofDataset(d)
	}
	return from + " AND (" + strings.Join(conditions, " OR ") + ")"
}

// ofDataset returns the condition that a point is on a data set, of which a name,
// a digest or both are known.
func (s *statement) ofDataset(d mlflow.DatasetName) string {
	var conditions []string
	if d.Name != "" {
		conditions = append(conditions, "dataset_name = "+s.bind("String", d.Name))
	}
	if d.Digest != "" {
		conditions = append(conditions, "dataset_digest = "+s.bind("String", d.Digest))
	}
	return "(" + strings.Join(conditions, " AND ") + ")"
}
