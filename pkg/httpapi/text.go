package httpapi

import (
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/caller"
	"github.com/runledger/runledger/pkg/events"
)

// checkText refuses a request of whose text an event could keep only a part: what
// the log holds is read for good. The handlers refuse the bodies.
func checkText(next echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		r := ec.Request()
		if !utf8.ValidString(r.URL.Path) {
			return apierr.Errorf(apierr.InvalidParameterValue, "The path of the URL is not valid UTF-8: what it percent-encodes must be.")
		}
		for _, name := range []string{HeaderReason, HeaderIdempotencyKey, echo.HeaderXRequestID} {
			if err := events.CheckAttribute("its value", r.Header.Get(name)); err != nil {
				return apierr.Errorf(apierr.InvalidParameterValue, "Invalid header %s: %s.", name, err)
			}
		}
		if err := events.CheckAttribute("the user name", caller.Of(r.Context()).Name); err != nil {
			return apierr.Errorf(apierr.InvalidParameterValue, "Invalid header %s: %s.", echo.HeaderAuthorization, err)
		}
		return next(ec)
	}
}
