package events

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// SchemaVersion is the version that this build writes. A reader refuses newer
// ones and upcasts older ones.
const SchemaVersion = 1

// MaxPayload is the largest encoded event, in bytes. With its headers it stays
// below the 1 MiB that a NATS server accepts by default.
const MaxPayload = 1<<20 - 16<<10

// Header names. The ce- ones are those of the CloudEvents NATS protocol
// binding (https://github.com/cloudevents/spec, nats-protocol-binding.md).
const (
	HeaderSpecVersion    = "ce-specversion"
	HeaderID             = "ce-id"
	HeaderType           = "ce-type"
	HeaderSource         = "ce-source"
	HeaderTime           = "ce-time"
	HeaderActor          = "ce-actor"
	HeaderReason         = "ce-reason"
	HeaderRequestID      = "ce-requestid"
	HeaderIdempotencyKey = "ce-idempotencykey"
	HeaderSchemaVersion  = "Runledger-Schema-Version"
	HeaderChecksum       = "Runledger-Checksum"
)

const (
	specVersion = "1.0"
	typePrefix  = "runledger."
	checksumTag = "crc32c:"
)

// MaxAttribute is the longest free-text attribute of an event, in bytes.
const MaxAttribute = 1024

var (
	// ErrCorrupt means that a message is not an event, or not the one that was
	// written: a header is missing, or the checksum or the payload is wrong.
	ErrCorrupt = errors.New("corrupt event")
	// ErrUnknownSchema means that a newer Runledger wrote the event.
	ErrUnknownSchema = errors.New("event has an unknown schema version")
	// ErrTooLarge means that an encoded event exceeds MaxPayload.
	ErrTooLarge = errors.New("event is too large")
)

// TextError says which text an event cannot hold, and why. Field is an attribute
// ("reason") or the path of a string in the data ("run_tags_set.tags[0].value").
type TextError struct {
	Field   string
	Problem string // "is not valid UTF-8"
}

func (e *TextError) Error() string { return e.Field + " " + e.Problem }

// CheckAttribute returns a *TextError for a text that is not UTF-8 or is longer
// than MaxAttribute.
func CheckAttribute(name, text string) error {
	switch {
	case !utf8.ValidString(text):
		return &TextError{name, "is not valid UTF-8"}
	case len(text) > MaxAttribute:
		return &TextError{name, fmt.Sprintf("has %d bytes, at most %d are possible", len(text), MaxAttribute)}
	}
	return nil
}

// Attributes are what is known of an event beside its data.
type Attributes struct {
	ID             string    // unique, UUIDv7 unless the writer chose another
	Source         string    // the service that wrote it, a URI reference
	Time           time.Time // when the command was accepted, microseconds, UTC
	Actor          string    // who asked for it, "" when unknown
	Reason         string    // why, in the actor's words
	RequestID      string    // of the HTTP request
	IdempotencyKey string    // that the client sent
}

// NewID returns a fresh event id.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// New returns attributes with a fresh id, at now.
func New(source, actor string, now time.Time) Attributes {
	return Attributes{ID: NewID(), Source: source, Actor: actor, Time: now.UTC().Truncate(time.Microsecond)}
}

// Type returns the CloudEvents type of an event, for example
// "runledger.run_created", and "" for an event without data.
func Type(e *Event) string {
	field := dataField(e)
	if field == nil {
		return ""
	}
	return typePrefix + string(field.Name())
}

// Purged reports whether what an event is about is gone for good, when the event
// is its last one.
func Purged(e *Event) bool {
	switch e.GetData().(type) {
	case *Event_RunPurged, *Event_LoggedModelPurged, *Event_ExperimentPurged, *Event_ArtifactsPurged:
		return true
	}
	return false
}

func dataField(e *Event) protoreflect.FieldDescriptor {
	m := e.ProtoReflect()
	return m.WhichOneof(m.Descriptor().Oneofs().ByName("data"))
}

// Encode returns the message that carries the event on subject. The encoding
// is deterministic. It returns ErrTooLarge beyond MaxPayload, and a *TextError
// for an attribute that CheckAttribute refuses and for a string that is not
// UTF-8.
func Encode(subject string, a Attributes, e *Event) (*nats.Msg, error) {
	typ := Type(e)
	if typ == "" {
		return nil, fmt.Errorf("encode event %s: no data", a.ID)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", typ, cmp.Or(invalidText(e), err))
	}
	if len(data) > MaxPayload {
		return nil, fmt.Errorf("encode %s: %d bytes, at most %d: %w", typ, len(data), MaxPayload, ErrTooLarge)
	}
	h := nats.Header{
		HeaderSpecVersion:   {specVersion},
		HeaderID:            {a.ID},
		HeaderType:          {typ},
		HeaderSource:        {a.Source},
		HeaderTime:          {a.Time.UTC().Format(time.RFC3339Nano)},
		HeaderSchemaVersion: {strconv.Itoa(SchemaVersion)},
		HeaderChecksum:      {Checksum(data)},
	}
	for _, text := range [...]struct{ name, header, value string }{
		{"actor", HeaderActor, a.Actor},
		{"reason", HeaderReason, a.Reason},
		{"request id", HeaderRequestID, a.RequestID},
		{"idempotency key", HeaderIdempotencyKey, a.IdempotencyKey},
	} {
		if err := CheckAttribute(text.name, text.value); err != nil {
			return nil, fmt.Errorf("encode %s: %w", typ, err)
		}
		if text.value != "" {
			h[text.header] = []string{escape(text.value)}
		}
	}
	return &nats.Msg{Subject: subject, Header: h, Data: data}, nil
}

// Decode checks a message and returns its event. It returns ErrCorrupt or
// ErrUnknownSchema.
//
// Every string that it returns is UTF-8. Builds that cut attributes off and took
// bytes of any kind for text have left others in headers: of these each run of
// bytes that is not UTF-8 is returned as U+FFFD. In the data there are none, since
// no build can have encoded them.
func Decode(h nats.Header, data []byte) (Attributes, *Event, error) {
	a := Attributes{
		ID:             validUTF8(first(h, HeaderID)),
		Source:         validUTF8(first(h, HeaderSource)),
		Actor:          unescape(first(h, HeaderActor)),
		Reason:         unescape(first(h, HeaderReason)),
		RequestID:      unescape(first(h, HeaderRequestID)),
		IdempotencyKey: unescape(first(h, HeaderIdempotencyKey)),
	}
	if got := first(h, HeaderSpecVersion); got != specVersion {
		return a, nil, fmt.Errorf("%s is %q, want %q: %w", HeaderSpecVersion, got, specVersion, ErrCorrupt)
	}
	if a.ID == "" {
		return a, nil, fmt.Errorf("%s is missing: %w", HeaderID, ErrCorrupt)
	}
	at, err := time.Parse(time.RFC3339Nano, first(h, HeaderTime))
	if err != nil {
		return a, nil, fmt.Errorf("event %s: %s: %w: %w", a.ID, HeaderTime, err, ErrCorrupt)
	}
	a.Time = at.UTC()
	if got, want := Checksum(data), first(h, HeaderChecksum); got != want {
		return a, nil, fmt.Errorf("event %s: payload has %s, header says %q: %w", a.ID, got, want, ErrCorrupt)
	}
	version, err := strconv.Atoi(first(h, HeaderSchemaVersion))
	if err != nil || version < 1 {
		return a, nil, fmt.Errorf("event %s: %s is %q: %w", a.ID, HeaderSchemaVersion, first(h, HeaderSchemaVersion), ErrCorrupt)
	}
	if version > SchemaVersion {
		return a, nil, fmt.Errorf("event %s: schema version %d, this build knows up to %d: %w", a.ID, version, SchemaVersion, ErrUnknownSchema)
	}
	e := new(Event)
	if err := proto.Unmarshal(data, e); err != nil {
		return a, nil, fmt.Errorf("event %s: %w: %w", a.ID, err, ErrCorrupt)
	}
	if err := upcast(upcasts, version, e); err != nil {
		return a, nil, fmt.Errorf("event %s: %w", a.ID, err)
	}
	if m := e.GetMetricsLogged(); m != nil {
		if err := m.Validate(); err != nil {
			return a, nil, fmt.Errorf("event %s: %w", a.ID, err)
		}
	}
	if got, want := Type(e), first(h, HeaderType); got == "" || got != want {
		return a, nil, fmt.Errorf("event %s: payload is %q, header says %q: %w", a.ID, got, want, ErrCorrupt)
	}
	return a, e, nil
}

// Checksum returns the payload checksum as the header holds it: CRC-32C in
// hexadecimal after "crc32c:".
func Checksum(data []byte) string {
	return checksumTag + fmt.Sprintf("%08x", crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

func first(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// escape makes text safe for one header line, as CloudEvents' HTTP binding
// does: percent-encoding of what is not printable ASCII, and of %.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '%' || c == '"' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return validUTF8(s)
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return validUTF8(b.String())
}

func validUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// invalidText returns a *TextError for the first string of an event that is not
// UTF-8, nil when all are.
func invalidText(e *Event) error {
	return protorange.Range(e.ProtoReflect(), func(p protopath.Values) error {
		last := p.Index(-1)
		if s, ok := last.Value.Interface().(string); ok && !utf8.ValidString(s) {
			_, field, _ := strings.Cut(p.Path.String(), ").") // behind the type
			return &TextError{field, "is not valid UTF-8"}
		}
		return nil
	})
}
