package artifacts

import (
	"io/fs"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/mlflow"
)

// address is where an artifact or a directory is.
type address struct {
	name string
	// older is where versions that did not decode names have kept it, where that
	// is another place: what is there stays readable.
	older string
}

func (a address) join(below address) address {
	return address{name: path.Join(a.name, below.name), older: path.Join(a.older, below.older)}
}

// addressOf returns the place of a path that a request gives.
func addressOf(given string) (address, error) {
	name, err := mlflow.ValidateArtifactPath(given)
	if err != nil {
		return address{}, err
	}
	return address{name: name, older: olderName(given, name)}, nil
}

// olderName returns the name of a path that is not decoded, or else another.
func olderName(given, other string) string {
	older := path.Clean(given)
	if given == "" || older == "." || !fs.ValidPath(older) || !utf8.ValidString(older) || strings.Contains(older, "\x00") {
		return other
	}
	return older
}

// rootOf returns the place of an artifact URI; owner is whose it is.
func rootOf(uri, owner string) (address, error) {
	given, ok := mlflow.ProxiedPath(uri)
	if !ok {
		return address{}, apierr.Errorf(apierr.InvalidParameterValue, "The artifacts of %s are at '%s', which this server does not serve", owner, uri)
	}
	name, err := mlflow.ValidateArtifactPath(given)
	if err != nil {
		return address{}, err
	}
	a := address{name: name, older: name}
	if rest, ok := strings.CutPrefix(uri, scheme); ok {
		a.older = olderName(strings.TrimLeft(rest, "/"), name)
	}
	return a, nil
}

// scheme begins the URIs that are served from here.
const scheme = "mlflow-artifacts:"
