package query

import (
	"context"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/errgroup"
)

// tasks are the parts of a request that run at the same time, on goroutines that
// Wait waits for. A panic in one of them is an error of the request: nothing above
// it on its goroutine would recover it, and the process would end.
type tasks struct{ *errgroup.Group }

// newTasks returns no tasks yet, and the context for them: it ends when one fails.
func newTasks(ctx context.Context) (tasks, context.Context) {
	group, ctx := errgroup.WithContext(ctx)
	return tasks{group}, ctx
}

// Go runs a task when the limit allows it.
func (t tasks) Go(task func() error) {
	t.Group.Go(func() (err error) {
		defer func() {
			if cause := recover(); cause != nil {
				err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
			}
		}()
		return task()
	})
}
