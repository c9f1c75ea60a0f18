package artifacts

import (
	"net/url"
	"path"
	"strings"
	"unicode"

	"github.com/runledger/runledger/pkg/apierr"
)

// decodings bounds how often a path may have been percent-encoded.
const decodings = 5

// SafePath returns the clean form of a path that stays below the directory it
// is joined to, however often it is decoded, and otherwise MLflow's "Invalid
// path" (mlflow/utils/uri.py, validate_path_is_safe). "" and "." are "".
func SafePath(name string) (string, error) {
	for decoded, n := name, 0; ; n++ {
		if n == decodings || unsafePath(decoded) {
			return "", apierr.Errorf(apierr.InvalidParameterValue, "Invalid path")
		}
		next, err := url.PathUnescape(decoded)
		if err != nil || next == decoded {
			break
		}
		decoded = next
	}
	clean := path.Clean(name)
	if clean == "." {
		return "", nil
	}
	return clean, nil
}

func unsafePath(p string) bool {
	if strings.ContainsAny(p, "#\\") || strings.HasPrefix(p, "/") || strings.HasPrefix(strings.ToLower(p), "file:") ||
		strings.ContainsFunc(p, unicode.IsControl) {
		return true
	}
	if len(p) >= 2 && p[1] == ':' && unicode.IsLetter(rune(p[0])) { // a drive
		return true
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
