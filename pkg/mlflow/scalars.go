package mlflow

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

var runStatuses = [...]RunStatus{StatusRunning, StatusScheduled, StatusFinished, StatusFailed, StatusKilled}

var viewTypes = [...]ViewType{ViewActiveOnly, ViewDeletedOnly, ViewAll}

func newBuffer(b []byte) *bytes.Buffer { return bytes.NewBuffer(b) }

// unquoteBytes returns the text of a valid quoted JSON string. It may share
// memory with raw.
func unquoteBytes(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	// raw comes from the decoder, which has checked it.
	b, _ := jsontext.AppendUnquote(nil, raw)
	return b
}

func unquote(raw []byte) string { return string(unquoteBytes(raw)) }

func parseString(raw jsontext.Value) (string, bool) {
	if raw.Kind() != jsontext.KindString {
		return "", false
	}
	return unquote(raw), true
}

func parseBool(raw jsontext.Value) (value, ok bool) {
	return raw.Kind() == jsontext.KindTrue, raw.Kind() == jsontext.KindTrue || raw.Kind() == jsontext.KindFalse
}

// parseInt reads an int64 from a number or a string that holds one. A number
// with a fraction of zero is an integer.
func parseInt(raw jsontext.Value) (int64, bool) {
	text := raw
	switch raw.Kind() {
	case jsontext.KindNumber:
	case jsontext.KindString:
		if text = unquoteBytes(raw); bytes.IndexByte(text, ' ') >= 0 {
			return 0, false
		}
	default:
		return 0, false
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err == nil {
		return n, true
	}
	if errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	f, ok := pythonFloat(string(text))
	if !ok || f != math.Trunc(f) || f < math.MinInt64 || f >= -math.MinInt64 {
		return 0, false
	}
	return int64(f), true
}

// parseFloat reads a float64 from a number, a string that holds one, or a
// Boolean, which Python counts as 0 or 1.
func parseFloat(raw jsontext.Value) (float64, bool) {
	switch raw.Kind() {
	case jsontext.KindTrue:
		return 1, true
	case jsontext.KindFalse:
		return 0, true
	case jsontext.KindNumber:
		f, err := strconv.ParseFloat(string(raw), 64)
		return f, err == nil
	case jsontext.KindString:
		text := unquote(raw)
		if text == "nan" {
			return 0, false
		}
		return pythonFloat(text)
	}
	return 0, false
}

// pythonFloat reads what Python's float() does, but for its underscores and
// digits outside ASCII.
func pythonFloat(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if strings.ContainsAny(s, "xX_") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}

// parseEnum reads one of names, by name or by its number, which counts from 1.
func parseEnum[T ~string](raw jsontext.Value, names []T) (T, bool) {
	if raw.Kind() == jsontext.KindString {
		text := unquoteBytes(raw)
		for _, n := range names {
			if string(n) == string(text) {
				return n, true
			}
		}
	}
	if n, ok := parseInt(raw); ok && n >= 1 && n <= int64(len(names)) {
		return names[n-1], true
	}
	return "", false
}

// writeFloat writes a double as Python does: 1 is 1.0, so that it stays a
// double for clients that tell integers from doubles.
func writeFloat(enc *jsontext.Encoder, f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return enc.WriteToken(float(f))
	}
	b := enc.AvailableBuffer()
	if size := math.Abs(f); size != 0 && size < 1e-4 || size >= 1e16 {
		return enc.WriteValue(strconv.AppendFloat(b, f, 'e', -1, 64))
	}
	b = strconv.AppendFloat(b, f, 'f', -1, 64)
	if f == math.Trunc(f) {
		b = append(b, ".0"...)
	}
	return enc.WriteValue(b)
}

// float is the token of a double in an answer.
func float(f float64) jsontext.Token {
	switch {
	case math.IsNaN(f):
		return jsontext.String("NaN")
	case math.IsInf(f, 1):
		return jsontext.String("Infinity")
	case math.IsInf(f, -1):
		return jsontext.String("-Infinity")
	}
	return jsontext.Float(f)
}
