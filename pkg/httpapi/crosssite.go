package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
)

// refuseCrossOrigin returns middleware that refuses requests that a page of
// another origin makes a browser send, but for GET, HEAD and OPTIONS, which
// change nothing. What is no browser says nothing of an origin, and is answered.
func refuseCrossOrigin() echo.MiddlewareFunc {
	protection := http.NewCrossOriginProtection()
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(ec echo.Context) error {
			r := ec.Request()
			if err := protection.Check(r); err != nil {
				return apierr.Errorf(apierr.PermissionDenied, "Cross-origin request blocked: it comes from a page of '%.200s', and this is '%.200s'. "+
					"If both are this server, have the proxy in between pass the header Host on as it is.", r.Header.Get(echo.HeaderOrigin), r.Host)
			}
			return next(ec)
		}
	}
}
