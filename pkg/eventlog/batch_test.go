package eventlog_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// commit is what a lane observed.
type commit struct {
	messages int
	err      error
}

// together runs commands such that they wait behind one that writes nothing, and so
// share its batch as far as the lane lets them. It returns what each was answered, and
// the attempts to commit.
func together(t *testing.T, log *eventlog.Log, config eventlog.LaneConfig, commands ...eventlog.Decide) (positions []eventlog.Position, errs []error, observed []commit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	config.Observe = func(n int, _ time.Duration, err error) { observed = append(observed, commit{n, err}) }
	lane := log.NewLane(config)
	positions, errs = make([]eventlog.Position, len(commands)), make([]error, len(commands))
	begun, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	once := sync.OnceFunc(func() { close(begun) })
	wg.Go(func() {
		// It rests on what the others write, and so may fail as they do.
		_, _ = lane.Do(ctx, func(context.Context, *eventlog.Batch) error { once(); <-release; return nil })
	})
	<-begun
	for i, decide := range commands {
		wg.Go(func() { positions[i], errs[i] = lane.Do(ctx, decide) })
		for lane.Waiting() <= i && ctx.Err() == nil {
			runtime.Gosched()
		}
	}
	close(release)
	wg.Wait()
	if ctx.Err() != nil {
		t.Fatal("the lane does not answer")
	}
	lane.Close()
	return positions, errs, observed
}

const (
	batchRun   = "0123456789abcdef0123456789abcdef"
	batchModel = "m-" + batchRun
)

func metaOf(run string) string { return events.RunSubject(0, "0", run, events.KindMeta) }

// writes is a command that writes n events to a subject, with values of a length.
func writes(subject string, n, length int) eventlog.Decide {
	return func(_ context.Context, b *eventlog.Batch) error {
		for range n {
			if err := b.Append(subject, attrs(), tagged("r", strings.Repeat("v", length)), eventlog.Expect{}, nil); err != nil {
				return err
			}
		}
		return nil
	}
}

func sizes(observed []commit) (messages []int) {
	for _, c := range observed {
		messages = append(messages, c.messages)
	}
	return messages
}

func TestBatchesAreAsLargeAsTheyMayBe(t *testing.T) {
	log := open(t)
	stream := events.RunsStream(0)
	refused := errors.New("no")
	three := []eventlog.Decide{writes(metaOf("a"), 1, 1), writes(metaOf("a"), 1, 1), writes(metaOf("a"), 1, 1)}
	for _, tt := range []struct {
		name     string
		config   eventlog.LaneConfig
		commands []eventlog.Decide
		want     []int
	}{
		{"what waits", eventlog.LaneConfig{}, three, []int{3}},
		{"one by one", eventlog.LaneConfig{Single: true}, three, []int{1, 1, 1}},
		{
			"as many events as a command may have",
			eventlog.LaneConfig{},
			slices.Repeat([]eventlog.Decide{writes(metaOf("a"), eventlog.MaxEvents, 1)}, 3),
			slices.Repeat([]int{eventlog.MaxEvents}, 3),
		},
		{
			"one more than half",
			eventlog.LaneConfig{},
			[]eventlog.Decide{writes(metaOf("a"), eventlog.MaxEvents-1, 1), writes(metaOf("a"), eventlog.MaxEvents, 1), writes(metaOf("a"), 1, 1)},
			[]int{2*eventlog.MaxEvents - 1, 1},
		},
		{"bytes", eventlog.LaneConfig{BatchBytes: 3000}, slices.Repeat([]eventlog.Decide{writes(metaOf("a"), 1, 2000)}, 5), []int{2, 2, 1}},
		{"bytes that were taken back", eventlog.LaneConfig{BatchBytes: 3000}, []eventlog.Decide{func(ctx context.Context, b *eventlog.Batch) error {
			return errors.Join(writes(metaOf("a"), 3, 2000)(ctx, b), refused)
		}, writes(metaOf("a"), 1, 1), writes(metaOf("a"), 1, 1)}, []int{2}},
	} {
		tt.config.Stream = stream
		_, errs, observed := together(t, log, tt.config, tt.commands...)
		if got := sizes(observed); !slices.Equal(got, tt.want) {
			t.Errorf("%s: batches of %v, want %v", tt.name, got, tt.want)
		}
		if err := errors.Join(errs...); err != nil && !errors.Is(err, refused) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// What needs each other is committed as one, which the events say.
func TestWhatNeedsEachOtherIsCommittedTogether(t *testing.T) {
	log := open(t)
	stream := events.RunsStream(0)
	expecting := func(subject, on string) eventlog.Decide {
		return func(_ context.Context, b *eventlog.Batch) error {
			return b.Append(subject, attrs(), tagged("r", "v"), eventlog.Expect{Subject: on}, nil)
		}
	}
	for name, tt := range map[string]struct {
		commands []eventlog.Decide
		more     []bool
	}{
		"two of a command": {[]eventlog.Decide{func(ctx context.Context, b *eventlog.Batch) error {
			return errors.Join(expecting(metaOf("a"), metaOf("a"))(ctx, b), expecting(metaOf("b"), metaOf("b"))(ctx, b))
		}}, []bool{true, false}},
		"one rests on another":      {[]eventlog.Decide{expecting(metaOf("c"), metaOf("c")), expecting(metaOf("c"), metaOf("c"))}, []bool{true, false}},
		"one rests on nothing":      {[]eventlog.Decide{writes(metaOf("e"), 1, 1), expecting(metaOf("f"), metaOf("f"))}, []bool{true, false}},
		"two that need no other":    {[]eventlog.Decide{expecting(metaOf("g"), metaOf("g")), expecting(metaOf("h"), metaOf("h"))}, []bool{false, false}},
		"one command and one event": {[]eventlog.Decide{expecting(metaOf("i"), metaOf("i"))}, []bool{false}},
	} {
		before, err := log.LastSeq(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if _, errs, _ := together(t, log, eventlog.LaneConfig{Stream: stream}, tt.commands...); errors.Join(errs...) != nil {
			t.Errorf("%s: %v", name, errs)
		}
		var more []bool
		for rec, err := range log.Read(t.Context(), stream, "", before+1, 0) {
			if err != nil {
				t.Fatal(err)
			}
			more = append(more, rec.More)
		}
		if !slices.Equal(more, tt.more) {
			t.Errorf("%s: more is %v, want %v", name, more, tt.more)
		}
	}
}

func TestExpectationsOfOneBatchHold(t *testing.T) {
	log := open(t)
	stream := events.RunsStream(0)
	refused := errors.New("no")
	if _, errs, _ := together(t, log, eventlog.LaneConfig{Stream: stream}, writes(metaOf("a"), 1, 1)); errs[0] != nil {
		t.Fatal(errs[0])
	}
	decided := 0
	expecting := func(subject, on string, seq uint64) eventlog.Decide {
		return func(_ context.Context, b *eventlog.Batch) error {
			if decided++; decided > 100 {
				return errors.New("decided again and again")
			}
			return b.Append(subject, attrs(), tagged("r", "v"), eventlog.Expect{Subject: on, Seq: seq}, nil)
		}
	}
	for _, tt := range []struct {
		name     string
		commands []eventlog.Decide
		want     error // of the last one
	}{
		{"its own subject", []eventlog.Decide{expecting(metaOf("a"), metaOf("a"), 7)}, eventlog.ErrBusy},
		{"another subject", []eventlog.Decide{expecting(metaOf("b"), metaOf("a"), 7)}, eventlog.ErrBusy},
		{"another subject that is not there", []eventlog.Decide{expecting(metaOf("b"), metaOf("a"), 0)}, eventlog.ErrBusy},
		{"a subject whose event was taken back", []eventlog.Decide{func(ctx context.Context, b *eventlog.Batch) error {
			return errors.Join(writes(metaOf("a"), 1, 1)(ctx, b), refused)
		}, expecting(metaOf("a"), metaOf("a"), 7)}, eventlog.ErrBusy},
		{"a subject of another stream", []eventlog.Decide{writes(events.RunSubject(1, "0", "a", events.KindMeta), 1, 1)}, eventlog.ErrUnavailable},
		{"what holds", []eventlog.Decide{expecting(metaOf("b"), metaOf("a"), 1)}, nil},
	} {
		decided = 0
		_, errs, observed := together(t, log, eventlog.LaneConfig{Stream: stream}, tt.commands...)
		if err := errs[len(errs)-1]; !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		for i, c := range observed {
			if (c.err == nil) != (tt.want == nil) {
				t.Errorf("%s: attempt %d was observed to end with %v", tt.name, i, c.err)
			}
		}
	}
	if n := len(readAll(t, log, stream, "")); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
	if n := len(readAll(t, log, events.RunsStream(1), "")); n != 0 {
		t.Errorf("%d events of another stream", n)
	}
}

// A command that writes nothing may rest on what others of its batch decided, or on a
// state that turns out to be old.
func TestACommandThatWritesNothingIsAnsweredOnWhatTheLogSays(t *testing.T) {
	log := open(t)
	stream := events.RunsStream(0)
	if _, errs, _ := together(t, log, eventlog.LaneConfig{Stream: stream}, writes(metaOf("a"), 1, 1)); errs[0] != nil {
		t.Fatal(errs[0])
	}
	seq := uint64(0) // which is old
	config := eventlog.LaneConfig{Stream: stream, Reset: func(ctx context.Context) (err error) {
		_, seq, err = log.LastFor(ctx, stream, metaOf("a"))
		return err
	}}
	var told uint64
	positions, errs, _ := together(t, log, config,
		func(_ context.Context, b *eventlog.Batch) error {
			return b.Append(metaOf("a"), attrs(), tagged("r", "v"), eventlog.Expect{Subject: metaOf("a"), Seq: seq}, func(at uint64) { seq = at })
		},
		func(context.Context, *eventlog.Batch) error { told = seq; return nil })
	if err := errors.Join(errs...); err != nil || told != 1 || positions[0].Seq != 2 || positions[1].Seq != 0 {
		t.Errorf("it was decided at %d, want 1; positions %v (%v)", told, positions, err)
	}
}

// What is called when an event is committed is called with its own sequence, and for no
// event that was taken back.
func TestOnlyWhatIsCommittedIsToldItsPlace(t *testing.T) {
	log := open(t)
	refused := errors.New("no")
	told := map[string]uint64{}
	append1 := func(b *eventlog.Batch, name string) error {
		return b.Append(metaOf(name), attrs(), tagged("r", name), eventlog.Expect{}, func(seq uint64) { told[name] = seq })
	}
	positions, errs, _ := together(t, log, eventlog.LaneConfig{Stream: events.RunsStream(0)},
		func(_ context.Context, b *eventlog.Batch) error { return append1(b, "a") },
		func(_ context.Context, b *eventlog.Batch) error { return errors.Join(append1(b, "b"), refused) },
		func(_ context.Context, b *eventlog.Batch) error { return errors.Join(append1(b, "c"), append1(b, "d")) },
		func(_ context.Context, b *eventlog.Batch) error { return append1(b, "e") },
	)
	if fmt.Sprint(told) != "map[a:1 c:2 d:3 e:4]" || positions[2].Seq != 3 || positions[3].Seq != 4 || !errors.Is(errs[1], refused) {
		t.Errorf("%v, positions %v, %v", told, positions, errs)
	}
}

func TestACommandThatIsGivenUpIsNotDecided(t *testing.T) {
	log := open(t)
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.RunsStream(0)})
	begun, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = lane.Do(t.Context(), func(context.Context, *eventlog.Batch) error { close(begun); <-release; return nil })
	})
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	answered := make(chan error, 1)
	go func() {
		_, err := lane.Do(ctx, func(context.Context, *eventlog.Batch) error { t.Error("it was decided"); return nil })
		answered <- err
	}()
	select {
	case err := <-answered:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it was not answered while another one is decided")
	}
	close(release)
	wg.Wait()
	lane.Close()
}

func TestCloseWaitsForWhatWasAccepted(t *testing.T) {
	log := open(t)
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.RunsStream(0)})
	begun, release, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := lane.Do(t.Context(), func(ctx context.Context, b *eventlog.Batch) error {
			close(begun)
			<-release
			return writes(metaOf("a"), 1, 1)(ctx, b)
		}); err != nil {
			t.Error(err)
		}
	})
	<-begun
	go func() { lane.Close(); close(closed) }()
	nothing := func(context.Context, *eventlog.Batch) error { return nil }
	for deadline := time.Now().Add(time.Minute); ; {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := lane.Do(ctx, nothing); errors.Is(err, eventlog.ErrClosed) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the lane is not closed")
		}
	}
	for range 1000 {
		runtime.Gosched()
		select {
		case <-closed:
			t.Fatal("closed while a command is decided")
		default:
		}
	}
	close(release)
	<-closed
	wg.Wait()
	if n := len(readAll(t, log, events.RunsStream(0), "")); n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestALogThatTakesNoWritesRefusesAtOnce(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	log, err := eventlog.Open(t.Context(), open(t).JetStream().Conn(), eventlog.Config{Writable: func() context.Context { return ctx }})
	if err != nil {
		t.Fatal(err)
	}
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.RunsStream(0)})
	defer lane.Close()
	if _, err := lane.Do(t.Context(), writes(metaOf("a"), 1, 1)); err != nil {
		t.Error(err)
	}
	full := errors.New("the disk is full")
	stop(full)
	if _, err := lane.Do(t.Context(), writes(metaOf("a"), 1, 1)); !errors.Is(err, eventlog.ErrUnwritable) || !errors.Is(err, full) {
		t.Errorf("%v, want ErrUnwritable and why", err)
	}
}

func TestWhatCannotBeAnEventIsTheRequestsFault(t *testing.T) {
	log := open(t)
	_, errs, _ := together(t, log, eventlog.LaneConfig{Stream: events.RunsStream(0)},
		writes(metaOf("a"), 1, events.MaxPayload),
		func(_ context.Context, b *eventlog.Batch) error {
			return b.Append(metaOf("a"), attrs(), tagged("r", "\xff"), eventlog.Expect{}, nil)
		})
	for i, err := range errs {
		if apierr.CodeOf(err) != apierr.InvalidParameterValue {
			t.Errorf("command %d: %v", i, err)
		}
	}
}

func TestThingsAreLookedUpInTheLog(t *testing.T) {
	log, err := eventlog.Open(t.Context(), open(t).JetStream().Conn(), eventlog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if run, err := log.Run(ctx, batchRun); run != nil || err != nil {
		t.Errorf("a run that is not there: %v, %v", run, err)
	}
	runStream, runSubject := log.RunSubject("7", batchRun, events.KindMeta)
	if in, err := log.Incarnation(ctx, runStream); in != "" || err != nil {
		t.Errorf("the incarnation of an empty stream is %q, %v", in, err)
	}
	if since, err := log.Since(ctx, runStream, 1); since != 0 || err != nil {
		t.Errorf("an event that is not there was logged %v ago, %v", since, err)
	}
	modelStream, modelSubject := log.LoggedModelSubject("7", batchModel)
	var first string
	put := func(stream, subject string, events ...*events.Event) {
		t.Helper()
		_, errs, _ := together(t, log, eventlog.LaneConfig{Stream: stream}, func(_ context.Context, b *eventlog.Batch) error {
			for _, e := range events {
				a := attrs()
				a.Time = time.Now().Add(-time.Hour)
				if stream == runStream && first == "" {
					first = a.ID
				}
				if err := b.Append(subject, a, e, eventlog.Expect{}, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if errs[0] != nil {
			t.Fatal(errs[0])
		}
	}
	created := &events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{RunId: batchRun, ExperimentId: "7", Name: "n"}}}
	put(runStream, runSubject, created, tagged(batchRun, "v"))
	for n, i := 0, 0; i < 3; n++ { // in the same shard, two in the same experiment and one in another
		id := fmt.Sprintf("%032x", n)
		if events.Shard(id, log.Shards()) != events.Shard(batchRun, log.Shards()) {
			continue
		}
		_, subject := log.RunSubject(fmt.Sprint(7+i/2), id, events.KindMeta)
		put(runStream, subject, tagged(id, "v"))
		i++
	}
	if run, err := log.Run(ctx, batchRun); err != nil || run.GetName() != "n" {
		t.Errorf("%v, %v", run, err)
	}
	if ids, err := log.Runs(ctx, events.Shard(batchRun, log.Shards()), "7"); len(ids) != 3 || !slices.Contains(ids, batchRun) || err != nil {
		t.Errorf("the runs of the experiment are %v, %v", ids, err)
	}
	if n, err := log.Counts(ctx, runStream, "run.*.7.*.meta"); n[runSubject] != 2 || len(n) != 3 || err != nil {
		t.Errorf("%v, %v", n, err)
	}
	if rec, err := log.Last(ctx, runStream, runSubject); rec.Seq != 2 || rec.Subject != runSubject || rec.GetRunTagsSet() == nil || err != nil {
		t.Errorf("%v, %v", rec, err)
	}
	if in, err := log.Incarnation(ctx, runStream); in != first || err != nil {
		t.Errorf("the incarnation is %q, want %q, %v", in, first, err)
	}
	if since, err := log.Since(ctx, runStream, 1); since < 59*time.Minute || err != nil {
		t.Errorf("the first event was logged %v ago, %v", since, err)
	}
	put(runStream, runSubject, &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: batchRun}}})
	if run, err := log.Run(ctx, batchRun); run != nil || err != nil {
		t.Errorf("a purged run: %v, %v", run, err)
	}

	put(modelStream, modelSubject, &events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: &events.LoggedModelCreated{ModelId: batchModel, Name: "m"}}})
	if m, err := log.LoggedModel(ctx, batchModel); m.GetName() != "m" || err != nil {
		t.Errorf("%v, %v", m, err)
	}
	put(modelStream, modelSubject, &events.Event{Data: &events.Event_LoggedModelDeleted{LoggedModelDeleted: &events.LoggedModelDeleted{ModelId: batchModel}}})
	if m, err := log.LoggedModel(ctx, batchModel); m != nil || err != nil {
		t.Errorf("a deleted model: %v, %v", m, err)
	}

	streams := log.Streams()
	slices.Sort(streams)
	if want := []string{"EXPERIMENTS", "REGISTRY", "RUNS_0", "RUNS_1", "RUNS_2", "RUNS_3"}; !slices.Equal(streams, want) {
		t.Errorf("the streams are %v", streams)
	}
}

// Readers see what they ask for, from the first to the last, and an error of theirs ends it.
func TestReadersGetWhatTheyAskFor(t *testing.T) {
	log := open(t)
	stream := events.RunsStream(0)
	if _, errs, _ := together(t, log, eventlog.LaneConfig{Stream: stream}, writes(metaOf("a"), 5, 1), writes(metaOf("b"), 5, 1)); errors.Join(errs...) != nil {
		t.Fatal(errs)
	}
	for _, tt := range []struct {
		filter      string
		from, to    uint64
		first, last uint64
	}{
		{"", 0, 0, 1, 10},
		{"", 3, 0, 3, 10},
		{"", 3, 3, 3, 3},
		{"", 4, 6, 4, 6},
		{"", 10, 20, 10, 10},
		{metaOf("b"), 1, 0, 6, 10},
		{metaOf("b"), 1, 8, 6, 8},
		{metaOf("a"), 2, 9, 2, 5},
		{metaOf("*"), 5, 6, 5, 6},
	} {
		var seqs []uint64
		for rec, err := range log.Read(t.Context(), stream, tt.filter, tt.from, tt.to) {
			if err != nil {
				t.Errorf("%+v: %v", tt, err)
			}
			seqs = append(seqs, rec.Seq)
		}
		if n := len(seqs); uint64(n) != tt.last-tt.first+1 || seqs[0] != tt.first || seqs[n-1] != tt.last {
			t.Errorf("%+v: %v", tt, seqs)
		}
	}
	for range log.Read(t.Context(), stream, "", 1, 0) {
		break
	}
	for range log.Read(t.Context(), stream, metaOf("a"), 1, 0) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	if err := log.Follow(ctx, stream, 0, func(rec eventlog.Record) error {
		if n++; rec.Seq == 10 {
			cancel()
		}
		return nil
	}); err != nil || n != 10 {
		t.Errorf("%d events, and at the end of the context %v", n, err)
	}
}
