// Package proptest runs property tests of rapid so that a failure is told at once:
// the first one, in its own words and with the seed, before rapid looks for a
// smaller one. Properties that start servers take long for each try, so that search
// is short, and their words may differ between tries, which rapid calls flaky.
package proptest

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"pgregory.net/rapid"
)

// shrinkTime bounds the search for a smaller failure, unless the flag
// -rapid.shrinktime asks for another time.
const shrinkTime = 5 * time.Second

// seed returns the seed of this process, which is that of the flag -rapid.seed if
// there is one, and tells rapid of it and of shrinkTime.
var seed = sync.OnceValue(func() uint64 {
	given := make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	set := func(name, value string) {
		if err := flag.Set(name, value); err != nil {
			panic(fmt.Sprintf("set -%s, which rapid has: %v", name, err))
		}
	}
	if !given["rapid.shrinktime"] {
		set("rapid.shrinktime", shrinkTime.String())
	}
	if !given["rapid.seed"] {
		set("rapid.seed", strconv.FormatUint(rand.Uint64N(1<<63)+1, 10))
	}
	n, err := strconv.ParseUint(flag.Lookup("rapid.seed").Value.String(), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("-rapid.seed: %v", err))
	}
	return n
})

// Check is rapid.Check, except that it writes the first failure to standard error
// when it happens.
func Check(t rapid.TB, property func(*rapid.T)) {
	t.Helper()
	check(t, property, os.Stderr)
}

func check(t rapid.TB, property func(*rapid.T), w io.Writer) {
	t.Helper()
	first, tries := seed(), 0
	var told sync.Once
	rapid.Check(t, func(rt *rapid.T) {
		tries++
		defer func() {
			reason := recover()
			if rt.Failed() || isPanic(reason) {
				told.Do(func() {
					fmt.Fprintf(w, "--- %s: try %d failed: %v\n"+
						"    To repeat: go test -run '^%s$' -rapid.seed=%d\n"+
						"    A smaller failure is looked for now. If the report says \"flaky\", the same try then passed, or failed in other words,\n"+
						"    such as with other ids or times: it is this failure all the same.\n", t.Name(), tries, reason, t.Name(), first)
				})
			}
			if reason != nil {
				panic(reason)
			}
		}()
		property(rt)
	})
}

// isPanic reports whether a property panicked by its own doing: rapid itself does to
// give up on a try that is of no use.
func isPanic(reason any) bool {
	return reason != nil && fmt.Sprintf("%T", reason) != "rapid.invalidData"
}
