package proptest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// failing is a test that may fail.
type failing struct {
	*testing.T
	failed bool
}

func (f *failing) Errorf(string, ...any) { f.failed = true }
func (f *failing) Log(...any)            {}
func (f *failing) Logf(string, ...any)   {}
func (f *failing) Failed() bool          { return f.failed }
func (f *failing) FailNow()              { f.failed = true }

// A failure is told when it happens, in its own words and with the seed that finds
// it again, before anything is tried once more; and the search for a smaller one is
// bounded.
func TestTheFirstFailureIsToldAtOnce(t *testing.T) {
	seed()
	if at := flag.Lookup("rapid.shrinktime").Value.String(); at != "5s" {
		t.Errorf("rapid looks for a smaller failure for %s", at)
	}
	files := flag.Lookup("rapid.nofailfile")
	defer func(given string) { _ = files.Value.Set(given) }(files.Value.String())
	if err := files.Value.Set("true"); err != nil {
		t.Fatal(err)
	}
	for name, fail := range map[string]func(rt *rapid.T, n int){
		"said":                     func(rt *rapid.T, n int) { rt.Fatalf("%d is too much", n) },
		"noted":                    func(rt *rapid.T, n int) { rt.Errorf("%d is too much", n) },
		"panic":                    func(_ *rapid.T, n int) { panic(fmt.Sprint(n, " is too much")) },
		"in other words each time": func(rt *rapid.T, n int) { rt.Fatalf("%d is too much at %v", n, time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			failures, first := 0, 0
			f := &failing{T: t}
			check(f, func(rt *rapid.T) {
				n := rapid.IntRange(0, 1000).Draw(rt, "n")
				if n < 100 {
					return
				}
				switch failures++; failures {
				case 1:
					first = n
				case 2:
					if !strings.Contains(out.String(), fmt.Sprintf("-rapid.seed=%d\n", seed())) {
						t.Errorf("before the second try it says %q", &out)
					}
				}
				fail(rt, n)
			}, &out)
			if !f.failed {
				t.Error("the test passes")
			}
			if name != "noted" && !strings.Contains(out.String(), fmt.Sprintf("%d is too much", first)) || strings.Count(out.String(), "---") != 1 {
				t.Errorf("%d tries failed, the first with %d, and it says %q", failures, first, &out)
			}
		})
	}
}

// What passes says nothing, also when tries are given up.
func TestNothingIsToldOfAPropertyThatHolds(t *testing.T) {
	var out strings.Builder
	check(t, func(rt *rapid.T) {
		if rapid.IntRange(0, 3).Draw(rt, "n") == 0 {
			rt.Skip("of no use")
		}
	}, &out)
	if out.Len() > 0 {
		t.Errorf("it says %q", &out)
	}
}

// Seed and time that are asked for are those that are used; a seed that is not is
// another one in each process.
func TestFlagsThatAreGivenStay(t *testing.T) {
	const inChild = "PROPTEST_CHILD"
	if os.Getenv(inChild) != "" {
		fmt.Printf("seed=%d rapid=%s shrinks=%s\n", seed(), flag.Lookup("rapid.seed").Value, flag.Lookup("rapid.shrinktime").Value)
		return
	}
	run := func(flags ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"-test.run=^TestFlagsThatAreGivenStay$"}, flags...)...)
		cmd.Env = append(os.Environ(), inChild+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		told, _, _ := strings.Cut(string(out), "\n")
		return told
	}
	if got, want := run("-rapid.seed=5", "-rapid.shrinktime=7s"), "seed=5 rapid=5 shrinks=7s"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if a, b := run(), run(); a == b {
		t.Errorf("two processes have %s", a)
	}
}
