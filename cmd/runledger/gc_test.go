package main

import (
	"testing"
	"time"
)

func TestAgesAreThoseOfMLflow(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 30 * 24 * time.Hour, "8h": 8 * time.Hour, "2m4s": 124 * time.Second, "1d2h3m4s": 26*time.Hour + 184*time.Second,
		"1.2d3h4m5s": 28*time.Hour + 48*time.Minute + 3*time.Hour + 245*time.Second, "0s": 0, ".5s": time.Second / 2,
	} {
		var a age
		if err := a.Set(text); err != nil || time.Duration(a).Round(time.Microsecond) != want {
			t.Errorf("%q: %v, %v; want %v", text, time.Duration(a), err, want)
		}
	}
	for _, text := range []string{"", "30", "d", "1s1d", "-1d", "1w", "1 d", "1..5d", ".d", "99999999999d"} {
		var a age
		if err := a.Set(text); err == nil {
			t.Errorf("%q is taken for %v", text, time.Duration(a))
		}
	}
}
