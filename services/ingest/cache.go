package ingest

import (
	"math"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// runCache keeps the states of the runs used last, as many as fit into a bound
// on their memory, and always the very last one.
type runCache struct {
	lru      *simplelru.LRU[string, cachedRun]
	max, now int // bytes, estimated
}

type cachedRun struct {
	*run
	bytes int // when it was added
}

func newRunCache(maxBytes int) (*runCache, error) {
	c := &runCache{max: maxBytes}
	var err error
	c.lru, err = simplelru.NewLRU(math.MaxInt, func(_ string, r cachedRun) { c.now -= r.bytes })
	return c, err
}

func (c *runCache) get(id string) (*run, bool) {
	r, ok := c.lru.Get(id)
	return r.run, ok
}

// add keeps a run's state, or takes note that it has grown.
func (c *runCache) add(r *run) {
	c.lru.Remove(r.ID())
	entry := cachedRun{r, r.footprint()}
	c.lru.Add(r.ID(), entry)
	c.now += entry.bytes
	for c.now > c.max && c.lru.Len() > 1 {
		c.lru.RemoveOldest()
	}
}

func (c *runCache) remove(id string) { c.lru.Remove(id) }
