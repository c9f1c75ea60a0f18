package events

import (
	"errors"
	"testing"
)

func TestUpcastsAreComplete(t *testing.T) {
	for v := 1; v < SchemaVersion; v++ {
		if upcasts[v] == nil {
			t.Errorf("no step from schema version %d to %d", v, v+1)
		}
	}
}

func TestUpcastRunsEachStepOnce(t *testing.T) {
	var ran []int
	step := func(v int) func(*Event) error {
		return func(*Event) error { ran = append(ran, v); return nil }
	}
	steps := map[int]func(*Event) error{SchemaVersion - 2: step(SchemaVersion - 2), SchemaVersion - 1: step(SchemaVersion - 1)}
	if err := upcast(steps, SchemaVersion-2, new(Event)); err != nil {
		t.Fatal(err)
	}
	if len(ran) != 2 || ran[0] != SchemaVersion-2 || ran[1] != SchemaVersion-1 {
		t.Errorf("ran %v", ran)
	}
	failed := errors.New("cannot")
	steps[SchemaVersion-1] = func(*Event) error { return failed }
	if err := upcast(steps, SchemaVersion-1, new(Event)); !errors.Is(err, failed) {
		t.Errorf("a step that fails gave %v", err)
	}
	if err := upcast(map[int]func(*Event) error{}, SchemaVersion-1, new(Event)); !errors.Is(err, ErrUnknownSchema) {
		t.Errorf("a missing step gave %v", err)
	}
}
