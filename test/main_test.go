// Package test proves, from outside, what Runledger promises: it runs the real
// program, talks to it over HTTP, kills it, and compares what it answers and
// what it keeps on disk with what it had acknowledged. It also checks which
// package may import which.
//
// The program is bin/runledger, or the one that RUNLEDGER_BIN names (a build
// with -race, for example). RUNLEDGER_SEED repeats a run's random choices, as
// far as scheduling lets it, and RUNLEDGER_TORTURE_KILLS sets how often the
// crash test kills (20).
package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/runledger/runledger/pkg/chdb/chdbtest"
)

func TestMain(m *testing.M) { chdbtest.Main(m) }

// setting returns a number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("environment variable %s: %v", name, err)
	}
	return n
}

// seed chooses and logs the seed of a test's random choices.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := setting(t, "RUNLEDGER_SEED", rand.Uint64())
	t.Logf("seed %d (RUNLEDGER_SEED=%d repeats it)", s, s)
	return s
}

// newRand returns the random source of one of several actors.
func newRand(seed uint64, actor int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(actor)))
}

// short shows the first few of many findings.
func short(findings []string) string {
	const shown = 10
	text := ""
	for _, f := range findings[:min(len(findings), shown)] {
		text += "\n\t" + f
	}
	if more := len(findings) - shown; more > 0 {
		text += fmt.Sprintf("\n\tand %d more", more)
	}
	return text
}
