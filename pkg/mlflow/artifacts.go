package mlflow

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
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
// and returns its shortest form: "" is the root itself. It refuses, with an *apierr.Error of code InvalidParameterValue, a path that
// is absolute or a file: URI, that has a ".." in it, a '#', a backslash or a
// control character, or that has any of these once it is URL-decoded, however
// often. What it returns is not decoded, since file names may hold a '%'.
func ValidateArtifactPath(p string) (string, error) {
	invalid := invalidf("Invalid path")
	if !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
		return "", invalid
	}
	form := p
	for range maxDecodings {
		if !isSafePath(form) {
			return "", invalid
		}
		decoded := percentDecode(form)
		if decoded == form {
			if p = path.Clean(p); p == "." {
				return "", nil
			}
			return p, nil
		}
		form = decoded
	}
	return "", invalid
}

func isSafePath(p string) bool {
	if strings.ContainsAny(p, "#\\\x00") || strings.HasPrefix(p, "/") {
		return false
	}
	if scheme, rest, ok := strings.Cut(p, ":"); ok &&
		(strings.EqualFold(scheme, "file") || len(scheme) == 1 && strings.HasPrefix(rest, "/")) {
		return false
	}
	return !slices.Contains(strings.Split(p, "/"), "..")
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
