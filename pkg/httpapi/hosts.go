package httpapi

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
)

// Hosts are the names under which a server may be asked. A page whose author makes
// its name resolve to the server's address, which is called DNS rebinding, is
// of the server's own origin to a browser: only the name gives it away.
type Hosts struct {
	patterns []string
	undotted bool // names without a dot too
}

// NewHosts returns the names of a server that listens on an address, a host and a
// port. Addresses and the names of the loopback interface are always allowed:
// no page can be given one by its author. A server that listens on other
// interfaces is also asked by the name of its machine, hostname, and by names
// without a dot, which nobody can register. allowed are more names, in which *
// stands for any characters: "*" allows all.
func NewHosts(listen, hostname string, allowed []string) (*Hosts, error) {
	h := &Hosts{patterns: []string{"localhost", "*.localhost"}}
	host := hostOf(listen)
	if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !addr.IsLoopback()) {
		h.undotted = true
		h.patterns = append(h.patterns, strings.ToLower(hostname))
	}
	for _, pattern := range append([]string{host}, allowed...) {
		pattern = strings.ToLower(strings.TrimSpace(pattern))
		if _, err := path.Match(pattern, ""); err != nil || strings.Contains(pattern, "/") {
			return nil, fmt.Errorf("%q is no name of a host: want one as ml.example.com, *.example.com, or * for all", pattern)
		}
		h.patterns = append(h.patterns, pattern)
	}
	return h, nil
}

// hostOf returns the host of a host with or without a port, in lower case.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// allow reports whether a request's header Host is of the server. Browsers
// always send one.
func (h *Hosts) allow(header string) bool {
	host := hostOf(header)
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return true
	}
	if h.undotted && !strings.Contains(host, ".") {
		return true
	}
	return slices.ContainsFunc(h.patterns, func(pattern string) bool {
		byName, _ := path.Match(pattern, host)
		whole, _ := path.Match(pattern, strings.ToLower(header))
		return byName || whole
	})
}

// check is middleware that refuses requests under other names, but for what asks
// whether the server lives, as MLflow does.
func (h *Hosts) check(next echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		switch ec.Path() {
		case healthPath, PathVersion, readyPath:
			return next(ec)
		}
		if host := ec.Request().Host; !h.allow(host) {
			return apierr.Errorf(apierr.PermissionDenied, "Invalid Host header - possible DNS rebinding attack detected. "+
				"If '%.200s' is a name of this server, start it with --allowed-hosts %.200s.", host, hostOf(host))
		}
		return next(ec)
	}
}
