package main

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// A part that never ends is named and left behind, and the others are closed all
// the same, in reverse.
func TestAStuckPartDoesNotKeepTheProcess(t *testing.T) {
	var said bytes.Buffer
	n := &node{options: options{shutdownTimeout: 20 * time.Millisecond}, logger: slog.New(slog.NewTextHandler(&said, nil))}
	hang := make(chan struct{})
	defer close(hang)
	var closed []string
	closes := func(part string) { n.onClose(part, func() error { closed = append(closed, part); return nil }) }
	closes("first")
	n.onClose("artifacts", func() error { <-hang; return nil })
	closes("last")
	err := n.close()
	if !errors.Is(err, errStuck) || !strings.Contains(err.Error(), "artifacts") || !strings.Contains(said.String(), "part=artifacts") {
		t.Errorf("got %v, and the log says %s", err, said.String())
	}
	if !slices.Equal(closed, []string{"last", "first"}) {
		t.Errorf("closed %v", closed)
	}
}
