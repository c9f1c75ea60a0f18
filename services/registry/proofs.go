package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/treehead"
)

const (
	defaultEntries = 1000
	maxHeadPage    = 1000
	contentNote    = "text/plain; charset=utf-8"
	contentLines   = "application/jsonl"
)

// tree answers with the head of the ledger's tree, not signed.
func (s *Service) tree(c echo.Context) error {
	if _, err := s.read(c); err != nil {
		return err
	}
	head, err := s.ledger.Head()
	if err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), head)
}

// entries answers with canonical entries, a line each, none when there is none
// from the first on.
func (s *Service) entries(c echo.Context) error {
	from, err := numberParam(c, "from", 0)
	if err != nil {
		return err
	}
	limit, err := pageLimit(c, defaultEntries, maxHistory)
	if err != nil {
		return err
	}
	if _, err := s.read(c); err != nil {
		return err
	}
	size := s.ledger.Size()
	from = min(from, size)
	var lines []byte
	for canonical, err := range s.ledger.Canonicals(from, min(from+uint64(limit), size)) {
		if err != nil {
			return err
		}
		lines = append(append(lines, canonical...), '\n')
		if len(lines) > ledger.MaxHistoryBytes {
			break
		}
	}
	return c.Blob(http.StatusOK, contentLines, lines)
}

type inclusionResponse struct {
	Entry    uint64           `json:"entry"`
	Size     uint64           `json:"size"`
	LeafHash tlog.Hash        `json:"leaf_hash"`
	RootHash tlog.Hash        `json:"root_hash"` // of the tree of Size entries
	Hashes   tlog.RecordProof `json:"hashes"`    // the audit path of RFC 6962, section 2.1.1
}

// proveInclusion proves that an entry is in the tree of the first size entries,
// all of them if none is named.
func (s *Service) proveInclusion(c echo.Context) error {
	if _, err := s.read(c); err != nil {
		return err
	}
	size, err := s.sizeParam(c, "size")
	if err != nil {
		return err
	}
	entry, err := requiredNumber(c, "entry")
	if err != nil {
		return err
	}
	if entry >= size {
		return apierr.Errorf(apierr.InvalidParameterValue,
			"Invalid value %d for parameter 'entry' supplied. A tree of %d entries has none from that on.", entry, size)
	}
	canonical, err := s.ledger.Canonical(entry)
	if err != nil {
		return err
	}
	out := inclusionResponse{Entry: entry, Size: size, LeafHash: ledger.LeafHash(canonical)}
	if out.RootHash, err = tlog.TreeHash(int64(size), s.ledger.Hashes()); err != nil {
		return fmt.Errorf("hash the tree of %d entries: %w", size, err)
	}
	if out.Hashes, err = tlog.ProveRecord(int64(size), int64(entry), s.ledger.Hashes()); err != nil {
		return fmt.Errorf("prove entry %d of %d: %w", entry, size, err)
	}
	return mlflow.WriteJSON(c.Response(), out)
}

type consistencyResponse struct {
	From         uint64         `json:"from"`
	To           uint64         `json:"to"`
	FromRootHash tlog.Hash      `json:"from_root_hash"`
	ToRootHash   tlog.Hash      `json:"to_root_hash"`
	Hashes       tlog.TreeProof `json:"hashes"` // the proof of RFC 6962, section 2.1.2
}

// proveConsistency proves that the tree of the first to entries contains that of
// the first from.
func (s *Service) proveConsistency(c echo.Context) error {
	if _, err := s.read(c); err != nil {
		return err
	}
	to, err := s.sizeParam(c, "to")
	if err != nil {
		return err
	}
	from, err := requiredNumber(c, "from")
	if err != nil {
		return err
	}
	if from < 1 || from > to {
		return apierr.Errorf(apierr.InvalidParameterValue,
			"Invalid value %d for parameter 'from' supplied. It must be a number of entries from 1 to %d.", from, to)
	}
	out := consistencyResponse{From: from, To: to}
	hashes := s.ledger.Hashes()
	if out.FromRootHash, err = tlog.TreeHash(int64(from), hashes); err != nil {
		return fmt.Errorf("hash the tree of %d entries: %w", from, err)
	}
	if out.ToRootHash, err = tlog.TreeHash(int64(to), hashes); err != nil {
		return fmt.Errorf("hash the tree of %d entries: %w", to, err)
	}
	if out.Hashes, err = tlog.ProveTree(int64(to), int64(from), hashes); err != nil {
		return fmt.Errorf("prove the tree of %d entries in that of %d: %w", from, to, err)
	}
	return mlflow.WriteJSON(c.Response(), out)
}

// signHead signs the head of the present tree, and answers with the note.
func (s *Service) signHead(c echo.Context) error {
	if _, err := s.current(c.Request().Context()); err != nil {
		return err
	}
	signed, isNew, err := s.sign()
	if err != nil {
		return err
	}
	status := http.StatusOK
	if isNew {
		status = http.StatusCreated
	}
	return c.Blob(status, contentNote, signed)
}

// sign signs the head of the ledger's tree and logs it, so that it is where the
// logs go too. The ledger must have been built.
func (s *Service) sign() (signed []byte, isNew bool, err error) {
	signed, isNew, err = s.heads.Sign(s.ledger, time.Now())
	switch {
	case errors.Is(err, treehead.ErrForked), errors.Is(err, treehead.ErrBehind):
		s.forked.Store(&err)
		s.logger.Error("registry: the ledger is not the one whose tree head was signed", slog.Any("error", err))
		return nil, false, apierr.Wrap(err, apierr.TemporarilyUnavailable, "The registry's ledger does not contain what was signed before: "+err.Error())
	case err != nil:
		return nil, false, apierr.Wrap(err, apierr.TemporarilyUnavailable, "The tree head cannot be signed and kept").WithRetryAfter(retryLast)
	}
	if isNew {
		s.logger.Info("registry: signed a tree head", slog.String("key", s.heads.VerifierKey()), slog.String("note", string(signed)))
	}
	return signed, isNew, nil
}

// signOften signs a tree head when the ledger is built, which compares it with the
// last one, and then at intervals if there is more to sign; every 0 is no more.
func (s *Service) signOften(ctx context.Context, every time.Duration) {
	if s.wait(ctx, s.target) != nil {
		return // closed, or never built: Ready says why
	}
	var tick <-chan time.Time
	if every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		last, ok := s.heads.Latest()
		if size := s.ledger.Size(); size != last || ok {
			if _, _, err := s.sign(); err != nil {
				s.logger.Warn("registry: no tree head", slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

type headResponse struct {
	Size uint64 `json:"size"`
	Note string `json:"note"`
}

type headsResponse struct {
	Heads         []headResponse `json:"tree_heads"`
	NextPageToken string         `json:"next_page_token"`
}

// headCursor is the token of a page of tree heads.
type headCursor struct {
	Size uint64 `json:"size"` // of the first tree
}

// listHeads answers with the signed heads that are kept, the smallest tree first.
func (s *Service) listHeads(c echo.Context) error {
	from, err := mlflow.DecodePageToken[headCursor](c.QueryParam("page_token"))
	if err != nil {
		return err
	}
	sizes, more := s.heads.Sizes(from.Size, maxHeadPage)
	out := headsResponse{Heads: make([]headResponse, 0, len(sizes))}
	for _, size := range sizes {
		signed, err := s.heads.Read(size)
		if err != nil {
			return err
		}
		out.Heads = append(out.Heads, headResponse{Size: size, Note: string(signed)})
	}
	if more {
		if out.NextPageToken, err = mlflow.EncodePageToken(headCursor{Size: sizes[len(sizes)-1] + 1}); err != nil {
			return err
		}
	}
	return mlflow.WriteJSON(c.Response(), out)
}

// latestHead answers with the note that was signed last.
func (s *Service) latestHead(c echo.Context) error {
	size, ok := s.heads.Latest()
	if !ok {
		return apierr.Errorf(apierr.ResourceDoesNotExist, "No tree head was signed yet")
	}
	signed, err := s.heads.Read(size)
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, contentNote, signed)
}

// sizeParam reads the size of a tree that there is or was: the present one when
// the parameter is missing.
func (s *Service) sizeParam(c echo.Context, name string) (uint64, error) {
	present := s.ledger.Size()
	size, err := numberParam(c, name, present)
	if err == nil && size > present {
		err = apierr.Errorf(apierr.InvalidParameterValue,
			"Invalid value %d for parameter '%s' supplied. The ledger has %d entries.", size, name, present)
	}
	return size, err
}

func requiredNumber(c echo.Context, name string) (uint64, error) {
	if c.QueryParam(name) == "" {
		return 0, apierr.Errorf(apierr.InvalidParameterValue, "Missing value for required parameter '%s'.", name)
	}
	return numberParam(c, name, 0)
}

// numberParam reads a query parameter of at most 63 bits.
func numberParam(c echo.Context, name string, missing uint64) (uint64, error) {
	text := c.QueryParam(name)
	if text == "" {
		return missing, nil
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, apierr.Errorf(apierr.InvalidParameterValue,
			"Invalid value %q for parameter '%s' supplied. It must be an integer from 0 on.", text, name)
	}
	return n, nil
}
