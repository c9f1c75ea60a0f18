package mlflow

import (
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// location is the URI of artifacts, taken apart as MLflow does, which is as
// Python's urllib.parse does.
type location struct {
	scheme    string // in lower case, "" for a path
	authority string
	path      string
	query     string
	fragment  string
}

func parseLocation(s string) (l location) {
	s = strings.TrimLeftFunc(s, func(r rune) bool { return r <= ' ' })
	s = withoutBreaks(s)
	if scheme, rest, ok := strings.Cut(s, ":"); ok && isScheme(scheme) {
		l.scheme, s = strings.ToLower(scheme), rest
	}
	if rest, ok := strings.CutPrefix(s, "//"); ok {
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		l.authority, s = rest[:end], rest[end:]
	}
	s, l.fragment, _ = strings.Cut(s, "#")
	l.path, l.query, _ = strings.Cut(s, "?")
	return l
}

// withoutBreaks removes what Python removes wherever it is in a URI.
func withoutBreaks(s string) string {
	return strings.NewReplacer("\t", "", "\r", "", "\n", "").Replace(s)
}

func isScheme(s string) bool {
	for i, r := range s {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || !('0' <= r && r <= '9' || strings.ContainsRune("+-.", r))) {
			return false
		}
	}
	return s != ""
}

func (l location) String() string {
	s := l.path
	if l.authority != "" || usesAuthority(l.scheme) && !strings.HasPrefix(s, "//") {
		if s != "" && !strings.HasPrefix(s, "/") {
			s = "/" + s
		}
		s = "//" + l.authority + s
	}
	if l.scheme != "" {
		s = l.scheme + ":" + s
	}
	if l.query != "" {
		s += "?" + l.query
	}
	if l.fragment != "" {
		s += "#" + l.fragment
	}
	return s
}

// usesAuthority reports whether Python writes // for a scheme without a host.
func usesAuthority(scheme string) bool {
	return slices.Contains([]string{
		"ftp", "http", "gopher", "nntp", "telnet", "imap", "wais", "file", "mms", "https", "shttp", "snews", "prospero",
		"rtsp", "rtspu", "rsync", "svn", "svn+ssh", "sftp", "nfs", "git", "git+ssh", "ws", "wss",
	}, scheme)
}

// usesParams reports whether a ';' in the last element of a path begins
// parameters, by Python's reading of a scheme.
func usesParams(scheme string) bool {
	return slices.Contains([]string{
		"", "ftp", "hdl", "prospero", "http", "https", "imap", "shttp", "rtsp", "rtspu", "sip", "sips", "mms", "sftp", "tel",
	}, scheme)
}

// ArtifactURI returns where the artifacts below a location are: the location's
// query stays last.
func ArtifactURI(uri, below string) string {
	l := parseLocation(uri)
	if l.scheme == "" {
		return joinPath(uri, below)
	}
	prefix := ""
	if !strings.HasPrefix(l.path, "/") {
		prefix, l.scheme = l.scheme+":", ""
	}
	l.path = joinPath(l.path, below)
	return prefix + l.String()
}

func joinPath(dir, below string) string {
	if dir == "" || strings.HasSuffix(dir, "/") {
		return dir + below
	}
	return dir + "/" + below
}

// ResolveArtifactLocation returns the location that MLflow keeps for one that a
// client gives: a path that is relative, also of a file: URI, is one below the
// server's working directory. It returns an *apierr.Error of code
// InvalidParameterValue for a file: URI that names a host.
func ResolveArtifactLocation(uri, workingDir string) (string, error) {
	l := parseLocation(uri)
	if l.scheme != "" && l.scheme != "file" {
		return uri, nil
	}
	if host, _, _ := strings.Cut(l.authority, ":"); l.scheme == "file" && host != "" && host != "." &&
		!strings.HasPrefix(host, "localhost") && !strings.HasPrefix(host, "127.0.0.1") {
		return "", invalidf("%s is not a valid remote uri. For remote access on windows, please consider using a different scheme "+
			"such as SMB (e.g. smb://<hostname>/<path>).", clip(uri))
	}
	name := uri
	if l.scheme == "file" {
		name = l.path
	}
	if name = percentDecode(name); path.IsAbs(name) {
		return uri, nil
	}
	// Its ".." stay: what they lead to is the file system's matter.
	parts := slices.DeleteFunc(strings.Split(name, "/"), func(part string) bool { return part == "" || part == "." })
	l.path = strings.Join(append([]string{strings.TrimSuffix(workingDir, "/")}, parts...), "/")
	if l.scheme == "" {
		return l.path, nil
	}
	l.authority = ""
	return l.String(), nil
}

const proxyRoute = "/api/2.0/mlflow-artifacts/artifacts/"

// ProxiedPath returns the path in a server's artifact store at which the
// artifacts of a URI are, as it stands in the URI: see ValidateArtifactPath. ok
// is false for what clients reach without a server.
func ProxiedPath(uri string) (name string, ok bool) {
	switch l := parseLocation(uri); l.scheme {
	case "mlflow-artifacts":
		return strings.TrimLeft(l.path, "/"), true
	case "http", "https":
		_, name, ok := strings.Cut(l.path, proxyRoute)
		return strings.TrimLeft(name, "/"), ok
	}
	return "", false
}

// normalPath returns a path as MLflow's server and its client both name the
// artifact there: decoded as often as it is encoded, without what Python takes
// out of a URI. ok is false for what is encoded more than maxDecodings times.
func normalPath(p string) (normal string, ok bool) {
	for range maxDecodings {
		next := withoutEmptyParts(withoutBreaks(validText(percentDecode(p))))
		if next == p {
			return escapeControls(p), true
		}
		p = next
	}
	return "", false
}

// withoutEmptyParts removes the marks of a fragment, a query and parameters that
// are empty.
func withoutEmptyParts(p string) string {
	before, fragment, ok := strings.Cut(p, "#")
	if ok && fragment != "" {
		return p // which is refused
	}
	p, query, _ := strings.Cut(before, "?")
	last := p[strings.LastIndexByte(p, '/')+1:]
	if before, params, ok := strings.Cut(last, ";"); ok && params == "" {
		p = p[:len(p)-len(last)] + before
	}
	if query != "" {
		p += "?" + query
	}
	return p
}

// validText puts a mark in the place of bytes that are no text.
func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

func escapeControls(s string) string {
	if !strings.ContainsFunc(s, isControl) {
		return s
	}
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, r := range s {
		if isControl(r) {
			b.Write([]byte{'%', digits[r>>4], digits[r&15]})
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// isControl leaves out the controls of Latin-1, which are file names like others.
func isControl(r rune) bool { return r < utf8.RuneSelf && unicode.IsControl(r) }
