package projector

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/runledger/runledger/pkg/events"
)

// The numbers of the tables' enumerations.
const (
	lifecycleActive  int8 = 1
	lifecycleDeleted int8 = 2
	lifecyclePurged  int8 = 3
	kindParameter    int8 = 1
	kindTag          int8 = 2
	directionInput   int8 = 1
	directionOutput  int8 = 2
)

// pointID is what makes two metric points the same one.
type pointID struct {
	run uuid.UUID
	events.Identity
}

// run is what the projection of a run's next event needs of its earlier ones.
type run struct {
	id         uuid.UUID
	experiment uint64

	info      runInfo
	infoKnown bool // info is that of the table; info.seq is 0 when it has none
	infoDirty bool // info is to be written

	latest      map[string]*latest
	latestKnown bool
	latestDirty []string // keys to be written

	purged bool // by an event of this batch or an earlier one: it has no rows but its tombstone
}

// runInfo is a row of runs.
type runInfo struct {
	name, user, artifactURI string
	status, lifecycle       int8
	startTime, endTime      int64 // milliseconds
	ended                   bool  // endTime was set
	deletedTime             int64 // milliseconds
	seq                     uint64
}

// latest is the greatest point of a key by (step, timestamp, value), NaN
// compared as 0; the first of those that compare equal.
type latest struct {
	known, dirty    bool
	step, timestamp int64
	value           float64
	seq             uint64
}

// isAfter tells whether (step, timestamp) is beyond every point of the key.
func (l *latest) isAfter(step, timestamp int64) bool {
	return !l.known || step > l.step || step == l.step && timestamp > l.timestamp
}

// isGreater tells whether a point replaces l.
func (l *latest) isGreater(step, timestamp int64, value float64) bool {
	return l.isAfter(step, timestamp) || step == l.step && timestamp == l.timestamp && ordered(value) > ordered(l.value)
}

func ordered(v float64) float64 {
	if v != v {
		return 0
	}
	return v
}

// experiment is a row of experiments.
type experiment struct {
	id                           uint64
	name, artifactLocation       string
	lifecycle                    int8
	creationTime, lastUpdateTime int64 // milliseconds
	tags                         map[string]string
	seq                          uint64 // 0 when the table has no row
	dirty                        bool
}

// state holds the runs, experiments and logged models that were in use last, all of it also
// in the tables: what it drops is loaded again. Between two batches it is cut
// to its limits.
type state struct {
	runs        *simplelru.LRU[uuid.UUID, *run]
	experiments *simplelru.LRU[uint64, *experiment]
	models      *simplelru.LRU[string, *model]
	keys        int // metric keys of all runs
	maxKeys     int
}

// Limits of a stream's state, in number of runs, experiments or models, and of keys.
const (
	maxEntities = 20_000
	maxKeys     = 400_000
)

func newState() (*state, error) {
	s := &state{maxKeys: maxKeys}
	var err error
	// The size is enforced by trim: a batch may need more.
	s.runs, err = simplelru.NewLRU(unbounded, func(_ uuid.UUID, r *run) { s.keys -= len(r.latest) })
	if err != nil {
		return nil, fmt.Errorf("make the cache of runs: %w", err)
	}
	s.experiments, err = simplelru.NewLRU[uint64, *experiment](unbounded, nil)
	if err != nil {
		return nil, fmt.Errorf("make the cache of experiments: %w", err)
	}
	s.models, err = simplelru.NewLRU[string, *model](unbounded, nil)
	if err != nil {
		return nil, fmt.Errorf("make the cache of logged models: %w", err)
	}
	return s, nil
}

const unbounded = 1 << 31

func (s *state) trim() {
	for s.runs.Len() > maxEntities || s.keys > s.maxKeys && s.runs.Len() > 0 {
		s.runs.RemoveOldest()
	}
	for s.experiments.Len() > maxEntities {
		s.experiments.RemoveOldest()
	}
	for s.models.Len() > maxEntities {
		s.models.RemoveOldest()
	}
}
