package ingest

import (
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/mlflow"
)

// bodyLimit bounds the memory that requests take: the bytes of the bodies that
// are being worked on.
type bodyLimit struct {
	max      int64
	inFlight atomic.Int64
}

// limited answers REQUEST_LIMIT_EXCEEDED where h's request would exceed the
// limit. It does not wait: the client has the body, and repeats the request.
func (l *bodyLimit) limited(h echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		size := c.Request().ContentLength
		if size < 0 || size > mlflow.MaxBodyBytes { // unknown, or refused after that many
			size = mlflow.MaxBodyBytes
		}
		defer l.inFlight.Add(-size)
		if l.inFlight.Add(size) > l.max {
			return apierr.Errorf(apierr.RequestLimitExceeded, "The server is busy with other requests, try again").
				WithRetryAfter(time.Second)
		}
		return h(c)
	}
}
