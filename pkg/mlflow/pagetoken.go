package mlflow

import (
	"encoding/base64"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// EncodePageToken returns the token of a page whose place v describes. Clients
// hand it back as it is. v must have a JSON form.
func EncodePageToken[T any](v T) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

// DecodePageToken returns what EncodePageToken was given, and the zero T for
// the empty token, which is the first page. It returns an *apierr.Error of code
// InvalidParameterValue for a token that is malformed.
func DecodePageToken[T any](token string) (T, error) {
	var v T
	if token == "" {
		return v, nil
	}
	b, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		return v, invalidf("Invalid page token, could not base64-decode")
	}
	if !jsontext.Value(b).IsValid() {
		return v, invalidf("Invalid page token, decoded value=%s", clip(pyBytes(b)))
	}
	if err := json.Unmarshal(b, &v, json.RejectUnknownMembers(true)); err != nil {
		var zero T
		return zero, invalidf("Invalid page token, parsed value=%s", clip(string(b)))
	}
	return v, nil
}
