package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/watermark"
)

// followBuffer is the number of decoded events that wait for the batch.
const followBuffer = 64

// Why a batch was written.
const (
	flushSize   = "size"
	flushAge    = "age"
	flushWanted = "wanted"
	flushEnd    = "end"
)

// session projects one stream from where the tables are, until its first
// error: then everything it knows is dropped, since the outcome of its last
// insert is unknown, and the next session asks the tables again.
type session struct {
	*worker
	lease *lease
	store *store
	fold  *folder
	roll  *rollups // nil for a stream without metrics

	incarnation string // of the stream, "" while it is empty
	recording   sync.Mutex
	last        checkpoint // as this session read or wrote it last
	held        blocks     // as the tables had them then
	watermark   uint64     // every table holds the stream up to it
	target      uint64     // the watermark at which it has caught up

	batch  []eventlog.Record
	rows   int
	bytes  int
	wanted uint64 // a reader waits for it, 0 for none
}

// run returns the error that ended the session, nil when ctx did.
func (s *session) run(ctx context.Context) error {
	var err error
	if s.store, err = dial(ctx, s.config.ClickHouse, s.stream, s.lease.epoch, s.config.failpoint); err != nil {
		return err
	}
	defer s.store.close()
	if err := s.recover(ctx); err != nil {
		return err
	}
	announcer, err := watermark.NewAnnouncer(s.config.Conn, s.stream)
	if err != nil {
		return err
	}
	defer func() {
		if err := announcer.Close(); err != nil {
			s.logger.Debug("close the announcer", slog.Any("error", err))
		}
	}()
	if err := announcer.Announce(s.watermark); err != nil {
		return err
	}
	s.progress()

	records := make(chan eventlog.Record, followBuffer)
	var followed error // valid once records is closed
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	group.Go(func() error {
		defer close(records)
		followed = s.config.Log.Follow(ctx, s.stream, s.watermark+1, func(rec eventlog.Record) error {
			select {
			case records <- rec:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		return nil
	})
	if _, ok := events.ShardOfStream(s.stream); ok {
		s.roll = newRollups(s)
		s.roll.through = s.watermark
		group.Go(func() error {
			defer cancel()
			return s.roll.run(ctx)
		})
	}
	group.Go(func() error {
		defer cancel()
		return s.consume(ctx, records, announcer, func() error { return followed })
	})
	return group.Wait()
}

// recover finds out where the tables are: see the package comment.
func (s *session) recover(ctx context.Context) error {
	if err := s.store.settle(ctx); err != nil {
		return err
	}
	generation, err := s.store.generation(ctx)
	if err != nil {
		return err
	}
	if s.held, err = s.store.blocks(ctx); err != nil {
		return err
	}
	at, done, err := s.compare(ctx)
	if err != nil {
		return err
	}
	if err := s.store.intact(ctx); err != nil {
		return err
	}
	for t, seq := range done {
		if seq > 0 && at.incarnation == "" {
			return &damageError{generation, fmt.Errorf("the checkpoint of %s is lost: table %s has rows up to %d", s.stream, t, seq)}
		}
	}
	s.last = at
	resume := uint64(0)
	for i, t := range tablesOf(s.stream) {
		done[t] = max(done[t], at.seq)
		if i == 0 || done[t] < resume {
			resume = done[t]
		}
	}
	s.watermark = resume
	if s.fold, err = newFolder(s.stream, done); err != nil {
		return err
	}
	s.logger.Info("projecting", slog.Uint64("from", resume+1), slog.Uint64("log", s.target))
	if resume > at.seq || at.incarnation != "" && !at.recorded {
		return s.record(ctx, resume) // the last session ended just before it, or was of an older build
	}
	return nil
}

// compare reads the checkpoint and each table's watermark, and returns
// ErrOtherLog when the log is not the one they were made from.
func (s *session) compare(ctx context.Context) (checkpoint, map[tableName]uint64, error) {
	at, err := s.store.checkpoint(ctx, s.stream)
	if err != nil {
		return at, nil, err
	}
	done := make(map[tableName]uint64)
	for _, t := range tablesOf(s.stream) {
		if done[t], err = s.store.maxSeq(ctx, t, at.seq); err != nil {
			return at, nil, err
		}
	}
	// The log is asked last: it only grows.
	if s.target, s.incarnation, err = s.belongs(ctx, s.stream, at); err != nil {
		return at, nil, err
	}
	for t, seq := range done {
		if s.target < seq {
			return at, nil, fmt.Errorf("%s ends at sequence %d, table %s has %d: %w", s.stream, s.target, t, seq, ErrOtherLog)
		}
	}
	if at.incarnation == "" {
		return at, done, s.compareOthers(ctx)
	}
	return at, done, nil
}

// compareOthers returns ErrOtherLog when the log is not the one that the tables of
// another stream were made from: those of a stream without a checkpoint cannot tell.
func (s *session) compareOthers(ctx context.Context) error {
	for _, stream := range s.config.Log.Streams() {
		at, err := s.store.checkpoint(ctx, stream)
		if err != nil {
			return err
		}
		if _, _, err := s.belongs(ctx, stream, at); err != nil && !isUnreadable(err) {
			return err
		}
	}
	return nil
}

// belongs returns the last sequence and the incarnation of a stream, and
// ErrOtherLog when its checkpoint was not made from it.
func (s *session) belongs(ctx context.Context, stream string, at checkpoint) (last uint64, incarnation string, err error) {
	if last, err = s.config.Log.LastSeq(ctx, stream); err != nil {
		return 0, "", err
	}
	if last < at.seq {
		return 0, "", fmt.Errorf("%s ends at sequence %d, the checkpoint says %d: %w", stream, last, at.seq, ErrOtherLog)
	}
	if last == 0 {
		return 0, "", nil
	}
	// The first event is read even when the checkpoint is behind it, so that a
	// first event that is corrupt is reported where it is followed.
	switch incarnation, err = s.config.Log.Incarnation(ctx, stream); {
	case isUnreadable(err) && at.incarnation == "":
		return last, "", nil
	case err != nil:
		return 0, "", err
	case at.incarnation != "" && at.incarnation != incarnation:
		return 0, "", fmt.Errorf("%s begins with event %s, the tables were made from one that begins with %s: %w",
			stream, incarnation, at.incarnation, ErrOtherLog)
	}
	return last, incarnation, nil
}

func isUnreadable(err error) bool {
	return errors.Is(err, events.ErrCorrupt) || errors.Is(err, events.ErrUnknownSchema) || errors.Is(err, errUnprojectable)
}

// consume gathers events into batches and writes them.
func (s *session) consume(ctx context.Context, records <-chan eventlog.Record, announcer *watermark.Announcer, ended func() error) error {
	age := time.NewTimer(s.config.FlushAge)
	age.Stop()
	defer age.Stop()
	for {
		reason := ""
		select {
		case <-ctx.Done():
			return nil
		case rec, ok := <-records:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				// What came before the event that ended it is projected.
				return errors.Join(ended(), s.flush(ctx, flushEnd, announcer))
			}
			if len(s.batch) == 0 {
				age.Reset(s.config.FlushAge)
			}
			s.add(rec)
			if s.rows >= s.config.FlushRows || s.bytes >= s.config.FlushBytes {
				reason = flushSize
			}
		case seq := <-announcer.Wanted():
			if seq <= s.watermark {
				if err := announcer.Announce(s.watermark); err != nil {
					return err
				}
				continue
			}
			s.wanted = max(s.wanted, seq)
		case <-age.C:
			reason = flushAge
		}
		if reason == "" && s.wanted > 0 && s.end() >= s.wanted {
			reason = flushWanted
		}
		if reason == "" {
			continue
		}
		age.Stop()
		if err := s.flush(ctx, reason, announcer); err != nil {
			return err
		}
	}
}

// end returns the last sequence of the batch, or the watermark.
func (s *session) end() uint64 { return s.watermark + uint64(len(s.batch)) }

func (s *session) add(rec eventlog.Record) {
	s.batch = append(s.batch, rec)
	if m := rec.Event.GetMetricsLogged(); m != nil {
		s.rows += len(m.GetValues())
		return
	}
	// An event that is not of metrics makes few rows, but long ones.
	s.rows++
	s.bytes += proto.Size(rec.Event)
}

// flush writes the batch: its rows table by table, then the checkpoint, and
// announces the watermark.
func (s *session) flush(ctx context.Context, reason string, announcer *watermark.Announcer) error {
	if len(s.batch) == 0 {
		return nil
	}
	started := time.Now()
	foldErr := s.project(ctx)
	if foldErr != nil && !isUnreadable(foldErr) {
		return foldErr
	}
	if len(s.batch) > 0 {
		if err := s.write(ctx); err != nil {
			return err
		}
		s.watermark = s.end()
		if s.roll != nil {
			s.roll.projected(s.batch, s.watermark)
		}
	}
	clear(s.batch)
	s.batch, s.rows, s.bytes = s.batch[:0], 0, 0
	// A request for what the log does not have is forgotten after a while.
	if s.wanted <= s.watermark || reason == flushAge {
		s.wanted = 0
	}
	s.fold.clear()
	if err := announcer.Announce(s.watermark); err != nil {
		return err
	}
	s.metrics.flushes.WithLabelValues(s.stream, reason).Inc()
	s.metrics.flushSeconds.WithLabelValues(s.stream).Observe(time.Since(started).Seconds())
	s.progress()
	return foldErr
}

// project folds the batch. An event that cannot be projected cuts the batch
// off before it.
func (s *session) project(ctx context.Context) error {
	need, err := s.fold.prepare(s.batch)
	if err != nil && !isUnreadable(err) {
		return err
	}
	if err := s.load(ctx, need); err != nil {
		return err
	}
	var refused error
	for i, rec := range s.batch {
		if refused = s.fold.fold(rec); refused != nil {
			s.batch = s.batch[:i]
			break
		}
	}
	left := s.fold.unresolved()
	if len(left) > 0 {
		points := make([]pointID, 0, len(left))
		for id := range left {
			points = append(points, id)
		}
		s.metrics.suspects.WithLabelValues(s.stream).Add(float64(len(points)))
		if err := s.store.known(ctx, points, func(id pointID) { delete(left, id) }); err != nil {
			return err
		}
	}
	s.fold.accept(left)
	return refused
}

func (s *session) load(ctx context.Context, need missing) error {
	if len(need.info) > 0 {
		if err := s.store.loadRuns(ctx, need.info); err != nil {
			return err
		}
	}
	if len(need.latest) > 0 {
		if err := s.store.loadLatest(ctx, need.latest); err != nil {
			return err
		}
		s.fold.loaded(need)
	}
	if len(need.models) > 0 {
		if err := s.store.loadModels(ctx, need.models); err != nil {
			return err
		}
	}
	if len(need.experiments) > 0 {
		return s.store.loadExperiments(ctx, need.experiments)
	}
	return nil
}

// write inserts the rows of the batch, and the checkpoint last. That of the
// batch before must still be there, and the lease is
// checked before each insert: without it, somebody else may write.
func (s *session) write(ctx context.Context) error {
	if err := s.unchanged(ctx); err != nil {
		return err
	}
	if s.checkpoint().incarnation == "" {
		if s.incarnation == "" {
			s.incarnation = s.batch[0].ID // the stream was empty: this is its first event
		}
		if err := s.record(ctx, s.watermark); err != nil {
			return err
		}
	}
	if err := s.purge(ctx); err != nil {
		return err
	}
	for _, t := range tablesOf(s.stream) {
		rows, n := s.fold.rows(t)
		if n == 0 {
			continue
		}
		if err := s.lease.check(); err != nil {
			return err
		}
		started := time.Now()
		if err := s.store.insert(ctx, t, rows); err != nil {
			return err
		}
		s.metrics.insertSeconds.WithLabelValues(string(t)).Observe(time.Since(started).Seconds())
		s.metrics.rows.WithLabelValues(string(t)).Add(float64(n))
	}
	return s.record(ctx, s.end())
}

// purge deletes the rows of the runs that the batch purges, while nobody else
// deletes. See the package comment for why that comes before the inserts.
func (s *session) purge(ctx context.Context) error {
	if len(s.fold.purged) == 0 {
		return nil
	}
	defer s.roll.abandon(s.fold.purged)()
	return s.worker.leases.shared(ctx, purgeLease, func(ctx context.Context, held *lease) error {
		if err := s.store.settlePurges(ctx); err != nil {
			return err
		}
		for runs := range slices.Chunk(s.fold.purged, purgeChunk) {
			for _, t := range tablesOfRuns {
				if err := errors.Join(s.lease.check(), held.check()); err != nil {
					return err
				}
				if err := s.store.purge(ctx, t, runs); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// unchanged returns an error unless the checkpoint is the session's own: the
// tables may have been dropped and made again, or somebody else writes.
func (s *session) unchanged(ctx context.Context) error {
	at, err := s.store.checkpoint(ctx, s.stream)
	if err != nil {
		return err
	}
	if last := s.checkpoint(); at.seq != last.seq || at.incarnation != last.incarnation {
		return fmt.Errorf("the checkpoint of %s is %d, this projector left it at %d", s.stream, at.seq, last.seq)
	}
	return nil
}

func (s *session) checkpoint() checkpoint {
	s.recording.Lock()
	defer s.recording.Unlock()
	return s.last
}

// record writes the checkpoint.
func (s *session) record(ctx context.Context, seq uint64) error {
	s.recording.Lock()
	defer s.recording.Unlock()
	return s.writeCheckpoint(ctx, s.store, checkpoint{seq: seq, incarnation: s.incarnation})
}

// recordAgain writes the checkpoint once more, with what the tables hold now.
func (s *session) recordAgain(ctx context.Context, st *store) error {
	s.recording.Lock()
	defer s.recording.Unlock()
	return s.writeCheckpoint(ctx, st, s.last)
}

// writeCheckpoint returns an error when the tables lack what they had at the checkpoint
// before: they are damaged, or they are others, which have been made meanwhile. What
// this session has written since is not to count then.
func (s *session) writeCheckpoint(ctx context.Context, st *store, at checkpoint) error {
	if err := s.lease.check(); err != nil {
		return err
	}
	now, err := st.blocks(ctx)
	if err != nil {
		return err
	}
	if lost := now.lost(s.held); lost != nil {
		return fmt.Errorf("the tables were replaced or damaged: %w", lost)
	}
	if err := st.setCheckpoint(ctx, at, now); err != nil {
		return err
	}
	s.last, s.held = at, now
	return nil
}

// progress tells the worker how far the session is.
func (s *session) progress() {
	s.worker.progress(s.watermark, s.watermark >= s.target)
}
