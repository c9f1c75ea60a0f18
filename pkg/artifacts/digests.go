package artifacts

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"sync"

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
	byName map[string][sha256.Size]byte
	size   int // of byName, when it was last counted in Digests.kept
}

// NewDigests returns what the log says.
func NewDigests(log *eventlog.Log) (*Digests, error) {
	owners, err := simplelru.NewLRU[string, *owned](math.MaxInt, nil)
	if err != nil {
		return nil, fmt.Errorf("digests of artifacts: %w", err)
	}
	return &Digests{log: log, owners: owners}, nil
}

// Of returns the SHA-256 of the artifact at a path of the store, as the log says
// now. ok is false when it says none: the file was written in another way.
func (d *Digests) Of(ctx context.Context, name string) (digest [sha256.Size]byte, ok bool, err error) {
	at := PlaceOf(name)
	stream, subject := d.log.ArtifactSubject(cmp.Or(at.ExperimentID, events.NoOwner), cmp.Or(at.Owner(), events.NoOwner))
	o := d.owner(subject)
	o.mu.Lock()
	defer o.mu.Unlock()
	err = o.catchUp(ctx, d.log, stream, subject)
	digest, ok = o.byName[name]
	d.count(subject, o)
	if err != nil {
		return digest, false, fmt.Errorf("look the digest of artifact %q up: %w", name, err)
	}
	return digest, ok, nil
}

func (d *Digests) owner(subject string) *owned {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, ok := d.owners.Get(subject)
	if !ok {
		o = &owned{byName: make(map[string][sha256.Size]byte)}
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
			name := e.ArtifactUploaded.GetPath()
			delete(o.byName, name)
			if sum := e.ArtifactUploaded.GetSha256(); len(sum) == sha256.Size && len(o.byName) < maxOwned {
				o.byName[name] = [sha256.Size]byte(sum)
			}
		case *events.Event_ArtifactsDeleted:
			for _, name := range e.ArtifactsDeleted.GetPaths() {
				delete(o.byName, name)
			}
		}
		o.last = rec.Seq
	}
	return nil
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
