package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/caller"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/gate"
	"github.com/runledger/runledger/services/registry/ledger"
)

// figureRetries bounds how often a promotion is decided again because others
// change which runs it depends on.
const figureRetries = 5

// promotion is a command that moves a version to a target, through the target's
// gate if it has one.
//
// The gate's conditions are on values that runs logged, which are not part of the
// registry's state: they are read before the decision, and the decision asks for
// those that it lacks.
type promotion struct {
	target catalog.Target
	by     string                        // who promotes
	runs   map[string]map[string]float64 // the latest values of runs, by their ids
	// refused is what the last decision was, nil for one that let it pass.
	refused *events.PromotionRefused
}

// unknownRuns is the error of a decision that lacks the values of runs.
type unknownRuns struct{ ids []string }

func (e *unknownRuns) Error() string {
	return fmt.Sprintf("the values of runs %v are not known", e.ids)
}

// promote runs a command whose event is a promotion of the version of a model. It
// returns a PERMISSION_DENIED that names what is not met, once the refusal is an
// entry of the ledger.
func (s *Service) promote(c echo.Context, target catalog.Target, name, version string, cmd command) (outcome, error) {
	p := &promotion{target: target, by: actor(c), runs: make(map[string]map[string]float64)}
	decide := cmd.decide
	cmd.decide = func(st *catalog.State) (*events.Event, error) {
		p.refused = nil
		event, err := decide(st)
		if event == nil || err != nil {
			return nil, err
		}
		m, v, err := findVersion(st, name, version)
		if err != nil {
			return nil, err
		}
		return p.pass(m, v, event)
	}
	cmd.mayBeRefused = true
	out, err := s.decidePromotion(c, p, version, cmd)
	if err == nil && p.refused != nil {
		err = refusal(p.refused)
	}
	s.metrics.command(cmd.action, err)
	return out, err
}

func (s *Service) decidePromotion(c echo.Context, p *promotion, version string, cmd command) (outcome, error) {
	ctx, cancel := context.WithTimeout(c.Request().Context(), pastLimit)
	defer cancel()
	for range figureRetries {
		out, err := s.commit(c, cmd)
		unknown, ok := errors.AsType[*unknownRuns](err)
		if !ok {
			if err == nil && out.done != nil {
				p.refused, err = s.refusedBefore(ctx, p, version, out.done)
			}
			return out, err
		}
		for _, id := range unknown.ids {
			values, err := s.figures.Latest(ctx, id)
			if errors.Is(err, context.DeadlineExceeded) {
				return outcome{}, apierr.Wrap(err, apierr.TemporarilyUnavailable,
					fmt.Sprintf("The metrics of run %s could not be read in time", id)).WithRetryAfter(waitLimit)
			}
			if err != nil {
				return outcome{}, err
			}
			p.runs[id] = values
		}
	}
	return outcome{}, apierr.Errorf(apierr.RequestLimitExceeded, "The model is being changed by others").WithRetryAfter(waitLimit)
}

// refusedBefore returns the refusal that the entry of a request with the same
// idempotency key is, nil for one that passed. It returns an
// INVALID_PARAMETER_VALUE when that was about another version or target.
func (s *Service) refusedBefore(ctx context.Context, p *promotion, version string, done *ledger.Entry) (*events.PromotionRefused, error) {
	if done.Action != actionRefused {
		return nil, nil
	}
	number, err := mlflow.ValidateVersion(version)
	if err != nil {
		return nil, err
	}
	for rec, err := range s.log.Read(ctx, events.StreamRegistry, "", done.Seq, done.Seq) {
		r := rec.GetPromotionRefused()
		if err == nil && (catalog.TargetOf(r.GetTarget()) != p.target || r.GetVersion() != uint64(number)) {
			err = apierr.Errorf(apierr.InvalidParameterValue, "The %s was used before, for version %s of '%s' and %s",
				httpapi.HeaderIdempotencyKey, done.Version, done.Model, catalog.TargetOf(r.GetTarget()))
		}
		return r, err
	}
	return nil, fmt.Errorf("the log has no event %d", done.Seq)
}

func refusal(r *events.PromotionRefused) error {
	return apierr.Errorf(apierr.PermissionDenied, "Version %d of '%s' cannot be promoted to %s: %s",
		r.GetVersion(), r.GetName(), catalog.TargetOf(r.GetTarget()), strings.Join(r.GetFailures(), "; "))
}

// pass returns the promotion's event, or that of its refusal.
func (p *promotion) pass(m *catalog.Model, v *catalog.Version, event *events.Event) (*events.Event, error) {
	g, ok := m.Gate(p.target)
	if !ok || v.Stage == p.target.Stage {
		return event, nil // nothing guards it, or it is there
	}
	failures, err := p.failures(m, v, g)
	if err != nil || len(failures) == 0 {
		return event, err
	}
	p.refused = &events.PromotionRefused{
		Name: m.Name, Version: v.Number, Target: p.target.Event(), Requester: p.by, Failures: failures,
	}
	return &events.Event{Data: &events.Event_PromotionRefused{PromotionRefused: p.refused}}, nil
}

// failures returns what the version does not meet of a gate.
func (p *promotion) failures(m *catalog.Model, v *catalog.Version, g catalog.Gate) ([]string, error) {
	holder := m.Holder(p.target, v.Number)
	var conditions []gate.Condition
	missing := make(map[string]bool)
	need := func(id string) {
		if _, ok := p.runs[id]; id != "" && !ok {
			missing[id] = true
		}
	}
	for _, text := range g.Conditions {
		c, err := gate.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("gate of %s of %q: %q: %w", p.target, m.Name, text, err)
		}
		conditions = append(conditions, c)
		if c.Figure.Evaluated {
			continue
		}
		need(v.RunID)
		if c.OnCurrent() && holder != nil {
			need(holder.RunID)
		}
	}
	if len(missing) > 0 {
		return nil, &unknownRuns{slices.Sorted(maps.Keys(missing))}
	}
	var failures []string
	var current gate.Lookup
	if holder != nil {
		current = lookup(holder, p.runs[holder.RunID])
	}
	for _, c := range conditions {
		if failure := c.Check(lookup(v, p.runs[v.RunID]), current); failure != "" {
			failures = append(failures, failure)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(g.Tags)) {
		is, ok := v.Tags[key]
		switch want := g.Tags[key]; {
		case !ok:
			failures = append(failures, fmt.Sprintf("the tag '%s' is missing", key))
		case want != "" && is != want:
			failures = append(failures, fmt.Sprintf("the tag '%s' is '%s', want '%s'", key, is, want))
		}
	}
	if failure := p.unapproved(v.Approval, g.Approvals); failure != "" {
		failures = append(failures, failure)
	}
	return failures, nil
}

// unapproved returns why an approval is not enough, "" when it is.
func (p *promotion) unapproved(a *catalog.Approval, want uint32) string {
	if want == 0 {
		return ""
	}
	var have uint32
	if a != nil {
		for _, person := range slices.Sorted(maps.Keys(a.Decisions)) {
			said := a.Decisions[person]
			switch {
			case said.Status == catalog.ApprovalRejected && said.Comment != "":
				return fmt.Sprintf("%s rejected it: %s", person, said.Comment)
			case said.Status == catalog.ApprovalRejected:
				return fmt.Sprintf("%s rejected it", person)
			case person != a.Requester && person != p.by:
				have++
			}
		}
	}
	if have >= want {
		return ""
	}
	return fmt.Sprintf("%d of %d approvals by others than who asks for it", have, want)
}

// lookup looks the figures of a version up.
func lookup(v *catalog.Version, run map[string]float64) gate.Lookup {
	return func(f gate.Figure) (float64, bool) {
		if f.Evaluated {
			return v.Evaluated(f.Evaluation, f.Key)
		}
		value, ok := run[f.Key]
		return value, ok
	}
}

// actor returns who makes a request.
func actor(c echo.Context) string {
	if a := caller.Of(c.Request().Context()).Name; a != "" {
		return a
	}
	return anonymous
}
