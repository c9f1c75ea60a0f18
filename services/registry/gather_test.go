package registry_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/services/registry"
)

// What was committed together is applied together, and nothing waits for what is
// not committed yet.
func TestGather(t *testing.T) {
	rec := func(seq uint64, more bool) eventlog.Record { return eventlog.Record{Seq: seq, More: more} }
	for name, c := range map[string]struct {
		waiting []eventlog.Record
		later   []eventlog.Record // a second later
		closed  bool              // then
		want    int
		after   time.Duration
	}{
		"alone":                     {waiting: []eventlog.Record{rec(1, false)}, want: 1},
		"those that wait":           {waiting: []eventlog.Record{rec(1, false), rec(2, false)}, later: []eventlog.Record{rec(3, false)}, want: 2},
		"the rest of a batch":       {waiting: []eventlog.Record{rec(1, false), rec(2, true)}, later: []eventlog.Record{rec(3, true), rec(4, false)}, want: 4, after: time.Second},
		"a batch that breaks off":   {waiting: []eventlog.Record{rec(1, false), rec(2, true)}, later: []eventlog.Record{rec(3, true)}, closed: true, want: 1, after: time.Second},
		"a batch whose end is lost": {waiting: []eventlog.Record{rec(1, true), rec(2, true)}, want: 2, after: registry.RestLimit},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				records := make(chan eventlog.Record, 10)
				for _, r := range c.waiting[1:] {
					records <- r
				}
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() {
					time.Sleep(time.Second)
					for _, r := range c.later {
						records <- r
					}
					if c.closed {
						close(records)
					}
				})
				begun := time.Now()
				got := registry.Gather(c.waiting[0], records)
				if len(got) != c.want || time.Since(begun) != c.after {
					t.Errorf("%d records after %v, want %d after %v", len(got), time.Since(begun), c.want, c.after)
				}
			})
		})
	}
}
