package projector

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/ClickHouse/ch-go/proto"
)

// span is a range of block numbers, both ends included.
type span [2]uint64

// blocks are the numbers of the blocks that the parts of each table hold, in
// spans that are in order and do not touch. A table is named with its directory,
// which another table of the same name does not have.
//
// The engine numbers the inserts into a table. The part that one makes has its
// number; one that is merged of others has the range from the least of theirs to
// the greatest, and one that is rewritten to delete rows has the range it had.
// Parts without rows stay (remove_empty_parts). So the numbers of a table only
// become more, unless a part is lost. Numbers that no part has are of deletes and
// of inserts that failed.
type blocks map[string][]span

// add extends the spans of a table by one that does not begin before the last.
func (b blocks) add(table string, s span) {
	spans := b[table]
	if n := len(spans); n > 0 && s[0] <= spans[n-1][1]+1 {
		spans[n-1][1] = max(spans[n-1][1], s[1])
		return
	}
	b[table] = append(spans, s)
}

// lost returns an error that names a span that was there and is not now.
func (b blocks) lost(was blocks) error {
	for _, table := range slices.Sorted(maps.Keys(was)) {
		for _, s := range was[table] {
			if !slices.ContainsFunc(b[table], func(now span) bool { return now[0] <= s[0] && s[1] <= now[1] }) {
				return fmt.Errorf("of table %s parts are lost: it had the blocks %d to %d, and has %v", table, s[0], s[1], b[table])
			}
		}
	}
	return nil
}

// blocks returns what the parts of all tables hold.
func (s *store) blocks(ctx context.Context) (blocks, error) {
	var directory proto.ColStr
	var low, high proto.ColUInt64
	now := blocks{}
	err := s.query(ctx, query{
		name:   "blocks",
		params: map[string]any{"tables": names(allTables)},
		result: proto.Results{{Name: "directory", Data: &directory}, {Name: "low", Data: &low}, {Name: "high", Data: &high}},
		each: func(n int) error {
			for i := range n {
				now.add(directory.Row(i), span{low.Row(i), high.Row(i)})
			}
			return nil
		},
	})
	return now, err
}

// recordedBlocks returns what the parts held when the checkpoints were written,
// those of all streams. A stream has several until they are merged.
func (s *store) recordedBlocks(ctx context.Context) ([]blocks, error) {
	var parts proto.ColStr
	var recorded []blocks
	err := s.query(ctx, query{
		name:   "recorded_blocks",
		result: proto.Results{{Name: "parts", Data: &parts}},
		each: func(n int) error {
			for i := range n {
				var b blocks
				if err := json.Unmarshal(parts.RowBytes(i), &b); err != nil {
					return fmt.Errorf("read the blocks of a checkpoint: %w", err)
				}
				recorded = append(recorded, b)
			}
			return nil
		},
	})
	return recorded, err
}

// partsLost returns what the tables lack of what any checkpoint says they had, nil
// if nothing.
func (s *store) partsLost(ctx context.Context) (lost, err error) {
	recorded, err := s.recordedBlocks(ctx)
	if err != nil {
		return nil, err
	}
	now, err := s.blocks(ctx) // asked last: they only become more
	if err != nil {
		return nil, err
	}
	for _, was := range recorded {
		if lost := now.lost(was); lost != nil {
			return lost, nil
		}
	}
	return nil, nil
}
