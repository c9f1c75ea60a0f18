package httpapi

import (
	"context"
	"net"
	"net/http"
	"time"
)

// What the tests need to know of the limits.
const (
	AlwaysTaken = alwaysTaken
	MaxWait     = maxWait
)

// ServeSome is Serve with other bounds of connections.
func ServeSome(ctx context.Context, l net.Listener, h http.Handler, most, perAddress int) error {
	return serve(ctx, limitConnections(l, most, perAddress), h, time.Second)
}
