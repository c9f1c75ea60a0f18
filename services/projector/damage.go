package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/runledger/runledger/pkg/watermark"
)

const (
	// lookEvery is how often it is looked whether the tables have lost parts.
	lookEvery = time.Second
	// defaultCheckEvery is how often all parts are compared with their checksums.
	defaultCheckEvery = 24 * time.Hour
	// checkPause is how many times as long as a check took it is until the next one,
	// at least: they read everything.
	checkPause = 10
	// announceTimeout bounds the wait for NATS to have what readers are to know.
	announceTimeout = 5 * time.Second
	// asideSuffix is in the name of a table that was damaged, until those that
	// replace them have caught up with the log.
	asideSuffix = "_damaged"
	// tableMigrations is where goose keeps which migrations the tables have had.
	tableMigrations tableName = "goose_db_version"
)

// damageError means that the tables lack rows, or that some cannot be read: they
// are to be built again.
type damageError struct {
	generation string // of the tables, from before they were looked at
	cause      error
}

// errReplaced means that another projector is about to replace the tables.
var errReplaced = errors.New("the tables are being replaced")

func (e *damageError) Error() string { return "the tables are damaged: " + e.cause.Error() }
func (e *damageError) Unwrap() error { return e.cause }

// watch returns a *damageError when the tables have lost parts, and nil when ctx
// ends. It drops what was set aside when the tables have caught up.
func (p *Projector) watch(ctx context.Context) error {
	var ends map[string]uint64 // of the streams, when tables were found aside
	aside := true              // perhaps
	return p.every(ctx, lookEvery, func(st *store) error {
		if err := st.intact(ctx); err != nil {
			return err
		}
		if p.rebuilding.Load() != nil && p.Ready(ctx) == nil {
			p.rebuilding.Store(nil)
			p.metrics.rebuilding.Set(0)
			p.config.Logger.Info("the tables have been built again from the log")
		}
		if !aside {
			return nil
		}
		names, err := st.aside(ctx)
		if err != nil {
			return err
		}
		if aside = len(names) > 0; !aside {
			return nil
		}
		if ends == nil {
			if ends, err = p.ends(ctx); err != nil {
				return err
			}
		}
		if reached, err := st.reached(ctx, ends); err != nil || !reached {
			return err
		}
		for _, t := range names {
			if err := st.drop(ctx, t); err != nil {
				return fmt.Errorf("drop table %s: %w", t, err)
			}
		}
		return nil
	})
}

// ends returns the last sequence of each stream.
func (p *Projector) ends(ctx context.Context) (map[string]uint64, error) {
	ends := make(map[string]uint64)
	for _, w := range p.workers {
		last, err := p.config.Log.LastSeq(ctx, w.stream)
		if err != nil {
			return nil, err
		}
		ends[w.stream] = last
	}
	return ends, nil
}

// reached tells whether the checkpoint of each stream is at its end.
func (s *store) reached(ctx context.Context, ends map[string]uint64) (bool, error) {
	for stream, end := range ends {
		if at, err := s.checkpoint(ctx, stream); err != nil || at.seq < end {
			return false, err
		}
	}
	return true, nil
}

// check returns a *damageError when a part is not as its checksums say, and nil
// when ctx ends. It looks when the tables have caught up first, from time to time,
// and when a statement of any process has failed as if a part was damaged.
func (p *Projector) check(ctx context.Context) error {
	sub, err := watermark.OnDamage(p.config.Conn, p.suspect)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	var suspicion string
	var checked, next time.Time // the last time, and the earliest one for the next
	return p.every(ctx, lookEvery, func(st *store) error {
		select {
		case suspicion = <-p.suspicions:
			p.config.Logger.Warn("a table may be damaged", slog.String("reason", suspicion))
		default:
		}
		due := suspicion != "" || time.Since(checked) > p.config.CheckEvery && p.Ready(ctx) == nil
		if !due || time.Now().Before(next) {
			return nil
		}
		begin := time.Now()
		err := st.check(ctx)
		next = time.Now().Add(checkPause * time.Since(begin))
		if err != nil {
			return err
		}
		checked, suspicion = time.Now(), ""
		p.config.Logger.Debug("checked the tables", slog.Duration("took", checked.Sub(begin)))
		return nil
	})
}

// suspect has the tables checked.
func (p *Projector) suspect(what string) {
	select {
	case p.suspicions <- what:
	default: // they will be
	}
}

// every calls do in intervals with a connection of its own, until ctx ends or do
// returns a *damageError. Other errors are logged when they begin, and end the
// connection.
func (p *Projector) every(ctx context.Context, interval time.Duration, do func(*store) error) error {
	var st *store
	defer func() {
		if st != nil {
			st.close()
		}
	}()
	failing := false
	for {
		var err error
		if st == nil {
			st, err = dial(ctx, p.config.ClickHouse, "", 0, nil)
		}
		if err == nil {
			err = do(st)
		}
		if damage, ok := errors.AsType[*damageError](err); ok {
			return damage
		}
		if err != nil && ctx.Err() == nil && !failing {
			p.config.Logger.Warn("look at the tables for damage", slog.Any("error", err))
		}
		if failing = err != nil; failing && st != nil {
			st.close()
			st = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

// yield returns errReplaced when another projector is about to replace the tables, and
// nil when ctx ends.
func (p *Projector) yield(ctx context.Context) error {
	asked := make(chan struct{}, 1)
	sub, err := watermark.OnReplace(p.config.Conn, func() {
		select {
		case asked <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	select {
	case <-ctx.Done():
		return nil
	case <-asked:
		return errReplaced
	}
}

// rebuild sets the damaged tables aside, so that they are made again and built from
// the log. It returns ErrOtherLog when that is not the log that they were made from:
// then they may be all there is. Meanwhile it has the leases of all streams, so nobody
// writes, or says how far the tables are. No session of this projector may run.
func (p *Projector) rebuild(ctx context.Context, damage *damageError) error {
	return p.leases.shared(ctx, migrationLease, func(ctx context.Context, held *lease) error {
		st, err := dial(ctx, p.config.ClickHouse, "", held.epoch, nil)
		if err != nil {
			return err
		}
		defer st.close()
		generation, err := st.generation(ctx)
		if err != nil {
			return err
		}
		if generation != damage.generation {
			return nil // somebody else was faster
		}
		return p.underAll(ctx, p.workers, func(ctx context.Context) error { return p.replace(ctx, st) })
	})
}

// underAll calls do with the leases of all workers' streams. Others are asked for them.
func (p *Projector) underAll(ctx context.Context, workers []*worker, do func(context.Context) error) error {
	if len(workers) == 0 {
		return do(ctx)
	}
	ask := func(string) {
		if err := watermark.RequestReplace(p.config.Conn); err != nil {
			p.config.Logger.Warn("take a stream from its projector", slog.Any("error", err))
		}
	}
	return p.leases.under(ctx, workers[0].stream, min(sharedAgain, p.leases.ttl/3), ask, func(ctx context.Context, _ *lease) error {
		return p.underAll(ctx, workers[1:], do)
	})
}

// replace sets the tables aside while nobody writes them.
func (p *Projector) replace(ctx context.Context, st *store) error {
	for _, w := range p.workers {
		if err := w.refuse(ctx); err != nil {
			return err
		}
	}
	// Readers wait for the new tables from here on.
	for _, w := range p.workers {
		if err := p.announceNothing(w.stream); err != nil {
			return err
		}
	}
	flushing, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	if err := p.config.Conn.FlushWithContext(flushing); err != nil {
		return fmt.Errorf("announce that the tables are built again: %w", err)
	}
	if err := st.settleAll(ctx); err != nil {
		return err
	}
	p.metrics.rebuilds.Inc()
	return st.setAside(ctx)
}

func (p *Projector) announceNothing(stream string) (err error) {
	a, err := watermark.NewAnnouncer(p.config.Conn, stream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	return a.Announce(0)
}

// refuse returns ErrOtherLog when the tables of the stream were made from another log,
// as far as what is left of them can tell, and an error when the log cannot be read.
func (w *worker) refuse(ctx context.Context) error {
	// A connection of its own: a statement that fails may end it.
	st, err := dial(ctx, w.config.ClickHouse, w.stream, 0, nil)
	if err != nil {
		return err
	}
	defer st.close()
	s := &session{worker: w, store: st}
	if at, err := st.checkpoint(ctx, w.stream); err == nil {
		if _, _, err := s.belongs(ctx, w.stream, at); err != nil {
			return err
		}
	}
	if _, _, err = s.compare(ctx); errors.Is(err, ErrOtherLog) || ctx.Err() != nil {
		return err
	}
	return nil
}

// generation returns the identity of the tables, which those that replace them do
// not have; "" when there are none.
func (s *store) generation(ctx context.Context) (string, error) {
	ids, err := s.tables(ctx, tableCheckpoints)
	return ids[tableCheckpoints], err
}

// tables returns the identities of those tables that exist.
func (s *store) tables(ctx context.Context, of ...tableName) (map[tableName]string, error) {
	var name, id proto.ColStr
	ids := make(map[tableName]string)
	err := s.query(ctx, query{
		name:   "tables",
		params: map[string]any{"tables": names(of)},
		result: proto.Results{{Name: "name", Data: &name}, {Name: "id", Data: &id}},
		each: func(n int) error {
			for i := range n {
				ids[tableName(name.Row(i))] = id.Row(i)
			}
			return nil
		},
	})
	return ids, err
}

// complete returns a *damageError when a table is missing that the migrations have
// made.
func (s *store) complete(ctx context.Context) error {
	ids, err := s.tables(ctx, allTables...)
	if err != nil {
		return err
	}
	for _, t := range allTables {
		if _, ok := ids[t]; !ok {
			return &damageError{ids[tableCheckpoints], fmt.Errorf("table %s is missing", t)}
		}
	}
	return nil
}

// intact returns a *damageError when the tables have lost parts.
func (s *store) intact(ctx context.Context) error {
	generation, err := s.generation(ctx)
	if err != nil {
		return err
	}
	lost, err := s.partsLost(ctx)
	if isMissingTable(err) {
		lost, err = err, nil
	}
	if err == nil && lost != nil {
		return &damageError{generation, lost}
	}
	return err
}

// check reads all parts and returns a *damageError when one is not as its checksums
// say.
func (s *store) check(ctx context.Context) error {
	generation, err := s.generation(ctx)
	if err != nil {
		return err
	}
	for _, t := range allTables {
		var path, message proto.ColStr
		var passed proto.ColUInt8
		var bad error
		err := s.client.Do(ctx, ch.Query{
			// For as long as it takes, which is long for a large table.
			Body:   "CHECK TABLE " + string(t) + " SETTINGS check_query_single_value_result = 0, max_threads = 1",
			Result: proto.Results{{Name: "part_path", Data: &path}, {Name: "is_passed", Data: &passed}, {Name: "message", Data: &message}},
			OnResult: func(_ context.Context, b proto.Block) error {
				for i := range b.Rows {
					if passed.Row(i) == 0 && bad == nil {
						what, _, _ := strings.Cut(message.Row(i), ", Stack trace")
						bad = fmt.Errorf("part %s of table %s: %s", path.Row(i), t, what)
					}
				}
				return nil
			},
		})
		if err != nil {
			return fmt.Errorf("check table %s: %w", t, err)
		}
		if bad != nil {
			return &damageError{generation, bad}
		}
	}
	return nil
}

// settleAll ends every statement of projectors that writes to these tables.
func (s *store) settleAll(ctx context.Context) error {
	return s.query(ctx, query{name: "settle", params: map[string]any{"prefix": s.database}})
}

// setAside renames all tables. What was set aside before stays, since it may have what
// is lost now.
func (s *store) setAside(ctx context.Context) error {
	// First that which keeps the migrations: if this ends halfway, they make what is
	// missing then, and the tables that are left do not fit to it.
	order := slices.Concat([]tableName{tableMigrations}, allTables)
	var both []tableName
	for _, t := range order {
		both = append(both, t, t+asideSuffix)
	}
	there, err := s.tables(ctx, both...)
	if err != nil {
		return err
	}
	for _, t := range order {
		_, is := there[t]
		_, was := there[t+asideSuffix]
		switch {
		case is && was:
			err = s.drop(ctx, t)
		case is:
			err = s.exec(ctx, fmt.Sprintf("RENAME TABLE %s TO %s", t, t+asideSuffix))
		}
		if err != nil {
			return fmt.Errorf("set table %s aside: %w", t, err)
		}
	}
	return nil
}

// aside returns the tables that were set aside.
func (s *store) aside(ctx context.Context) ([]tableName, error) {
	var aside []tableName
	for _, t := range slices.Concat(allTables, []tableName{tableMigrations}) {
		aside = append(aside, t+asideSuffix)
	}
	there, err := s.tables(ctx, aside...)
	return slices.Sorted(maps.Keys(there)), err
}

func (s *store) drop(ctx context.Context, t tableName) error {
	return s.exec(ctx, fmt.Sprintf("DROP TABLE IF EXISTS %s SYNC SETTINGS max_table_size_to_drop = 0", t))
}

// exec runs a statement that this package made.
func (s *store) exec(ctx context.Context, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return s.client.Do(ctx, ch.Query{Body: statement})
}
