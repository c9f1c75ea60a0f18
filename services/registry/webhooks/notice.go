package webhooks

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/runledger/runledger/pkg/events"
)

// MLflow's tags of prompts (mlflow/prompt/constants.py).
const (
	tagPrompt     = "mlflow.prompt.is_prompt"
	tagPromptText = "mlflow.prompt.text"
	tagPromptType = "_mlflow_prompt_type"
)

// pythonTime is datetime.isoformat's.
const pythonTime = "2006-01-02T15:04:05.000000-07:00"

// notice is what a webhook is told: an event in MLflow's words.
type notice struct {
	event string // "model_version.created"
	at    time.Time
	data  data
}

// data are the fields of an event. Their names are those of
// mlflow/webhooks/types.py.
type data map[string]any

// payload is the body of a delivery.
type payload struct {
	Entity    string `json:"entity"`
	Action    string `json:"action"`
	Timestamp string `json:"timestamp"`
	Data      data   `json:"data"`
}

func (n notice) payload() payload {
	entity, action, _ := strings.Cut(n.event, ".")
	return payload{entity, action, n.at.UTC().Format(pythonTime), n.data}
}

// notice returns what webhooks are told of the event with sequence seq, nil for
// one that MLflow has no webhook for. The ledger has to have the event. See
// mlflow/server/handlers.py.
func (d *Dispatcher) notice(seq uint64, at time.Time, e *events.Event) (*notice, error) {
	var model string // whose being a prompt decides, "" when the event itself says
	prompt := false
	var name, promptName string
	var fields data
	switch e := e.GetData().(type) {
	case *events.Event_RegisteredModelCreated:
		m := e.RegisteredModelCreated
		tags := tagMap(m.GetTags())
		if prompt = isPrompt(tags); prompt {
			delete(tags, tagPrompt)
			delete(tags, tagPromptType)
		}
		name, promptName = "registered_model.created", "prompt.created"
		fields = data{"name": m.GetName(), "tags": tags, "description": m.GetDescription()}
	case *events.Event_ModelVersionCreated:
		v := e.ModelVersionCreated
		tags := tagMap(v.GetTags())
		name, promptName = "model_version.created", "prompt_version.created"
		fields = data{"name": v.GetName(), "version": number(v.GetVersion()), "tags": tags, "description": orNull(v.GetDescription())}
		if prompt = isPrompt(tags); prompt {
			fields["template"] = nil
			if text, ok := tags[tagPromptText]; ok {
				fields["template"] = text
			}
			delete(tags, tagPromptText)
			delete(tags, tagPrompt)
			delete(tags, tagPromptType)
		} else {
			fields["source"], fields["run_id"] = v.GetSource(), orNull(v.GetRunId())
		}
	case *events.Event_RegisteredModelTagSet:
		t := e.RegisteredModelTagSet
		model, promptName = t.GetName(), "prompt_tag.set"
		fields = data{"name": t.GetName(), "key": t.GetTag().GetKey(), "value": t.GetTag().GetValue()}
	case *events.Event_RegisteredModelTagDeleted:
		t := e.RegisteredModelTagDeleted
		model, promptName = t.GetName(), "prompt_tag.deleted"
		fields = data{"name": t.GetName(), "key": t.GetKey()}
	case *events.Event_ModelVersionTagSet:
		t := e.ModelVersionTagSet
		model, name, promptName = t.GetName(), "model_version_tag.set", "prompt_version_tag.set"
		fields = data{"name": t.GetName(), "version": number(t.GetVersion()), "key": t.GetTag().GetKey(), "value": t.GetTag().GetValue()}
	case *events.Event_ModelVersionTagDeleted:
		t := e.ModelVersionTagDeleted
		model, name, promptName = t.GetName(), "model_version_tag.deleted", "prompt_version_tag.deleted"
		fields = data{"name": t.GetName(), "version": number(t.GetVersion()), "key": t.GetKey()}
	case *events.Event_AliasSet:
		a := e.AliasSet
		model, name, promptName = a.GetName(), "model_version_alias.created", "prompt_alias.created"
		fields = data{"name": a.GetName(), "alias": a.GetAlias(), "version": number(a.GetVersion())}
	case *events.Event_AliasDeleted:
		a := e.AliasDeleted
		model, name, promptName = a.GetName(), "model_version_alias.deleted", "prompt_alias.deleted"
		fields = data{"name": a.GetName(), "alias": a.GetAlias()}
	default:
		return nil, nil
	}
	if model != "" {
		var err error
		if prompt, err = d.wasPrompt(model, seq); err != nil {
			return nil, err
		}
	}
	if prompt {
		name = promptName
	}
	if name == "" {
		return nil, nil
	}
	return &notice{event: name, at: at, data: fields}, nil
}

// wasPrompt reports whether the model of that name was a prompt after the event
// with sequence seq, which was about it.
func (d *Dispatcher) wasPrompt(name string, seq uint64) (bool, error) {
	// A model is one from its first event on, or never: its tag is not for
	// anybody to change.
	if m, ok := d.ledger.State().Model(name); ok && m.ID <= seq && m.Renamed == 0 {
		return isPrompt(m.Tags), nil
	}
	// It has another name by now, or is gone.
	type part struct {
		Tags map[string]string `json:"tags"`
	}
	tags := make(map[string]string)
	for from, more := uint64(0), true; more; {
		entries, next, rest, _, err := d.ledger.History(name, from, historyPage)
		if err != nil {
			return false, err
		}
		for _, e := range entries {
			if e.Seq > seq {
				return isPrompt(tags), nil
			}
			var before, after *part
			if err := json.Unmarshal(e.Before, &before); err != nil {
				return false, fmt.Errorf("entry %d: %w", e.Index, err)
			}
			if err := json.Unmarshal(e.After, &after); err != nil {
				return false, fmt.Errorf("entry %d: %w", e.Index, err)
			}
			if before != nil {
				for k := range before.Tags {
					delete(tags, k)
				}
			}
			if after != nil {
				for k, v := range after.Tags {
					tags[k] = v
				}
			}
		}
		from, more = next, rest
	}
	return isPrompt(tags), nil
}

const historyPage = 500

func isPrompt(tags map[string]string) bool { return strings.EqualFold(tags[tagPrompt], "true") }

func tagMap(tags []*events.Tag) map[string]string {
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		m[t.GetKey()] = t.GetValue()
	}
	return m
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// examples are what a test sends (mlflow/webhooks/types.py).
var examples = map[string]data{
	"registered_model.created": {
		"name": "example_model", "tags": data{"example_key": "example_value"}, "description": "An example registered model",
	},
	"model_version.created": {
		"name": "example_model", "version": "1", "source": "models:/123", "run_id": "abcd1234abcd5678",
		"tags": data{"example_key": "example_value"}, "description": "An example model version",
	},
	"model_version_tag.set":       {"name": "example_model", "version": "1", "key": "example_key", "value": "example_value"},
	"model_version_tag.deleted":   {"name": "example_model", "version": "1", "key": "example_key"},
	"model_version_alias.created": {"name": "example_model", "alias": "example_alias", "version": "1"},
	"model_version_alias.deleted": {"name": "example_model", "alias": "example_alias"},
	"prompt.created": {
		"name": "example_prompt", "tags": data{"example_key": "example_value"}, "description": "An example prompt",
	},
	"prompt_version.created": {
		"name": "example_prompt", "version": "1", "template": "Hello {{name}}!",
		"tags": data{"example_key": "example_value"}, "description": "An example prompt version",
	},
	"prompt_tag.set":             {"name": "example_prompt", "key": "example_key", "value": "example_value"},
	"prompt_tag.deleted":         {"name": "example_prompt", "key": "example_key"},
	"prompt_version_tag.set":     {"name": "example_prompt", "version": "1", "key": "example_key", "value": "example_value"},
	"prompt_version_tag.deleted": {"name": "example_prompt", "version": "1", "key": "example_key"},
	"prompt_alias.created":       {"name": "example_prompt", "alias": "example_alias", "version": "1"},
	"prompt_alias.deleted":       {"name": "example_prompt", "alias": "example_alias"},
}
