package mlflow

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MLflow's messages show values as Python writes them.

// maxShown bounds, in bytes, the value that a message repeats.
const maxShown = 1000

// pyJSON writes a valid JSON value as Python's json.dumps does with sorted keys
// and no spaces: the text ASCII only, the numbers Python's.
func pyJSON(raw jsontext.Value) string {
	v := raw.Clone()
	switch v.Kind() {
	case jsontext.KindNumber:
		return pyNumber(string(v))
	case jsontext.KindBeginArray, jsontext.KindBeginObject:
		// The value is valid: on any other error it stays as it was sent.
		_ = v.Canonicalize(
			jsontext.AllowDuplicateNames(true),
			jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false),
		)
		return clip(escapeASCII(string(v)))
	case jsontext.KindString:
		return clip(jsonQuote(unquote(v)))
	}
	return string(v)
}

// jsonQuote writes a string as Python's json.dumps does.
func jsonQuote(s string) string {
	return escapeASCII(string(appendQuoted(nil, s)))
}

func escapeASCII(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < 0x7f:
			b.WriteByte(byte(r))
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			writeU(&b, hi)
			writeU(&b, lo)
		default:
			writeU(&b, r)
		}
	}
	return b.String()
}

func writeU(b *strings.Builder, r rune) {
	const digits = "0123456789abcdef"
	b.WriteString(`\u`)
	for shift := 12; shift >= 0; shift -= 4 {
		b.WriteByte(digits[r>>shift&0xf])
	}
}

func clip(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "..."
}

func pyNumber(s string) string {
	if strings.ContainsAny(s, ".eE") {
		// The text is a valid number; one that is out of range reads as infinite.
		f, _ := strconv.ParseFloat(s, 64)
		if math.IsInf(f, 0) {
			return float(f).String()
		}
		return pyFloat(f)
	}
	return clip(s)
}

// pyFloat writes a float as Python's repr does.
func pyFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exp, _ := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if exp < -4 || exp >= 16 {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// pyTypeName is the name of the Python type of a JSON value.
func pyTypeName(raw jsontext.Value) string {
	switch raw.Kind() {
	case jsontext.KindNull:
		return "NoneType"
	case jsontext.KindTrue, jsontext.KindFalse:
		return "bool"
	case jsontext.KindString:
		return "str"
	case jsontext.KindBeginArray:
		return "list"
	case jsontext.KindBeginObject:
		return "dict"
	}
	if strings.ContainsAny(string(raw), ".eE") {
		return "float"
	}
	return "int"
}

// pyRepr writes a string as Python's repr does.
func pyRepr(s string) string {
	quote := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xff:
			writePadded(&b, `\x`, r, 2)
		case r <= 0xffff:
			writePadded(&b, `\u`, r, 4)
		default:
			writePadded(&b, `\U`, r, 8)
		}
	}
	b.WriteRune(quote)
	return b.String()
}

func writePadded(b *strings.Builder, prefix string, r rune, width int) {
	hex := strconv.FormatInt(int64(r), 16)
	b.WriteString(prefix)
	b.WriteString(strings.Repeat("0", width-len(hex)))
	b.WriteString(hex)
}

// pyBytes writes bytes as Python's repr does.
func pyBytes(data []byte) string {
	var b strings.Builder
	b.WriteString("b'")
	for _, c := range data {
		switch {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c >= 0x7f:
			writePadded(&b, `\x`, rune(c), 2)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// pyList writes strings as Python's repr of a list does.
func pyList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = pyRepr(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// length counts characters as Python does.
func length(s string) int { return utf8.RuneCountInString(s) }
