package events

import "fmt"

// upcasts[v] turns an event of schema version v into one of v+1. Bumping
// SchemaVersion without adding the step here fails TestUpcastsAreComplete.
var upcasts = map[int]func(*Event) error{}

func upcast(steps map[int]func(*Event) error, version int, e *Event) error {
	for ; version < SchemaVersion; version++ {
		step, ok := steps[version]
		if !ok {
			return fmt.Errorf("no step from schema version %d: %w", version, ErrUnknownSchema)
		}
		if err := step(e); err != nil {
			return fmt.Errorf("upcast from schema version %d: %w", version, err)
		}
	}
	return nil
}
