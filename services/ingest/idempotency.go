package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	maxIdempotencyKey = 255 // characters
	digestMark        = "#"
	digestVersion     = "1:"
)

// attributes returns the attributes of the events that a request causes. The
// idempotency key holds a digest of the request, so that another request with
// the same key is told apart from a repeated one. path is what the request's path
// names.
func attributes(c echo.Context, req mlflow.Message, path ...string) (events.Attributes, error) {
	a := httpapi.Attributes(c, source)
	key := a.IdempotencyKey
	if key == "" {
		return a, nil
	}
	if len(key) > maxIdempotencyKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return a, apierr.Errorf(apierr.InvalidParameterValue,
			"%s must be at most %d printable ASCII characters", httpapi.HeaderIdempotencyKey, maxIdempotencyKey)
	}
	_, route, _ := strings.Cut(c.Path(), "/mlflow/") // the prefix does not matter
	a.IdempotencyKey = key + digest(c.Request().Method+" "+route, path, req)
	return a, nil
}

// digest returns the digest of a request, from its mark on. It is in logs for good:
// one that is computed in another way has another version.
func digest(route string, path []string, req mlflow.Message) string {
	text := fmt.Appendf(nil, "%q", append([]string{route}, path...))
	if req != nil {
		text = mlflow.AppendCanonical(text, req)
	}
	sum := sha256.Sum256(text)
	return digestMark + digestVersion + hex.EncodeToString(sum[:16])
}

// withoutDigest returns the key as the client sent it, "" for none.
func withoutDigest(idempotencyKey string) string {
	if i := strings.LastIndex(idempotencyKey, digestMark); i >= 0 {
		return idempotencyKey[:i]
	}
	return ""
}

// requests remembers the digests of the requests about one thing by their
// idempotency keys.
//
// Builds before digestVersion wrote a digest of Go syntax, without a version. It
// depended on how this program's types were called, so that no other build can
// tell whether it is that of a request. Such a request is taken for the one that
// has its key: a client that repeats one after an upgrade must get its answer, and
// must not have its work done twice. See docs/adr/0019.
type requests map[string]string

func (r requests) add(idempotencyKey string) {
	if key := withoutDigest(idempotencyKey); key != "" {
		r[key] = idempotencyKey[len(key):]
	}
}

// seen reports whether the request was committed before. A key that came with
// another request is an INVALID_PARAMETER_VALUE.
func (r requests) seen(idempotencyKey string) (bool, error) {
	key := withoutDigest(idempotencyKey)
	digest, ok := r[key]
	if ok && strings.HasPrefix(digest, digestMark+digestVersion) && digest != idempotencyKey[len(key):] {
		return false, usedBefore(key)
	}
	return ok, nil
}

func usedBefore(key string) error {
	return apierr.Errorf(apierr.InvalidParameterValue, "%s '%s' was used for another request", httpapi.HeaderIdempotencyKey, key)
}
