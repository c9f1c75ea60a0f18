package query

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/semaphore"

	"github.com/runledger/runledger/pkg/events"
)

const (
	// maxCatalogueParts is how many parts of catalogues are kept.
	maxCatalogueParts = 32
	// maxCataloguePart is the size up to which one is kept, in bytes.
	maxCataloguePart = 4 << 20
	// maxApart is how many runs have tallies of their own when a part is read.
	maxApart = 1000
	// maxSingle is how many tallies of single runs are taken in at a time.
	maxSingle = 20_000
)

// catalogues keeps the parts of catalogues that were asked for last, and brings
// them up to date when they are asked for again. See cataloguePart.
type catalogues struct {
	db    *database
	fresh *freshness
	parts *lru.Cache[cataloguePlace, *cataloguePart]
}

func newCatalogues(db *database, fresh *freshness) (*catalogues, error) {
	parts, err := lru.New[cataloguePlace, *cataloguePart](maxCatalogueParts)
	if err != nil {
		return nil, fmt.Errorf("keep catalogues: %w", err)
	}
	return &catalogues{db: db, fresh: fresh, parts: parts}, nil
}

// read returns the tallies of a place in the order of their keys, the last key
// that was looked at, and whether there are more. They hold what the tables had
// at the watermarks when it was called, at least.
func (c *catalogues) read(ctx context.Context, place cataloguePlace) (found []tally, to string, more bool, err error) {
	part := &cataloguePart{cataloguePlace: place, db: c.db, fresh: c.fresh, turn: semaphore.NewWeighted(1)}
	if known, ok, _ := c.parts.PeekOrAdd(place, part); ok {
		c.parts.Get(place) // it was used
		part = known
	}
	if err := part.turn.Acquire(ctx, 1); err != nil {
		return nil, "", false, err
	}
	defer part.turn.Release(1)
	if err := part.refresh(ctx); err != nil {
		return nil, "", false, err
	}
	found, size := part.sum()
	if part.marks == nil || size > maxCataloguePart {
		part.forget()
	}
	return found, part.to, part.to != "", nil
}

// cataloguePart is what is known of a place of a catalogue. Reading it takes a
// look at each row of its keys, so it is read once, and then follows the log.
//
// It has marks, a sequence of each shard, and for each key a tally of all runs
// but those that are apart, and one for each run that is. It is, together, what
// the tables had at the marks or later:
//
//   - The tally of the others holds no row beyond the marks of when it was read,
//     and of each of their rows the newest. So it is right while none of them has
//     a newer row, and none of them is deleted, restored or purged.
//   - Rows beyond the marks are looked for at each read, by the index of
//     sequences. Those of a run that is apart replace its tallies. Those of a run
//     that was created beyond the marks do too: it has no row in the tally of the
//     others, and is apart from then on. Those of any other run make the part be
//     read again, with the run apart, so that this happens once for each run.
//   - Runs that were created, deleted, restored or purged beyond the marks are in
//     the audit, whose rows never change. A purge deletes rows before its own row
//     is there; what was read between is read again when it is.
//
// Rows are in the tables before their sequence is announced. They may be counted
// then, and are found again beyond the marks at the next read, which changes
// nothing. What is at or below the marks is in every table. Tables that are made
// anew begin with lower watermarks.
type cataloguePart struct {
	cataloguePlace
	db    *database
	fresh *freshness
	turn  *semaphore.Weighted // of whoever reads or changes the following

	marks   []uint64 // of each shard; nil while nothing is known
	rebuilt uint64   // how often the tables were made anew
	to      string   // the last key, "" when the part has all there are
	tallies map[string]map[uuid.UUID]*tally
	apart   map[uuid.UUID]struct{}
}

func (p *cataloguePart) forget() { p.marks, p.tallies, p.apart = nil, nil, nil }

// refresh brings the part up to date.
func (p *cataloguePart) refresh(ctx context.Context) error {
	rebuilt := p.fresh.reader.Lowered()
	marks := p.fresh.marks()
	if p.marks == nil || rebuilt != p.rebuilt {
		p.apart = nil
		return p.load(ctx, marks, rebuilt)
	}
	if slices.Equal(marks, p.marks) {
		return nil
	}
	followed, err := p.follow(ctx)
	if err != nil {
		return err
	}
	if !followed {
		return p.load(ctx, marks, rebuilt)
	}
	p.marks = marks
	return nil
}

// load reads the part. Runs that are apart stay so.
func (p *cataloguePart) load(ctx context.Context, marks []uint64, rebuilt uint64) error {
	apart := p.apart
	p.forget()
	if apart == nil || len(apart) > maxApart {
		apart = make(map[uuid.UUID]struct{})
	}
	var last string
	more, err := p.db.some(ctx, p.bounds(), p.keys, func(scan func(...any) error) error { return scan(&last) })
	if err != nil {
		return err
	}
	if p.to = ""; more {
		p.to = last
	}
	tallies := make(map[string]map[uuid.UUID]*tally)
	if last != "" {
		if tallies, err = p.collect(ctx, func(st *statement) string {
			return "(" + beyond(st, "shard", marks) + ") OR run_id IN " + bindRuns(st, apart)
		}); errors.Is(err, errEnough) {
			// It can be answered, but not followed.
			marks = nil
			tallies, err = p.collect(ctx, func(*statement) string { return "0" })
		}
		if err != nil {
			return err
		}
	}
	p.marks, p.rebuilt, p.apart, p.tallies = marks, rebuilt, apart, tallies
	return nil
}

// collect returns the tallies of the part, errEnough when those of runs that are
// apart are too many.
func (p *cataloguePart) collect(ctx context.Context, apart func(*statement) string) (map[string]map[uuid.UUID]*tally, error) {
	tallies := make(map[string]map[uuid.UUID]*tally)
	single := 0
	return tallies, p.each(ctx, p.cataloguePlace.tallies(p.to, apart), func(run uuid.UUID, t *tally) error {
		if run != uuid.Nil {
			single++
		}
		if single > maxSingle {
			return errEnough
		}
		put(tallies, run, t)
		return nil
	})
}

// follow takes in what is beyond the marks. It reports whether that was enough;
// otherwise the part has to be read again.
func (p *cataloguePart) follow(ctx context.Context) (enough bool, err error) {
	type change struct {
		run uuid.UUID
		*tally
	}
	var changes []change
	st := p.changes(p.to, func(st *statement) string { return "(" + beyond(st, "shard", p.marks) + ")" }, maxSingle+1)
	if err := p.each(ctx, st, func(run uuid.UUID, t *tally) error {
		changes = append(changes, change{run, t})
		return nil
	}); err != nil {
		return false, err
	}
	// Asked for after the rows, so that it has the creation of most of their runs.
	lives := p.lives(p.marks, maxSingle+1)
	enough = true
	n := 0
	if err := p.db.each(ctx, lives, func(scan func(...any) error) error {
		var text string
		var created bool
		if err := scan(&text, &created); err != nil {
			return err
		}
		n++
		if id, ok := parseRunID(text); ok && created {
			p.apart[id] = struct{}{}
		} else {
			enough = false
		}
		return nil
	}); err != nil {
		return false, err
	}
	if len(changes) > maxSingle || n > maxSingle {
		p.apart = nil
		return false, nil
	}
	for _, c := range changes {
		if _, ok := p.apart[c.run]; !ok {
			enough = false
			p.apart[c.run] = struct{}{}
		}
	}
	if enough {
		for _, c := range changes {
			put(p.tallies, c.run, c.tally)
		}
	}
	return enough, nil
}

// each runs a statement for tallies.
func (p *cataloguePart) each(ctx context.Context, st *statement, visit func(run uuid.UUID, t *tally) error) error {
	return p.db.each(ctx, st, func(scan func(...any) error) error {
		var run uuid.UUID
		t := new(tally)
		if err := scan(&t.key, &run, &t.runs, &t.finite, &t.min, &t.max, &t.lastStep, &t.distinct, &t.examples); err != nil {
			return err
		}
		return visit(run, t)
	})
}

func put(tallies map[string]map[uuid.UUID]*tally, run uuid.UUID, t *tally) {
	if tallies[t.key] == nil {
		tallies[t.key] = make(map[uuid.UUID]*tally)
	}
	tallies[t.key][run] = t
}

// sum returns the tallies of all runs, in the order of their keys, and how much
// memory the part takes, in bytes.
func (p *cataloguePart) sum() (found []tally, size int) {
	const each = 200 // of a tally with its places in the maps
	for _, key := range slices.Sorted(maps.Keys(p.tallies)) {
		all := tally{key: key}
		for _, t := range p.tallies[key] {
			all.add(t)
			size += each + len(key) + 8*len(t.distinct)
			for _, e := range t.examples {
				size += len(e)
			}
		}
		if all.runs > 0 {
			found = append(found, all)
		}
	}
	return found, size + each*len(p.apart)
}

// lives returns the statement for the runs of the experiment that were created,
// deleted, restored or purged beyond the marks, and whether they were created.
func (p cataloguePlace) lives(marks []uint64, limit int) *statement {
	st := new(statement)
	created := events.Type(&events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{}}})
	ended := []string{
		events.Type(&events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{}}}),
		events.Type(&events.Event{Data: &events.Event_RunRestored{RunRestored: &events.RunRestored{}}}),
		events.Type(&events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{}}}),
	}
	st.write("SELECT entity_id, toBool(type = ", st.bind("String", created), ") AS created FROM audit WHERE (", beyond(st, "stream", marks),
		") AND experiment_id = ", st.bind("String", formatExperimentID(p.experiment)),
		" AND (created OR type IN ", st.bind("Array(String)", ended), ") LIMIT ", st.bind("UInt64", limit))
	return st
}

// beyond is the condition for rows that came after the marks of their shard.
func beyond(st *statement, column string, marks []uint64) string {
	var conditions []string
	for shard, seq := range marks {
		place := strconv.Itoa(shard)
		if column == "stream" {
			place = st.bind("String", events.RunsStream(shard))
		}
		conditions = append(conditions, column+" = "+place+" AND seq > "+st.bind("UInt64", seq))
	}
	return strings.Join(conditions, " OR ")
}

func bindRuns(st *statement, runs map[uuid.UUID]struct{}) string {
	ids := make([]string, 0, len(runs))
	for id := range runs {
		ids = append(ids, id.String())
	}
	return st.bind("Array(UUID)", ids)
}
