// Package natstest gives tests a real NATS server of their own.
package natstest

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/runledger/runledger/pkg/natsserver"
)

// Start starts a server in a temporary directory, stopped when the test ends,
// and returns a connection to it.
func Start(t testing.TB) *nats.Conn {
	t.Helper()
	s, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.Conn()
}
