package mlflow

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/runledger/runledger/pkg/apierr"
)

// plainText returns a body of JSON as UTF-8 without a byte-order mark. It tells
// the encoding as Python's json.loads does, which reads the bodies for MLflow: by
// a mark, or by where the first characters, which are ASCII, have zero bytes. The
// parameter charset of the content type says nothing, as in MLflow. What is not
// well-formed stays as it is, or is an *apierr.Error where that cannot be.
func plainText(body []byte) ([]byte, error) {
	var order binary.ByteOrder = binary.LittleEndian
	switch {
	case bytes.HasPrefix(body, []byte{0xff, 0xfe, 0, 0}):
		return fromUTF32(body[4:], order)
	case bytes.HasPrefix(body, []byte{0, 0, 0xfe, 0xff}):
		return fromUTF32(body[4:], binary.BigEndian)
	case bytes.HasPrefix(body, []byte{0xff, 0xfe}):
		return fromUTF16(body[2:], order)
	case bytes.HasPrefix(body, []byte{0xfe, 0xff}):
		return fromUTF16(body[2:], binary.BigEndian)
	case bytes.HasPrefix(body, []byte("\ufeff")):
		return body[3:], nil
	case len(body) < 2 || len(body) == 3 || body[0] != 0 && body[1] != 0:
		return body, nil
	case body[0] == 0:
		order = binary.BigEndian
	}
	if len(body) >= 4 && (body[0] == 0 && body[1] == 0 || body[0] != 0 && body[2] == 0 && body[3] == 0) {
		return fromUTF32(body, order)
	}
	return fromUTF16(body, order)
}

func fromUTF16(body []byte, order binary.ByteOrder) ([]byte, error) {
	out := make([]byte, 0, len(body)*3/4)
	for i := 0; i < len(body); i += 2 {
		if len(body) < i+2 {
			return nil, notIn("UTF-16", i)
		}
		r := rune(order.Uint16(body[i:]))
		if utf16.IsSurrogate(r) {
			if len(body) >= i+4 {
				r = utf16.DecodeRune(r, rune(order.Uint16(body[i+2:])))
			}
			if r < 0x10000 {
				return nil, notIn("UTF-16", i)
			}
			i += 2
		}
		out = utf8.AppendRune(out, r)
	}
	return out, nil
}

func fromUTF32(body []byte, order binary.ByteOrder) ([]byte, error) {
	out := make([]byte, 0, len(body)/2)
	for i := 0; i < len(body); i += 4 {
		if len(body) < i+4 {
			return nil, notIn("UTF-32", i)
		}
		r := order.Uint32(body[i:])
		if r > utf8.MaxRune || !utf8.ValidRune(rune(r)) {
			return nil, notIn("UTF-32", i)
		}
		out = utf8.AppendRune(out, rune(r))
	}
	return out, nil
}

// notIn says that a body is not in an encoding; at is a byte behind its mark.
func notIn(encoding string, at int) *apierr.Error {
	return invalidf("The request body is not valid %s, at byte %d of its text.", encoding, at)
}

// unreadable says why a body could not be read as a JSON object.
func unreadable(body []byte, err error) *apierr.Error {
	if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		return invalidf("The request body is compressed with gzip, which is not read here: send it as it is.")
	}
	for i := 0; i < len(body); {
		r, n := utf8.DecodeRune(body[i:])
		if r == utf8.RuneError && n == 1 {
			return notIn("UTF-8", i)
		}
		i += n
	}
	return notAnObject(err)
}
