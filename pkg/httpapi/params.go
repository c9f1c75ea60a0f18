package httpapi

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
)

// Params reads the query parameters of a request to Runledger's own API, where
// MLflow's rules do not hold. Err returns what was wrong first.
type Params struct {
	values url.Values
	err    error
}

// QueryParams returns the query parameters of a request.
func QueryParams(ec echo.Context) *Params {
	return &Params{values: ec.QueryParams()}
}

// Err returns an *apierr.Error of code InvalidParameterValue that names the
// first parameter that was wrong. Unknown ones do not come this far, see API.
func (p *Params) Err() error { return p.err }

func (p *Params) refuse(name, value, want string) {
	if p.err == nil {
		p.err = apierr.Errorf(apierr.InvalidParameterValue, "Invalid value '%.200s' for parameter '%s': %s.", value, name, want)
	}
}

// Has reports whether a parameter is there, maybe empty.
func (p *Params) Has(name string) bool { return p.values.Has(name) }

// Text returns the value of a parameter, "" without one.
func (p *Params) Text(name string) string { return p.values.Get(name) }

// Texts returns the values of a parameter that may be there up to limit times.
func (p *Params) Texts(name string, limit int) []string {
	values := p.values[name]
	if len(values) > limit {
		p.refuse(name, values[limit], "it may be there at most "+strconv.Itoa(limit)+" times")
	}
	return values
}

// Int returns the value of a parameter from least to most, or missing without
// one.
func (p *Params) Int(name string, missing, least, most int) int {
	text := p.Text(name)
	if text == "" {
		return missing
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		p.refuse(name, text, "want an integer from "+strconv.Itoa(least)+" to "+strconv.Itoa(most))
	}
	return n
}

// Time returns the time that a parameter says in the form of RFC 3339, which has
// a zone; the zero time without one.
func (p *Params) Time(name string) time.Time {
	text := p.Text(name)
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		p.refuse(name, text, "want a time with its zone, as 2026-03-03T14:00:00Z or 2026-03-03T15:00:00+01:00 (in a URL, + is %2B)")
	}
	return t
}

// Choice returns the value of a parameter, which must be one of the options; the
// first without one.
func (p *Params) Choice(name string, options ...string) string {
	text := p.Text(name)
	if text == "" {
		return options[0]
	}
	if !slices.Contains(options, text) {
		p.refuse(name, text, "want one of "+strings.Join(options, ", "))
	}
	return text
}
