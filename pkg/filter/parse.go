package filter

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseRuns parses a filter over runs. It returns an *Error for a bad one, as
// do all functions below. An empty filter gives an empty Expr.
func ParseRuns(filter string) (Expr, error) { return parse(&runRules, filter) }

// ParseExperiments parses a filter over experiments.
func ParseExperiments(filter string) (Expr, error) { return parse(&experimentRules, filter) }

// ParseRegisteredModels parses a filter over registered models.
func ParseRegisteredModels(filter string) (Expr, error) {
	return parse(&registeredModelRules, filter)
}

// ParseModelVersions parses a filter over model versions.
func ParseModelVersions(filter string) (Expr, error) { return parse(&modelVersionRules, filter) }

// ParseLoggedModels parses a filter over logged models.
func ParseLoggedModels(filter string) (Expr, error) { return parse(&loggedModelRules, filter) }

// ParseDatasets parses a filter over evaluation datasets.
func ParseDatasets(filter string) (Expr, error) { return parse(&datasetRules, filter) }

// parser reads src from pos on. It has no separate lexer: what a character
// means depends on where in a comparison it stands.
type parser struct {
	rules *rules
	src   string
	pos   int
	// clause is where the comparison that is being read begins.
	clause int
}

func newParser(r *rules, what, src string) (*parser, error) {
	if len(src) > MaxFilterBytes {
		return nil, &Error{fmt.Sprintf("Invalid %s: %d bytes long, the limit is %d", what, len(src), MaxFilterBytes), MaxFilterBytes}
	}
	for i, r := range src {
		if _, size := utf8.DecodeRuneInString(src[i:]); r == utf8.RuneError && size == 1 {
			return nil, &Error{fmt.Sprintf("Invalid %s: not valid UTF-8", what), i}
		}
	}
	return &parser{rules: r, src: src}, nil
}

func parse(r *rules, src string) (Expr, error) {
	if src == "" {
		return nil, nil
	}
	p, err := newParser(r, "filter", src)
	if err != nil {
		return nil, err
	}
	if p.skipSpace(); p.done() {
		return nil, p.errorf(0, "%s", r.unparsed(src))
	}
	var expr Expr
	for !p.done() {
		if !p.keyword("AND") {
			if len(expr) == MaxComparisons {
				return nil, p.errorf(p.pos, "Invalid filter: more than %d comparisons", MaxComparisons)
			}
			c, err := p.comparison()
			if err != nil {
				return nil, err
			}
			expr = append(expr, c)
		}
		p.skipSpace()
	}
	return expr, nil
}

func (p *parser) comparison() (Comparison, error) {
	c := Comparison{Offset: p.pos}
	p.clause = p.pos
	if p.keyword("OR") {
		return c, p.invalid(c.Offset, "OR")
	}
	entity, key, err := p.identifier(p.rules.entities)
	if err != nil {
		return c, err
	}
	f, message := p.rules.field(entity, key)
	if message != "" {
		if err := p.incomplete(); err != nil {
			return c, err
		}
		return c, p.errorf(c.Offset, "%s", message)
	}
	c.Entity, c.Key = entity, f.name

	at := p.pos
	if c.Op, err = p.operator(entity, f); err != nil {
		return c, err
	}
	switch {
	case f.ops.has(c.Op):
	case nullOps.has(c.Op):
		return c, p.errorf(at, "IS NULL / IS NOT NULL is %s '%s' '%s'", p.rules.nullable(), entity, excerpt(key))
	case listOps.has(c.Op) && entity == Attribute && f.ops.has(OpLike):
		return c, p.errorf(at, "Only %s attributes support comparison with a list of quoted string values.", p.rules.listKeys())
	default:
		return c, p.errorf(at, "%s", p.rules.comparator(c.Op.String(), f, entity, key))
	}
	if nullOps.has(c.Op) {
		return c, nil
	}
	p.skipSpace()
	at = p.pos
	if c.Value, err = p.value(entity, f, c.Op); err != nil {
		return c, err
	}
	if (c.Op == OpLike || c.Op == OpILike) && len(c.Value.Str) > MaxPatternBytes {
		return c, p.errorf(at, "Invalid filter: a %s pattern is %d bytes long, the limit is %d", c.Op, len(c.Value.Str), MaxPatternBytes)
	}
	return c, nil
}

// identifier reads an optional entity and a key.
func (p *parser) identifier(entities map[string]Entity) (Entity, string, error) {
	start := p.pos
	first, quote, err := p.part()
	if err != nil {
		return 0, "", err
	}
	if quote == '\'' {
		p.pos = start
		return 0, "", p.errorf(start, "Invalid comparison clause. Expected 'Identifier' found '%s'", p.found())
	}
	if !p.accept('.') {
		return Attribute, first, nil
	}
	entity, ok := entities[first]
	if !ok || quote == '"' {
		return 0, "", p.errorf(start, "%s", p.rules.entityType(first))
	}
	keyStart := p.pos
	_, quote, err = p.part()
	for err == nil && quote == 0 && p.accept('.') {
		_, quote, err = p.part()
		if err == nil && quote != 0 {
			return 0, "", p.errorf(keyStart, "Invalid key '%s': quote all of the key or nothing", excerpt(p.src[keyStart:p.pos]))
		}
	}
	if err != nil {
		return 0, "", err
	}
	if quote != 0 {
		return entity, p.src[keyStart+1 : p.pos-1], nil
	}
	return entity, p.src[keyStart:p.pos], nil
}

// part reads one word or quoted string of an identifier, and says in which
// quotes it was, if any.
func (p *parser) part() (text string, quote byte, err error) {
	switch q := p.peek(); q {
	case '`', '"', '\'':
		text, err = p.quoted()
		return text, q, err
	}
	if text = p.word(); text == "" {
		if p.pos > 0 && p.src[p.pos-1] == '.' {
			return "", 0, p.errorf(p.pos, "Invalid clause(s) in filter string: expected a key after '.', found '%s'", p.found())
		}
		return "", 0, p.invalid(p.pos, p.found())
	}
	return text, 0, nil
}

func (p *parser) operator(entity Entity, f field) (Op, error) {
	p.skipSpace()
	start := p.pos
	for strings.IndexByte("<>=~!", p.peek()) >= 0 && !p.done() {
		p.pos++
	}
	switch symbol := p.src[start:p.pos]; symbol {
	case "":
	case "=":
		return OpEq, nil
	case "!=":
		return OpNe, nil
	case "<":
		return OpLt, nil
	case "<=":
		return OpLe, nil
	case ">":
		return OpGt, nil
	case ">=":
		return OpGe, nil
	default:
		return 0, p.errorf(start, "%s", p.rules.comparator(symbol, f, entity, ""))
	}
	switch {
	case p.keyword("LIKE"):
		return OpLike, nil
	case p.keyword("ILIKE"):
		return OpILike, nil
	case p.keyword("IN"):
		return OpIn, nil
	case p.keyword("NOT"):
		p.skipSpace()
		if p.keyword("IN") {
			return OpNotIn, nil
		}
	case p.keyword("IS"):
		p.skipSpace()
		op := OpIsNull
		if p.keyword("NOT") {
			p.skipSpace()
			op = OpIsNotNull
		}
		if p.keyword("NULL") {
			return op, nil
		}
	}
	p.pos = start
	switch r, _ := utf8.DecodeRuneInString(p.src[p.pos:]); {
	case p.done():
		return 0, p.invalid(start, p.words()...)
	case start > 0 && !isSpace(p.src[start-1]) && !isWord(r):
		return 0, p.errorf(start, "Invalid clause(s) in filter string: expected a comparator, found '%s'. Quote keys that have other characters than letters, digits, underscores and dots in backticks", p.found())
	default:
		return 0, p.errorf(start, "Invalid clause(s) in filter string: expected a comparator not '%s', one of %s", p.found(), f.ops)
	}
}

func (p *parser) value(entity Entity, f field, op Op) (Value, error) {
	start := p.pos
	if p.done() {
		return Value{}, p.invalid(start, p.words()...)
	}
	if listOps.has(op) {
		return p.list(f)
	}
	switch f.typ {
	case numberType, doubleType, intType:
		v, ok := p.number()
		if !ok {
			if entity == Metric {
				return v, p.errorf(start, "Expected numeric value type for metric. Found %s", p.found())
			}
			return v, p.errorf(start, "Expected numeric value type for numeric attribute: %s. Found %s", f.name, p.found())
		}
		return p.numeric(v, f, start)
	case quotedInt:
		if v, ok := p.number(); ok {
			return p.numeric(v, f, start)
		}
	}
	if c := p.peek(); c != '\'' && c != '"' {
		if p.rules.bareStrings && f.typ == textType {
			if _, ok := p.number(); ok {
				return StringValue(p.src[start:p.pos]), nil
			}
			if word := p.word(); word != "" {
				return StringValue(word), nil
			}
		}
		return Value{}, p.wantQuoted(entity)
	}
	text, err := p.quoted()
	if err != nil {
		return Value{}, err
	}
	if f.typ == quotedInt {
		i, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return Value{}, p.errorf(start, "Invalid value for numeric attribute '%s': '%s'", f.name, excerpt(text))
		}
		return IntValue(i), nil
	}
	return StringValue(text), p.checkText(f, text, start)
}

// numeric makes v the number that f wants.
func (p *parser) numeric(v Value, f field, at int) (Value, error) {
	switch {
	case f.typ == doubleType && v.Kind == KindInt:
		return FloatValue(float64(v.Int)), nil
	case f.typ == doubleType || v.Kind == KindInt:
		return v, nil
	// Not an integer too large to be one.
	case f.typ == numberType && strings.ContainsAny(p.src[at:p.pos], ".eE"):
		return v, nil
	default:
		return v, p.errorf(at, "Invalid value for numeric attribute '%s': '%s'", f.name, excerpt(p.src[at:p.pos]))
	}
}

// checkText checks a string that can only have certain values.
func (p *parser) checkText(f field, text string, at int) error {
	switch f.typ {
	case idType:
		if _, err := strconv.ParseInt(text, 10, 64); err != nil {
			return p.errorf(at, "Invalid experiment ID '%s'. Experiment ID must be a valid integer.", excerpt(text))
		}
	case statusType:
		switch text {
		case "UNSPECIFIED", "PENDING", "READY", "FAILED":
		default:
			return p.errorf(at, "Unknown model status in filter: '%s'", excerpt(text))
		}
	}
	return nil
}

func (p *parser) wantQuoted(entity Entity) error {
	found := p.found()
	r, _ := utf8.DecodeRuneInString(p.src[p.pos:])
	switch {
	case r == '`' || isWord(r) && !unicode.IsDigit(r):
		return p.errorf(p.pos, "Parameter value is either not quoted or unidentified quote types used for string value %s. Use either single or double quotes.", found)
	case entity == Attribute || entity == Dataset:
		return p.errorf(p.pos, "Expected a quoted string value for %s attributes. Got value %s", entity, found)
	default:
		return p.errorf(p.pos, "Expected a quoted string value for %s (e.g. 'my-value'). Got value %s", entity, found)
	}
}

func (p *parser) list(f field) (Value, error) {
	const prefix = "While parsing a list in the query, expected a non-empty list of string values, but got "
	start := p.pos
	if !p.accept('(') {
		return Value{}, p.invalid(start, append(p.words(), p.found())...)
	}
	v := Value{Kind: KindList}
	for {
		p.skipSpace()
		if p.accept(')') {
			break
		}
		if len(v.List) == MaxListValues {
			return v, p.errorf(p.pos, "Invalid filter: more than %d values in a list", MaxListValues)
		}
		at := p.pos
		if c := p.peek(); c != '\'' && c != '"' {
			if literals, ok := p.literals(start); ok {
				return v, p.errorf(at, "While parsing a list in the query, expected string value, punctuation, or whitespace, but got different type in list: %s", literals)
			}
			return v, p.errorf(at, prefix+"'%s'", p.found())
		}
		text, err := p.literal()
		if err != nil {
			return v, err
		}
		if err := p.checkText(f, text, at); err != nil {
			return v, err
		}
		v.List = append(v.List, text)
		p.skipSpace()
		if !p.accept(',') && p.peek() != ')' {
			return v, p.errorf(p.pos, prefix+"ill-formed list: expected ',' or ')'")
		}
	}
	if len(v.List) == 0 {
		return v, p.errorf(start, prefix+"empty list")
	}
	return v, nil
}

// literals returns the list that opens at start as Python writes it, if all of
// it is strings without escapes and integers, which are at least two.
func (p *parser) literals(start int) (string, bool) {
	inner, _, closed := strings.Cut(p.src[start+1:], ")")
	items := strings.Split(inner, ",")
	for i, item := range items {
		item = strings.TrimSpace(item)
		plain := len(item) > 1 && (item[0] == '\'' || item[0] == '"') && item[len(item)-1] == item[0] && !strings.ContainsAny(item[1:len(item)-1], `'"\`)
		if _, err := strconv.ParseInt(item, 10, 64); !plain && err != nil {
			return "", false
		}
		if plain {
			item = "'" + item[1:len(item)-1] + "'"
		}
		items[i] = item
	}
	return "(" + excerpt(strings.Join(items, ", ")) + ")", closed && len(items) > 1
}

// literal reads a string of a list. These have escapes, as in Python.
func (p *parser) literal() (string, error) {
	start, quote := p.pos, p.src[p.pos]
	var b strings.Builder
	for i := start + 1; i < len(p.src); i++ {
		c := p.src[i]
		switch {
		case c == quote:
			p.pos = i + 1
			return b.String(), nil
		case c == '\n' || c == '\r':
			return "", p.errorf(i, "While parsing a list in the query, expected string values on one line, but got a line break in one")
		case c != '\\':
			b.WriteByte(c)
		case i+1 == len(p.src):
		default:
			i++
			decoded := strings.IndexByte(`\'"nrt`, p.src[i])
			if decoded < 0 {
				return "", p.errorf(i-1, `While parsing a list in the query, found an unknown escape. Known are \\ \' \" \n \r \t`)
			}
			b.WriteByte("\\'\"\n\r\t"[decoded])
		}
	}
	return "", p.errorf(start, "Invalid clause(s) in filter string: no closing quote for %c", quote)
}

// quoted reads a quoted string and returns what stands between the quotes.
func (p *parser) quoted() (string, error) {
	end := closingQuote(p.src, p.pos)
	if end < 0 {
		return "", p.errorf(p.pos, "Invalid clause(s) in filter string: no closing quote for %c", p.src[p.pos])
	}
	text := p.src[p.pos+1 : end]
	p.pos = end + 1
	return text, nil
}

// closingQuote returns where the quoted string that opens at start closes, or
// -1. A doubled quote does not close it, nor does one after a backslash (but
// in backticks), unless no later quote does.
func closingQuote(s string, start int) int {
	quote, last := s[start], -1
	for i := start + 1; i < len(s); i++ {
		switch {
		case s[i] == quote && i+1 < len(s) && s[i+1] == quote:
			last = i
			i++
		case s[i] == quote:
			return i
		case s[i] == '\\' && quote != '`' && i+1 < len(s) && s[i+1] == quote:
			last = i + 1
			i++
		}
	}
	return last
}

// number reads a number: an Int if it is written as one that fits, else a
// Float. It reads nothing if there is none.
func (p *parser) number() (Value, bool) {
	i := p.pos
	digits := func() int {
		from := i
		for i < len(p.src) && p.src[i] >= '0' && p.src[i] <= '9' {
			i++
		}
		return i - from
	}
	if i < len(p.src) && p.src[i] == '-' {
		i++
	}
	integer := true
	n := digits()
	if i < len(p.src) && p.src[i] == '.' {
		i++
		integer = false
		n += digits()
	}
	if n == 0 {
		return Value{}, false
	}
	if i < len(p.src) && (p.src[i] == 'e' || p.src[i] == 'E') {
		i++
		integer = false
		if i < len(p.src) && (p.src[i] == '-' || p.src[i] == '+') {
			i++
		}
		if digits() == 0 {
			return Value{}, false
		}
	}
	if r, _ := utf8.DecodeRuneInString(p.src[i:]); isWord(r) {
		return Value{}, false
	}
	text := p.src[p.pos:i]
	p.pos = i
	if integer {
		if v, err := strconv.ParseInt(text, 10, 64); err == nil {
			return IntValue(v), true
		}
	}
	// The only error is a range error, which comes with an infinity.
	f, _ := strconv.ParseFloat(text, 64)
	return FloatValue(f), true
}

// keyword reads the word, in any case. It reads nothing if another word, or a
// longer identifier, is there.
func (p *parser) keyword(word string) bool {
	end := p.pos + len(word)
	if end > len(p.src) || !strings.EqualFold(p.src[p.pos:end], word) {
		return false
	}
	if r, _ := utf8.DecodeRuneInString(p.src[end:]); r == '.' || end < len(p.src) && isWord(r) {
		return false
	}
	p.pos = end
	return true
}

func (p *parser) word() string {
	rest := p.src[p.pos:]
	end := strings.IndexFunc(rest, func(r rune) bool { return !isWord(r) })
	if end < 0 {
		end = len(rest)
	}
	p.pos += end
	return rest[:end]
}

func (p *parser) skipSpace() {
	p.pos = len(p.src) - len(strings.TrimLeftFunc(p.src[p.pos:], unicode.IsSpace))
}

func (p *parser) done() bool { return p.pos == len(p.src) }

// peek returns the next byte, or 0 at the end.
func (p *parser) peek() byte {
	if p.done() {
		return 0
	}
	return p.src[p.pos]
}

func (p *parser) accept(c byte) bool {
	if p.peek() != c || p.done() {
		return false
	}
	p.pos++
	return true
}

// found returns the text at the current position, up to white space.
func (p *parser) found() string {
	rest := p.src[p.pos:]
	if end := strings.IndexFunc(rest, unicode.IsSpace); end > 0 {
		rest = rest[:end]
	}
	return excerpt(rest)
}

// words returns the words of the comparison that have been read, as MLflow
// lists those of one that is not complete.
func (p *parser) words() []string { return strings.Fields(excerpt(p.src[p.clause:p.pos])) }

// invalid returns the error of text that is no comparison, of which MLflow lists
// the tokens.
func (p *parser) invalid(offset int, tokens ...string) error {
	return p.errorf(offset, "%s", p.rules.clauses(p.src, tokens))
}

// incomplete returns the error of a comparison that ends behind its key, or that
// has a keyword for a value, and nil for any other. MLflow finds these before it
// looks at the key.
func (p *parser) incomplete() error {
	rest := strings.Fields(p.src[p.pos:])
	switch {
	case len(rest) == 0:
	case len(rest) == 2 && rest[0] == "=" && (strings.EqualFold(rest[1], "true") || strings.EqualFold(rest[1], "false")):
	default:
		return nil
	}
	return p.invalid(p.clause, append(p.words(), rest...)...)
}

func (p *parser) errorf(offset int, format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...), offset}
}

// excerpt cuts s to a length fit for a message.
func excerpt(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	end := limit
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}

func isWord(r rune) bool {
	return r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r)
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
