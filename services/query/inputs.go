package query

import (
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/filter"
	"github.com/runledger/runledger/pkg/mlflow"
)

// datasetContext is what a run used a data set for.
const datasetContext = "tags['" + mlflow.TagDatasetContext + "']"

// datasetCondition returns the condition that a run read a data set that meets
// a comparison. Each comparison may be met by another one, as in MLflow.
func (s *statement) datasetCondition(c filter.Comparison, experiments string) string {
	column := map[string]string{"name": "name", "digest": "digest", "context": datasetContext}[c.Key]
	condition := s.compare(column, c.Op, c.Value)
	if c.Key == "context" {
		// What is missing meets nothing.
		condition = "mapContains(tags, '" + mlflow.TagDatasetContext + "') AND " + condition
	}
	return "r.run_id IN (SELECT run_id FROM run_datasets FINAL WHERE experiment_id IN " + experiments + " AND " + condition + ")"
}

func (s *Service) searchDatasets(ec echo.Context) error {
	req, err := mlflow.Decode[mlflow.SearchDatasets](ec.Request())
	if err != nil {
		return err
	}
	switch n := len(req.ExperimentIDs); {
	case n == 0:
		return mlflow.DatasetExperimentsMissing()
	case n > mlflow.MaxDatasetExperiments:
		return mlflow.DatasetExperimentsTooMany(n)
	}
	out := newAnswer(ec, "dataset_summaries")
	experiments := parseExperimentIDs(req.ExperimentIDs)
	if len(experiments) == 0 {
		return out.end("")
	}
	ctx := ec.Request().Context()
	places, err := s.fresh.ofRuns(ctx, experiments)
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
	var st statement
	st.write("SELECT DISTINCT experiment_id, name, digest, ", datasetContext, " AS context FROM run_datasets FINAL WHERE experiment_id IN ",
		st.bind("Array(UInt64)", experiments), " ORDER BY experiment_id, name, digest, context LIMIT ", st.bind("UInt64", mlflow.MaxSearchDatasets))
	err = s.db.each(ctx, &st, func(scan func(...any) error) error {
		var id uint64
		var d mlflow.DatasetSummary
		if err := scan(&id, &d.Name, &d.Digest, &d.Context); err != nil {
			return err
		}
		d.ExperimentID = formatExperimentID(id)
		return out.item(d)
	})
	if err != nil {
		return err
	}
	return out.end("")
}
