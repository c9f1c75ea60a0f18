package apierr

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Write answers with what the caller may see of err: its code and message, in the
// JSON of MLflow's errors, the status of the code, and Retry-After in whole seconds
// if err asks for it. Bytes of a message that are not UTF-8 are written as U+FFFD.
// The error is one of writing to w.
func Write(w http.ResponseWriter, err error) error {
	e := From(err)
	body, encErr := json.Marshal(struct {
		Code    Code   `json:"error_code"`
		Message string `json:"message"`
	}{e.Code, strings.ToValidUTF8(e.Message, "\uFFFD")})
	if encErr != nil {
		return encErr
	}
	h := w.Header()
	if e.RetryAfter > 0 {
		seconds := math.Ceil(float64(e.RetryAfter) / float64(time.Second))
		h.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Code.HTTPStatus())
	_, err = w.Write(body)
	return err
}
