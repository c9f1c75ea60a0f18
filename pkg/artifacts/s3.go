package artifacts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"mime"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"gocloud.dev/blob"

	"github.com/runledger/runledger/pkg/apierr"
)

const (
	// maxParts is how many parts S3 takes for one file.
	maxParts = 10_000
	// partExpiry is how long the URL of a part takes an upload, downloadExpiry how
	// long a presigned URL begins a download.
	partExpiry     = 12 * time.Hour
	downloadExpiry = 5 * time.Minute
	// uploadMark is the metadata of an object that was uploaded in parts: a text
	// that no other object has.
	uploadMark = "runledger-upload"
)

// errNotS3 means that files go to and come from the store through this process
// only.
var errNotS3 = errors.New("the artifact store is not S3")

// Part is a part of an upload, as S3 has it.
type Part struct {
	Number int64 // from 1 to maxParts
	ETag   string
}

// object is an artifact in S3's own terms.
type object struct {
	client      *s3.Client
	bucket, key *string
}

// object returns errNotS3 unless the store is one.
func (s *Store) object(ctx context.Context, name string) (o object, err error) {
	if s.bucket == nil || !s.bucket.As(&o.client) {
		return o, errNotS3
	}
	// Its driver knows bucket, prefix and how it escapes a key: it says them when it
	// signs, which takes no request.
	_, err = s.bucket.SignedURL(ctx, name, &blob.SignedURLOptions{BeforeSign: func(as func(any) bool) error {
		var in *s3.GetObjectInput
		if !as(&in) {
			return errNotS3
		}
		o.bucket, o.key = in.Bucket, in.Key
		return nil
	}})
	return o, err
}

// CreateUpload begins an upload of a file in parts, which clients send to S3
// themselves: the URL for each. It returns errNotS3 for another store.
func (s *Store) CreateUpload(ctx context.Context, name string, parts int64) (id string, urls []string, err error) {
	o, err := s.object(ctx, name)
	if err != nil {
		return "", nil, err
	}
	if parts < 1 || parts > maxParts {
		return "", nil, apierr.Errorf(apierr.InvalidParameterValue, "num_parts must be from 1 to %d (got %d).", maxParts, parts)
	}
	mark := rand.Text()
	created, err := o.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: o.bucket, Key: o.key, ContentType: aws.String(ContentType(name)), Metadata: map[string]string{uploadMark: mark},
	})
	if err != nil {
		return "", nil, s3Error("begin to upload", name, err)
	}
	presign := s3.NewPresignClient(o.client, s3.WithPresignExpires(partExpiry))
	for n := range parts {
		part, err := presign.PresignUploadPart(ctx, &s3.UploadPartInput{
			Bucket: o.bucket, Key: o.key, UploadId: created.UploadId, PartNumber: aws.Int32(int32(n + 1)),
		})
		if err != nil {
			return "", nil, s3Error("sign a part of", name, err)
		}
		urls = append(urls, part.URL)
	}
	return mark + "." + *created.UploadId, urls, nil
}

// CompleteUpload puts the parts of an upload together. What they are this process
// has not seen: they are read back from the store before record is called with
// it, whose error is returned as it is. An upload that was completed before is
// recorded again: its first answer may have been an error. It returns errNotS3
// for another store.
func (s *Store) CompleteUpload(ctx context.Context, name, id string, parts []Part, record func(Written) error) error {
	o, err := s.object(ctx, name)
	if err != nil {
		return err
	}
	mark, upload, _ := strings.Cut(id, ".")
	in := &s3.CompleteMultipartUploadInput{Bucket: o.bucket, Key: o.key, UploadId: &upload, MultipartUpload: new(types.CompletedMultipartUpload)}
	for _, p := range parts {
		if p.Number < 1 || p.Number > maxParts {
			return apierr.Errorf(apierr.InvalidParameterValue, "part_number must be from 1 to %d (got %d).", maxParts, p.Number)
		}
		in.MultipartUpload.Parts = append(in.MultipartUpload.Parts, types.CompletedPart{PartNumber: aws.Int32(int32(p.Number)), ETag: aws.String(p.ETag)})
	}
	_, err = o.client.ListParts(ctx, &s3.ListPartsInput{Bucket: o.bucket, Key: o.key, UploadId: &upload, MaxParts: aws.Int32(1)})
	if err == nil {
		if err := record(Written{Replacing: true, Unread: true}); err != nil {
			return err
		}
		_, err = o.client.CompleteMultipartUpload(ctx, in)
	}
	if err != nil {
		if is, markErr := o.isOf(ctx, mark); markErr != nil || !is || !isNoSuchUpload(err) {
			return s3Error("complete the upload of", name, errors.Join(err, markErr))
		}
	}
	written, err := s.readBack(ctx, name)
	if err != nil {
		return err
	}
	defer s.lock(name)()
	switch is, err := o.isOf(ctx, mark); {
	case err != nil:
		return s3Error("read", name, err)
	case !is:
		return apierr.Errorf(apierr.InvalidParameterValue, "'%s' was replaced or deleted by another request before its upload was complete", name)
	}
	return s.recorded(ctx, name, record(written))
}

// isOf reports whether the object is the one of the upload with a mark.
func (o object) isOf(ctx context.Context, mark string) (bool, error) {
	head, err := o.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: o.bucket, Key: o.key})
	if _, ok := errors.AsType[*types.NotFound](err); ok {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return mark != "" && head.Metadata[uploadMark] == mark, nil
}

func (s *Store) readBack(ctx context.Context, name string) (Written, error) {
	r, err := s.Open(ctx, name)
	if err != nil {
		return Written{}, err
	}
	digest := sha256.New()
	size, err := io.Copy(digest, r)
	if err := errors.Join(err, r.Close()); err != nil {
		return Written{}, storeError("read", name, err)
	}
	return Written{Size: size, SHA256: [sha256.Size]byte(digest.Sum(nil))}, nil
}

// AbortUpload gives an upload up. That there is none is no error. It returns
// errNotS3 for another store.
func (s *Store) AbortUpload(ctx context.Context, name, id string) error {
	o, err := s.object(ctx, name)
	if err != nil {
		return err
	}
	_, upload, _ := strings.Cut(id, ".")
	_, err = o.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: o.bucket, Key: o.key, UploadId: &upload})
	if err != nil && !isNoSuchUpload(err) {
		return s3Error("abort the upload of", name, err)
	}
	return nil
}

// PresignDownload returns a URL from which clients get a file themselves, and the
// size of the file in bytes. It returns errNotS3 for another store.
func (s *Store) PresignDownload(ctx context.Context, name string) (url string, size int64, err error) {
	if _, err := s.object(ctx, name); err != nil {
		return "", 0, err
	}
	attributes, err := s.bucket.Attributes(ctx, name)
	if err != nil {
		return "", 0, storeError("read", name, err)
	}
	url, err = s.bucket.SignedURL(ctx, name, &blob.SignedURLOptions{Expiry: downloadExpiry, BeforeSign: func(as func(any) bool) error {
		var in *s3.GetObjectInput
		if as(&in) {
			in.ResponseContentDisposition = aws.String(disposition(name))
		}
		return nil
	}})
	if err != nil {
		return "", 0, storeError("sign", name, err)
	}
	return url, attributes.Size, nil
}

// disposition has a browser save a file instead of showing it.
func disposition(name string) string {
	return mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(name)})
}

func isNoSuchUpload(err error) bool {
	e, ok := errors.AsType[smithy.APIError](err)
	return ok && e.ErrorCode() == "NoSuchUpload"
}

// refusals are the codes of S3 for what a client did wrong
// (https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html).
var refusals = []string{"EntityTooLarge", "EntityTooSmall", "InvalidArgument", "InvalidPart", "InvalidPartOrder", "InvalidRequest", "MalformedXML"}

func s3Error(doing, name string, err error) error {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		err := fmt.Errorf("%s artifact %q: %w", doing, name, err)
		switch {
		case isNoSuchUpload(e):
			return apierr.Wrap(err, apierr.ResourceDoesNotExist, fmt.Sprintf("No such upload of '%s'", name))
		case slices.Contains(refusals, e.ErrorCode()):
			return apierr.Wrap(err, apierr.InvalidParameterValue, fmt.Sprintf("The artifact store refuses to %s '%s': %s: %s", doing, name, e.ErrorCode(), e.ErrorMessage()))
		}
	}
	return storeError(doing, name, err)
}
