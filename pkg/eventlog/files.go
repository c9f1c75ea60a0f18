package eventlog

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsfiles"
)

// StreamReport is what CheckFiles found of a stream.
type StreamReport struct {
	Stream string
	natsfiles.Files
	// Unreadable are the messages that are as they were stored, and are no events
	// that this build can read.
	Unreadable []Unreadable
}

// Unreadable is a message that is no event, and why.
type Unreadable struct {
	Seq uint64
	Err error
}

// End returns the last sequence that the stream is known to have had.
func (r StreamReport) End() uint64 { return max(r.Last, r.Index) }

// Err returns ErrDamaged, with what is missing, or nil for a stream that is whole.
func (r StreamReport) Err() error {
	if len(r.Missing) == 0 && len(r.Damage) == 0 && len(r.Unreadable) == 0 {
		return nil
	}
	what := []string{fmt.Sprintf("%s has %d of %d events", r.Stream, r.Messages, r.End())}
	if len(r.Missing) > 0 {
		spans := make([]string, len(r.Missing))
		for i, s := range r.Missing {
			spans[i] = s.String()
		}
		what = append(what, "missing: "+shown(spans))
	}
	if len(r.Unreadable) > 0 {
		texts := make([]string, len(r.Unreadable))
		for i, u := range r.Unreadable {
			texts[i] = fmt.Sprintf("%d (%v)", u.Seq, u.Err)
		}
		what = append(what, "not readable: "+shown(texts))
	}
	if len(r.Damage) > 0 {
		what = append(what, "damaged: "+shown(r.Damage))
	}
	return fmt.Errorf("%s: %w", strings.Join(what, "; "), ErrDamaged)
}

// Keep returns the last sequence before which every event is there and can be read.
func (r StreamReport) Keep() uint64 {
	if len(r.Unreadable) > 0 {
		return min(r.Whole, r.Unreadable[0].Seq-1)
	}
	return r.Whole
}

// shownAtMost bounds the places that one message lists.
const shownAtMost = 20

func shown(places []string) string {
	if n := len(places); n > shownAtMost {
		return fmt.Sprintf("%s, and %d more", strings.Join(places[:shownAtMost], ", "), n-shownAtMost)
	}
	return strings.Join(places, ", ")
}

// FileStreams returns the names of the log's streams whose files are in the
// directory of an embedded server.
func FileStreams(natsDir string) ([]string, error) {
	names, err := natsfiles.Streams(natsDir)
	if err != nil {
		return nil, err
	}
	var streams []string
	for _, name := range names {
		if _, ok := events.ShardOfStream(name); ok || name == events.StreamExperiments || name == events.StreamRegistry {
			streams = append(streams, name)
		}
	}
	return streams, nil
}

// CheckFiles reads every event of a stream from the files of an embedded server
// that is stopped, without changing them. progress, unless nil, is called after
// each with its sequence. An event that is missing or damaged is in the report; an
// error is that the files cannot be read.
func CheckFiles(natsDir, stream string, progress func(seq uint64)) (StreamReport, error) {
	report := StreamReport{Stream: stream}
	var err error
	report.Files, err = natsfiles.Read(natsDir, stream, func(m natsfiles.Message) error {
		h, err := nats.DecodeHeadersMsg(m.Header)
		if err == nil {
			_, _, err = events.Decode(h, m.Data)
		}
		if err != nil {
			report.Unreadable = append(report.Unreadable, Unreadable{m.Seq, err})
		}
		if progress != nil {
			progress(m.Seq)
		}
		return nil
	})
	return report, err
}

// CheckBeforeStart returns ErrDamaged when the start of an embedded server would
// lose events, or hide that some are lost: it cuts off what it cannot read. Only
// the streams that it was killed with are read, which the start does too.
func CheckBeforeStart(natsDir string) error {
	streams, err := FileStreams(natsDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, stream := range streams {
		clean, err := natsfiles.StoppedCleanly(natsDir, stream)
		if err != nil {
			return err
		}
		if clean {
			continue
		}
		files, err := natsfiles.Read(natsDir, stream, nil)
		if err != nil {
			return err
		}
		errs = append(errs, StreamReport{Stream: stream, Files: files}.Err())
	}
	return errors.Join(errs...)
}
