package httpapi

import (
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/runledger/runledger/pkg/apierr"
)

// defaultBodyBytes bounds the bodies that are held unless Config says otherwise.
const defaultBodyBytes = 256 << 20

// bodies bounds the memory for the bodies that are held until their requests are
// answered, as far as they have arrived. One client address gets half of it at most,
// so that others are served beside it.
type bodies struct {
	max int64

	mu   sync.Mutex
	held int64
	of   map[netip.Prefix]int64
}

func newBodies(most int64, r prometheus.Registerer) *bodies {
	b := &bodies{max: most, of: make(map[netip.Prefix]int64)}
	promauto.With(r).NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "runledger", Subsystem: "http", Name: "body_bytes",
		Help: "Bytes that have arrived of the request bodies that are held until their requests are answered.",
	}, func() float64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		return float64(b.held)
	})
	return b
}

// take makes room for n bytes, or returns an error. It does not wait: the client has
// the body, and repeats the request.
func (b *bodies) take(from netip.Prefix, n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held+n > b.max || b.of[from]+n > b.max/2 {
		return apierr.Errorf(apierr.RequestLimitExceeded, "The server is busy with other requests, try again").
			WithRetryAfter(time.Second)
	}
	b.held += n
	b.of[from] += n
	return nil
}

func (b *bodies) free(from netip.Prefix, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= n
	if b.of[from] -= n; b.of[from] == 0 {
		delete(b.of, from)
	}
}

// MaxHeld bounds what counts of one body, in bytes: of a longer one the rest is read
// only to tell how long it is.
const MaxHeld = 4 << 20
