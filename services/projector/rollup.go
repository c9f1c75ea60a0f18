package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/eventlog"
)

const (
	defaultRollupPoints = 1 << 16
	// blockPoints is how many points a block has on average, at least.
	blockPoints = 128
	leastWidth  = 7 // of blocks whose steps are all there
	// statementBlocks bounds the blocks of one statement.
	statementBlocks = 1 << 16
	// blockGap is up to how many untouched blocks between two that are touched are
	// summed up again: about as many as the engine reads at least.
	blockGap = 64
	// maxRanges bounds the statements for what was touched of a series.
	maxRanges = 500
)

// seriesID names the points of one metric of a run.
type seriesID struct {
	run uuid.UUID
	key string
}

// rollups keeps metric_rollups for the series of a stream: a projection of its
// own, since it is behind, and each series has its own watermark. A series is
// rolled up when it has got so many points since the last time that reading them
// would take long. What of it was touched since is summed up again, from metrics;
// late points need no more than that.
//
// The watermark of a series is written after its blocks. It is that of the tables
// from before they were read, so they have all points up to it. Whoever reads
// blocks asks for the watermark first, and takes those with points behind it from
// metrics.
type rollups struct {
	*session
	store  *store
	points int // a series is due after so many

	mu      sync.Mutex
	logged  map[seriesID]int // since the series was due last
	due     map[seriesID]struct{}
	through uint64 // every table holds the stream up to it
	wake    chan struct{}

	// A run must not be purged between the reading of its points and the writing of
	// its blocks: nothing is written while runs are, and nothing then of those.
	writing   sync.Mutex
	current   uuid.UUID // the run whose series is being rolled up
	abandoned bool
}

var (
	errPurged    = errors.New("the run is purged")
	errUnsettled = errors.New("the outcome is not known")
)

func newRollups(s *session) *rollups {
	return &rollups{
		session: s, points: s.config.RollupPoints,
		logged: make(map[seriesID]int), due: make(map[seriesID]struct{}), wake: make(chan struct{}, 1),
	}
}

// projected counts the points of a batch that every table has.
func (r *rollups) projected(batch []eventlog.Record, through uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.through = through
	for _, rec := range batch {
		m := rec.Event.GetMetricsLogged()
		run, err := uuid.Parse(m.GetRunId())
		if err != nil {
			continue // not of metrics
		}
		counts := make([]int, len(m.GetKeys()))
		for _, i := range m.GetKeyIndex() {
			counts[i]++
		}
		for i, n := range counts {
			id := seriesID{run, m.GetKeys()[i]}
			if r.logged[id] += n; r.logged[id] >= r.points {
				delete(r.logged, id)
				r.due[id] = struct{}{}
			}
		}
	}
	if len(r.logged) > maxKeys {
		clear(r.logged) // they are due later
	}
	if len(r.due) > 0 {
		r.signal()
	}
}

func (r *rollups) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// next takes a series that is due.
func (r *rollups) next() (id seriesID, through uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.due {
		delete(r.due, id)
		return id, r.through, true
	}
	return seriesID{}, 0, false
}

// run rolls up what is due until ctx ends. What fails is due again after as many
// points: without it reads are slower, but not wrong. It returns an error when it
// is not known whether a statement that writes has ended: it could write of a run
// that is purged meanwhile, and the next session ends it first.
func (r *rollups) run(ctx context.Context) error {
	defer func() {
		if r.store != nil {
			r.store.close()
		}
	}()
	if err := r.find(ctx); err != nil && ctx.Err() == nil {
		r.logger.Warn("look for long series", slog.Any("error", err))
	}
	for {
		for {
			id, through, ok := r.next()
			if !ok || ctx.Err() != nil {
				break
			}
			err := r.rollUp(ctx, id, through)
			if errors.Is(err, errUnsettled) && ctx.Err() == nil {
				return err
			}
			if err != nil && ctx.Err() == nil {
				r.logger.Warn("roll up a series", slog.String("run_id", id.run.String()), slog.String("metric", id.key), slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
	}
}

// find makes all long series due: what they got since they were rolled up was
// counted by another session, and the tables may be older than their roll-ups.
func (r *rollups) find(ctx context.Context) error {
	if err := r.connect(ctx); err != nil {
		return err
	}
	var run proto.ColUUID
	var metric proto.ColStr
	return r.store.query(ctx, query{
		name:   "rollup_candidates",
		params: map[string]any{"shard": r.store.shard, "points": r.points},
		result: proto.Results{{Name: "run_id", Data: &run}, {Name: "metric", Data: &metric}},
		each: func(n int) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			for i := range n {
				r.due[seriesID{run.Row(i), metric.Row(i)}] = struct{}{}
			}
			return nil
		},
	})
}

func (r *rollups) connect(ctx context.Context) error {
	if r.store != nil && !r.store.client.IsClosed() {
		return nil
	}
	var err error
	r.store, err = dial(ctx, r.config.ClickHouse, r.stream, r.lease.epoch, r.config.failpoint)
	return err
}

// steps is a range of steps, both ends included.
type steps struct{ low, high int64 }

// rollUp brings the blocks of a series up to a sequence that every table has.
func (r *rollups) rollUp(ctx context.Context, id seriesID, through uint64) error {
	r.writing.Lock()
	r.current, r.abandoned = id.run, false
	r.writing.Unlock()
	if err := r.connect(ctx); err != nil {
		return err
	}
	started := time.Now()
	of := map[string]any{"run": id.run.String(), "key": id.key}
	width, after, err := r.store.rollupWatermark(ctx, of)
	if err != nil {
		return err
	}
	var ranges []steps
	if width == 0 {
		if width, ranges, err = r.store.allBlocks(ctx, of); err != nil || ranges == nil {
			return err
		}
	} else if ranges, err = r.store.touchedBlocks(ctx, of, width, after); err != nil || ranges == nil {
		return err
	}
	of["width"], of["version"] = width, through
	for _, steps := range ranges {
		of["low"], of["high"] = steps.low, steps.high
		if err := r.write(ctx, "rollup_blocks", of); err != nil {
			return err
		}
	}
	// The watermark counts only if the blocks are there: from here on they are missed.
	if err := r.recordAgain(ctx, r.store); err != nil {
		return err
	}
	if err := r.write(ctx, "rollup_done", of); err != nil {
		return err
	}
	r.metrics.rollupSeconds.WithLabelValues(r.stream).Observe(time.Since(started).Seconds())
	return nil
}

func (r *rollups) write(ctx context.Context, name string, params map[string]any) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.abandoned {
		return errPurged
	}
	if err := r.lease.check(); err != nil {
		return err
	}
	return r.store.write(ctx, name, params)
}

// abandon waits until nothing is written, and keeps it so until resume is called.
// Of the runs nothing is written then either that was read before.
func (r *rollups) abandon(runs []*run) (resume func()) {
	r.writing.Lock()
	for _, run := range runs {
		r.abandoned = r.abandoned || run.id == r.current
	}
	return r.writing.Unlock
}

// write runs a statement of the sql directory that writes what it reads.
func (s *store) write(ctx context.Context, name string, params map[string]any) error {
	if err := s.failed(tableRollups, false); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	err := s.client.Do(ctx, ch.Query{
		Body: s.sql[name], QueryID: s.prefix + uuid.NewString(), Parameters: chconn.Parameters(params), Settings: readSettings,
	})
	if err != nil && !ch.IsException(err) {
		err = errors.Join(err, errUnsettled)
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", name, s.stream, err)
	}
	return s.failed(tableRollups, true)
}

// rollupWatermark returns the width of the blocks of a series, 0 while it has
// none, and up to which sequence they are done.
func (s *store) rollupWatermark(ctx context.Context, of map[string]any) (width int, after uint64, err error) {
	var block proto.ColInt64
	var version proto.ColUInt64
	err = s.query(ctx, query{
		name: "rollup_watermark", params: of,
		result: proto.Results{{Name: "rolled", Data: &block}, {Name: "version", Data: &version}},
		each: func(int) error {
			width, after = int(block.Row(0)), version.Row(0)
			return nil
		},
	})
	return width, after, err
}

// allBlocks returns how wide the blocks of a series are to be, and the steps of
// all of them, in ranges for one statement each; none if it has no points.
func (s *store) allBlocks(ctx context.Context, of map[string]any) (width int, ranges []steps, err error) {
	var points proto.ColUInt64
	var low, high proto.ColInt64
	all, n := steps{}, uint64(0)
	err = s.query(ctx, query{
		name: "rollup_extent", params: of,
		result: proto.Results{{Name: "points", Data: &points}, {Name: "low", Data: &low}, {Name: "high", Data: &high}},
		each: func(int) error {
			n, all = points.Row(0), steps{low.Row(0), high.Row(0)}
			return nil
		},
	})
	if err != nil || n == 0 {
		return 0, nil, err
	}
	width = leastWidth
	for span := float64(uint64(all.high)-uint64(all.low)) + 1; width < maxWidth && math.Ldexp(1, width)*float64(n) < span*blockPoints; {
		width++
	}
	return width, inStatements(nil, all.low>>width, all.high>>width, width), nil
}

// maxWidth is of the two blocks that have all steps there are.
const maxWidth = 63

// touchedBlocks returns the steps of the blocks that got points after a sequence,
// in ranges for one statement each.
func (s *store) touchedBlocks(ctx context.Context, of map[string]any, width int, after uint64) ([]steps, error) {
	var blocks []int64
	var block proto.ColInt64
	err := s.query(ctx, query{
		name: "rollup_touched", params: map[string]any{"run": of["run"], "key": of["key"], "width": width, "after": after},
		result: proto.Results{{Name: "block", Data: &block}},
		each: func(int) error {
			blocks = append(blocks, block...)
			return nil
		},
	})
	return rangesOf(blocks, width), err
}

// rangesOf returns the steps of blocks, which are in order, in ranges for one
// statement each. Where they are far apart, and many, what is between some of them
// is summed up again too: a statement for each would take too long.
func rangesOf(blocks []int64, width int) []steps {
	var ranges []steps
	for from := 0; from < len(blocks); {
		to := from + 1
		for to < len(blocks) && uint64(blocks[to])-uint64(blocks[to-1]) <= blockGap {
			to++
		}
		if ranges = inStatements(ranges, blocks[from], blocks[to-1], width); len(ranges) > maxRanges {
			ranges = nil
			for part := range slices.Chunk(blocks, (len(blocks)+maxRanges-1)/maxRanges) {
				ranges = append(ranges, steps{part[0] << width, part[len(part)-1]<<width + (1<<width - 1)})
			}
			return ranges
		}
		from = to
	}
	return ranges
}

// inStatements appends the steps of the blocks from and to, both included.
func inStatements(ranges []steps, from, to int64, width int) []steps {
	for {
		end := to
		if uint64(to)-uint64(from) >= statementBlocks {
			end = from + statementBlocks - 1
		}
		ranges = append(ranges, steps{from << width, end<<width + (1<<width - 1)})
		if end == to {
			return ranges
		}
		from = end + 1
	}
}
