package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// errStuck means that a part did not shut down in time and was left behind.
var errStuck = errors.New("did not shut down in time")

// closer ends one part of a process.
type closer struct {
	part  string
	close func() error
}

// onClose has a part closed when the process ends.
func (n *node) onClose(part string, f func() error) { n.closers = append(n.closers, closer{part, f}) }

// close shuts down what was started, the last one first.
func (n *node) close() error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		c := n.closers[i]
		errs = append(errs, n.within(c.part, background(c.close)))
	}
	return errors.Join(errs...)
}

// background runs f, and delivers its error. When nobody takes that any more, the
// process is about to end.
func background(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// within waits for a part that was told to end. One that is stuck, in an operation
// on a file system that does not answer for example, must not keep the process from
// ending: after the time for it, it returns errStuck.
func (n *node) within(part string, ended <-chan error) error {
	late := time.NewTimer(n.options.shutdownTimeout)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		n.logger.Error("a part does not shut down, and is left behind",
			slog.String("part", part), slog.Duration("after", n.options.shutdownTimeout))
		return fmt.Errorf("%s: %w", part, errStuck)
	}
}
