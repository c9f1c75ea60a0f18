package query

import (
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/filter"
	"github.com/runledger/runledger/pkg/fold"
	"github.com/runledger/runledger/pkg/mlflow"
)

const experimentFields = "experiment_id, name, artifact_location, toString(lifecycle), creation_time, last_update_time, tags"

// experimentColumns are what an experiment's attributes are compared and
// ordered by.
var experimentColumns = map[string]sortKey{
	"name":             {expr: "name", typ: typeText},
	"experiment_id":    {expr: "toInt64(experiment_id)", typ: typeInteger},
	"creation_time":    {expr: "creation_time", typ: typeInteger},
	"last_update_time": {expr: "last_update_time", typ: typeInteger},
}

func scanExperiment(scan func(...any) error, more ...any) (mlflow.Experiment, error) {
	var e mlflow.Experiment
	var id uint64
	var tags map[string]string
	err := scan(append([]any{
		&id, &e.Name, &e.ArtifactLocation, &e.LifecycleStage, &e.CreationTime, &e.LastUpdateTime, &tags,
	}, more...)...)
	e.ExperimentID = formatExperimentID(id)
	e.Tags = fold.Tags(tags)
	return e, err
}

func (s *Service) getExperiment(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetExperiment](ec.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateExperimentID(req.ExperimentID); err != nil {
		return err
	}
	notFound := mlflow.ExperimentNotFound(req.ExperimentID)
	id, err := strconv.ParseUint(req.ExperimentID, 10, 64)
	if err != nil {
		return notFound
	}
	return s.answerExperiment(ec, func(x *fold.Experiments) (*fold.Experiment, bool) { return x.Find(formatExperimentID(id)) }, notFound)
}

func (s *Service) getExperimentByName(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetExperimentByName](ec.Request())
	if err != nil {
		return err
	}
	return s.answerExperiment(ec, func(x *fold.Experiments) (*fold.Experiment, bool) {
		found, ok := x.ByName[req.ExperimentName]
		return found, ok
	}, mlflow.ExperimentNameNotFound(req.ExperimentName))
}

func (s *Service) searchExperiments(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.SearchExperiments](ec.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateSearchMaxResults(req.MaxResults); err != nil {
		return err
	}
	st, keys, asked, err := compileExperiments(req)
	if err != nil {
		return err
	}
	ctx := ec.Request().Context()
	at, err := s.fresh.ofExperiments(ctx)
	if err != nil {
		return err
	}
	if _, err := s.fresh.await(ec, at); err != nil {
		return err
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	out := newAnswer(ec, "experiments")
	dest, row := scanRow(keys)
	more, err := s.db.some(ctx, st, int(req.MaxResults), func(scan func(...any) error) error {
		e, err := scanExperiment(scan, dest...)
		if err != nil {
			return err
		}
		return out.item(e)
	})
	if err != nil {
		return err
	}
	next := ""
	if more {
		if next, err = encodeToken(asked, keys, row()); err != nil {
			return err
		}
	}
	return out.end(next)
}

// compileExperiments returns the statement of a search, which finds one
// experiment more than a page has, the sort keys that it returns after each, and
// the digest of the search.
func compileExperiments(req *mlflow.SearchExperiments) (st *statement, keys []sortKey, asked string, err error) {
	expr, err := filter.ParseExperiments(req.Filter)
	if err != nil {
		return nil, nil, "", filterError(err)
	}
	orders, err := filter.ParseExperimentOrder(req.OrderBy)
	if err != nil {
		return nil, nil, "", filterError(err)
	}
	asked = digest("experiments", req.Filter, req.OrderBy, req.ViewType)
	keys = experimentOrder(orders)
	after, err := decodeToken(req.PageToken, asked, keys)
	if err != nil {
		return nil, nil, "", err
	}
	st = new(statement)
	st.write("SELECT ", experimentFields)
	for _, k := range keys {
		st.write(", ", k.expr)
	}
	st.write(" FROM experiments FINAL WHERE ", lifecycle("lifecycle", req.ViewType))
	for _, c := range expr {
		st.write(" AND ", st.experimentCondition(c))
	}
	if after != nil {
		st.write(" AND ", st.after(keys, after))
	}
	st.write(" ORDER BY ", orderBy(keys), " LIMIT ", st.bind("UInt64", req.MaxResults+1))
	return st, keys, asked, nil
}

// experimentOrder returns MLflow's order of experiments: the newest first when
// none is asked for.
func experimentOrder(orders []filter.Order) []sortKey {
	if len(orders) == 0 {
		orders = []filter.Order{{Key: "creation_time", Desc: true}, {Key: "experiment_id"}}
	}
	var keys []sortKey
	byID := false
	for _, o := range orders {
		key := experimentColumns[o.Key]
		key.desc = o.Desc
		keys = append(keys, key)
		byID = byID || o.Key == "experiment_id"
	}
	if !byID {
		key := experimentColumns["experiment_id"]
		key.desc = true
		keys = append(keys, key)
	}
	return keys
}

func (s *statement) experimentCondition(c filter.Comparison) string {
	if c.Entity == filter.Tag {
		key := s.bind("String", c.Key)
		switch c.Op {
		case filter.OpIsNull:
			return "NOT mapContains(tags, " + key + ")"
		case filter.OpIsNotNull:
			return "mapContains(tags, " + key + ")"
		}
		return "mapContains(tags, " + key + ") AND " + s.compare("tags["+key+"]", c.Op, c.Value)
	}
	if c.Key == "experiment_id" {
		return s.compare("toString(experiment_id)", c.Op, plainIDs(c.Value))
	}
	return s.compare(experimentColumns[c.Key].expr, c.Op, c.Value)
}

// plainIDs returns the ids of a comparison as the tables have them: "007" is 7.
func plainIDs(v filter.Value) filter.Value {
	plain := func(id string) string {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			return id
		}
		return strconv.FormatInt(n, 10)
	}
	ids := make([]string, len(v.List))
	for i, id := range v.List {
		ids[i] = plain(id)
	}
	return filter.Value{Kind: v.Kind, Str: plain(v.Str), List: ids}
}
