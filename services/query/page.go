package query

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/mlflow"
)

// pageToken is the place after a page. Clients see it in an opaque form.
type pageToken struct {
	// Query is a digest of what is asked, so that a token only fits its query.
	Query string `json:"query"`
	// After holds the sort keys of the last row of the page, as text.
	After []string `json:"after"`
}

// digest identifies a query by its parameters.
func digest(params ...any) string {
	b, _ := json.Marshal(params) // strings and lists of strings cannot fail
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// encodeToken returns the token of the page after a row with these sort keys.
func encodeToken(query string, keys []sortKey, row []any) (string, error) {
	t := pageToken{Query: query, After: make([]string, len(keys))}
	for i := range keys {
		switch v := row[i].(type) {
		case string:
			t.After[i] = v
		case int64:
			t.After[i] = strconv.FormatInt(v, 10)
		case float64:
			t.After[i] = strconv.FormatUint(math.Float64bits(v), 16)
		}
	}
	return mlflow.EncodePageToken(t)
}

// decodeToken returns the sort keys that a token holds, nil for the first page.
func decodeToken(token, query string, keys []sortKey) ([]any, error) {
	t, err := mlflow.DecodePageToken[pageToken](token)
	if err != nil || token == "" {
		return nil, err
	}
	if t.Query != query || len(t.After) != len(keys) {
		return nil, wrongToken(t)
	}
	row := make([]any, len(keys))
	for i, k := range keys {
		switch k.typ {
		case typeInteger:
			row[i], err = strconv.ParseInt(t.After[i], 10, 64)
		case typeFloat:
			var bits uint64
			bits, err = strconv.ParseUint(t.After[i], 16, 64)
			row[i] = math.Float64frombits(bits)
		default:
			row[i] = t.After[i]
		}
		if err != nil {
			return nil, wrongToken(t)
		}
	}
	return row, nil
}

// wrongToken is MLflow's answer to a token that is none of its own.
func wrongToken(t pageToken) error {
	return apierr.Errorf(apierr.InvalidParameterValue, "Invalid page token, parsed value=%.200q", t)
}

// scanRow returns where to scan sort keys to, and a function that returns what
// was scanned.
func scanRow(keys []sortKey) (dest []any, row func() []any) {
	dest = make([]any, len(keys))
	for i, k := range keys {
		switch k.typ {
		case typeInteger:
			dest[i] = new(int64)
		case typeFloat:
			dest[i] = new(float64)
		default:
			dest[i] = new(string)
		}
	}
	return dest, func() []any {
		values := make([]any, len(dest))
		for i, d := range dest {
			switch d := d.(type) {
			case *int64:
				values[i] = *d
			case *float64:
				values[i] = *d
			case *string:
				values[i] = *d
			}
		}
		return values
	}
}
