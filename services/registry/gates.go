package registry

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"
	"google.golang.org/protobuf/proto"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/gate"
)

const (
	maxGates      = 20 // of a model
	maxConditions = 20
	maxGateTags   = 20
	maxApprovals  = 20
	// knownVersions bounds the versions among whose metrics those of a new gate
	// are looked for, from the newest.
	knownVersions = 100
)

// gateRequest is the body of PUT /api/v1/models/:name/gates/….
type gateRequest struct {
	Conditions []string          `json:"conditions"`
	Tags       map[string]string `json:"required_tags"`
	Approvals  int               `json:"approvals"`
}

// gateAnswer is a gate, as the API shows it.
type gateAnswer struct {
	Target     catalog.Target    `json:"target"`
	Conditions []string          `json:"conditions"`
	Tags       map[string]string `json:"required_tags"`
	Approvals  uint32            `json:"approvals"`
}

func showGate(g catalog.Gate) gateAnswer {
	a := gateAnswer{g.Target, g.Conditions, g.Tags, g.Approvals}
	if a.Conditions == nil {
		a.Conditions = []string{}
	}
	if a.Tags == nil {
		a.Tags = map[string]string{}
	}
	return a
}

// gatePath returns the model and the target that a request's path names.
func gatePath(c echo.Context) (name string, target catalog.Target, err error) {
	name = httpapi.PathParam(c, "name")
	if err := mlflow.ValidateModelName(name); err != nil {
		return "", target, err
	}
	text := httpapi.PathParam(c, "target")
	if c.Path() == "/api/v1/models/:name/gates/aliases/:target" {
		return name, catalog.Target{Alias: text}, mlflow.ValidateNewAlias(text)
	}
	stage, err := mlflow.ValidateStage(text)
	if err == nil && stage == catalog.StageNone {
		err = apierr.Errorf(apierr.InvalidParameterValue, "Stage None cannot have a gate: it is the way out of the others")
	}
	return name, catalog.Target{Stage: stage}, err
}

func (s *Service) listGates(c echo.Context) error {
	_, m, err := s.modelAsOf(c)
	if err != nil {
		return err
	}
	gates := []gateAnswer{}
	for _, key := range slices.Sorted(maps.Keys(m.Gates)) {
		gates = append(gates, showGate(m.Gates[key]))
	}
	return mlflow.WriteJSON(c.Response(), struct {
		Gates []gateAnswer `json:"gates"`
	}{gates})
}

func (s *Service) getGate(c echo.Context) error {
	name, target, err := gatePath(c)
	if err != nil {
		return err
	}
	st, err := s.readAsOf(c)
	if err != nil {
		return err
	}
	m, g, err := findGate(st, name, target)
	if err != nil {
		return err
	}
	tellSeq(c, m.Last)
	return mlflow.WriteJSON(c.Response(), showGate(g))
}

func findGate(st *catalog.State, name string, target catalog.Target) (*catalog.Model, catalog.Gate, error) {
	m, err := findModel(st, name)
	if err != nil {
		return nil, catalog.Gate{}, err
	}
	g, ok := m.Gate(target)
	if !ok {
		return nil, catalog.Gate{}, apierr.Errorf(apierr.ResourceDoesNotExist, "Registered Model '%s' has no gate at %s", name, target)
	}
	return m, g, nil
}

// setGate guards a target.
func (s *Service) setGate(c echo.Context) error {
	name, target, err := gatePath(c)
	if err != nil {
		return err
	}
	var req gateRequest
	if err := httpapi.DecodeBody(c, &req); err != nil {
		return err
	}
	conditions, err := req.check()
	if err != nil {
		return err
	}
	st, err := s.read(c)
	if err != nil {
		return err
	}
	m, err := findModel(st, name)
	if err != nil {
		return err
	}
	if err := s.checkFigures(c.Request().Context(), m, conditions); err != nil {
		return err
	}
	set := &events.GateSet{Name: name, Target: target.Event(), Approvals: uint32(req.Approvals)}
	for _, condition := range conditions {
		set.Conditions = append(set.Conditions, condition.String())
	}
	for _, key := range slices.Sorted(maps.Keys(req.Tags)) {
		set.RequiredTags = append(set.RequiredTags, &events.Tag{Key: key, Value: req.Tags[key]})
	}
	out, err := s.do(c, command{
		action: "gate_set", model: name,
		decide: func(st *catalog.State) (*events.Event, error) {
			m, err := findModel(st, name)
			if err != nil {
				return nil, err
			}
			g, ok := m.Gate(target)
			if ok && slices.Equal(g.Conditions, set.GetConditions()) && maps.Equal(g.Tags, req.Tags) && g.Approvals == set.GetApprovals() {
				return nil, nil
			}
			if !ok && len(m.Gates) >= maxGates {
				return nil, apierr.Errorf(apierr.InvalidParameterValue, "Registered Model '%s' has %d gates, which is the most", name, maxGates)
			}
			return &events.Event{Data: &events.Event_GateSet{GateSet: proto.CloneOf(set)}}, nil
		},
	})
	if err != nil {
		return err
	}
	_, g, err := findGate(out.state, name, target)
	if err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), showGate(g))
}

// check reads the conditions of a request, and returns an error that names the
// field.
func (r *gateRequest) check() ([]gate.Condition, error) {
	if len(r.Conditions)+len(r.Tags) == 0 && r.Approvals == 0 {
		return nil, apierr.Errorf(apierr.InvalidParameterValue,
			"The gate has no conditions, required_tags or approvals: nothing would be refused. DELETE removes a gate.")
	}
	if len(r.Conditions) > maxConditions {
		return nil, httpapi.InvalidField("conditions", "want at most %d", maxConditions)
	}
	if len(r.Tags) > maxGateTags {
		return nil, httpapi.InvalidField("required_tags", "want at most %d", maxGateTags)
	}
	if r.Approvals < 0 || r.Approvals > maxApprovals {
		return nil, httpapi.InvalidField("approvals", "want 0 to %d", maxApprovals)
	}
	for key, value := range r.Tags {
		if err := mlflow.ValidateVersionTag(mlflow.Tag{Key: key, Value: value}); err != nil {
			return nil, httpapi.InvalidField("required_tags", "%s", err)
		}
		if len(value) > maxComment {
			return nil, httpapi.InvalidField("required_tags", "want values of at most %d bytes", maxComment)
		}
	}
	var conditions []gate.Condition
	for i, text := range r.Conditions {
		c, err := gate.Parse(text)
		if err != nil {
			return nil, httpapi.InvalidField(conditionField(i), "%s: %.200q", err, text)
		}
		conditions = append(conditions, c)
	}
	return conditions, nil
}

func conditionField(i int) string { return "conditions." + strconv.Itoa(i) }

// checkFigures returns an error for a condition on a metric that no version of
// the model has. A model without versions has none to compare with.
func (s *Service) checkFigures(ctx context.Context, m *catalog.Model, conditions []gate.Condition) error {
	ctx, cancel := context.WithTimeout(ctx, pastLimit)
	defer cancel()
	unknown := make(map[int]gate.Figure)
	for i, c := range conditions {
		unknown[i] = c.Figure
	}
	versions := slices.Collect(m.Versions())
	if len(versions) == 0 {
		return nil
	}
	for n, v := range slices.Backward(versions) {
		if len(unknown) == 0 || n < len(versions)-knownVersions {
			break
		}
		var run map[string]float64
		onRun := func(f gate.Figure) bool { return !f.Evaluated }
		if slices.ContainsFunc(slices.Collect(maps.Values(unknown)), onRun) {
			var err error
			if run, err = s.figures.Latest(ctx, v.RunID); errors.Is(err, context.DeadlineExceeded) {
				return apierr.Wrap(err, apierr.TemporarilyUnavailable, "The metrics of the model's runs could not be read in time").WithRetryAfter(waitLimit)
			} else if err != nil {
				return err
			}
		}
		find := lookup(v, run)
		maps.DeleteFunc(unknown, func(_ int, f gate.Figure) bool { _, ok := find(f); return ok })
	}
	if len(unknown) == 0 {
		return nil
	}
	first := slices.Min(slices.Collect(maps.Keys(unknown)))
	what := "no run of the model's versions has logged it"
	if unknown[first].Evaluated {
		what = "no version of the model has such an evaluation"
	}
	return httpapi.InvalidField(conditionField(first), "unknown metric %s: %s", unknown[first], what)
}

func (s *Service) deleteGate(c echo.Context) error {
	name, target, err := gatePath(c)
	if err != nil {
		return err
	}
	return s.change(c, command{
		action: "gate_deleted", model: name,
		decide: func(st *catalog.State) (*events.Event, error) {
			if _, _, err := findGate(st, name, target); err != nil {
				return nil, err
			}
			return &events.Event{Data: &events.Event_GateDeleted{GateDeleted: &events.GateDeleted{Name: name, Target: target.Event()}}}, nil
		},
	})
}
