package mlflow

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// FileInfo is a file or directory among a run's artifacts. FileSize is bytes,
// nil for a directory.
type FileInfo struct {
	Path     string `json:"path"`
	IsDir    bool   `json:"is_dir"`
	FileSize *int64 `json:"file_size,omitzero"`
}

// ListArtifacts is the request of artifacts/list. A nil Path is the run's
// artifact root; check any other with ValidateArtifactPath.
type ListArtifacts struct {
	RunID     string
	Path      *string
	PageToken string
}

func (r *ListArtifacts) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "path", dst: &r.Path},
		{name: "page_token", dst: &r.PageToken},
	}
}

// ListArtifactsResponse answers artifacts/list. The paths of Files are relative
// to RootURI.
type ListArtifactsResponse struct {
	RootURI       string     `json:"root_uri"`
	Files         []FileInfo `json:"files,omitempty"`
	NextPageToken string     `json:"next_page_token,omitzero"`
}

// ValidateArtifactPath checks a path relative to the root of a run's artifacts,
// and returns it decoded, however often it was URL-encoded, with its control
// characters escaped. It refuses, with an *apierr.Error of code
// InvalidParameterValue, a path that is absolute or a file: URI, that has a ".."
// in it, or a '#' or a backslash.
func ValidateArtifactPath(path string) (string, error) {
	invalid := invalidf("Invalid path")
	for i := 0; ; i++ {
		decoded := percentDecode(path)
		if decoded == path {
			break
		}
		if i == maxDecodings {
			return "", invalid
		}
		path = decoded
	}
	if strings.ContainsAny(path, "#\\") || strings.HasPrefix(path, "/") || !utf8.ValidString(path) {
		return "", invalid
	}
	if drive, rest, ok := strings.Cut(path, ":"); ok && (strings.EqualFold(drive, "file") || len(drive) == 1 && strings.HasPrefix(rest, "/")) {
		return "", invalid
	}
	if slices.Contains(strings.Split(path, "/"), "..") {
		return "", invalid
	}
	return escapeControls(path), nil
}

// maxDecodings bounds how many times over a path may be URL-encoded.
const maxDecodings = 10

// percentDecode decodes the percent signs that two hexadecimal digits follow.
func percentDecode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func escapeControls(s string) string {
	if !strings.ContainsFunc(s, isControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if isControl(r) {
			writePadded(&b, "%", r, 2)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
