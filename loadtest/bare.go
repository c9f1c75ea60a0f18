package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/tables"
)

const (
	// bareRows is the number of rows of one INSERT.
	bareRows = 200_000
	// bareShards is how many shards the rows are said to be of: Runledger's
	// default.
	bareShards = 4
)

// bareConnections are the numbers of connections that are tried; the fastest
// counts.
var bareConnections = []int{1, 2, 4}

// bareInserts returns the rows that a workload comes to, in columns ready to be
// sent, one INSERT each.
func bareInserts(w workload) []proto.Input {
	runs := make([]uuid.UUID, w.runs)
	for i := range runs {
		runs[i] = uuid.New()
	}
	var (
		inserts []proto.Input
		seqs    [bareShards]uint64
	)
	for batch := 0; batch < w.batches; {
		var (
			run             proto.ColUUID
			key             = new(proto.ColStr).LowCardinality()
			step, timestamp proto.ColInt64
			value           proto.ColFloat64
			shard           proto.ColUInt16
			seq             proto.ColUInt64
			idx             proto.ColUInt32
		)
		for ; batch < w.batches && len(run) < bareRows; batch++ {
			id := runs[w.runOf(batch)]
			at := events.Shard(fmt.Sprintf("%x", id[:]), bareShards)
			seqs[at]++
			for i, p := range w.points(batch) {
				run.Append(id)
				key.Append(p.Key)
				step.Append(p.Step)
				timestamp.Append(p.Timestamp)
				value.Append(p.Value)
				shard.Append(uint16(at))
				seq.Append(seqs[at])
				idx.Append(uint32(i))
			}
		}
		inserts = append(inserts, proto.Input{
			{Name: "run_id", Data: &run},
			{Name: "key", Data: key},
			{Name: "step", Data: &step},
			{Name: "timestamp", Data: &timestamp},
			{Name: "value", Data: &value},
			{Name: "shard", Data: &shard},
			{Name: "seq", Data: &seq},
			{Name: "idx", Data: &idx},
		})
	}
	return inserts
}

// bare inserts rows into the table of metrics of an engine that has nothing
// else to do, over a number of connections, and returns how long it took until
// all of them can be counted. The table is emptied first.
func (e *engine) bare(ctx context.Context, inserts []proto.Input, total, connections int) (_ time.Duration, err error) {
	if err := e.conn.Exec(ctx, "TRUNCATE TABLE metrics"); err != nil {
		return 0, fmt.Errorf("empty the table: %w", err)
	}
	o := e.Options()
	clients := make([]*ch.Client, connections)
	for i := range clients {
		clients[i], err = ch.Dial(ctx, ch.Options{
			Address: e.Addr(), Database: o.Auth.Database, User: o.Auth.Username, Password: o.Auth.Password,
		})
		if err != nil {
			return 0, fmt.Errorf("connect to the engine: %w", err)
		}
		defer func() { err = errors.Join(err, clients[i].Close()) }()
	}
	began := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	for i, client := range clients {
		group.Go(func() error {
			for n := i; n < len(inserts); n += connections {
				// As the projector inserts: one block, one part, on disk on return.
				err := client.Do(groupCtx, ch.Query{Body: inserts[n].Into("metrics"), Input: inserts[n], Settings: []ch.Setting{
					ch.SettingInt("async_insert", 0),
					ch.SettingInt("insert_deduplicate", 0),
					ch.SettingInt("optimize_on_insert", 0),
					ch.SettingInt("max_insert_block_size", 2*bareRows),
				}})
				if err != nil {
					return fmt.Errorf("insert: %w", err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	n, err := e.count(ctx)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	if n != uint64(total) {
		return 0, fmt.Errorf("the table has %d rows, %d were inserted", n, total)
	}
	return took, nil
}

// migrate creates the tables as the projector does.
func (e *engine) migrate(ctx context.Context) error { return tables.Migrate(ctx, e.Options(), nil) }
