package natsserver_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runledger/runledger/pkg/natsserver"
)

func TestStartWithoutADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nats")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: file})
	if err == nil {
		t.Fatal("started", s.Close())
	}
	if !strings.Contains(err.Error(), "storage directory is not a directory") {
		t.Error(err)
	}
}
