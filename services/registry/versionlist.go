package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// modelVersionsTag is the tag of a logged model that lists the versions made
// from it. MLflow's server keeps it when it makes a version
// (mlflow/store/tracking/abstract_store.py, set_model_versions_tags), and its
// client adds each version once more, as text.
const modelVersionsTag = "mlflow.modelVersions"

// listedVersion is an item of the tag.
type listedVersion struct {
	Name    string `json:"name"`
	Version any    `json:"version"`
}

// listVersion adds a version to the tag of the logged model that it was made
// from, unless it is there. The version is made already: a tag that is no such
// list is left as it is.
func (s *Service) listVersion(ctx context.Context, actor, modelID, name string, version uint64) error {
	stream, filter := s.log.LoggedModelSubject(events.Any, modelID)
	_, err := s.tags[events.Shard(modelID, len(s.tags))].Do(ctx, func(ctx context.Context, b *eventlog.Batch) error {
		var last eventlog.Record
		var value string
		for rec, err := range s.log.Read(ctx, stream, filter, 1, 0) {
			if err != nil {
				return err
			}
			last = rec
			for _, t := range slices.Concat(rec.GetLoggedModelCreated().GetTags(), rec.GetLoggedModelTagsSet().GetTags()) {
				if t.GetKey() == modelVersionsTag {
					value = t.GetValue()
				}
			}
			if rec.GetLoggedModelTagDeleted().GetKey() == modelVersionsTag {
				value = ""
			}
		}
		value, changed := addVersion(value, name, version)
		if !changed || last.Seq == 0 {
			return nil
		}
		// Without the request's idempotency key, which is the version's.
		return b.Append(last.Subject, events.New(source, actor, time.Now()), &events.Event{Data: &events.Event_LoggedModelTagsSet{
			LoggedModelTagsSet: &events.LoggedModelTagsSet{ModelId: modelID, Tags: []*events.Tag{{Key: modelVersionsTag, Value: value}}},
		}}, eventlog.Expect{Subject: last.Subject, Seq: last.Seq}, nil)
	})
	if err != nil {
		return fmt.Errorf("tag logged model %s: %w", modelID, err)
	}
	return nil
}

// addVersion returns the tag's value with a version added, written as Python's
// json.dumps does, and whether it was.
func addVersion(value, name string, version uint64) (string, bool) {
	var list []listedVersion
	if value != "" && json.Unmarshal([]byte(value), &list, json.RejectUnknownMembers(true)) != nil {
		return value, false
	}
	// A number in JSON becomes a float64.
	item := listedVersion{Name: name, Version: float64(version)}
	if slices.Contains(list, item) {
		return value, false
	}
	out, err := json.Marshal(append(list, item), jsontext.SpaceAfterColon(true), jsontext.SpaceAfterComma(true))
	return string(out), err == nil
}
