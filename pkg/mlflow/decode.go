package mlflow

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/runledger/runledger/pkg/apierr"
)

const contentTypeJSON = "application/json"

// message is a request type of this package.
type message interface {
	// fields lists the fields of the request in the order MLflow checks them.
	fields() []field
}

// Request is a pointer to one of this package's request types.
type Request[T any] interface {
	*T
	message
}

// Decode reads an HTTP request into a T: from the query of a GET request that
// has one, else from its body. T is one of this package's request types. The
// error is an *apierr.Error of code InvalidParameterValue that names the field
// at fault, unless reading the body failed.
func Decode[T any, P Request[T]](r *http.Request) (*T, error) {
	req := P(new(T))
	if r.Method == http.MethodGet && r.URL.RawQuery != "" {
		if args := r.URL.Query(); len(args) > 0 {
			return (*T)(req), DecodeQuery(args, req)
		}
	}
	limit := int64(MaxBodyBytes)
	if l, ok := any(req).(interface{ bodyLimit() int64 }); ok {
		limit = l.bodyLimit()
	}
	contentType := contentTypeJSON
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		contentType = r.Header.Get("Content-Type")
	}
	return (*T)(req), DecodeBody(r.Body, contentType, limit, req)
}

// DecodeBody reads a JSON body of at most limit bytes into dst, a pointer to
// one of this package's request types. The body is UTF-8, UTF-16 or UTF-32, with
// or without a byte-order mark. An absent body is an empty request. It returns an *apierr.Error of code InvalidParameterValue for a content type that
// is not application/json, a body that is too long or no JSON object, a missing
// required field, and a field of the wrong type; other errors are r's.
func DecodeBody(r io.Reader, contentType string, limit int64, dst message) error {
	if err := checkContentType(contentType); err != nil {
		return err
	}
	body, err := readBody(r, limit)
	if err != nil {
		return err
	}
	return decodeBytes(body, dst)
}

func checkContentType(contentType string) error {
	if contentType == "" {
		return invalidf("Bad Request. Content-Type header is missing.")
	}
	if contentType == contentTypeJSON {
		return nil
	}
	// MLflow does not look at the parameters, well-formed or not.
	if t, _, _ := strings.Cut(contentType, ";"); !strings.EqualFold(strings.TrimSpace(t), contentTypeJSON) {
		return invalidf("Bad Request. Content-Type must be one of ['application/json'].")
	}
	return nil
}

// readBody reads at most limit bytes. Of a longer body it reads a bounded part
// more, to be able to say how long it is.
func readBody(r io.Reader, limit int64) ([]byte, error) {
	if r == nil {
		return nil, nil
	}
	var buf bytes.Buffer
	n, err := buf.ReadFrom(io.LimitReader(r, limit+1))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, bodyTooLong(limit, n)
		}
		if told, ok := errors.AsType[*apierr.Error](err); ok {
			return nil, told
		}
		return nil, apierr.Wrap(err, apierr.BadRequest, "The request body could not be read.")
	}
	if n > limit {
		rest, _ := io.Copy(io.Discard, io.LimitReader(r, 8*limit))
		return nil, bodyTooLong(limit, n+rest)
	}
	return buf.Bytes(), nil
}

func bodyTooLong(limit, size int64) *apierr.Error {
	if limit == MaxBatchBytes {
		return invalidf("Batched logging API requests must be at most %d bytes, got a request of size %d.", limit, size)
	}
	return invalidf("The request body must be at most %d bytes, got a request of size %d.", limit, size)
}

func decodeBytes(body []byte, dst message) error {
	body, err := plainText(body)
	if err != nil {
		return err
	}
	fields := dst.fields()
	err = decodeObject(body, fields)
	if _, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if quoted, changed := quoteNonFinite(body); changed {
			err = decodeObject(quoted, fields)
		}
	}
	if err == nil {
		return settle(fields)
	}
	// MLflow reads what is not JSON as an empty request, and then misses what
	// the request needs, or does what it did not ask for.
	for i := range fields {
		fields[i].reset()
	}
	return unreadable(body, err)
}

func notAnObject(err error) *apierr.Error {
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return invalidf("The request body is not valid JSON, at byte %d.", e.ByteOffset)
	}
	return invalidf("The request body must be a JSON object.")
}

var errNotObject = errors.New("not a JSON object")

// decodeObject reads the one JSON object in body into fields, and leaves what
// is wrong with a field in that field. It returns an error when body is not a
// JSON object.
func decodeObject(body []byte, fields []field) error {
	for i := range fields {
		fields[i].reset()
	}
	body = bytes.TrimLeft(body, " \t\r\n")
	if len(body) == 0 {
		return nil
	}
	d := newDecoder(body)
	switch d.PeekKind() {
	case jsontext.KindBeginObject:
	case jsontext.KindNull:
		return d.drain()
	case jsontext.KindString:
		// Old clients encode the object as JSON twice.
		raw, err := d.ReadValue()
		if err != nil {
			return err
		}
		inner, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return err
		}
		if err := d.atEnd(); err != nil {
			return err
		}
		if inner = bytes.TrimLeft(inner, " \t\r\n"); len(inner) == 0 || inner[0] != '{' {
			return errNotObject
		}
		return decodeObject(inner, fields)
	default:
		if err := d.drain(); err != nil {
			return err
		}
		return errNotObject
	}
	err := d.object(func(name []byte) error {
		return d.member(fields, name)
	})
	if err != nil {
		return err
	}
	return d.atEnd()
}

// settle returns the first error of the fields, in MLflow's order.
func settle(fields []field) error {
	for i := range fields {
		if err := fields[i].settle(); err != nil {
			return err
		}
	}
	return nil
}

// DecodeQuery reads the arguments of a GET request into dst, a pointer to one
// of this package's request types. A repeated argument is a list where the
// field is one, else its first value counts. Booleans are true or false, in any
// case. It returns an *apierr.Error of code InvalidParameterValue for a missing
// required argument and for one that does not parse.
func DecodeQuery(args url.Values, dst message) error {
	fields := dst.fields()
	for i := range fields {
		f := &fields[i]
		f.reset()
		if values, ok := args[f.name]; ok {
			if err := f.decodeArgs(values); err != nil {
				return err
			}
		}
		if values, ok := args[f.alias]; ok && f.alias != "" {
			f.aliasValue, f.hasAlias = values[0], true
		}
	}
	return settle(fields)
}

func (f *field) decodeArgs(values []string) error {
	var raw []byte
	switch f.dst.(type) {
	case *[]string:
		raw = append(raw, '[')
		for i, v := range values {
			if i > 0 {
				raw = append(raw, ',')
			}
			raw = appendQuoted(raw, v)
		}
		raw = append(raw, ']')
	case *bool:
		v := strings.ToLower(values[0])
		if v != "true" && v != "false" {
			return invalidf("Invalid boolean value: %s, must be 'true' or 'false'.", values[0])
		}
		raw = []byte(v)
	default:
		raw = appendQuoted(raw, values[0])
	}
	return f.decode(newDecoder(raw))
}

func appendQuoted(b []byte, s string) []byte {
	// The only error is for invalid UTF-8, which ToValidUTF8 has removed.
	b, _ = jsontext.AppendQuote(b, strings.ToValidUTF8(s, "\uFFFD"))
	return b
}

// quoteNonFinite puts quotes around each NaN, Infinity and -Infinity that
// stands outside a string, as Python writes them, and reports whether there was
// one. Other text is left as it is, valid or not.
func quoteNonFinite(body []byte) (_ []byte, changed bool) {
	var out []byte
	inString := false
	for i := 0; i < len(body); i++ {
		c := body[i]
		switch {
		case inString && c == '\\' && i+1 < len(body):
			out = append(out, c)
			i++
			c = body[i]
		case c == '"':
			inString = !inString
		case !inString && (c == 'N' || c == 'I' || c == '-'):
			if word := nonFinite(body[i:]); word != "" {
				out = append(out, '"')
				out = append(out, word...)
				out = append(out, '"')
				i += len(word) - 1
				changed = true
				continue
			}
		}
		out = append(out, c)
	}
	return out, changed
}

func nonFinite(b []byte) string {
	for _, w := range [...]string{"NaN", "Infinity", "-Infinity"} {
		if bytes.HasPrefix(b, []byte(w)) {
			return w
		}
	}
	return ""
}
