package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/benbjohnson/immutable"

	"github.com/runledger/runledger/pkg/events"
)

// What is left of a version that was deleted, as in MLflow.
const (
	RedactedSource  = "REDACTED-SOURCE-PATH"
	RedactedRunID   = "REDACTED-RUN-ID"
	RedactedRunLink = "REDACTED-RUN-LINK"
)

// ErrMisfit means that an event does not fit the state that it was published
// on: commands publish only on the state they were decided on, so the stream
// was written by something else.
var ErrMisfit = errors.New("event does not fit the registry's state")

// Change is what an event did.
type Change struct {
	Model   string // the model's name before the event
	Version uint64 // 0 when the event is about the model

	Previous *Model   // nil when the event created the model
	Current  *Model   // nil when the event deleted it
	Versions []uint64 // the versions of Current that changed, sorted

	// Of an event that is about a webhook, and so about no model: nil when it
	// created or deleted the webhook.
	PreviousWebhook, Webhook *Webhook
}

// AboutWebhook reports whether the event was about a webhook.
func (c Change) AboutWebhook() bool { return c.PreviousWebhook != nil || c.Webhook != nil }

// Apply returns the state after an event at sequence seq, accepted at the given
// time, and what it changed. It depends on nothing else, so that every process
// has the same state at the same sequence. It returns ErrMisfit, also for an
// event that is not the registry's.
func (s *State) Apply(seq uint64, at time.Time, e *events.Event) (*State, Change, error) {
	c, ok, err := s.changeWebhook(seq, at.UnixMilli(), e)
	if !ok {
		c, ok, err = s.changePromotion(seq, at.UnixMilli(), e)
	}
	if !ok {
		c, err = s.change(seq, at.UnixMilli(), e)
	}
	if err != nil {
		return nil, Change{}, fmt.Errorf("apply event %d, %s: %w", seq, events.Type(e), err)
	}
	webhooks := s.webhooks
	switch {
	case c.Webhook != nil:
		webhooks = webhooks.Set(c.Webhook.ID, c.Webhook)
	case c.PreviousWebhook != nil:
		webhooks = webhooks.Delete(c.PreviousWebhook.ID)
	}
	slices.Sort(c.Versions)
	models := s.models
	if c.Previous != nil && (c.Current == nil || c.Current.Name != c.Previous.Name) {
		models = models.Delete(c.Previous.Name)
	}
	if c.Current != nil {
		c.Current.Last = seq
		models = models.Set(c.Current.Name, c.Current)
	}
	return &State{seq: seq, models: models, webhooks: webhooks}, c, nil
}

func (s *State) change(seq uint64, now int64, e *events.Event) (Change, error) {
	switch d := e.GetData().(type) {
	case *events.Event_RegisteredModelCreated:
		m := d.RegisteredModelCreated
		if _, ok := s.Model(m.GetName()); ok {
			return Change{}, misfit("model %q exists", m.GetName())
		}
		return Change{Model: m.GetName(), Current: &Model{
			ID: seq, Name: m.GetName(), Created: now, Updated: now, Next: 1, Description: m.GetDescription(),
			Tags: tagMap(m.GetTags()), versions: immutable.NewSortedMap[uint64, *Version](nil),
		}}, nil

	case *events.Event_RegisteredModelUpdated:
		return s.edit(d.RegisteredModelUpdated.GetName(), func(m *Model) error {
			m.Description, m.Updated = d.RegisteredModelUpdated.GetDescription(), now
			return nil
		})

	case *events.Event_RegisteredModelRenamed:
		return s.edit(d.RegisteredModelRenamed.GetName(), func(m *Model) error {
			if _, ok := s.Model(d.RegisteredModelRenamed.GetNewName()); ok {
				return misfit("model %q exists", d.RegisteredModelRenamed.GetNewName())
			}
			m.Name, m.Updated, m.Renamed = d.RegisteredModelRenamed.GetNewName(), now, now
			return nil
		})

	case *events.Event_RegisteredModelDeleted:
		c, err := s.edit(d.RegisteredModelDeleted.GetName(), func(*Model) error { return nil })
		c.Current = nil
		return c, err

	case *events.Event_RegisteredModelTagSet:
		return s.edit(d.RegisteredModelTagSet.GetName(), func(m *Model) error {
			tag := d.RegisteredModelTagSet.GetTag()
			m.Tags = with(m.Tags, tag.GetKey(), tag.GetValue())
			return nil
		})

	case *events.Event_RegisteredModelTagDeleted:
		return s.edit(d.RegisteredModelTagDeleted.GetName(), func(m *Model) error {
			m.Tags = without(m.Tags, d.RegisteredModelTagDeleted.GetKey())
			return nil
		})

	case *events.Event_AliasSet:
		a := d.AliasSet
		c, err := s.edit(a.GetName(), func(m *Model) error {
			if m.Aliases[a.GetAlias()] != a.GetPreviousVersion() {
				return misfit("alias %q is at version %d, not %d", a.GetAlias(), m.Aliases[a.GetAlias()], a.GetPreviousVersion())
			}
			if _, ok := m.Version(a.GetVersion()); !ok {
				return misfit("model %q has no version %d", m.Name, a.GetVersion())
			}
			m.Aliases = with(m.Aliases, a.GetAlias(), a.GetVersion())
			return nil
		})
		c.Version = a.GetVersion()
		return c, err

	case *events.Event_AliasDeleted:
		a := d.AliasDeleted
		c, err := s.edit(a.GetName(), func(m *Model) error {
			if m.Aliases[a.GetAlias()] != a.GetPreviousVersion() {
				return misfit("alias %q is at version %d, not %d", a.GetAlias(), m.Aliases[a.GetAlias()], a.GetPreviousVersion())
			}
			m.Aliases = without(m.Aliases, a.GetAlias())
			return nil
		})
		c.Version = a.GetPreviousVersion()
		return c, err

	case *events.Event_ModelVersionCreated:
		n := d.ModelVersionCreated
		c, err := s.edit(n.GetName(), func(m *Model) error {
			if n.GetVersion() != m.Next {
				return misfit("version %d of %q, %d is next", n.GetVersion(), m.Name, m.Next)
			}
			m.Next, m.Updated = m.Next+1, now
			m.versions = m.versions.Set(n.GetVersion(), &Version{
				Number: n.GetVersion(), Created: now, Updated: now, Stage: StageNone, Description: n.GetDescription(),
				UserID: n.GetUserId(), Source: n.GetSource(), StorageLocation: n.GetStorageLocation(), RunID: n.GetRunId(),
				RunLink: n.GetRunLink(), ModelID: n.GetModelId(), Tags: tagMap(n.GetTags()),
			})
			return nil
		})
		return c.of(n.GetVersion()), err

	case *events.Event_ModelVersionUpdated:
		u := d.ModelVersionUpdated
		return s.editVersion(u.GetName(), u.GetVersion(), func(_ *Model, v *Version) error {
			v.Description, v.Updated = u.GetDescription(), now
			return nil
		})

	case *events.Event_ModelVersionStageSet:
		return s.moveStage(d.ModelVersionStageSet, now)

	case *events.Event_ModelVersionDeleted:
		del := d.ModelVersionDeleted
		return s.editVersion(del.GetName(), del.GetVersion(), func(m *Model, v *Version) error {
			m.Updated = now
			for _, alias := range m.AliasesOf(v.Number) {
				m.Aliases = without(m.Aliases, alias)
			}
			tags := v.Tags
			*v = *redacted(v.Number, v.Created, now)
			v.Tags = tags
			return nil
		})

	case *events.Event_ModelVersionTagSet:
		t := d.ModelVersionTagSet
		return s.editVersion(t.GetName(), t.GetVersion(), func(_ *Model, v *Version) error {
			v.Tags = with(v.Tags, t.GetTag().GetKey(), t.GetTag().GetValue())
			return nil
		})

	case *events.Event_ModelVersionTagDeleted:
		t := d.ModelVersionTagDeleted
		return s.editVersion(t.GetName(), t.GetVersion(), func(_ *Model, v *Version) error {
			v.Tags = without(v.Tags, t.GetKey())
			return nil
		})

	case *events.Event_RegisteredModelRestored:
		return s.restoreModel(seq, now, d.RegisteredModelRestored)

	case *events.Event_ModelVersionRestored:
		r := d.ModelVersionRestored
		c, err := s.edit(r.GetName(), func(m *Model) error {
			if old := m.AnyVersion(r.GetVersion()); old == nil || !old.Deleted() {
				return misfit("model %q has no deleted version %d", m.Name, r.GetVersion())
			}
			m.Updated = now
			m.versions = m.versions.Set(r.GetVersion(), &Version{
				Number: r.GetVersion(), Created: r.GetCreationTimestamp(), Updated: now, Stage: r.GetStage(),
				Description: r.GetDescription(), UserID: r.GetUserId(), Source: r.GetSource(), StorageLocation: r.GetStorageLocation(),
				RunID: r.GetRunId(), RunLink: r.GetRunLink(), ModelID: r.GetModelId(), Tags: tagMap(r.GetTags()),
			})
			return nil
		})
		return c.of(r.GetVersion()), err
	}
	return Change{}, misfit("not an event of the registry")
}

func (s *State) restoreModel(seq uint64, now int64, r *events.RegisteredModelRestored) (Change, error) {
	if _, ok := s.Model(r.GetName()); ok {
		return Change{}, misfit("model %q exists", r.GetName())
	}
	if r.GetId() >= seq || r.GetNextVersion() < 1 || r.GetNextVersion() > seq {
		return Change{}, misfit("model %d with %d as its next version, restored by event %d", r.GetId(), r.GetNextVersion(), seq)
	}
	m := &Model{
		ID: r.GetId(), Name: r.GetName(), Created: r.GetCreationTimestamp(), Updated: now, Next: r.GetNextVersion(),
		Description: r.GetDescription(), Tags: tagMap(r.GetTags()),
	}
	c := Change{Model: m.Name, Current: m}
	versions := immutable.NewSortedMapBuilder[uint64, *Version](nil)
	for n := uint64(1); n < m.Next; n++ {
		versions.Set(n, redacted(n, now, now))
		c.Versions = append(c.Versions, n)
	}
	m.versions = versions.Map()
	return c, nil
}

// redacted returns the mark of a deleted version.
func redacted(number uint64, created, updated int64) *Version {
	return &Version{
		Number: number, Created: created, Updated: updated, Stage: StageDeleted,
		Source: RedactedSource, RunID: RedactedRunID, RunLink: RedactedRunLink,
	}
}

func (s *State) moveStage(e *events.ModelVersionStageSet, now int64) (Change, error) {
	c, err := s.editVersion(e.GetName(), e.GetVersion(), func(m *Model, v *Version) error {
		if v.Stage != e.GetFromStage() {
			return misfit("version %d of %q is in stage %q, not %q", v.Number, m.Name, v.Stage, e.GetFromStage())
		}
		for _, number := range e.GetArchivedVersions() {
			old, ok := m.Version(number)
			if !ok || number == v.Number || old.Stage != e.GetToStage() {
				return misfit("version %d of %q is not in stage %q", number, m.Name, e.GetToStage())
			}
			archived := *old
			archived.Stage, archived.Updated = StageArchived, now
			m.versions = m.versions.Set(number, &archived)
		}
		v.Stage, v.Updated, m.Updated = e.GetToStage(), now, now
		return nil
	})
	c.Versions = append(c.Versions, e.GetArchivedVersions()...)
	return c, err
}

// edit changes a copy of a model.
func (s *State) edit(name string, change func(*Model) error) (Change, error) {
	old, ok := s.Model(name)
	if !ok {
		return Change{}, misfit("no model %q", name)
	}
	m := *old
	return Change{Model: name, Previous: old, Current: &m}, change(&m)
}

// editVersion changes a copy of a model and of one of its versions.
func (s *State) editVersion(name string, number uint64, change func(*Model, *Version) error) (Change, error) {
	c, err := s.edit(name, func(m *Model) error {
		old, ok := m.Version(number)
		if !ok {
			return misfit("model %q has no version %d", name, number)
		}
		v := *old
		if err := change(m, &v); err != nil {
			return err
		}
		m.versions = m.versions.Set(number, &v)
		return nil
	})
	return c.of(number), err
}

func (c Change) of(version uint64) Change {
	c.Version, c.Versions = version, []uint64{version}
	return c
}

func misfit(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrMisfit)...)
}

func tagMap(tags []*events.Tag) map[string]string {
	if len(tags) == 0 {
		return nil
	}
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		m[t.GetKey()] = t.GetValue()
	}
	return m
}

func with[V any](m map[string]V, key string, value V) map[string]V {
	c := make(map[string]V, len(m)+1)
	maps.Copy(c, m)
	c[key] = value
	return c
}

func without[V any](m map[string]V, key string) map[string]V {
	c := maps.Clone(m)
	delete(c, key)
	if len(c) == 0 {
		return nil
	}
	return c
}
