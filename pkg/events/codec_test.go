package events_test

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/proptest"
)

func encoded(t testing.TB) *nats.Msg {
	t.Helper()
	msg, err := events.Encode("run.0.1.r.metric", fixedAttributes(), samples()["metrics_logged"])
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestDecodeRefuses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(*nats.Msg)
		want  error
	}{
		{"flipped bit", func(m *nats.Msg) { m.Data[3] ^= 1 }, events.ErrCorrupt},
		{"truncated", func(m *nats.Msg) { m.Data = m.Data[:len(m.Data)-1] }, events.ErrCorrupt},
		{"no headers", func(m *nats.Msg) { m.Header = nil }, events.ErrCorrupt},
		{"no id", func(m *nats.Msg) { delete(m.Header, events.HeaderID) }, events.ErrCorrupt},
		{"no checksum", func(m *nats.Msg) { delete(m.Header, events.HeaderChecksum) }, events.ErrCorrupt},
		{"bad time", func(m *nats.Msg) { m.Header.Set(events.HeaderTime, "yesterday") }, events.ErrCorrupt},
		{"another type", func(m *nats.Msg) { m.Header[events.HeaderType] = []string{"runledger.run_created"} }, events.ErrCorrupt},
		{"another spec", func(m *nats.Msg) { m.Header[events.HeaderSpecVersion] = []string{"2.0"} }, events.ErrCorrupt},
		{"no version", func(m *nats.Msg) { m.Header[events.HeaderSchemaVersion] = []string{"x"} }, events.ErrCorrupt},
		{"version 0", func(m *nats.Msg) { m.Header[events.HeaderSchemaVersion] = []string{"0"} }, events.ErrCorrupt},
		{"newer version", func(m *nats.Msg) { m.Header[events.HeaderSchemaVersion] = []string{"999"} }, events.ErrUnknownSchema},
	} {
		t.Run(tc.name, func(t *testing.T) {
			msg := encoded(t)
			tc.spoil(msg)
			if _, _, err := events.Decode(msg.Header, msg.Data); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// What is as large as can be is kept, what is larger by a byte is refused.
func TestEncodeTakesUpToMaxPayload(t *testing.T) {
	tags := &events.RunTagsSet{Tags: []*events.Tag{{Key: "k", Value: strings.Repeat("x", events.MaxPayload)}}}
	e := &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: tags}}
	tags.Tags[0].Value = tags.Tags[0].Value[proto.Size(e)-events.MaxPayload:]
	if _, err := events.Encode("s", fixedAttributes(), e); err != nil {
		t.Error(err)
	}
	tags.Tags[0].Value += "x"
	if _, err := events.Encode("s", fixedAttributes(), e); !errors.Is(err, events.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

// The time of an event is the same before and after it was in the log, whatever
// the clock's zone and however finely it counts.
func TestTimesAreKeptAsTheyAre(t *testing.T) {
	zone := time.FixedZone("", 3600)
	want := events.New("s", "ada", time.Date(2026, 11, 23, 12, 34, 56, 789012345, zone))
	msg, err := events.Encode("s", want, samples()["run_deleted"])
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := events.Decode(msg.Header, msg.Data)
	if err != nil || got != want || got.Time.Nanosecond() != 789012000 || got.Time.Location() != time.UTC {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	msg.Header[events.HeaderTime] = []string{want.Time.In(zone).Format(time.RFC3339Nano)}
	if got, _, err := events.Decode(msg.Header, msg.Data); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestPurgedIsWhatIsGoneForGood(t *testing.T) {
	for name, e := range samples() {
		if got, want := events.Purged(e), strings.HasSuffix(name, "_purged"); got != want {
			t.Errorf("%s: purged is %v", name, got)
		}
	}
}

func TestIdentity(t *testing.T) {
	p := events.Point{Key: "k", Value: 1, Timestamp: 2, Step: 3}
	for _, other := range []events.Point{
		{Key: "K", Value: 1, Timestamp: 2, Step: 3},
		{Key: "k", Value: -1, Timestamp: 2, Step: 3},
		{Key: "k", Value: 1, Timestamp: 3, Step: 3},
		{Key: "k", Value: 1, Timestamp: 2, Step: 2},
	} {
		if p.Identity() == other.Identity() {
			t.Errorf("%+v is the same point as %+v", other, p)
		}
	}
	if events.ValueBits(0) != events.ValueBits(math.Copysign(0, -1)) {
		t.Error("0 and -0 are two values")
	}
	for _, bits := range []uint64{0x7ff8000000000000, 0xfff8000000000000, 0x7ff0000000000001} {
		nan := math.Float64frombits(bits)
		if events.ValueBits(nan) != events.ValueBits(math.NaN()) {
			t.Errorf("the NaN of the bits %x is another value", bits)
		}
		kept := events.NewMetricsLogged("r", []events.Point{{Value: nan}}).Values[0]
		if math.Float64bits(kept) != math.Float64bits(math.NaN()) {
			t.Errorf("the NaN of the bits %x is kept with those of %x", bits, math.Float64bits(kept))
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	if _, err := events.Encode("s", fixedAttributes(), &events.Event{}); err == nil {
		t.Error("an event without data was encoded")
	}
	big := &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{
		Tags: []*events.Tag{{Key: "k", Value: strings.Repeat("x", events.MaxPayload)}},
	}}}
	if _, err := events.Encode("s", fixedAttributes(), big); !errors.Is(err, events.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

// Texts that readers could not show are refused by the name of what they are.
func TestEncodeRefusesTextByName(t *testing.T) {
	latin1 := "caf\xe9"
	data := samples()["model_version_created"]
	data.GetModelVersionCreated().Tags[1].Value = latin1
	long := strings.Repeat("é", events.MaxAttribute/2) + "x"
	for _, tc := range []struct {
		field, problem string
		attrs          events.Attributes
		event          *events.Event
	}{
		{"actor", "is not valid UTF-8", events.Attributes{Actor: latin1}, samples()["run_deleted"]},
		{"reason", "has 1025 bytes, at most 1024 are possible", events.Attributes{Reason: long}, samples()["run_deleted"]},
		{"request id", "is not valid UTF-8", events.Attributes{RequestID: latin1}, samples()["run_deleted"]},
		{"idempotency key", "has 1025 bytes, at most 1024 are possible", events.Attributes{IdempotencyKey: long}, samples()["run_deleted"]},
		{"model_version_created.tags[1].value", "is not valid UTF-8", fixedAttributes(), data},
	} {
		_, err := events.Encode("s", tc.attrs, tc.event)
		if got, ok := errors.AsType[*events.TextError](err); !ok || *got != (events.TextError{Field: tc.field, Problem: tc.problem}) {
			t.Errorf("got %v, want: %s %s", err, tc.field, tc.problem)
		}
	}
	whole := events.Attributes{Reason: long[:events.MaxAttribute]}
	msg, err := events.Encode("s", whole, samples()["run_deleted"])
	if err != nil {
		t.Fatal(err)
	}
	msg.Header[events.HeaderID] = []string{"x"}
	if got, _, err := events.Decode(msg.Header, msg.Data); err != nil || got.Reason != whole.Reason {
		t.Errorf("a reason of %d bytes came back as %q, %v", events.MaxAttribute, got.Reason, err)
	}
}

func TestMetricColumnsAreChecked(t *testing.T) {
	for name, spoil := range map[string]func(*events.MetricsLogged){
		"short steps":      func(m *events.MetricsLogged) { m.StepDeltas = m.StepDeltas[:1] },
		"short timestamps": func(m *events.MetricsLogged) { m.TimestampDeltas = nil },
		"short keys":       func(m *events.MetricsLogged) { m.KeyIndex = m.KeyIndex[:2] },
		"unknown key":      func(m *events.MetricsLogged) { m.KeyIndex[0] = 2 },
		"short links":      func(m *events.MetricsLogged) { m.LinkIndex = []uint32{0} },
		"unknown link":     func(m *events.MetricsLogged) { m.LinkIndex = []uint32{0, 0, 1} },
	} {
		e := proto.CloneOf(samples()["metrics_logged"])
		spoil(e.GetMetricsLogged())
		msg, err := events.Encode("s", fixedAttributes(), e)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := events.Decode(msg.Header, msg.Data); !errors.Is(err, events.ErrCorrupt) {
			t.Errorf("%s: got %v, want ErrCorrupt", name, err)
		}
	}
}

func TestPointsRoundTrip(t *testing.T) {
	proptest.Check(t, func(t *rapid.T) {
		points := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) events.Point {
			return events.Point{
				Key:       rapid.SampledFrom([]string{"a", "b", "loss/train", ""}).Draw(t, "key"),
				Value:     rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.Copysign(0, -1)})).Draw(t, "value"),
				Timestamp: rapid.Int64().Draw(t, "timestamp"),
				Step:      rapid.Int64().Draw(t, "step"),
				Link: rapid.SampledFrom([]*events.MetricLink{
					nil,
					{ModelId: "m"},
					{ModelId: "m", DatasetName: "d"},
					{ModelId: "n", DatasetName: "d", DatasetDigest: "1"},
					{ModelId: "n", DatasetName: "d", DatasetDigest: "2"},
				}).Draw(t, "link"),
			}
		}), 0, 200).Draw(t, "points")
		m := events.NewMetricsLogged("r", points)
		n := 0
		for i, p := range m.Points() {
			if p.Identity() != points[i].Identity() || math.Signbit(p.Value) != math.Signbit(points[i].Value) && p.Value == p.Value ||
				!proto.Equal(p.Link, points[i].Link) {
				t.Fatalf("point %d is %+v, want %+v", i, p, points[i])
			}
			n++
		}
		if n != len(points) || m.Validate() != nil {
			t.Fatalf("%d points, want %d; %v", n, len(points), m.Validate())
		}
	})
}

func TestAttributesAreOneHeaderLine(t *testing.T) {
	proptest.Check(t, func(t *rapid.T) {
		a := fixedAttributes()
		a.Actor = rapid.StringN(0, 100, 300).Draw(t, "actor")
		a.Reason = rapid.StringN(0, 100, 300).Draw(t, "reason")
		msg, err := events.Encode("s", a, samples()["run_deleted"])
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range msg.Header {
			if strings.ContainsAny(v[0], "\r\n") {
				t.Fatalf("%s holds a line break", name)
			}
		}
		got, _, err := events.Decode(msg.Header, msg.Data)
		if err != nil || got.Actor != a.Actor || got.Reason != a.Reason {
			t.Fatalf("got %q %q %v, want %q %q", got.Actor, got.Reason, err, a.Actor, a.Reason)
		}
	})
}

func TestShardIsStable(t *testing.T) {
	for id, want := range map[string]int{"": 5, "0123456789abcdef0123456789abcdef": 5, "00000000000000000000000000000001": 2} {
		if got := events.Shard(id, 8); got != want {
			t.Errorf("Shard(%q, 8) = %d, want %d: runs would be looked for in another stream", id, got, want)
		}
	}
}

// FuzzAttributes: whatever bytes the headers of a message have for texts, what is
// read of them is UTF-8, and what is UTF-8 is read as it was written.
func FuzzAttributes(f *testing.F) {
	for _, text := range []string{"", "caf%E9", "caf\xe9", "%C3%A9", "%C3", "%", "%zz%e2%82", "\xff%00", strings.Repeat("%E2%82%AC", 341) + "%E2"} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		msg := encoded(t)
		for name, text := range map[string]string{
			events.HeaderID: "x" + a, events.HeaderSource: b, events.HeaderActor: a, events.HeaderReason: b,
			events.HeaderRequestID: a, events.HeaderIdempotencyKey: b,
		} {
			msg.Header[name] = []string{text}
		}
		got, _, err := events.Decode(msg.Header, msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{got.ID, got.Source, got.Actor, got.Reason, got.RequestID, got.IdempotencyKey} {
			if !utf8.ValidString(text) {
				t.Fatalf("read %q of %q and %q", text, a, b)
			}
		}
		want := events.Attributes{ID: "x", Actor: a, Reason: b}
		again, err := events.Encode("s", want, samples()["run_deleted"])
		if _, ok := errors.AsType[*events.TextError](err); ok {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := events.Decode(again.Header, again.Data); err != nil || got.Actor != a || got.Reason != b {
			t.Fatalf("got %q %q %v, want %q %q", got.Actor, got.Reason, err, a, b)
		}
	})
}

// FuzzDecode: no bytes make Decode panic, and what it accepts it also encodes.
func FuzzDecode(f *testing.F) {
	for name, e := range samples() {
		msg, err := events.Encode("s", fixedAttributes(), e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("runledger."+name, msg.Data)
	}
	f.Fuzz(func(t *testing.T, typ string, data []byte) {
		msg := encoded(t)
		msg.Header[events.HeaderType] = []string{typ}
		msg.Header[events.HeaderChecksum] = []string{events.Checksum(data)}
		attrs, e, err := events.Decode(msg.Header, data)
		if err != nil {
			if !errors.Is(err, events.ErrCorrupt) {
				t.Fatalf("error without a meaning: %v", err)
			}
			return
		}
		if m := e.GetMetricsLogged(); m != nil {
			for range m.Points() {
			}
		}
		again, err := events.Encode("s", attrs, e)
		if errors.Is(err, events.ErrTooLarge) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		_, e2, err := events.Decode(again.Header, again.Data)
		if err != nil || !proto.Equal(e, e2) && !bytes.Equal(again.Data, data) {
			t.Fatalf("decoded again: %v", err)
		}
	})
}
