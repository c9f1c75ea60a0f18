package mlflow

import (
	"path"
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

// MaxPresignedSeconds is for how long a presigned URL can be valid at most.
const MaxPresignedSeconds = 604_800

// PresignedUploadURL is the request of artifacts/presigned-upload-url, for a run
// or a logged model.
type PresignedUploadURL struct {
	RunID, ModelID, Path string
	Expiration           int64 // seconds
}

func (r *PresignedUploadURL) fields() []field {
	return []field{
		{name: "run_id", dst: &r.RunID},
		{name: "model_id", dst: &r.ModelID},
		{name: "path", required: true, dst: &r.Path},
		{name: "expiration", def: 900, dst: &r.Expiration},
	}
}

// PresignedDownloadURL is the request of artifacts/presigned-download-url.
type PresignedDownloadURL struct {
	RunID, Path string
	Expiration  int64 // seconds
}

func (r *PresignedDownloadURL) fields() []field {
	return []field{
		{name: "run_id", required: true, dst: &r.RunID},
		{name: "path", required: true, dst: &r.Path},
		{name: "expiration", def: 900, dst: &r.Expiration},
	}
}

// CreateMultipartUpload is the request of mlflow-artifacts/mpu/create. Path is
// that of the file at the client.
type CreateMultipartUpload struct {
	Path     string
	NumParts int64
}

func (r *CreateMultipartUpload) fields() []field {
	return []field{
		{name: "path", required: true, dst: &r.Path},
		{name: "num_parts", dst: &r.NumParts},
	}
}

// CreateMultipartUploadResponse answers mlflow-artifacts/mpu/create.
type CreateMultipartUploadResponse struct {
	UploadID    string                      `json:"upload_id"`
	Credentials []MultipartUploadCredential `json:"credentials,omitempty"`
}

// MultipartUploadCredential is where a client puts a part, with no headers of
// its own.
type MultipartUploadCredential struct {
	URL        string `json:"url"`
	PartNumber int    `json:"part_number"` // from 1
}

// CompleteMultipartUpload is the request of mlflow-artifacts/mpu/complete.
type CompleteMultipartUpload struct {
	Path, UploadID string
	Parts          []MultipartUploadPart
}

func (r *CompleteMultipartUpload) fields() []field {
	return []field{
		{name: "path", required: true, dst: &r.Path},
		{name: "upload_id", dst: &r.UploadID},
		{name: "parts", required: true, dst: listOf(&r.Parts)},
	}
}

// bodyLimit is for the greatest number of parts: clients send the URL of each
// back.
func (r *CompleteMultipartUpload) bodyLimit() int64 { return MaxPartsBytes }

// MultipartUploadPart is a part that a client has put. Its URL does not matter.
type MultipartUploadPart struct {
	PartNumber int64
	ETag       string
}

func (r *MultipartUploadPart) fields() []field {
	return []field{
		{name: "part_number", dst: &r.PartNumber},
		{name: "etag", dst: &r.ETag},
	}
}

// AbortMultipartUpload is the request of mlflow-artifacts/mpu/abort.
type AbortMultipartUpload struct{ Path, UploadID string }

func (r *AbortMultipartUpload) fields() []field {
	return []field{
		{name: "path", required: true, dst: &r.Path},
		{name: "upload_id", dst: &r.UploadID},
	}
}

// PresignedDownload answers mlflow-artifacts/presigned.
type PresignedDownload struct {
	URL      string   `json:"url"`
	Headers  struct{} `json:"headers"`   // that a client has to send: none
	FileSize int64    `json:"file_size"` // bytes
}

// ValidateArtifactPath checks a path relative to the root of a run's artifacts,
// and returns the one name by which MLflow's server and client know what is
// there: decoded as often as it is URL-encoded, control characters encoded, and
// in its shortest form; "" is the root itself. It refuses, with an *apierr.Error
// of code InvalidParameterValue, a path that, once decoded, is absolute, on
// Windows too, or a file: URI, that has an element ".." or a '#' in it.
func ValidateArtifactPath(p string) (string, error) {
	for range maxDecodings {
		name, ok := normalPath(p)
		if !ok || !isSafePath(name) {
			break
		}
		if name = path.Clean(name); name == "." {
			return "", nil
		}
		if name == p {
			return name, nil
		}
		p = name // what was cut off may have hidden an end that is cut off too
	}
	return "", invalidf("Invalid path")
}

func isSafePath(p string) bool {
	if strings.Contains(p, "#") || strings.HasPrefix(p, "/") || isWindowsAbsolute(p) || parseLocation(p).scheme == "file" {
		return false
	}
	return !slices.Contains(strings.Split(p, "/"), "..")
}

// isWindowsAbsolute reports whether a path begins with a drive and a separator,
// or with a host and a share.
func isWindowsAbsolute(p string) bool {
	const separators = `\/`
	_, drive := utf8.DecodeRuneInString(p)
	if rest, ok := strings.CutPrefix(p[drive:], ":"); ok && rest != "" {
		return strings.Contains(separators, rest[:1])
	}
	return len(p) > 1 && strings.Contains(separators, p[:1]) && strings.Contains(separators, p[1:2]) && strings.ContainsAny(p[2:], separators)
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
