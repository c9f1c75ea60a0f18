package mlflow

import (
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Empty answers the RPCs that return nothing: {}.
type Empty struct{}

// Encode returns the JSON of an answer. It does not fail on a text: bytes of it
// that are not UTF-8 are written as U+FFFD.
func Encode(v any) ([]byte, error) { return json.Marshal(v, jsontext.AllowInvalidUTF8(true)) }

// WriteJSON answers with status 200 and the JSON of v. The error is one of
// encoding, when nothing has been written, or of writing to w.
func WriteJSON(w http.ResponseWriter, v any) error {
	body, err := Encode(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentTypeJSON)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, err = w.Write(body)
	return err
}
