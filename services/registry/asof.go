package registry

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/ledger"
)

const (
	// fieldAsOf is the query parameter of every read of the registry that asks
	// for an earlier moment.
	fieldAsOf = "as_of"
	// pastLimit bounds how long a request waits for a state of the past.
	pastLimit = 30 * time.Second
)

// readAsOf returns the state that an answer is made from: as of the moment that
// the request asks for, or else that of read.
func (s *Service) readAsOf(c echo.Context) (*catalog.State, error) {
	text := c.QueryParam(fieldAsOf)
	now, err := s.read(c)
	if err != nil || !c.QueryParams().Has(fieldAsOf) {
		return now, err
	}
	return s.stateAt(c, fieldAsOf, text, now)
}

// versionPath returns the model and the version that a request's path names.
func versionPath(c echo.Context) (name, version string) {
	return httpapi.PathParam(c, "name"), httpapi.PathParam(c, "version")
}

// modelAsOf returns the model that a request's path names, and the state that it is
// of, as of the moment that the request asks for.
func (s *Service) modelAsOf(c echo.Context) (*catalog.State, *catalog.Model, error) {
	name := httpapi.PathParam(c, "name")
	st, err := s.readAsOf(c)
	if err != nil {
		return nil, nil, err
	}
	m, err := findModel(st, name)
	if err != nil {
		return nil, nil, err
	}
	tellSeq(c, m.Last)
	return st, m, nil
}

// versionAsOf returns the version that a request's path names, as of the moment
// that it asks for.
func (s *Service) versionAsOf(c echo.Context) (*catalog.Version, error) {
	name, version := versionPath(c)
	st, err := s.readAsOf(c)
	if err != nil {
		return nil, err
	}
	m, v, err := findVersion(st, name, version)
	if err != nil {
		return nil, err
	}
	tellSeq(c, m.Last)
	return v, nil
}

// sizeAsOf returns how many entries there were at the moment that a request asks
// for, ledger.All when it asks for none.
func (s *Service) sizeAsOf(c echo.Context) (uint64, error) {
	now, err := s.read(c)
	if err != nil {
		return 0, err
	}
	if !c.QueryParams().Has(fieldAsOf) {
		return ledger.All, nil
	}
	return s.moment(c, fieldAsOf, c.QueryParam(fieldAsOf), now)
}

// stateAt returns the state at a moment, see moment.
func (s *Service) stateAt(c echo.Context, field, text string, now *catalog.State) (*catalog.State, error) {
	n, err := s.moment(c, field, text, now)
	if err != nil {
		return nil, err
	}
	return s.at(c.Request().Context(), n)
}

// at returns the state after the first n entries.
func (s *Service) at(ctx context.Context, n uint64) (*catalog.State, error) {
	ctx, cancel := context.WithTimeout(ctx, pastLimit)
	defer cancel()
	state, err := s.past.At(ctx, n)
	return state, pastError(err)
}

// moment returns after how many entries a moment is, and says so in the answer:
// an entry's number, or how many there were at a time. now is the present state.
// Anything else is an INVALID_PARAMETER_VALUE that names the field.
func (s *Service) moment(c echo.Context, field, text string, now *catalog.State) (uint64, error) {
	n, err := s.parseMoment(c.Request().Context(), field, text, now)
	if err == nil {
		c.Response().Header().Set(httpapi.HeaderAsOf, strconv.FormatUint(n, 10))
	}
	return n, err
}

func (s *Service) parseMoment(ctx context.Context, field, text string, now *catalog.State) (uint64, error) {
	invalid := func(format string, args ...any) error {
		return apierr.Errorf(apierr.InvalidParameterValue, "Invalid value %q for parameter '%s' supplied: %s", text, field, fmt.Sprintf(format, args...))
	}
	if isNumber(text) {
		n, err := strconv.ParseUint(text, 10, 64)
		switch {
		case now.Seq() == 0:
			return 0, invalid("the registry has no entries yet")
		case err == nil && n == 0:
			return 0, invalid("the first entry has the number 1")
		case err != nil || n > now.Seq():
			return 0, invalid("the last entry has the number %d", now.Seq())
		}
		return n, nil
	}
	at, err := parseTime(text)
	if err != nil {
		return 0, invalid("%s", err)
	}
	if at.After(time.Now()) {
		return 0, invalid("it is in the future")
	}
	ctx, cancel := context.WithTimeout(ctx, pastLimit)
	defer cancel()
	n, err := s.past.Before(ctx, at)
	if err != nil {
		return 0, pastError(err)
	}
	if n == 0 {
		return 0, invalid("it is before the first entry")
	}
	// What came since now was read is not what the request is about.
	return min(n, now.Seq()), nil
}

func isNumber(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}

var (
	errNoZone   = errors.New("the time has no zone. Add Z, or an offset like +01:00")
	errNoMoment = errors.New("it must be the number of an entry, or a time like 2026-03-03T14:00:00Z")
)

// parseTime reads a time as RFC 3339 has it. A + in a query that is not escaped
// arrives as a space, which it then stands for.
func parseTime(text string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, strings.Replace(text, " ", "+", 1))
	if err == nil {
		return at, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if _, err := time.Parse(layout, text); err == nil {
			return time.Time{}, errNoZone
		}
	}
	return time.Time{}, errNoMoment
}

// pastError tells a client whose state could not be made in time to ask again:
// what was done until then is kept.
func pastError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return apierr.Wrap(err, apierr.TemporarilyUnavailable, "The state of then is still being built from the log").WithRetryAfter(time.Second)
	}
	return err
}
