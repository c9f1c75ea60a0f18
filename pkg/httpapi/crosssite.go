package httpapi

import (
	"cmp"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
)

// refuseCrossOrigin returns middleware that refuses requests that a page of
// another origin makes a browser send, but for GET, HEAD and OPTIONS, which
// change nothing. A client that is not a browser names no origin, and is answered.
func refuseCrossOrigin() echo.MiddlewareFunc {
	protection := http.NewCrossOriginProtection()
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(ec echo.Context) error {
			r := ec.Request()
			if err := protection.Check(r); err != nil {
				origin := cmp.Or(r.Header.Get(echo.HeaderOrigin), "another site")
				return apierr.Errorf(apierr.PermissionDenied, "Cross-origin request blocked: it comes from a page of '%.200s', and this server is '%.200s'. "+
					"If both are the same server, have the proxy in between pass the Host header on unchanged.", origin, r.Host)
			}
			return next(ec)
		}
	}
}
