package query

import (
	"errors"
	"strings"
	"testing"
)

func TestAPanicInATaskIsAnError(t *testing.T) {
	group, ctx := newTasks(t.Context())
	group.Go(func() error { panic("of a task") })
	err := group.Wait()
	if err == nil || !strings.Contains(err.Error(), "panic: of a task") || !strings.Contains(err.Error(), "tasks_test.go") {
		t.Errorf("%v", err)
	}
	if ctx.Err() == nil {
		t.Error("the other tasks go on")
	}
	failed := errors.New("failed")
	group, _ = newTasks(t.Context())
	group.Go(func() error { return failed })
	if err := group.Wait(); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
}
