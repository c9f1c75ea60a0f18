package httpapi

import (
	"net/url"

	"github.com/labstack/echo/v4"
)

// PathParam returns the part of a request's path that a route names, as it was before
// the client escaped it. All handlers read their paths with it: Echo's own Param
// is still escaped if, and only if, the path has escapes that net/url would not
// have written, such as %2F for a slash within a name.
func PathParam(ec echo.Context, name string) string {
	value := ec.Param(name)
	if ec.Request().URL.RawPath == "" {
		return value
	}
	if plain, err := url.PathUnescape(value); err == nil {
		return plain
	}
	return value // net/http takes no path with such escapes
}
