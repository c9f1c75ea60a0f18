package httpapi

import (
	"errors"
	"strings"

	"github.com/labstack/echo/v4"
)

// CheckPrefix returns an error, in MLflow's words, for what is no prefix of paths.
func CheckPrefix(prefix string) error {
	switch {
	case prefix == "":
		return nil
	case !strings.HasPrefix(prefix, "/"):
		return errors.New("must begin with a '/'")
	case strings.HasSuffix(prefix, "/"):
		return errors.New("should not end with a '/'")
	case strings.ContainsAny(prefix, "{}"):
		return errors.New("must not contain '{' or '}'")
	}
	return nil
}

// underPrefix returns middleware before routing that serves every path also below a
// prefix, and with more slashes than one in front, which a base URL that ends
// with one makes, and a proxy that takes a prefix away.
func underPrefix(prefix string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(ec echo.Context) error {
			u := ec.Request().URL
			u.Path, u.RawPath = cutPrefix(u.Path, prefix), cutPrefix(u.RawPath, prefix)
			return next(ec)
		}
	}
}

func cutPrefix(path, prefix string) string {
	if path == "" {
		return ""
	}
	path = "/" + strings.TrimLeft(path, "/")
	if rest, ok := strings.CutPrefix(path, prefix); ok && prefix != "" && (rest == "" || rest[0] == '/') {
		return "/" + strings.TrimLeft(rest, "/")
	}
	return path
}
