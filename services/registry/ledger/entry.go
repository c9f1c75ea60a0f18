package ledger

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/registry/catalog"
)

// EntryFormat is the version of the canonical encoding of an entry. What is
// encoded in one version stays so for good: it is what the tree hashes.
const EntryFormat = 1

// Entry is what the ledger keeps of one event: who changed what, when and why,
// and how it was before.
//
// Its canonical encoding is JSON as RFC 8785 (JCS) has it, of all these fields.
// It is a function of the event and of the events before it alone. The leaf of
// the tree is the RFC 6962 hash of that encoding.
type Entry struct {
	Format uint64 `json:"format"`
	// Index is the entry's place in the tree, from 0.
	Index          uint64 `json:"index"`
	Seq            uint64 `json:"seq"` // of the event in the REGISTRY stream
	EventID        string `json:"event_id"`
	Time           string `json:"time"` // when the command was accepted: RFC 3339, UTC, up to microseconds
	Source         string `json:"source"`
	Actor          string `json:"actor"`
	Reason         string `json:"reason"`
	RequestID      string `json:"request_id"`
	IdempotencyKey string `json:"idempotency_key"`
	Action         string `json:"action"` // the event's type, for example model_version_stage_set
	// Model is the model's name before the event, Version the version that the
	// event is about, if it is about one.
	Model   string `json:"model"`
	Version string `json:"version"`
	// Before and After are the parts of the model's document that the event
	// changed, as they were and as they are; null for a model that was not
	// there. See catalog.Change.Diff.
	Before json.RawMessage `json:"before"`
	After  json.RawMessage `json:"after"`
}

// newEntry returns the entry of an event and its canonical encoding.
func newEntry(index uint64, rec eventlog.Record, c catalog.Change) (Entry, []byte, error) {
	before, after := c.Diff()
	e := Entry{
		Format: EntryFormat, Index: index, Seq: rec.Seq, EventID: clean(rec.ID), Time: rec.Time.UTC().Format(time.RFC3339Nano),
		Source: clean(rec.Source), Actor: clean(rec.Actor), Reason: clean(rec.Reason), RequestID: clean(rec.RequestID),
		IdempotencyKey: clean(rec.IdempotencyKey), Action: strings.TrimPrefix(events.Type(rec.Event), "runledger."), Model: c.Model,
	}
	if c.Version != 0 {
		e.Version = strconv.FormatUint(c.Version, 10)
	}
	var err error
	if e.Before, err = json.Marshal(before); err == nil {
		e.After, err = json.Marshal(after)
	}
	if err != nil {
		return Entry{}, nil, fmt.Errorf("encode entry %d: %w", index, err)
	}
	encoded, err := json.Marshal(e)
	if err != nil {
		return Entry{}, nil, fmt.Errorf("encode entry %d: %w", index, err)
	}
	canonical := jsontext.Value(encoded)
	if err := canonical.Canonicalize(jsontext.CanonicalizeRawInts(false)); err != nil {
		return Entry{}, nil, fmt.Errorf("encode entry %d: %w", index, err)
	}
	return e, canonical, nil
}

// ParseEntry reads the canonical encoding of an entry. It returns ErrDamaged.
func ParseEntry(canonical []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(canonical, &e); err != nil {
		return Entry{}, fmt.Errorf("read an entry: %w: %w", err, ErrDamaged)
	}
	if e.Format != EntryFormat {
		return Entry{}, fmt.Errorf("entry %d has format %d, this build knows %d: %w", e.Index, e.Format, EntryFormat, ErrDamaged)
	}
	return e, nil
}

// Webhook returns the id of the webhook that the entry is about, "" when it is
// about a model.
func (e Entry) Webhook() string {
	var w struct {
		ID string `json:"webhook_id"`
	}
	for _, document := range []json.RawMessage{e.Before, e.After} {
		// What is not there is null; the entry was read before.
		_ = json.Unmarshal(document, &w)
	}
	return w.ID
}

// LeafHash returns the hash of an entry's canonical encoding in the tree.
func LeafHash(canonical []byte) tlog.Hash { return tlog.RecordHash(canonical) }

// clean makes a header's text fit for JSON, the same on every process.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
