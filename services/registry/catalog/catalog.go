// Package catalog is the registry's state: the registered models with their
// gates, their versions with what is known of their promotion, tags, aliases and
// webhooks, as a fold of the REGISTRY stream's events.
//
// A State never changes: applying an event returns the next one, which shares
// what is the same. So a reader keeps a consistent state without a lock, and a
// command can be decided on what the commands before it in the same batch are
// about to write.
package catalog

import (
	"iter"
	"slices"

	"github.com/benbjohnson/immutable"
)

// The stages of a version. StageDeleted is MLflow's mark of a deleted one.
const (
	StageNone     = "None"
	StageArchived = "Archived"
	StageDeleted  = "Deleted_Internal"
)

// Version is one version of a registered model. It must not be changed.
type Version struct {
	Number  uint64 `json:"version"`
	Created int64  `json:"creation_timestamp"`     // milliseconds since the Unix epoch
	Updated int64  `json:"last_updated_timestamp"` // milliseconds; see Model.VersionUpdated

	Stage           string            `json:"current_stage"`
	Description     string            `json:"description,omitempty"`
	UserID          string            `json:"user_id,omitempty"`
	Source          string            `json:"source,omitempty"`
	StorageLocation string            `json:"storage_location,omitempty"` // where Source resolves to, "" when it is Source
	RunID           string            `json:"run_id,omitempty"`
	RunLink         string            `json:"run_link,omitempty"`
	ModelID         string            `json:"model_id,omitempty"`
	Tags            map[string]string `json:"tags,omitempty"`

	Approval    *Approval    `json:"approval,omitempty"`
	Evaluations []Evaluation `json:"evaluations,omitempty"` // in the order in which they were recorded
	Refused     *Refusal     `json:"refused,omitempty"`
}

// Deleted reports whether the version is only a mark that its number is taken.
func (v *Version) Deleted() bool { return v.Stage == StageDeleted }

// DownloadURI returns where the version's files are.
func (v *Version) DownloadURI() string {
	if v.StorageLocation != "" {
		return v.StorageLocation
	}
	return v.Source
}

// Model is a registered model. It must not be changed.
type Model struct {
	// ID is the sequence of the event that created the model. It outlives a
	// change of name, and a new model of an old name has another one.
	ID      uint64 `json:"id"`
	Name    string `json:"name"`
	Created int64  `json:"creation_timestamp"`          // milliseconds since the Unix epoch
	Updated int64  `json:"last_updated_timestamp"`      // milliseconds
	Renamed int64  `json:"renamed_timestamp,omitempty"` // milliseconds, 0: never
	// Next is the number of the next version. Numbers are never used again.
	Next        uint64            `json:"next_version"`
	Description string            `json:"description,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Aliases     map[string]uint64 `json:"aliases,omitempty"`
	Gates       map[string]Gate   `json:"gates,omitempty"` // by target, see Gate
	// Last is the sequence of the last event about the model or its versions.
	// It is not kept with the model: the history has it.
	Last uint64 `json:"-"`

	versions *immutable.SortedMap[uint64, *Version]
}

// Version returns a version that is not deleted.
func (m *Model) Version(number uint64) (*Version, bool) {
	v, ok := m.versions.Get(number)
	return v, ok && !v.Deleted()
}

// AnyVersion returns a version, a deleted one too, and nil for one that never
// was.
func (m *Model) AnyVersion(number uint64) *Version {
	v, _ := m.versions.Get(number)
	return v
}

// AllVersions yields the versions by number, deleted ones too.
func (m *Model) AllVersions() iter.Seq[*Version] { return values(m.versions) }

// Versions yields the versions that are not deleted, by number.
func (m *Model) Versions() iter.Seq[*Version] {
	return func(yield func(*Version) bool) {
		for v := range m.AllVersions() {
			if !v.Deleted() && !yield(v) {
				return
			}
		}
	}
}

// LatestVersions returns the highest version in each stage, in MLflow's order:
// that of the first version in each.
func (m *Model) LatestVersions() []*Version {
	var latest []*Version
	for v := range m.Versions() {
		if i := slices.IndexFunc(latest, func(l *Version) bool { return l.Stage == v.Stage }); i >= 0 {
			latest[i] = v
		} else {
			latest = append(latest, v)
		}
	}
	return latest
}

// Latest returns the highest version, and nil when there is none.
func (m *Model) Latest() *Version {
	it := m.versions.Iterator()
	for it.Last(); !it.Done(); {
		if _, v, _ := it.Prev(); !v.Deleted() {
			return v
		}
	}
	return nil
}

// VersionUpdated returns when a version of the model was last changed, in
// milliseconds. A new name of the model counts as a change of its versions.
func (m *Model) VersionUpdated(v *Version) int64 { return max(v.Updated, m.Renamed) }

// AliasesOf returns the aliases of a version, sorted.
func (m *Model) AliasesOf(number uint64) []string {
	var names []string
	for alias, target := range m.Aliases {
		if target == number {
			names = append(names, alias)
		}
	}
	slices.Sort(names)
	return names
}

// State is the registry after some event. The zero value is not usable.
type State struct {
	seq      uint64
	models   *immutable.SortedMap[string, *Model]
	webhooks *immutable.SortedMap[string, *Webhook]
}

// Empty returns the state before the first event.
func Empty() *State { return Restore(0, nil, nil, nil) }

// Restore returns the state after the event with sequence seq, from the models,
// the versions and the webhooks that it had. A version belongs to the model whose
// id is its key's.
func Restore(seq uint64, models []*Model, versions map[uint64][]*Version, webhooks []*Webhook) *State {
	b := immutable.NewSortedMapBuilder[string, *Model](nil)
	for _, m := range models {
		vb := immutable.NewSortedMapBuilder[uint64, *Version](nil)
		for _, v := range versions[m.ID] {
			vb.Set(v.Number, v)
		}
		m.versions = vb.Map()
		b.Set(m.Name, m)
	}
	wb := immutable.NewSortedMapBuilder[string, *Webhook](nil)
	for _, w := range webhooks {
		wb.Set(w.ID, w)
	}
	return &State{seq: seq, models: b.Map(), webhooks: wb.Map()}
}

// Seq returns the stream sequence of the last event in the state, 0 for none.
func (s *State) Seq() uint64 { return s.seq }

// Model returns the model of that name.
func (s *State) Model(name string) (*Model, bool) { return s.models.Get(name) }

// Models yields the models by name, in byte order.
func (s *State) Models() iter.Seq[*Model] { return values(s.models) }

// ModelByID returns the model with that id, nil for none. It looks at all.
func (s *State) ModelByID(id uint64) *Model {
	for m := range s.Models() {
		if m.ID == id {
			return m
		}
	}
	return nil
}

// Len returns the number of models.
func (s *State) Len() int { return s.models.Len() }

func values[K, V any](m *immutable.SortedMap[K, V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		for it := m.Iterator(); !it.Done(); {
			if _, v, _ := it.Next(); !yield(v) {
				return
			}
		}
	}
}
