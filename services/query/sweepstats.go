package query

import (
	"cmp"
	"math"
	"slices"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

// coordinatesRequest is the body of POST /api/v1/sweeps/coordinates.
type coordinatesRequest struct {
	runSelection
	Dimensions []attribute `json:"dimensions"` // without it, the parameters that differ
	Objectives []objective `json:"objectives"`
}

// dimension is an axis of parallel coordinates. Its values are numbers if all of
// them are, else places in the list of categories; null where a run has none.
type dimension struct {
	Name       attribute `json:"name"`
	Kind       string    `json:"kind"` // number or text
	Categories []string  `json:"categories,omitempty"`
	Values     []*number `json:"values"` // one for each run
}

type objectiveValues struct {
	objective
	Values []*number `json:"values"` // one for each run, null without a finite one
}

func (r *coordinatesRequest) check() error {
	if err := r.runSelection.check(); err != nil {
		return err
	}
	if err := checkAttributes("dimensions", r.Dimensions, maxDimensions); err != nil {
		return err
	}
	return checkObjectives(r.Objectives, 0)
}

// sweepCoordinates answers POST /api/v1/sweeps/coordinates.
func (s *Service) sweepCoordinates(ec echo.Context) error {
	var req coordinatesRequest
	runs, more, leave, err := s.decodeSelection(ec, &req)
	if err != nil {
		return err
	}
	defer leave()
	ctx := ec.Request().Context()
	has, err := s.attributes(ctx, runs, req.Dimensions)
	if err != nil {
		return err
	}
	names := req.Dimensions
	if len(names) == 0 {
		if names = differing(runs, has); len(names) > maxDimensions {
			return httpapi.InvalidField("dimensions", "the runs differ in %d parameters: name at most %d", len(names), maxDimensions)
		}
	}
	reached, err := s.reachAll(ctx, runs, req.Objectives)
	if err != nil {
		return err
	}
	answer := struct {
		Runs       []sweepRun        `json:"runs"`
		Dimensions []dimension       `json:"dimensions"`
		Objectives []objectiveValues `json:"objectives"`
		MoreRuns   bool              `json:"more_runs"`
	}{[]sweepRun{}, []dimension{}, []objectiveValues{}, more}
	for _, r := range runs {
		answer.Runs = append(answer.Runs, nameRun(r))
	}
	for _, name := range names {
		answer.Dimensions = append(answer.Dimensions, dimensionOf(name, attributeOf(runs, has, name)))
	}
	for i, o := range req.Objectives {
		values := objectiveValues{objective: o, Values: []*number{}}
		for _, r := range runs {
			v, ok := reached[i][r.id]
			values.Values = append(values.Values, orNull(ok, v.Value))
		}
		answer.Objectives = append(answer.Objectives, values)
	}
	return mlflow.WriteJSON(ec.Response(), answer)
}

// differing returns the attributes of which the runs do not all have the same.
func differing(runs []run, has map[uuid.UUID]map[attribute]string) []attribute {
	same := make(map[attribute]int)
	first := make(map[attribute]string)
	for _, r := range runs {
		for name, value := range has[r.id] {
			if _, ok := first[name]; !ok {
				first[name] = value
			}
			same[name] += map[bool]int{true: 1}[first[name] == value]
		}
	}
	var names []attribute
	for name, n := range same {
		if n < len(runs) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// attributeOf returns what each run has of an attribute, nil where it has none.
func attributeOf(runs []run, has map[uuid.UUID]map[attribute]string, name attribute) []*string {
	values := make([]*string, len(runs))
	for i, r := range runs {
		v, ok := has[r.id][name]
		values[i] = orNull(ok, v)
	}
	return values
}

func dimensionOf(name attribute, values []*string) dimension {
	d := dimension{Name: name, Kind: "number", Values: make([]*number, len(values))}
	var there []*string
	for i, v := range values {
		if v == nil {
			continue
		}
		there = append(there, v)
		f, ok := parseNumber(*v)
		if !ok {
			d.Kind = "text"
		}
		d.Values[i] = orNull(ok, number(f))
	}
	if d.Kind == "number" {
		return d
	}
	slices.SortFunc(there, compareValues)
	places := make(map[string]number)
	for _, v := range there {
		if _, ok := places[*v]; !ok {
			places[*v] = number(len(d.Categories))
			d.Categories = append(d.Categories, *v)
		}
	}
	for i, v := range values {
		if v != nil {
			place := places[*v]
			d.Values[i] = &place
		}
	}
	return d
}

// importanceRequest is the body of POST /api/v1/sweeps/importance.
type importanceRequest struct {
	runSelection
	Objective  objective   `json:"objective"`
	Attributes []attribute `json:"attributes"` // without it, the parameters that differ
}

// effect says how an objective goes with a parameter or tag.
type effect struct {
	Name     attribute `json:"name"`
	Runs     int       `json:"runs"`     // with a value of it, of those with one of the objective
	Numbers  int       `json:"numbers"`  // of these, with a number
	Distinct int       `json:"distinct"` // values
	// Pearson's and Spearman's correlation over the runs with a number, null for
	// fewer than 3 of them or where nothing varies.
	Pearson  *number `json:"pearson"`
	Spearman *number `json:"spearman"`
	// Importance is epsilon squared, see epsilonSquared; null where it says nothing.
	Importance *number `json:"importance"`
}

func (r *importanceRequest) check() error {
	if err := r.runSelection.check(); err != nil {
		return err
	}
	if err := r.Objective.check("objective"); err != nil {
		return err
	}
	return checkAttributes("attributes", r.Attributes, maxDimensions)
}

// sweepImportance answers POST /api/v1/sweeps/importance.
func (s *Service) sweepImportance(ec echo.Context) error {
	var req importanceRequest
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
	all := len(runs)
	runs = slices.DeleteFunc(runs, func(r run) bool { _, ok := values[r.id]; return !ok })
	has, err := s.attributes(ctx, runs, req.Attributes)
	if err != nil {
		return err
	}
	names := req.Attributes
	if len(names) == 0 {
		if names = differing(runs, has); len(names) > maxDimensions {
			return httpapi.InvalidField("attributes", "the runs differ in %d parameters: name at most %d", len(names), maxDimensions)
		}
	}
	y := make([]float64, len(runs))
	for i, r := range runs {
		y[i] = float64(values[r.id].Value)
	}
	effects := []effect{}
	for _, name := range names {
		effects = append(effects, effectOf(name, attributeOf(runs, has, name), y))
	}
	slices.SortStableFunc(effects, func(a, b effect) int { return cmp.Compare(orLeast(b.Importance), orLeast(a.Importance)) })
	return mlflow.WriteJSON(ec.Response(), struct {
		Effects  []effect `json:"effects"` // the most important first
		Runs     int      `json:"runs"`
		LeftOut  int      `json:"left_out"` // runs without a finite value of the objective
		MoreRuns bool     `json:"more_runs"`
	}{effects, len(runs), all - len(runs), more})
}

func orLeast(n *number) number {
	if n == nil {
		return number(math.Inf(-1))
	}
	return *n
}

func effectOf(name attribute, values []*string, y []float64) effect {
	e := effect{Name: name}
	distinct := make(map[string]bool)
	var xs, ys []float64
	for i, v := range values {
		if v == nil {
			continue
		}
		e.Runs++
		distinct[*v] = true
		if f, ok := parseNumber(*v); ok {
			xs, ys = append(xs, f), append(ys, y[i])
		}
	}
	e.Numbers, e.Distinct = len(xs), len(distinct)
	if r, ok := pearson(xs, ys); ok {
		e.Pearson = new(number(r))
	}
	if r, ok := pearson(ranks(xs), ranks(ys)); ok {
		e.Spearman = new(number(r))
	}
	if v, ok := epsilonSquared(levels(values), y); ok {
		e.Importance = new(number(v))
	}
	return e
}

// progressRequest is the body of POST /api/v1/sweeps/progress.
type progressRequest struct {
	runSelection
	Objective objective `json:"objective"`
}

func (r *progressRequest) check() error {
	if err := r.runSelection.check(); err != nil {
		return err
	}
	return r.Objective.check("objective")
}

// sweepProgress answers POST /api/v1/sweeps/progress: the best value so far, by
// the time at which each run reached its own.
func (s *Service) sweepProgress(ec echo.Context) error {
	var req progressRequest
	runs, more, leave, err := s.decodeSelection(ec, &req)
	if err != nil {
		return err
	}
	defer leave()
	values, err := s.reach(ec.Request().Context(), runs, &req.Objective)
	if err != nil {
		return err
	}
	all := len(runs)
	runs = slices.DeleteFunc(runs, func(r run) bool { _, ok := values[r.id]; return !ok })
	slices.SortStableFunc(runs, func(a, b run) int { return cmp.Compare(values[a.id].Timestamp, values[b.id].Timestamp) })
	best := []topRun{}
	for _, r := range runs {
		v := values[r.id]
		if len(best) == 0 || req.Objective.better(float64(v.Value), float64(best[len(best)-1].Value)) {
			best = append(best, topRun{nameRun(r), v})
		}
	}
	return mlflow.WriteJSON(ec.Response(), struct {
		Best     []topRun `json:"best"` // each better than the one before
		Runs     int      `json:"runs"`
		LeftOut  int      `json:"left_out"` // runs without a finite value of the objective
		MoreRuns bool     `json:"more_runs"`
	}{best, len(runs), all - len(runs), more})
}
