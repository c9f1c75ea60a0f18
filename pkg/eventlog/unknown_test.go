package eventlog_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// deafServer connects a client that, once it is deaf, loses its connection in
// place of the next answer.
type deafServer struct {
	*server.Server
	deaf atomic.Bool
}

func (s *deafServer) InProcessConn() (net.Conn, error) {
	conn, err := s.Server.InProcessConn()
	return &deafConn{Conn: conn, deaf: &s.deaf}, err
}

type deafConn struct {
	net.Conn
	deaf *atomic.Bool
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.deaf.CompareAndSwap(true, false) {
		return 0, errors.Join(net.ErrClosed, c.Close())
	}
	return n, err
}

// TestCommitWhoseAnswerIsLost has the server commit what the client gets no
// answer for: each command must count once.
func TestCommitWhoseAnswerIsLost(t *testing.T) {
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Shutdown()
	deaf := &deafServer{Server: s}
	nc, err := nats.Connect("", nats.InProcessServer(deaf), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	log, err := eventlog.Open(t.Context(), nc, eventlog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stream := events.RunsStream(0)
	meta := events.RunSubject(0, "0", "r", events.KindMeta)
	metric := events.RunSubject(0, "0", "r", events.KindMetric)
	for _, test := range []struct {
		name     string
		subjects []string
		expect   func(last uint64) eventlog.Expect
	}{
		{"own subject", []string{meta}, func(uint64) eventlog.Expect {
			_, seq, err := log.LastFor(t.Context(), stream, meta)
			if err != nil {
				t.Error(err)
			}
			return eventlog.Expect{Subject: meta, Seq: seq}
		}},
		{"other subject", []string{metric}, func(uint64) eventlog.Expect {
			_, seq, err := log.LastFor(t.Context(), stream, meta)
			if err != nil {
				t.Error(err)
			}
			return eventlog.Expect{Subject: meta, Seq: seq}
		}},
		{"whole stream", []string{meta}, func(last uint64) eventlog.Expect {
			return eventlog.Expect{Stream: true, Seq: last}
		}},
		{"batch", []string{meta, meta, metric}, func(uint64) eventlog.Expect {
			_, seq, err := log.LastFor(t.Context(), stream, meta)
			if err != nil {
				t.Error(err)
			}
			return eventlog.Expect{Subject: meta, Seq: seq}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, err := log.LastSeq(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			lane := log.NewLane(eventlog.LaneConfig{Stream: stream, Single: true})
			defer lane.Close()
			first := true
			pos, err := lane.Do(t.Context(), func(ctx context.Context, b *eventlog.Batch) error {
				last, err := log.LastSeq(ctx, stream)
				if err != nil {
					return err
				}
				expect := test.expect(last)
				for _, subject := range test.subjects {
					if err := b.Append(subject, attrs(), tagged("r", "v"), expect, nil); err != nil {
						return err
					}
				}
				if first {
					first = false
					deaf.deaf.Store(true)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			want := before + uint64(len(test.subjects))
			if last, err := log.LastSeq(t.Context(), stream); err != nil || last != want || pos.Seq != want {
				t.Errorf("the log ends at %d and the command was told %d, want %d (%v)", last, pos.Seq, want, err)
			}
			if deaf.deaf.Load() {
				t.Error("no answer was lost")
			}
		})
	}
}
