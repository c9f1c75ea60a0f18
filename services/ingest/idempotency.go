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
)

const (
	maxIdempotencyKey = 255 // characters
	digestMark        = "#"
)

// attributes returns the attributes of the events that a request causes. The
// idempotency key holds a digest of the request, so that another request with
// the same key is told apart from a repeated one. The request must hold no
// pointers.
func attributes(c echo.Context, request any) (events.Attributes, error) {
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
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %#v", route, request))
	a.IdempotencyKey = key + digestMark + hex.EncodeToString(sum[:8])
	return a, nil
}

// withoutDigest returns the key as the client sent it, "" for none.
func withoutDigest(idempotencyKey string) string {
	if i := strings.LastIndex(idempotencyKey, digestMark); i >= 0 {
		return idempotencyKey[:i]
	}
	return ""
}

// requests remembers the digests of requests by their idempotency keys.
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
	if ok && digest != idempotencyKey[len(key):] {
		return false, apierr.Errorf(apierr.InvalidParameterValue,
			"%s '%s' was used for another request", httpapi.HeaderIdempotencyKey, key)
	}
	return ok, nil
}
