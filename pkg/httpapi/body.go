package httpapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
)

// maxBody bounds the body of a request to Runledger's own API, in bytes: a
// thousand runs by their ids are 36 KB.
const maxBody = 1 << 20

// DecodeBody reads the JSON body of a request to Runledger's own API into v.
// It returns an *apierr.Error of code InvalidParameterValue, which names the
// field, for a body that is no such request.
func DecodeBody(ec echo.Context, v any) error {
	body, err := readBody(ec)
	if err != nil {
		return err
	}
	return decode(body, v)
}

func readBody(ec echo.Context) ([]byte, error) {
	HoldBody(ec)
	body, err := io.ReadAll(http.MaxBytesReader(ec.Response(), ec.Request().Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, apierr.Errorf(apierr.InvalidParameterValue, "The request body must be at most %d bytes.", maxBody)
	}
	if err != nil {
		return nil, apierr.Wrap(err, apierr.BadRequest, "The request body could not be read.")
	}
	return body, nil
}

func decode(body []byte, v any) error {
	err := json.Unmarshal(body, v, json.RejectUnknownMembers(true))
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		field := strings.ReplaceAll(strings.TrimPrefix(string(e.JSONPointer), "/"), "/", ".")
		if errors.Is(err, json.ErrUnknownName) {
			return apierr.Errorf(apierr.InvalidParameterValue, "Unknown field '%.200s' in the request body.", field)
		}
		if field == "" {
			return apierr.Errorf(apierr.InvalidParameterValue, "The request body must be a JSON object.")
		}
		return apierr.Errorf(apierr.InvalidParameterValue, "Invalid value for field '%.200s': want %s.", field, wanted(e))
	}
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return apierr.Errorf(apierr.InvalidParameterValue, "The request body is not valid JSON, at byte %d.", e.ByteOffset)
	}
	return err
}

// wanted says in JSON's words what a field takes.
func wanted(e *json.SemanticError) string {
	switch e.GoType.Kind().String() {
	case "struct", "map":
		return "an object"
	case "slice":
		return "a list"
	case "string":
		return "a string"
	case "bool":
		return "true or false"
	case "int", "int64", "uint64":
		return "an integer"
	default:
		return "a number"
	}
}

// InvalidField is the answer to a field of a request to Runledger's own API that
// cannot be as it is.
func InvalidField(field, format string, args ...any) error {
	return apierr.Errorf(apierr.InvalidParameterValue, "Invalid value for field '%.200s': %s", field, fmt.Sprintf(format, args...))
}
