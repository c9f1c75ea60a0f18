package query

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/runledger/runledger/pkg/events"
)

// stageArchived is where the versions go that a stage is cleared of, stageNone
// where new ones are.
const (
	stageArchived = "Archived"
	stageNone     = "None"
)

// madeVersion is a model version from the event that made or restored it on.
type madeVersion struct {
	lineageVersion
	number uint64
	seq    uint64 // of that event
	gone   bool   // it was deleted
}

// madeFrom returns the versions that were made from runs or logged models, with
// the names, stages and aliases that they have now, the newest first; those that
// are gone are marked. It folds the registry's events in the table of audit, and
// reads only those that matter to the versions: the registry's own state is in
// its ledger.
func (s *Service) madeFrom(ctx context.Context, runs, models []string) (made []*madeVersion, more bool, err error) {
	var st statement
	of := func(field string) string {
		return "JSONExtractString(data, if(type = 'runledger.model_version_created', 'model_version_created', 'model_version_restored'), '" + field + "')"
	}
	st.write("SELECT seq, data FROM audit FINAL WHERE stream = 'REGISTRY' AND type IN ('runledger.model_version_created', 'runledger.model_version_restored')",
		" AND (", of("run_id"), " IN ", st.bind("Array(String)", runs), " OR ", of("model_id"), " IN ", st.bind("Array(String)", models),
		") ORDER BY seq DESC LIMIT ", st.bind("UInt64", maxLineageModels+1))
	more, err = s.registryEvents(ctx, &st, maxLineageModels, func(seq uint64, e *events.Event) {
		v := &madeVersion{seq: seq}
		if c := e.GetModelVersionCreated(); c != nil {
			v.number, v.lineageVersion = c.GetVersion(), lineageVersion{Name: c.GetName(), Stage: stageNone, RunID: c.GetRunId(), ModelID: c.GetModelId()}
		}
		if r := e.GetModelVersionRestored(); r != nil {
			v.number, v.lineageVersion = r.GetVersion(), lineageVersion{Name: r.GetName(), Stage: r.GetStage(), RunID: r.GetRunId(), ModelID: r.GetModelId()}
		}
		v.Version, v.Aliases = strconv.FormatUint(v.number, 10), []string{}
		made = append(made, v)
	})
	if err != nil || len(made) == 0 {
		return made, more, err
	}
	return made, more, s.foldVersions(ctx, made)
}

// foldVersions brings versions to where they are now.
func (s *Service) foldVersions(ctx context.Context, made []*madeVersion) error {
	first := made[len(made)-1].seq
	names, err := s.namesSince(ctx, made, first)
	if err != nil {
		return err
	}
	var st statement
	list := st.bind("Array(String)", names)
	// The entity of a version is its model's name, a slash, and its number.
	st.write("SELECT seq, data FROM audit FINAL WHERE stream = 'REGISTRY' AND seq > ", st.bind("UInt64", first),
		" AND (type IN ('runledger.registered_model_renamed', 'runledger.registered_model_deleted', 'runledger.alias_set', 'runledger.alias_deleted') AND entity_id IN ", list,
		" OR type IN ('runledger.model_version_stage_set', 'runledger.model_version_deleted')",
		" AND left(entity_id, length(entity_id) - position(reverse(entity_id), '/')) IN ", list, ") ORDER BY seq")
	var fold versionFold
	waiting := made
	_, err = s.registryEvents(ctx, &st, 0, func(seq uint64, e *events.Event) {
		for len(waiting) > 0 && waiting[len(waiting)-1].seq < seq {
			fold.add(waiting[len(waiting)-1])
			waiting = waiting[:len(waiting)-1]
		}
		fold.apply(e)
	})
	return err
}

// namesSince returns the names that the models of versions have or had since.
func (s *Service) namesSince(ctx context.Context, made []*madeVersion, first uint64) ([]string, error) {
	known := make(map[string]bool)
	var names []string
	add := func(name string) {
		if !known[name] {
			known[name], names = true, append(names, name)
		}
	}
	for _, v := range made {
		add(v.Name)
	}
	var st statement
	st.write("SELECT seq, data FROM audit FINAL WHERE stream = 'REGISTRY' AND type = 'runledger.registered_model_renamed' AND seq > ",
		st.bind("UInt64", first), " ORDER BY seq")
	_, err := s.registryEvents(ctx, &st, 0, func(_ uint64, e *events.Event) {
		if known[e.GetRegisteredModelRenamed().GetName()] {
			add(e.GetRegisteredModelRenamed().GetNewName())
		}
	})
	return names, err
}

// registryEvents reads events of the registry, see database.some.
func (s *Service) registryEvents(ctx context.Context, st *statement, limit int, visit func(seq uint64, e *events.Event)) (more bool, err error) {
	return s.db.some(ctx, st, limit, func(scan func(...any) error) error {
		var seq uint64
		var data string
		if err := scan(&seq, &data); err != nil {
			return err
		}
		var e events.Event
		// A field that this build does not know is one that it does not fold.
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("read event %d of the registry from the tables: %w", seq, err)
		}
		visit(seq, &e)
		return nil
	})
}

// versionFold has versions by the names of their models. Events that are about
// other versions change nothing in it, but for an alias that one of these loses.
type versionFold struct {
	models map[string][]*madeVersion
}

func (f *versionFold) add(v *madeVersion) {
	if f.models == nil {
		f.models = make(map[string][]*madeVersion)
	}
	f.models[v.Name] = append(f.models[v.Name], v)
}

func (f *versionFold) apply(e *events.Event) {
	switch d := e.GetData().(type) {
	case *events.Event_RegisteredModelRenamed:
		name, to := d.RegisteredModelRenamed.GetName(), d.RegisteredModelRenamed.GetNewName()
		for _, v := range f.models[name] {
			v.Name = to
		}
		if len(f.models[name]) > 0 {
			f.models[to] = f.models[name]
			delete(f.models, name)
		}
	case *events.Event_RegisteredModelDeleted:
		for _, v := range f.models[d.RegisteredModelDeleted.GetName()] {
			v.gone = true
		}
		delete(f.models, d.RegisteredModelDeleted.GetName())
	case *events.Event_ModelVersionDeleted:
		name := d.ModelVersionDeleted.GetName()
		f.models[name] = slices.DeleteFunc(f.models[name], func(v *madeVersion) bool {
			v.gone = v.gone || v.number == d.ModelVersionDeleted.GetVersion()
			return v.gone
		})
	case *events.Event_ModelVersionStageSet:
		for _, v := range f.models[d.ModelVersionStageSet.GetName()] {
			switch {
			case v.number == d.ModelVersionStageSet.GetVersion():
				v.Stage = d.ModelVersionStageSet.GetToStage()
			case slices.Contains(d.ModelVersionStageSet.GetArchivedVersions(), v.number):
				v.Stage = stageArchived
			}
		}
	case *events.Event_AliasSet:
		f.moveAlias(d.AliasSet.GetName(), d.AliasSet.GetAlias(), d.AliasSet.GetVersion())
	case *events.Event_AliasDeleted:
		f.moveAlias(d.AliasDeleted.GetName(), d.AliasDeleted.GetAlias(), 0)
	}
}

func (f *versionFold) moveAlias(model, alias string, to uint64) {
	for _, v := range f.models[model] {
		v.Aliases = slices.DeleteFunc(v.Aliases, func(a string) bool { return a == alias })
		if v.number == to {
			v.Aliases = append(v.Aliases, alias)
		}
	}
}

// compareNumbers compares positive numbers in decimal.
func compareNumbers(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }
