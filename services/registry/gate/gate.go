// Package gate reads the conditions of a promotion, and tells whether figures
// meet them.
//
// A condition compares one figure of a version:
//
//	condition = figure operator bound
//	figure    = "metrics." key                      the last value that the version's run logged
//	          | "evaluations." key                  of the last evaluation that has the metric
//	          | "evaluations." name "." key         of the last evaluation of that name
//	operator  = ">=" | ">" | "<=" | "<" | "=" | "!="
//	bound     = number
//	          | "current" [("+" | "-") number ["%"]]
//	key, name = letters, digits, "_", "-" and "/", or any text in "…" or `…`
//
// A key behind "metrics." may have points without quotes, as in MLflow's search
// filters; in an evaluation a point ends the name.
//
// "current" is the same figure of the version that is there now, and a per cent
// is of its size: "metrics.recall >= current - 1%" is no more than 1 % below it.
// Where nothing is there now, a condition on current is met.
package gate

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// MaxCondition bounds a condition, in bytes.
const MaxCondition = 500

// Condition is a condition that was read by Parse.
type Condition struct {
	text      string
	want      string // from the operator on
	Figure    Figure
	operator  string
	number    float64 // the bound, or what is added to current
	current   bool
	ofCurrent bool // number is a per cent of current
}

// Figure names a number of a version.
type Figure struct {
	Evaluated  bool   // it is of an evaluation, else of the run
	Evaluation string // its name, "" for the last that has the metric
	Key        string // of the metric
}

// String returns the condition as it was written.
func (c Condition) String() string { return c.text }

// OnCurrent reports whether the condition is on the version that is there now.
func (c Condition) OnCurrent() bool { return c.current }

func (f Figure) String() string {
	if !f.Evaluated {
		return "metrics." + quote(f.Key)
	}
	if f.Evaluation == "" {
		return "evaluations." + quote(f.Key)
	}
	return "evaluations." + quote(f.Evaluation) + "." + quote(f.Key)
}

func quote(s string) string {
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	if strings.Contains(s, `"`) {
		return "`" + s + "`"
	}
	return `"` + s + `"`
}

// Lookup returns a figure of a version, and false when it has none.
type Lookup func(Figure) (float64, bool)

// Check returns why the candidate does not meet the condition, "" when it does.
// current looks figures of the version that is there now up, nil when none is.
func (c Condition) Check(candidate, current Lookup) string {
	if c.current && current == nil {
		return ""
	}
	value, ok := candidate(c.Figure)
	if !ok {
		return fmt.Sprintf("the version has no %s, want %s", c.Figure, c.want)
	}
	bound, said := c.number, ""
	if c.current {
		now, ok := current(c.Figure)
		if !ok {
			return fmt.Sprintf("the version that is there now has no %s, want %s", c.Figure, c.want)
		}
		switch {
		case c.number == 0:
			bound = now
		case c.ofCurrent:
			bound = decimal(now + math.Abs(now)*c.number/100)
		default:
			bound = decimal(now + c.number)
		}
		said = fmt.Sprintf(" (%s, current is %s)", c.want, number(now))
	}
	if c.holds(value, bound) {
		return ""
	}
	return fmt.Sprintf("%s is %s, want %s %s%s", c.Figure, number(value), c.operator, number(bound), said)
}

// decimal returns the nearest number of 15 digits, which is what the sum of two
// decimals is meant to be: 0.35 less 1% is 0.3465, and not a little more than
// that, as the sum of their nearest binary numbers is.
func decimal(f float64) float64 {
	d, _ := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 15, 64), 64) // an error comes with an infinity, as it should
	return d
}

// holds compares; NaN meets nothing.
func (c Condition) holds(value, bound float64) bool {
	if math.IsNaN(value) || math.IsNaN(bound) {
		return false
	}
	switch c.operator {
	case ">=":
		return value >= bound
	case ">":
		return value > bound
	case "<=":
		return value <= bound
	case "<":
		return value < bound
	case "=":
		return value == bound
	default:
		return value != bound
	}
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// Error says what is wrong with a condition, and where: after how many bytes.
type Error struct {
	Offset  int
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%s at byte %d", e.Message, e.Offset) }

// plain is what a key is of without quotes.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/"

// Parse reads a condition. It returns an *Error.
func Parse(text string) (Condition, error) {
	if len(text) > MaxCondition {
		return Condition{}, &Error{MaxCondition, fmt.Sprintf("a condition of more than %d bytes", MaxCondition)}
	}
	p := &parser{text: text}
	c := Condition{text: strings.TrimSpace(text)}
	p.figure(&c.Figure)
	c.want = strings.TrimSpace(p.rest())
	p.operator(&c.operator)
	p.bound(&c)
	if p.space(); p.err == nil && p.at < len(text) {
		p.fail("want nothing more")
	}
	if p.err != nil {
		return Condition{}, p.err
	}
	return c, nil
}

type parser struct {
	text string
	at   int
	err  error
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = &Error{p.at, fmt.Sprintf(format, args...)}
	}
}

func (p *parser) rest() string { return p.text[p.at:] }

func (p *parser) space() { p.at += len(p.rest()) - len(strings.TrimLeft(p.rest(), " \t")) }

// take goes behind the first of the words that is next.
func (p *parser) take(words ...string) string {
	for _, w := range words {
		if strings.HasPrefix(p.rest(), w) {
			p.at += len(w)
			return w
		}
	}
	return ""
}

func (p *parser) figure(f *Figure) {
	p.space()
	switch p.take("metrics.", "evaluations.") {
	case "":
		p.fail("want metrics.<key> or evaluations.<key>")
	case "evaluations.":
		f.Evaluated = true
	}
	if !f.Evaluated {
		f.Key = p.key(plain + ".")
		return
	}
	if f.Key = p.key(plain); p.take(".") != "" {
		f.Evaluation, f.Key = f.Key, p.key(plain)
	}
}

// key reads a key in quotes, or one of the letters.
func (p *parser) key(letters string) string {
	if q := p.take(`"`, "`"); q != "" {
		key, _, closed := strings.Cut(p.rest(), q)
		if !closed || key == "" {
			p.fail("want a key and %s behind it", q)
			return ""
		}
		p.at += len(key) + 1
		return key
	}
	rest := p.rest()
	n := len(rest) - len(strings.TrimLeft(rest, letters))
	if n == 0 {
		p.fail("want a key")
	}
	p.at += n
	return rest[:n]
}

func (p *parser) operator(to *string) {
	p.space()
	if *to = p.take(">=", "<=", "!=", ">", "<", "="); *to == "" {
		p.fail("want one of >=, >, <=, <, =, !=")
	}
}

func (p *parser) bound(c *Condition) {
	p.space()
	if p.take("current") == "" {
		c.number = p.number(true)
		return
	}
	c.current = true
	p.space()
	sign := p.take("+", "-")
	if sign == "" {
		return
	}
	p.space()
	if c.number = p.number(false); sign == "-" {
		c.number = -c.number
	}
	p.space()
	c.ofCurrent = p.take("%") != ""
}

func (p *parser) number(signed bool) float64 {
	rest := p.rest()
	n := len(rest) - len(strings.TrimLeft(rest, "0123456789.eE+-"))
	if !signed {
		if i := strings.IndexAny(rest, "+-"); i == 0 {
			n = 0
		}
	}
	f, err := strconv.ParseFloat(rest[:n], 64)
	if err != nil || math.IsInf(f, 0) {
		p.fail("want a number")
		return 0
	}
	p.at += n
	return f
}
