package httpapi

import (
	"bytes"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
)

// Takes says what a request to a route of Runledger's own API may have. What a request
// has and the route does not take is refused by its name before the handler sees
// it: a misspelt age guard must not purge without one.
type Takes struct {
	Query []string // names of query parameters, each at most once in a request
	Lists []string // and of those that may be there several times
	Body  bool     // a JSON object
	Any   bool     // whatever it has is ignored: for what others have built
}

// check checks a request; reads says that it changes nothing, so that its body need
// not say that it is JSON.
func (t Takes) check(ec echo.Context, reads bool) error {
	if t.Any {
		return nil
	}
	query := ec.QueryParams()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if slices.Contains(t.Lists, name) {
			continue
		}
		if !slices.Contains(t.Query, name) {
			return t.unknown(name)
		}
		if values := query[name]; len(values) > 1 {
			return apierr.Errorf(apierr.InvalidParameterValue, "Invalid value '%.200s' for parameter '%s': it may be there once.", values[1], name)
		}
	}
	if ec.Request().Body == http.NoBody || ec.Request().ContentLength == 0 {
		return nil
	}
	if !t.Body {
		return refuseBody(ec)
	}
	if reads {
		return nil
	}
	kind := ec.Request().Header.Get(echo.HeaderContentType)
	if media, _, err := mime.ParseMediaType(kind); err != nil || media != echo.MIMEApplicationJSON {
		return apierr.Errorf(apierr.InvalidParameterValue, "Invalid value '%.200s' for header 'Content-Type': want application/json.", kind)
	}
	return nil
}

func (t Takes) unknown(name string) error {
	names := slices.Sorted(slices.Values(slices.Concat(t.Query, t.Lists)))
	if len(names) == 0 {
		return apierr.Errorf(apierr.InvalidParameterValue, "Unknown parameter '%.200s'. There are none.", name)
	}
	return apierr.Errorf(apierr.InvalidParameterValue, "Unknown parameter '%.200s'. There are: %s.", name, strings.Join(names, ", "))
}

// refuseBody refuses a body with anything in it.
func refuseBody(ec echo.Context) error {
	body, err := readBody(ec)
	if err != nil || len(bytes.TrimSpace(body)) == 0 {
		return err
	}
	return decode(body, &struct{}{})
}
