package artifacts

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

const (
	// maxKept bounds the digests that are kept in memory, of all owners.
	maxKept = 200_000
	// maxOwned bounds the artifacts of one owner whose digests are known: what is
	// more is not checked.
	maxOwned = 1_000_000
	// maxAttempts bounds the replacements of one artifact that are not known to
	// have ended.
	maxAttempts = 16
	// attemptEnds is the time after which a replacement that has begun is not under
	// way any more.
	attemptEnds = time.Hour
)

// Digests knows what the log says of artifacts.
type Digests struct {
	log *eventlog.Log

	mu     sync.Mutex
	owners *simplelru.LRU[string, *owned] // by subject
	kept   int                            // digests in owners
}

// owned are the digests of the artifacts on one subject.
type owned struct {
	mu     sync.Mutex
	last   uint64 // the last sequence that is in byName
	byName map[string]lastUpload
	others map[string][]attempt
	size   int // of byName, when it was last counted in Digests.kept
}

// lastUpload is the last upload of an artifact that the log has.
type lastUpload struct {
	sum           [sha256.Size]byte
	begun, logged uint64 // sequences; begun is 0 where nothing was replaced
}

// attempt is a replacement by which the bytes in the store may be: since it went
// on at the same time as the last upload, or has not ended.
type attempt struct {
	sum           []byte // empty when it may be any
	begun, logged uint64 // sequences; logged is 0 until it has ended
	at            time.Time
}

// NewDigests returns what the log says.
func NewDigests(log *eventlog.Log) (*Digests, error) {
	owners, err := simplelru.NewLRU[string, *owned](math.MaxInt, nil)
	if err != nil {
		return nil, fmt.Errorf("digests of artifacts: %w", err)
	}
	return &Digests{log: log, owners: owners}, nil
}

// Of returns the SHA-256 that the artifact at a path of the store may have, as the
// log says now: none when the file was written in another way.
//
// An upload that replaces a file is in the log when that begins and when it has
// ended. What is in the store is the last upload's, or that of one that ended after
// the last upload had begun, or of one that has not ended.
func (d *Digests) Of(ctx context.Context, name string) (Sums, error) {
	at := PlaceOf(name)
	stream, subject := d.log.ArtifactSubject(cmp.Or(at.ExperimentID, events.NoOwner), cmp.Or(at.Owner(), events.NoOwner))
	o := d.owner(subject)
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.catchUp(ctx, d.log, stream, subject)
	d.count(subject, o)
	if err != nil {
		return nil, fmt.Errorf("look the digest of artifact %q up: %w", name, err)
	}
	return o.sums(name), nil
}

func (d *Digests) owner(subject string) *owned {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, ok := d.owners.Get(subject)
	if !ok {
		o = &owned{byName: make(map[string]lastUpload), others: make(map[string][]attempt)}
		d.owners.Add(subject, o)
	}
	return o
}

// catchUp adds what the log has got since.
func (o *owned) catchUp(ctx context.Context, log *eventlog.Log, stream, subject string) error {
	for rec, err := range log.Read(ctx, stream, subject, o.last+1, 0) {
		if err != nil {
			return err
		}
		switch e := rec.GetData().(type) {
		case *events.Event_ArtifactUploaded:
			o.uploaded(rec, e.ArtifactUploaded)
		case *events.Event_ArtifactReplacementBegun:
			begun := e.ArtifactReplacementBegun
			others := append(o.others[begun.GetPath()], attempt{sum: begun.GetSha256(), begun: rec.Seq, at: rec.Time})
			o.others[begun.GetPath()] = others[max(0, len(others)-maxAttempts):]
		case *events.Event_ArtifactsDeleted:
			for _, name := range e.ArtifactsDeleted.GetPaths() {
				delete(o.byName, name)
				delete(o.others, name)
			}
		}
		o.last = rec.Seq
	}
	return nil
}

// uploaded adds the end of an upload.
func (o *owned) uploaded(rec eventlog.Record, e *events.ArtifactUploaded) {
	name := e.GetPath()
	before, replaced := o.byName[name]
	delete(o.byName, name)
	if len(e.GetSha256()) != sha256.Size || len(o.byName) >= maxOwned {
		return
	}
	now, others := lastUpload{sum: [sha256.Size]byte(e.GetSha256()), logged: rec.Seq}, o.others[name]
	own := slices.IndexFunc(others, func(a attempt) bool { return a.logged == 0 && bytes.Equal(a.sum, now.sum[:]) })
	if own < 0 {
		own = slices.IndexFunc(others, func(a attempt) bool { return a.logged == 0 && len(a.sum) == 0 })
	}
	if own >= 0 {
		now.begun = others[own].begun
		others = slices.Delete(others, own, own+1)
	}
	// A log of a build that did not record beginnings has none of either.
	if replaced && before.begun != 0 {
		others = append(others, attempt{sum: before.sum[:], begun: before.begun, logged: before.logged})
	}
	others = slices.DeleteFunc(others, func(a attempt) bool {
		if a.logged == 0 {
			return rec.Time.Sub(a.at) > attemptEnds
		}
		return a.logged < now.begun
	})
	o.byName[name] = now
	if len(others) == 0 {
		delete(o.others, name)
		return
	}
	o.others[name] = others
}

// sums returns what Digests.Of does.
func (o *owned) sums(name string) Sums {
	last, ok := o.byName[name]
	if !ok {
		return nil
	}
	sums := Sums{last.sum}
	for _, other := range o.others[name] {
		if len(other.sum) != sha256.Size {
			return nil
		}
		if sum := [sha256.Size]byte(other.sum); !slices.Contains(sums, sum) {
			sums = append(sums, sum)
		}
	}
	return sums
}

// count forgets the owners that were not asked for longest, while too much is
// kept; the last one stays.
func (d *Digests) count(subject string, o *owned) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kept, ok := d.owners.Peek(subject); !ok || kept != o {
		return // forgotten meanwhile
	}
	d.kept += len(o.byName) - o.size
	o.size = len(o.byName)
	for d.kept > maxKept && d.owners.Len() > 1 {
		_, oldest, _ := d.owners.RemoveOldest()
		d.kept -= oldest.size
	}
}
