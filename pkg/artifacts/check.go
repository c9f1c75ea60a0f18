package artifacts

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
)

// HeaderChecked says whether the bytes of an answer are what the log says of the
// artifact: "before" it was sent; "while-sent", in which case the connection
// breaks off before the end unless they are; or "no", for a part of the artifact
// and for one that the log has no digest of.
const HeaderChecked = "Runledger-Checked"

const (
	checkedBefore    = "before"
	checkedWhileSent = "while-sent"
	notChecked       = "no"

	// checkBefore is up to which size artifacts are read twice, in bytes.
	checkBefore = 16 << 20
	// checkAttempts is how often an artifact is read that another process may be
	// replacing, checkPause how long after another.
	checkAttempts = 4
	checkPause    = 100 * time.Millisecond
)

// Sums are the SHA-256 that an artifact may have by the log; none when that does
// not say. There is more than one while the artifact is being replaced, and after
// a replacement was broken off: the first is that of the last upload.
type Sums [][sha256.Size]byte

// Digest returns what the log says of the artifact at a path of the store.
type Digest func(ctx context.Context, name string) (Sums, error)

var errDamaged = errors.New("the SHA-256 of the bytes in the store is not the one in the log")

// opened is an artifact with what the log says of it.
type opened struct {
	*Reader
	sums Sums
}

// openLogged opens an artifact, and asks the log for its digest, while no upload
// of this process comes in between.
func (p *Proxy) openLogged(ctx context.Context, name string) (o opened, err error) {
	defer p.store.lockReading(name)()
	if o.Reader, err = p.store.Open(ctx, name); err != nil || p.Digest == nil {
		return o, err
	}
	if o.sums, err = p.Digest(ctx, name); err != nil {
		return o, errors.Join(err, o.Close())
	}
	return o, nil
}

// openChecked opens an artifact, whose bytes it compares with the log if they
// are all asked for: now, or when they are read. checked is what HeaderChecked
// says.
func (p *Proxy) openChecked(ctx context.Context, name string, whole bool) (o opened, checked string, err error) {
	for attempt := range checkAttempts {
		if o, err = p.openLogged(ctx, name); err != nil {
			return o, "", err
		}
		switch {
		case !whole || len(o.sums) == 0:
			return o, notChecked, nil
		case o.Size > checkBefore:
			o.ReadSeekCloser = &checking{ReadSeekCloser: o.ReadSeekCloser, hash: sha256.New(), size: o.Size, sums: o.sums}
			return o, checkedWhileSent, nil
		}
		if o.sums, err = o.check(); err == nil {
			return o, checkedBefore, nil
		}
		if closeErr := o.Close(); closeErr != nil || !errors.Is(err, errDamaged) {
			return o, "", storeError("read", name, errors.Join(err, closeErr))
		}
		if attempt < checkAttempts-1 {
			select {
			case <-time.After(checkPause):
			case <-ctx.Done():
				return o, "", ctx.Err()
			}
		}
	}
	return o, "", damaged(name)
}

// check reads the artifact from its beginning, and goes back there. It returns
// which of the sums it has.
func (o opened) check() (Sums, error) {
	h := sha256.New()
	if _, err := io.Copy(h, o.Reader); err != nil {
		return nil, err
	}
	sum := [sha256.Size]byte(h.Sum(nil))
	if !slices.Contains(o.sums, sum) {
		return nil, errDamaged
	}
	_, err := o.Seek(0, io.SeekStart)
	return Sums{sum}, err
}

// checking keeps the end of an artifact back unless all of it is what the log
// says. It is read from the beginning to the end.
type checking struct {
	io.ReadSeekCloser
	hash       hash.Hash
	size, read int64
	sums       Sums
}

func (c *checking) Read(b []byte) (int, error) {
	n, err := c.ReadSeekCloser.Read(b)
	c.hash.Write(b[:n])
	if c.read += int64(n); n > 0 && c.read >= c.size && !slices.Contains(c.sums, [sha256.Size]byte(c.hash.Sum(nil))) {
		return 0, errDamaged
	}
	return n, err
}

func damaged(name string) error {
	return apierr.Wrap(fmt.Errorf("read artifact %q: %w", name, errDamaged), apierr.InternalError, fmt.Sprintf(
		"The artifact '%s' is damaged: %v. Restore it or upload it again; a range of it (header Range: bytes=0-) is sent unchecked.", name, errDamaged))
}

func reprDigest(digest [sha256.Size]byte) string {
	return "sha-256=:" + base64.StdEncoding.EncodeToString(digest[:]) + ":"
}

// send answers with an artifact.
func (p *Proxy) send(c echo.Context, a address) error {
	r := c.Request()
	name, whole := a.name, r.Method == http.MethodGet && r.Header.Get("Range") == ""
	o, checked, err := p.openChecked(r.Context(), name, whole)
	if apierr.CodeOf(err) == apierr.ResourceDoesNotExist && a.older != a.name {
		if older, olderChecked, olderErr := p.openChecked(r.Context(), a.older, whole); olderErr == nil {
			name, o, checked, err = a.older, older, olderChecked, nil
		}
	}
	if err != nil {
		return err
	}
	defer func() { _ = o.Close() }() // read only: nothing to lose
	h := c.Response().Header()
	h.Set(echo.HeaderContentType, ContentType(name))
	h.Set(echo.HeaderContentDisposition, disposition(name))
	h.Set(echo.HeaderXContentTypeOptions, "nosniff")
	h.Set(HeaderChecked, checked)
	if len(o.sums) == 1 {
		h.Set(HeaderReprDigest, reprDigest(o.sums[0]))
	}
	content := &failing{ReadSeeker: o}
	http.ServeContent(c.Response(), r, "", o.ModTime, content)
	if content.err != nil {
		// The answer is shorter than it says, which the client notices.
		return storeError("send", name, content.err)
	}
	return nil
}

// failing keeps the error at which reading ended.
type failing struct {
	io.ReadSeeker
	err error
}

func (f *failing) Read(b []byte) (int, error) {
	n, err := f.ReadSeeker.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}
