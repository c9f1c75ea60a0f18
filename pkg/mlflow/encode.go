package mlflow

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/runledger/runledger/pkg/apierr"
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
	return write(w, http.StatusOK, body)
}

// WriteError answers with what the caller may see of err: MLflow's error_code
// and message, the status of the code, and Retry-After in whole seconds if err
// asks for it. The error is one of writing to w.
func WriteError(w http.ResponseWriter, err error) error {
	e := apierr.From(err)
	body, encErr := Encode(struct {
		Code    apierr.Code `json:"error_code"`
		Message string      `json:"message"`
	}{e.Code, validUTF8(e.Message)})
	if encErr != nil {
		return encErr
	}
	if e.RetryAfter > 0 {
		seconds := math.Ceil(float64(e.RetryAfter) / float64(time.Second))
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	return write(w, e.Code.HTTPStatus(), body)
}

func write(w http.ResponseWriter, status int, body []byte) error {
	w.Header().Set("Content-Type", contentTypeJSON)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err
}
