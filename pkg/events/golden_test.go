package events_test

import (
	"encoding/hex"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/runledger/runledger/pkg/events"
)

var update = flag.Bool("update", false, "write the golden files of event types that have none")

func fixedAttributes() events.Attributes {
	return events.Attributes{
		ID: "0193583f-0000-7000-8000-000000000001", Source: "/runledger/test",
		Time:  time.Date(2026, 11, 23, 12, 34, 56, 789012000, time.UTC),
		Actor: "ada@example.com", Reason: "100 % sure: größer", RequestID: "req-1", IdempotencyKey: "key 1",
	}
}

// sample fills every field of a message with a value that shows its number.
func sample(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsList() {
			list := m.Mutable(f).List()
			for n := range 2 {
				if f.Kind() == protoreflect.MessageKind {
					sample(list.AppendMutable().Message())
				} else {
					list.Append(scalar(f, n))
				}
			}
			continue
		}
		if f.Kind() == protoreflect.MessageKind {
			sample(m.Mutable(f).Message())
			continue
		}
		m.Set(f, scalar(f, 0))
	}
}

func scalar(f protoreflect.FieldDescriptor, n int) protoreflect.Value {
	v := int64(f.Number())*10 + int64(n)
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%s-%d", f.Name(), n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte(v)})
	case protoreflect.Int64Kind, protoreflect.Sint64Kind:
		return protoreflect.ValueOfInt64(v)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(v))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(v) / 8)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(3)
	default:
		panic("no sample for " + f.Kind().String())
	}
}

func samples() map[string]*events.Event {
	out := map[string]*events.Event{}
	data := (&events.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("data").Fields()
	for i := range data.Len() {
		e := new(events.Event)
		sample(e.ProtoReflect().Mutable(data.Get(i)).Message())
		out[string(data.Get(i).Name())] = e
	}
	out["metrics_logged"] = &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged("run-1", []events.Point{
		{Key: "loss", Value: 0.5, Timestamp: 1_764_000_000_000, Step: 1},
		{Key: "acc", Value: math.NaN(), Timestamp: 1_764_000_000_100, Step: 1},
		{Key: "loss", Value: math.Inf(-1), Timestamp: 1_764_000_000_050, Step: -3},
	})}}
	out["metrics_logged_linked"] = &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged("run-1", []events.Point{
		{Key: "loss", Value: 0.5, Timestamp: 1_764_000_000_000, Step: 1},
		{Key: "loss", Value: 0.5, Timestamp: 1_764_000_000_000, Step: 1, Link: &events.MetricLink{ModelId: "m-1"}},
		{Key: "acc", Value: 1, Timestamp: 1_764_000_000_000, Step: 1, Link: &events.MetricLink{ModelId: "m-1", DatasetName: "digits", DatasetDigest: "d1"}},
	})}}
	return out
}

// wire renders a message as the golden files hold it: sorted headers, an empty
// line, the payload in hexadecimal.
func wire(m *nats.Msg) string {
	var b strings.Builder
	names := make([]string, 0, len(m.Header))
	for name := range m.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s: %s\n", name, m.Header[name][0])
	}
	b.WriteString("\n" + hex.EncodeToString(m.Data) + "\n")
	return b.String()
}

func parseWire(t *testing.T, s string) (nats.Header, []byte) {
	t.Helper()
	head, body, ok := strings.Cut(s, "\n\n")
	if !ok {
		t.Fatal("golden file without an empty line")
	}
	h := nats.Header{}
	for line := range strings.Lines(head) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		h[name] = []string{value}
	}
	data, err := hex.DecodeString(strings.TrimSpace(body))
	if err != nil {
		t.Fatal(err)
	}
	return h, data
}

// TestGolden pins the wire form of every event type: what was written once
// must be written the same, and be read the same, for good.
func TestGolden(t *testing.T) {
	for name, event := range samples() {
		t.Run(name, func(t *testing.T) {
			msg, err := events.Encode("subject", fixedAttributes(), event)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "golden", name+".txt")
			want, err := os.ReadFile(path)
			if os.IsNotExist(err) && *update {
				if err := os.WriteFile(path, []byte(wire(msg)), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v (for a new event type: go test ./events -update)", err)
			}
			if got := wire(msg); got != string(want) {
				t.Errorf("wire form changed:\ngot\n%swant\n%s", got, want)
			}
			attrs, decoded, err := events.Decode(parseWire(t, string(want)))
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(decoded, event) {
				t.Errorf("decoded %v, want %v", decoded, event)
			}
			if attrs != fixedAttributes() {
				t.Errorf("decoded attributes %+v, want %+v", attrs, fixedAttributes())
			}
		})
	}
}

// TestGoldenFilesAreUsed fails when an event type disappears.
func TestGoldenFilesAreUsed(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	known := samples()
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		if known[name] == nil {
			t.Errorf("golden file of %s, an event type that no longer exists", name)
		}
	}
}
