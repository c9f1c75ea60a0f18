package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxConnections bounds the clients of one process; others wait to be accepted.
	maxConnections = 8192
	// maxPerAddress bounds those of one address, which may be a proxy: what one
	// leaves is for the others.
	maxPerAddress = maxConnections / 2
)

// ClientAddress returns the address that limits for each client go by: of an IPv4
// address all of it, of an IPv6 address the network of 64 bits, since one client
// has all of that. It is the zero Prefix for an address that is none, as in tests
// without a connection.
func ClientAddress(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr := at.Addr().Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits) // within the length of the address
	return prefix
}

// connections is a listener that bounds how many connections there are, in all and
// from each address. When there is no room for another one it closes the one that
// has been idle longest; of those that are at work none is closed. A new one from
// an address that has its share at work is closed, one beyond the bound of all
// waits.
type connections struct {
	net.Listener
	max, perAddress int

	mu     sync.Mutex
	room   sync.Cond // signalled when a connection ends or becomes idle
	closed bool
	open   map[*connection]struct{}
	of     map[netip.Prefix]int
}

type connection struct {
	net.Conn
	owner *connections
	from  netip.Prefix
	// idle is since when the connection has had no request, zero while it has one.
	idle    time.Time
	release sync.Once
}

func limitConnections(l net.Listener, most, perAddress int) *connections {
	c := &connections{Listener: l, max: most, perAddress: perAddress, open: make(map[*connection]struct{}), of: make(map[netip.Prefix]int)}
	c.room.L = &c.mu
	return c
}

// Accept returns the next connection that there is room for.
func (l *connections) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &connection{Conn: accepted, owner: l, from: ClientAddress(accepted.RemoteAddr().String()), idle: time.Now()}
		taken, err := l.take(c)
		if taken {
			return c, nil
		}
		_ = accepted.Close() // its client may have gone; the others must be accepted
		if err != nil {
			return nil, err
		}
	}
}

// take makes room for c, and reports whether it may stay.
func (l *connections) take(c *connection) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		var evicted *connection
		switch {
		case l.closed:
			return false, net.ErrClosed
		case l.of[c.from] >= l.perAddress:
			if evicted = l.idlest(func(o *connection) bool { return o.from == c.from }); evicted == nil {
				return false, nil
			}
		case len(l.open) >= l.max:
			// Of the address with the most, so that one that has many does not cost the others theirs.
			most := l.crowded()
			if evicted = l.idlest(func(o *connection) bool { return l.of[o.from] == most }); evicted == nil {
				l.room.Wait()
				continue
			}
		default:
			l.open[c] = struct{}{}
			l.of[c.from]++
			return true, nil
		}
		l.forget(evicted)
		_ = evicted.Conn.Close() // nothing was under way
	}
}

// crowded returns how many connections the address has that has the most of those
// with an idle one.
func (l *connections) crowded() (most int) {
	for c := range l.open {
		if !c.idle.IsZero() {
			most = max(most, l.of[c.from])
		}
	}
	return most
}

// idlest returns the connection that has been idle longest, nil for none.
func (l *connections) idlest(candidate func(*connection) bool) (found *connection) {
	for c := range l.open {
		if !c.idle.IsZero() && candidate(c) && (found == nil || c.idle.Before(found.idle)) {
			found = c
		}
	}
	return found
}

// forget gives the place of a connection to others.
func (l *connections) forget(c *connection) {
	c.release.Do(func() {
		delete(l.open, c)
		if l.of[c.from]--; l.of[c.from] == 0 {
			delete(l.of, c.from)
		}
		l.room.Broadcast()
	})
}

// Close closes the listener; the connections stay.
func (l *connections) Close() error {
	l.mu.Lock()
	l.closed = true
	l.room.Broadcast()
	l.mu.Unlock()
	return l.Listener.Close()
}

// observe is the server's ConnState: it tells which connections have a request.
// A new one has none until the headers are there.
func (l *connections) observe(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*connection)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateActive:
		c.idle = time.Time{}
	case http.StateIdle:
		c.idle = time.Now()
		l.room.Broadcast()
	}
}

func (c *connection) Close() error {
	c.owner.mu.Lock()
	c.owner.forget(c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}
