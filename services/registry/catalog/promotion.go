package catalog

import (
	"fmt"
	"slices"

	"github.com/runledger/runledger/pkg/events"
)

// Target is what a version is promoted to: a stage, or an alias.
type Target struct {
	Stage string `json:"stage,omitempty"`
	Alias string `json:"alias,omitempty"`
}

// TargetOf returns the target that an event names.
func TargetOf(t *events.PromotionTarget) Target {
	return Target{Stage: t.GetStage(), Alias: t.GetAlias()}
}

// Event returns the target as an event names it.
func (t Target) Event() *events.PromotionTarget {
	if t.Alias != "" {
		return &events.PromotionTarget{Target: &events.PromotionTarget_Alias{Alias: t.Alias}}
	}
	return &events.PromotionTarget{Target: &events.PromotionTarget_Stage{Stage: t.Stage}}
}

// String names the target, for example "stage Production".
func (t Target) String() string {
	if t.Alias != "" {
		return fmt.Sprintf("alias %q", t.Alias)
	}
	return "stage " + t.Stage
}

// key is the target's place in the model's document.
func (t Target) key() string {
	if t.Alias != "" {
		return "alias/" + t.Alias
	}
	return "stage/" + t.Stage
}

// Gate is what a version must meet to be promoted to a target.
type Gate struct {
	Target     Target            `json:"target"`
	Conditions []string          `json:"conditions,omitempty"` // see package gate
	Tags       map[string]string `json:"required_tags,omitempty"`
	Approvals  uint32            `json:"approvals,omitempty"`
}

// Gate returns the gate of a target.
func (m *Model) Gate(t Target) (Gate, bool) {
	g, ok := m.Gates[t.key()]
	return g, ok
}

// Refusal is the last promotion of a version that did not pass its gate.
type Refusal struct {
	Seq       uint64   `json:"seq"`
	Target    Target   `json:"target"`
	Requester string   `json:"requester"`
	Failures  []string `json:"failures"`
}

// The states of an approval, as SageMaker names them.
const (
	ApprovalPending  = "PendingManualApproval"
	ApprovalApproved = "Approved"
	ApprovalRejected = "Rejected"
)

// approvalStatuses are the states of an approval as events have them.
var approvalStatuses = map[events.ApprovalStatus]string{
	events.ApprovalStatus_APPROVAL_STATUS_PENDING_MANUAL_APPROVAL: ApprovalPending,
	events.ApprovalStatus_APPROVAL_STATUS_APPROVED:                ApprovalApproved,
	events.ApprovalStatus_APPROVAL_STATUS_REJECTED:                ApprovalRejected,
}

// ApprovalStatus returns a state as events have it, and whether there is such a
// state.
func ApprovalStatus(name string) (events.ApprovalStatus, bool) {
	for status, text := range approvalStatuses {
		if text == name {
			return status, true
		}
	}
	return 0, false
}

// Approval is what people said of a version since somebody asked them to, or
// since the version was made.
type Approval struct {
	Requester string              `json:"requester,omitempty"` // "" when nobody asked
	Comment   string              `json:"comment,omitempty"`   // of the requester
	Decisions map[string]Decision `json:"decisions,omitempty"` // the last one of each person
}

// Decision is what one person said.
type Decision struct {
	Status  string `json:"status"`
	Comment string `json:"comment,omitempty"`
	Time    int64  `json:"timestamp"` // milliseconds since the Unix epoch
}

// Status returns the state of the whole: rejected when anybody rejects, approved
// when anybody approves and nobody rejects, else pending; "" when nobody asked
// and nobody said anything.
func (a *Approval) Status() string {
	if a == nil {
		return ""
	}
	status := ApprovalPending
	for _, d := range a.Decisions {
		if d.Status == ApprovalRejected {
			return ApprovalRejected
		}
		status = d.Status
	}
	return status
}

// Evaluation is the result of a test of a version.
type Evaluation struct {
	Seq           uint64             `json:"seq"`
	Time          int64              `json:"timestamp"` // milliseconds since the Unix epoch
	Name          string             `json:"name"`
	Metrics       map[string]float64 `json:"metrics"` // finite
	DatasetName   string             `json:"dataset_name,omitempty"`
	DatasetDigest string             `json:"dataset_digest,omitempty"`
	Evaluator     string             `json:"evaluator,omitempty"`
	Comment       string             `json:"comment,omitempty"`
}

// Evaluated returns a metric of the last evaluation that has it, of those with a
// name unless that is "".
func (v *Version) Evaluated(name, key string) (float64, bool) {
	for _, e := range slices.Backward(v.Evaluations) {
		if value, ok := e.Metrics[key]; ok && (name == "" || name == e.Name) {
			return value, true
		}
	}
	return 0, false
}

// Holder returns the version that a target has, the highest of several in a
// stage, and nil when it has none but the one left out.
func (m *Model) Holder(t Target, but uint64) *Version {
	if t.Alias != "" {
		v, ok := m.Version(m.Aliases[t.Alias])
		if !ok || v.Number == but {
			return nil
		}
		return v
	}
	var holder *Version
	for v := range m.Versions() {
		if v.Stage == t.Stage && v.Number != but {
			holder = v
		}
	}
	return holder
}

// changePromotion applies the events about gates, approvals and evaluations, and
// reports whether it was one.
func (s *State) changePromotion(seq uint64, now int64, e *events.Event) (Change, bool, error) {
	switch d := e.GetData().(type) {
	case *events.Event_GateSet:
		g := d.GateSet
		c, err := s.edit(g.GetName(), func(m *Model) error {
			target := TargetOf(g.GetTarget())
			if target == (Target{}) {
				return misfit("a gate of %q without a target", g.GetName())
			}
			m.Gates = with(m.Gates, target.key(), Gate{
				Target: target, Conditions: g.GetConditions(), Tags: tagMap(g.GetRequiredTags()), Approvals: g.GetApprovals(),
			})
			return nil
		})
		return c, true, err
	case *events.Event_GateDeleted:
		c, err := s.edit(d.GateDeleted.GetName(), func(m *Model) error {
			key := TargetOf(d.GateDeleted.GetTarget()).key()
			if _, ok := m.Gates[key]; !ok {
				return misfit("model %q has no gate at %s", m.Name, key)
			}
			m.Gates = without(m.Gates, key)
			return nil
		})
		return c, true, err
	case *events.Event_PromotionRefused:
		r := d.PromotionRefused
		c, err := s.editVersion(r.GetName(), r.GetVersion(), func(_ *Model, v *Version) error {
			v.Refused = &Refusal{Seq: seq, Target: TargetOf(r.GetTarget()), Requester: r.GetRequester(), Failures: r.GetFailures()}
			return nil
		})
		return c, true, err
	case *events.Event_ApprovalSet:
		a := d.ApprovalSet
		c, err := s.editVersion(a.GetName(), a.GetVersion(), func(_ *Model, v *Version) error {
			switch a.GetStatus() {
			case events.ApprovalStatus_APPROVAL_STATUS_PENDING_MANUAL_APPROVAL:
				v.Approval = &Approval{Requester: a.GetActor(), Comment: a.GetComment()}
			case events.ApprovalStatus_APPROVAL_STATUS_APPROVED, events.ApprovalStatus_APPROVAL_STATUS_REJECTED:
				var next Approval
				if v.Approval != nil {
					next = *v.Approval
				}
				next.Decisions = with(next.Decisions, a.GetActor(), Decision{
					Status: approvalStatuses[a.GetStatus()], Comment: a.GetComment(), Time: now,
				})
				v.Approval = &next
			default:
				return misfit("approval status %v", a.GetStatus())
			}
			return nil
		})
		return c, true, err
	case *events.Event_EvaluationRecorded:
		r := d.EvaluationRecorded
		c, err := s.editVersion(r.GetName(), r.GetVersion(), func(_ *Model, v *Version) error {
			metrics := make(map[string]float64, len(r.GetMetrics()))
			for _, m := range r.GetMetrics() {
				metrics[m.GetKey()] = m.GetValue()
			}
			v.Evaluations = append(slices.Clip(v.Evaluations), Evaluation{
				Seq: seq, Time: now, Name: r.GetEvaluation(), Metrics: metrics, DatasetName: r.GetDatasetName(),
				DatasetDigest: r.GetDatasetDigest(), Evaluator: r.GetEvaluator(), Comment: r.GetComment(),
			})
			return nil
		})
		return c, true, err
	}
	return Change{}, false, nil
}

// document returns the gate as the model's document has it.
func (g Gate) document() Document {
	d := Document{"approvals": g.Approvals}
	d.table("conditions", list(g.Conditions))
	d.table("required_tags", stringTable(g.Tags))
	return d
}

// promotion adds what is known of a version's promotion to its document. What
// came with one event is a table by its sequence, so that an entry has the whole
// of it.
func (v *Version) promotion(d Document) {
	if r := v.Refused; r != nil {
		d.table("refused", Document{number(r.Seq): Document{
			"target": r.Target.key(), "requester": r.Requester, "failures": list(r.Failures),
		}})
	}
	if a := v.Approval; a != nil {
		approval := Document{"status": a.Status()}
		approval.text("requester", a.Requester)
		approval.text("comment", a.Comment)
		decisions := Document{}
		for person, said := range a.Decisions {
			decision := Document{"status": said.Status, "timestamp": said.Time}
			decision.text("comment", said.Comment)
			decisions[person] = decision
		}
		approval.table("decisions", decisions)
		d["approval"] = approval
	}
	evaluations := Document{}
	for _, e := range v.Evaluations {
		metrics := Document{}
		for key, value := range e.Metrics {
			metrics[key] = value
		}
		evaluation := Document{"name": e.Name, "timestamp": e.Time, "metrics": metrics}
		evaluation.text("dataset_name", e.DatasetName)
		evaluation.text("dataset_digest", e.DatasetDigest)
		evaluation.text("evaluator", e.Evaluator)
		evaluation.text("comment", e.Comment)
		evaluations[number(e.Seq)] = evaluation
	}
	d.table("evaluations", evaluations)
}

func list(texts []string) Document {
	d := make(Document, len(texts))
	for i, text := range texts {
		d[number(uint64(i))] = text
	}
	return d
}
