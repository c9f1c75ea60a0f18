package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/runledger/runledger/pkg/events"
)

// What a Step restores.
const (
	StepModel       = "model"
	StepVersion     = "version"
	StepStage       = "stage"
	StepDescription = "description"
	StepTag         = "tag"
	StepAlias       = "alias"
)

// How a model or a version is, in the steps that restore or delete it.
const (
	Deleted  = "deleted"
	Restored = "restored"
)

// Step is one change of a rollback. From and To are nil for what is not there.
type Step struct {
	Model   string  `json:"model"` // its present name
	Version uint64  `json:"version,omitzero,string"`
	What    string  `json:"what"`
	Key     string  `json:"key,omitempty"` // of a tag, or the alias
	From    *string `json:"from"`
	To      *string `json:"to"`

	Event *events.Event `json:"-"`
}

// Rollback is what brings the registry, or one model, back to an earlier state.
//
// It restores the aliases, the stages, and the tags and descriptions of models
// and versions. What is not restored: names of models, times, webhooks, gates,
// approvals, evaluations, and that something was not there: models and versions
// made since stay, the versions in stage None.
type Rollback struct {
	Steps []Step
	// Missing names what was deleted since and would have to be restored, for
	// example "version 3 of 'digits'".
	Missing []string

	state *State
	now   time.Time
}

// NewRollback returns an empty rollback of a state. now is the time of the
// events.
func NewRollback(state *State, now time.Time) *Rollback { return &Rollback{state: state, now: now} }

// Model adds what brings a model back to how it was then. It must be there under
// the same id.
func (r *Rollback) Model(current, then *Model) error {
	p := planner{Rollback: r, name: current.Name}
	p.versions(then)
	p.model(then)
	return p.err
}

// RestoreModel adds what brings a deleted model back to how it was then. next is
// the number of the next version that it had when it was deleted. It returns
// ErrMisfit when another model has its name.
func (r *Rollback) RestoreModel(then *Model, next uint64) error {
	p := planner{Rollback: r, name: then.Name}
	p.add(Step{What: StepModel, From: new(Deleted), To: new(Restored)}, &events.Event{
		Data: &events.Event_RegisteredModelRestored{RegisteredModelRestored: &events.RegisteredModelRestored{
			Name: then.Name, Id: then.ID, NextVersion: next, CreationTimestamp: then.Created, Description: then.Description, Tags: tagList(then.Tags),
		}},
	})
	missing := slices.Concat(r.Missing, []string{fmt.Sprintf("Registered Model '%s'", then.Name)})
	p.versions(then)
	r.Missing = missing // its versions go without saying
	p.model(then)
	return p.err
}

// DeleteModel adds the deletion of a model that was a deleted one then.
func (r *Rollback) DeleteModel(current *Model) error {
	p := planner{Rollback: r, name: current.Name}
	p.add(Step{What: StepModel, From: new(Restored), To: new(Deleted)}, &events.Event{
		Data: &events.Event_RegisteredModelDeleted{RegisteredModelDeleted: &events.RegisteredModelDeleted{Name: current.Name}},
	})
	return p.err
}

// planner adds the steps of one model. It applies each event to the state, so
// that the next is found on what is there by then, and keeps its first error.
type planner struct {
	*Rollback
	name string
	err  error
}

func (p *planner) current() *Model {
	m, _ := p.state.Model(p.name)
	return m
}

func (p *planner) add(s Step, e *events.Event) {
	if p.err != nil {
		return
	}
	next, _, err := p.state.Apply(p.state.Seq()+1, p.now, e)
	if err != nil {
		p.err = fmt.Errorf("plan a rollback of %q: %w", p.name, err)
		return
	}
	p.state = next
	s.Model, s.Event = p.name, e
	p.Steps = append(p.Steps, s)
}

// versions adds the steps of the versions, those that were live then first, so
// that the aliases find them.
func (p *planner) versions(then *Model) {
	if p.err != nil {
		return
	}
	for v := range then.Versions() {
		if current, ok := p.current().Version(v.Number); ok {
			p.version(current, v)
			continue
		}
		p.Missing = append(p.Missing, fmt.Sprintf("version %d of '%s'", v.Number, p.name))
		p.add(Step{Version: v.Number, What: StepVersion, From: new(Deleted), To: new(Restored)}, &events.Event{
			Data: &events.Event_ModelVersionRestored{ModelVersionRestored: &events.ModelVersionRestored{
				Name: p.name, Version: v.Number, CreationTimestamp: v.Created, Stage: v.Stage, Source: v.Source, RunId: v.RunID,
				RunLink: v.RunLink, Description: v.Description, Tags: tagList(v.Tags), UserId: v.UserID, ModelId: v.ModelID,
				StorageLocation: v.StorageLocation,
			}},
		})
	}
	for v := range p.current().Versions() {
		switch old := then.AnyVersion(v.Number); {
		case old == nil:
			p.stage(v, StageNone)
		case old.Deleted():
			p.add(Step{Version: v.Number, What: StepVersion, From: new(Restored), To: new(Deleted)}, &events.Event{
				Data: &events.Event_ModelVersionDeleted{ModelVersionDeleted: &events.ModelVersionDeleted{Name: p.name, Version: v.Number}},
			})
		}
	}
}

func (p *planner) version(current, then *Version) {
	p.stage(current, then.Stage)
	if current.Description != then.Description {
		p.add(Step{Version: then.Number, What: StepDescription, From: present(current.Description), To: present(then.Description)}, &events.Event{
			Data: &events.Event_ModelVersionUpdated{ModelVersionUpdated: &events.ModelVersionUpdated{
				Name: p.name, Version: then.Number, Description: then.Description,
			}},
		})
	}
	for _, d := range differences(current.Tags, then.Tags) {
		e := &events.Event{Data: &events.Event_ModelVersionTagDeleted{ModelVersionTagDeleted: &events.ModelVersionTagDeleted{
			Name: p.name, Version: then.Number, Key: d.key,
		}}}
		if d.to != nil {
			e.Data = &events.Event_ModelVersionTagSet{ModelVersionTagSet: &events.ModelVersionTagSet{
				Name: p.name, Version: then.Number, Tag: &events.Tag{Key: d.key, Value: *d.to},
			}}
		}
		p.add(Step{Version: then.Number, What: StepTag, Key: d.key, From: d.from, To: d.to}, e)
	}
}

func (p *planner) stage(v *Version, to string) {
	if v.Stage == to {
		return
	}
	p.add(Step{Version: v.Number, What: StepStage, From: new(v.Stage), To: &to}, &events.Event{
		Data: &events.Event_ModelVersionStageSet{ModelVersionStageSet: &events.ModelVersionStageSet{
			Name: p.name, Version: v.Number, FromStage: v.Stage, ToStage: to,
		}},
	})
}

// model adds the steps of the model itself.
func (p *planner) model(then *Model) {
	if p.err != nil {
		return
	}
	m := p.current()
	if m.Description != then.Description {
		p.add(Step{What: StepDescription, From: present(m.Description), To: present(then.Description)}, &events.Event{
			Data: &events.Event_RegisteredModelUpdated{RegisteredModelUpdated: &events.RegisteredModelUpdated{
				Name: p.name, Description: then.Description,
			}},
		})
	}
	for _, d := range differences(m.Tags, then.Tags) {
		e := &events.Event{Data: &events.Event_RegisteredModelTagDeleted{RegisteredModelTagDeleted: &events.RegisteredModelTagDeleted{
			Name: p.name, Key: d.key,
		}}}
		if d.to != nil {
			e.Data = &events.Event_RegisteredModelTagSet{RegisteredModelTagSet: &events.RegisteredModelTagSet{
				Name: p.name, Tag: &events.Tag{Key: d.key, Value: *d.to},
			}}
		}
		p.add(Step{What: StepTag, Key: d.key, From: d.from, To: d.to}, e)
	}
	for _, d := range differences(m.Aliases, then.Aliases) {
		step := Step{What: StepAlias, Key: d.key}
		if d.from != nil {
			step.From = new(number(*d.from))
		}
		if d.to == nil {
			p.add(step, &events.Event{Data: &events.Event_AliasDeleted{AliasDeleted: &events.AliasDeleted{
				Name: p.name, Alias: d.key, PreviousVersion: *d.from,
			}}})
			continue
		}
		step.To = new(number(*d.to))
		p.add(step, &events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{
			Name: p.name, Alias: d.key, Version: *d.to, PreviousVersion: m.Aliases[d.key],
		}}})
	}
}

// difference is a key whose values differ, nil where there is none.
type difference[V comparable] struct {
	key      string
	from, to *V
}

// differences returns the keys whose values differ, sorted.
func differences[V comparable](from, to map[string]V) []difference[V] {
	var out []difference[V]
	for key, value := range from {
		d := difference[V]{key: key, from: &value}
		if other, ok := to[key]; ok {
			d.to = &other
		}
		if d.to == nil || *d.to != value {
			out = append(out, d)
		}
	}
	for key, value := range to {
		if _, ok := from[key]; !ok {
			out = append(out, difference[V]{key: key, to: &value})
		}
	}
	slices.SortFunc(out, func(a, b difference[V]) int { return strings.Compare(a.key, b.key) })
	return out
}

// present returns nil for what is empty, and so not there.
func present(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func tagList(tags map[string]string) []*events.Tag {
	var list []*events.Tag
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		list = append(list, &events.Tag{Key: key, Value: tags[key]})
	}
	return list
}
