package query

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	maxGroupBy    = 8
	maxDimensions = 200
	maxObjectives = 8
	maxTop        = 100
)

// attribute names a parameter or a tag as a filter does: params.lr, tags.team.
type attribute string

// split returns the kind of the attribute in the tables, and its key.
func (a attribute) split() (kind, key string, ok bool) {
	for prefix, kind := range map[string]string{"params.": "parameter", "tags.": "tag"} {
		if key, ok := strings.CutPrefix(string(a), prefix); ok && key != "" {
			return kind, key, true
		}
	}
	return "", "", false
}

func checkAttributes(field string, names []attribute, most int) error {
	if len(names) > most {
		return httpapi.InvalidField(field, "want at most %d names", most)
	}
	for i, a := range names {
		if _, _, ok := a.split(); !ok {
			return httpapi.InvalidField(field+"."+strconv.Itoa(i), "want params.<key> or tags.<key>")
		}
		if slices.Contains(names[:i], a) {
			return httpapi.InvalidField(field+"."+strconv.Itoa(i), "it is there twice")
		}
	}
	return nil
}

// objective is a number of a run: a value of a metric, and which way is better.
type objective struct {
	MetricKey string `json:"metric_key"`
	At        string `json:"at"`   // last (without it), min, max or step
	Step      *int64 `json:"step"` // with at step
	Goal      string `json:"goal"` // minimize (without it) or maximize
}

func (o *objective) check(field string) error {
	if o.At == "" {
		o.At = "last"
	}
	if o.Goal == "" {
		o.Goal = "minimize"
	}
	switch {
	case o.MetricKey == "":
		return httpapi.InvalidField(field+".metric_key", "name a metric")
	case !slices.Contains([]string{"last", "min", "max", "step"}, o.At):
		return httpapi.InvalidField(field+".at", "want last, min, max or step")
	case (o.At == "step") != (o.Step != nil):
		return httpapi.InvalidField(field+".step", "it goes with at step, and only with it")
	case o.Goal != "minimize" && o.Goal != "maximize":
		return httpapi.InvalidField(field+".goal", "want minimize or maximize")
	}
	return nil
}

// better reports whether the objective prefers a to b.
func (o *objective) better(a, b float64) bool {
	if o.Goal == "maximize" {
		return a > b
	}
	return a < b
}

// reached is a finite value that a run reached of an objective, and where.
type reached struct {
	Value     number `json:"value"`
	Step      int64  `json:"step"`
	Timestamp int64  `json:"timestamp"` // milliseconds since the Unix epoch
}

// reach returns what the runs reached of an objective. A run that has no finite
// value of it is left out. It returns RESOURCE_DOES_NOT_EXIST when no run has
// the metric at all.
//
// Of several points with the value that is asked for, the first counts; of
// several at a step, the last one by time.
func (s *Service) reach(ctx context.Context, runs []run, o *objective) (map[uuid.UUID]reached, error) {
	found := make(map[uuid.UUID]reached, len(runs))
	if len(runs) == 0 {
		return found, nil
	}
	series := seriesRequest{MetricKeys: []string{o.MetricKey}}
	if _, err := s.countSeries(ctx, &series, runs); err != nil {
		return nil, err
	}
	var st statement
	if o.At == "last" {
		st.write("SELECT run_id, value, step, timestamp FROM latest_metrics FINAL WHERE ", st.ofRuns(runs),
			" AND key = ", st.bind("String", o.MetricKey), " AND isFinite(value)")
	} else {
		// A point that is there twice changes none of these.
		best := map[string]string{"min": "argMin(p, (p.1, p.2, p.3))", "max": "argMin(p, (-p.1, p.2, p.3))", "step": "argMax(p, (p.3, p.1))"}[o.At]
		st.write("SELECT run_id, b.1, b.2, b.3 FROM (SELECT run_id, ", best, " AS b FROM (SELECT run_id, (value, step, timestamp) AS p FROM metrics WHERE run_id IN ",
			st.bindIDs(runs), " AND key = ", st.bind("String", o.MetricKey), " AND isFinite(value)")
		if o.Step != nil {
			st.write(" AND step = ", st.bind("Int64", *o.Step))
		}
		st.write(") GROUP BY run_id)")
	}
	return found, s.db.each(ctx, &st, func(scan func(...any) error) error {
		var id uuid.UUID
		var r reached
		err := scan(&id, (*float64)(&r.Value), &r.Step, &r.Timestamp)
		found[id] = r
		return err
	})
}

// attributes returns the values of parameters and tags of runs; all parameters
// when none are named. A run lacks what it does not have.
func (s *Service) attributes(ctx context.Context, runs []run, names []attribute) (map[uuid.UUID]map[attribute]string, error) {
	values := make(map[uuid.UUID]map[attribute]string, len(runs))
	for _, r := range runs {
		values[r.id] = make(map[attribute]string)
	}
	var st statement
	st.write("SELECT run_id, concat(if(kind = 'tag', 'tags.', 'params.'), key), value FROM run_attributes FINAL WHERE ", st.ofRuns(runs))
	if len(names) == 0 {
		st.write(" AND kind = 'parameter'")
	} else {
		keys := map[string][]string{"parameter": {}, "tag": {}}
		for _, a := range names {
			kind, key, _ := a.split()
			keys[kind] = append(keys[kind], key)
		}
		st.write(" AND (kind = 'parameter' AND key IN ", st.bind("Array(String)", keys["parameter"]), " OR kind = 'tag' AND key IN ", st.bind("Array(String)", keys["tag"]), ")")
	}
	more, err := s.db.some(ctx, &st, maxFetchedRows, func(scan func(...any) error) error {
		var id uuid.UUID
		var name, value string
		err := scan(&id, &name, &value)
		values[id][attribute(name)] = value
		return err
	})
	if err == nil && more {
		err = httpapi.InvalidField("run_ids", "the runs have more than %d parameters: select fewer runs, or name parameters", maxFetchedRows)
	}
	return values, err
}

// runGroup is runs that have the same values of what they are grouped by.
type runGroup struct {
	values []*string // nil where the runs have none
	runs   []run
}

// groupRuns divides runs by the values of parameters and tags, in the order of
// these: numbers as numbers, then text, then what is missing.
func (s *Service) groupRuns(ctx context.Context, runs []run, by []attribute) ([]runGroup, error) {
	if len(by) == 0 || len(runs) == 0 {
		return []runGroup{{values: []*string{}, runs: runs}}, nil
	}
	has, err := s.attributes(ctx, runs, by)
	if err != nil {
		return nil, err
	}
	place := make(map[string]int)
	var groups []runGroup
	for _, r := range runs {
		values := make([]*string, len(by))
		var id strings.Builder
		for i, a := range by {
			if v, ok := has[r.id][a]; ok {
				values[i] = &v
				id.WriteString(strconv.Quote(v))
			}
			id.WriteByte(',')
		}
		at, ok := place[id.String()]
		if !ok {
			at = len(groups)
			place[id.String()] = at
			groups = append(groups, runGroup{values: values})
		}
		groups[at].runs = append(groups[at].runs, r)
	}
	slices.SortFunc(groups, func(a, b runGroup) int { return slices.CompareFunc(a.values, b.values, compareValues) })
	return groups, nil
}

// compareValues orders values of parameters: numbers, text, missing ones.
func compareValues(a, b *string) int {
	rank := func(v *string) (int, float64, string) {
		if v == nil {
			return 2, 0, ""
		}
		if f, ok := parseNumber(*v); ok {
			return 0, f, *v
		}
		return 1, 0, *v
	}
	ra, fa, ta := rank(a)
	rb, fb, tb := rank(b)
	switch {
	case ra != rb:
		return ra - rb
	case fa < fb:
		return -1
	case fa > fb:
		return 1
	default:
		return strings.Compare(ta, tb)
	}
}

// parseNumber returns the finite number that a parameter's text is.
func parseNumber(text string) (float64, bool) {
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
}

// sweepRun names a run in the answers about sweeps.
type sweepRun struct {
	RunID   string `json:"run_id"`
	RunName string `json:"run_name"`
}

func nameRun(r run) sweepRun { return sweepRun{r.info.RunID, r.info.RunName} }

// topRequest is the body of POST /api/v1/sweeps/top.
type topRequest struct {
	runSelection
	Objective objective   `json:"objective"`
	GroupBy   []attribute `json:"group_by"`
	K         *int        `json:"k"`
}

// topGroup is the best runs of a group, the best first; of runs that are equally
// good, the one that comes first in the selection.
type topGroup struct {
	Group  []*string `json:"group"`  // the values of group_by, null where the runs have none
	Runs   int       `json:"runs"`   // in the group
	Ranked int       `json:"ranked"` // of these, with a finite value
	Top    []topRun  `json:"top"`
}

type topRun struct {
	sweepRun
	reached
}

func (r *topRequest) check() error {
	if err := r.runSelection.check(); err != nil {
		return err
	}
	if err := r.Objective.check("objective"); err != nil {
		return err
	}
	if err := checkAttributes("group_by", r.GroupBy, maxGroupBy); err != nil {
		return err
	}
	if r.K == nil {
		r.K = new(1)
	}
	if *r.K < 1 || *r.K > maxTop {
		return httpapi.InvalidField("k", "want 1 to %d", maxTop)
	}
	return nil
}

// sweepTop answers POST /api/v1/sweeps/top: the best run, or the k best, of each
// group.
func (s *Service) sweepTop(ec echo.Context) error {
	var req topRequest
	runs, more, leave, err := s.decodeSelection(ec, &req)
	if err != nil {
		return err
	}
	defer leave()
	ctx := ec.Request().Context()
	values, err := s.reach(ctx, runs, &req.Objective)
	if err != nil {
		return err
	}
	groups, err := s.groupRuns(ctx, runs, req.GroupBy)
	if err != nil {
		return err
	}
	out := newAnswer(ec, "groups")
	for _, g := range groups {
		ranked := slices.DeleteFunc(slices.Clone(g.runs), func(r run) bool { _, ok := values[r.id]; return !ok })
		slices.SortStableFunc(ranked, func(a, b run) int {
			if req.Objective.Goal == "maximize" {
				a, b = b, a
			}
			return cmp.Compare(values[a.id].Value, values[b.id].Value)
		})
		t := topGroup{Group: g.values, Runs: len(g.runs), Ranked: len(ranked), Top: []topRun{}}
		for _, r := range ranked[:min(*req.K, len(ranked))] {
			t.Top = append(t.Top, topRun{nameRun(r), values[r.id]})
		}
		if err := out.item(t); err != nil {
			return err
		}
	}
	return out.endWith("more_runs", more)
}

// reachAll returns what the runs reached of several objectives.
func (s *Service) reachAll(ctx context.Context, runs []run, objectives []objective) ([]map[uuid.UUID]reached, error) {
	all := make([]map[uuid.UUID]reached, len(objectives))
	group, ctx := newTasks(ctx)
	group.SetLimit(connsPerRequest)
	for i := range objectives {
		group.Go(func() (err error) {
			all[i], err = s.reach(ctx, runs, &objectives[i])
			return err
		})
	}
	return all, group.Wait()
}

func checkObjectives(objectives []objective, least int) error {
	if len(objectives) < least || len(objectives) > maxObjectives {
		return httpapi.InvalidField("objectives", "want %d to %d objectives", least, maxObjectives)
	}
	for i := range objectives {
		if err := objectives[i].check("objectives." + strconv.Itoa(i)); err != nil {
			return err
		}
	}
	return nil
}

// paretoRequest is the body of POST /api/v1/sweeps/pareto.
type paretoRequest struct {
	runSelection
	Objectives []objective `json:"objectives"`
}

// paretoRun is a run that has a finite value of every objective.
type paretoRun struct {
	sweepRun
	Values []number `json:"values"` // in the order of the objectives
	Front  bool     `json:"front"`  // no other run is better in one and as good in all
}

func (r *paretoRequest) check() error {
	if err := r.runSelection.check(); err != nil {
		return err
	}
	return checkObjectives(r.Objectives, 2)
}

// sweepPareto answers POST /api/v1/sweeps/pareto.
func (s *Service) sweepPareto(ec echo.Context) error {
	var req paretoRequest
	runs, more, leave, err := s.decodeSelection(ec, &req)
	if err != nil {
		return err
	}
	defer leave()
	all, err := s.reachAll(ec.Request().Context(), runs, req.Objectives)
	if err != nil {
		return err
	}
	points := []paretoRun{}
runs:
	for _, r := range runs {
		p := paretoRun{sweepRun: nameRun(r), Front: true}
		for _, values := range all {
			v, ok := values[r.id]
			if !ok {
				continue runs
			}
			p.Values = append(p.Values, v.Value)
		}
		points = append(points, p)
	}
	for i := range points {
		points[i].Front = !slices.ContainsFunc(points, func(other paretoRun) bool { return dominates(req.Objectives, other.Values, points[i].Values) })
	}
	return mlflow.WriteJSON(ec.Response(), struct {
		Runs     []paretoRun `json:"runs"`
		LeftOut  int         `json:"left_out"` // runs without a finite value of every objective
		MoreRuns bool        `json:"more_runs"`
	}{points, len(runs) - len(points), more})
}

// dominates reports whether a is as good as b in all objectives and better in
// one.
func dominates(objectives []objective, a, b []number) bool {
	better := false
	for i := range objectives {
		x, y := float64(a[i]), float64(b[i])
		if objectives[i].better(y, x) {
			return false
		}
		better = better || objectives[i].better(x, y)
	}
	return better
}
