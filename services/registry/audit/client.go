package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/treehead"
)

var (
	// ErrAnswer means that a server answered something else than what was asked.
	ErrAnswer = errors.New("unexpected answer")
	// ErrRefused means that a server answered with an error.
	ErrRefused = errors.New("the server refused")
)

const (
	requestTimeout = time.Minute
	maxAnswer      = 64 << 20 // bytes
	pageEntries    = 1000
)

// Client asks a running registry. It checks what can be checked of an answer by
// itself, and leaves the rest to the caller.
type Client struct {
	base *url.URL
}

// NewClient returns a client of the server at a URL, in which a user name and a
// password may be.
func NewClient(server string) (*Client, error) {
	base, err := url.Parse(server)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("server %q: want a URL such as http://127.0.0.1:5000", server)
	}
	return &Client{base: base}, nil
}

// do sends a request and returns the body of its answer, at most maxAnswer bytes.
// The path begins below /api/v1 and is escaped.
func (c *Client) do(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// JoinPath keeps what is escaped.
	u := c.base.JoinPath("api", "v1", path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", path, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: no server answers there: start one with 'runledger up', or name another with --server", err)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer for %s: %w", path, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, ErrAnswer, maxAnswer)
	}
	if resp.StatusCode/100 != 2 {
		var told struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(body, &told) != nil || told.Message == "" {
			told.Message = resp.Status
		}
		return nil, fmt.Errorf("%w: %s", ErrRefused, told.Message)
	}
	return body, nil
}

// get decodes a JSON answer.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var v T
	body, err := c.do(ctx, http.MethodGet, path, query)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("%s: %w: %w", path, ErrAnswer, err)
	}
	return v, nil
}

// Key returns the verifier key that the server says is its own.
func (c *Client) Key(ctx context.Context) (string, note.Verifier, error) {
	body, err := c.do(ctx, http.MethodGet, "registry/key", nil)
	if err != nil {
		return "", nil, err
	}
	text := strings.TrimSpace(string(body))
	v, err := note.NewVerifier(text)
	if err != nil {
		return "", nil, fmt.Errorf("the server's key: %w: %w", ErrAnswer, err)
	}
	return text, v, nil
}

// SignHead has the server sign the head of its present tree. It is not checked.
func (c *Client) SignHead(ctx context.Context) ([]byte, error) {
	return c.do(ctx, http.MethodPost, "registry/tree-heads", nil)
}

// Heads returns the signed tree heads that the server keeps. They are not checked.
func (c *Client) Heads(ctx context.Context) ([][]byte, error) {
	var heads [][]byte
	for token := ""; ; {
		page, err := get[struct {
			Heads []struct {
				Note string `json:"note"`
			} `json:"tree_heads"`
			Next string `json:"next_page_token"`
		}](ctx, c, "registry/tree-heads", url.Values{"page_token": {token}})
		if err != nil {
			return nil, err
		}
		for _, h := range page.Heads {
			heads = append(heads, []byte(h.Note))
		}
		if page.Next == "" || len(page.Heads) == 0 {
			return heads, nil
		}
		token = page.Next
	}
}

// Entries yields the entries from from to before to, as the server says they are.
func (c *Client) Entries(ctx context.Context, from, to uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for from < to {
			body, err := c.do(ctx, http.MethodGet, "registry/entries", url.Values{
				"from": {strconv.FormatUint(from, 10)}, "max_results": {strconv.FormatUint(min(to-from, pageEntries), 10)},
			})
			if err != nil {
				yield(nil, err)
				return
			}
			if len(body) == 0 {
				yield(nil, fmt.Errorf("%w: %w", ErrAnswer, &ledger.Difference{
					First: from, Last: from, Reason: fmt.Sprintf("the server has none, though it signed a tree of %d", to),
				}))
				return
			}
			lines := bufio.NewScanner(bytes.NewReader(body))
			lines.Buffer(nil, maxAnswer)
			for ; lines.Scan() && from < to; from++ {
				if !yield(lines.Bytes(), nil) {
					return
				}
			}
		}
	}
}

// Root returns the root that the tree of head had when it had size entries. The
// server proves it.
func (c *Client) Root(ctx context.Context, size uint64, head treehead.Head) (tlog.Hash, error) {
	answer, err := get[struct {
		FromRoot tlog.Hash      `json:"from_root_hash"`
		Hashes   tlog.TreeProof `json:"hashes"`
	}](ctx, c, "registry/proofs/consistency", url.Values{
		"from": {strconv.FormatUint(size, 10)}, "to": {strconv.FormatUint(head.Size, 10)},
	})
	if err != nil {
		return tlog.Hash{}, err
	}
	if err := tlog.CheckTree(answer.Hashes, int64(head.Size), head.Root, int64(size), answer.FromRoot); err != nil {
		return tlog.Hash{}, fmt.Errorf("the server cannot prove that its tree of %d entries contains that of %d: %w", head.Size, size, err)
	}
	return answer.FromRoot, nil
}

// HistoryEntry is an entry of a model's history as the server tells it, without
// proof.
type HistoryEntry struct {
	Seq       uint64          `json:"seq"`
	Time      string          `json:"time"`
	Actor     string          `json:"actor"`
	Reason    string          `json:"reason"`
	RequestID string          `json:"request_id"`
	Action    string          `json:"action"`
	Model     string          `json:"model"`
	Version   string          `json:"version"`
	Before    json.RawMessage `json:"before"`
	After     json.RawMessage `json:"after"`
	// Raw is the whole entry.
	Raw json.RawMessage `json:"-"`
}

// History returns a page of a model's history, oldest first, and the token of the
// next page, "" after the last. The first page has the token "".
func (c *Client) History(ctx context.Context, name, token string, limit int) ([]HistoryEntry, string, error) {
	page, err := get[struct {
		Entries []json.RawMessage `json:"entries"`
		Next    string            `json:"next_page_token"`
	}](ctx, c, "models/"+url.PathEscape(name)+"/history", url.Values{
		"page_token": {token}, "max_results": {strconv.Itoa(limit)},
	})
	if err != nil {
		return nil, "", err
	}
	entries := make([]HistoryEntry, len(page.Entries))
	for i, raw := range page.Entries {
		if err := json.Unmarshal(raw, &entries[i]); err != nil {
			return nil, "", fmt.Errorf("history of %q: %w: %w", name, ErrAnswer, err)
		}
		entries[i].Raw = raw
	}
	return entries, page.Next, nil
}

// AuditLog returns a page of the entries that GET /api/v1/audit answers to a
// query, and the token of the next page, "" after the last.
func (c *Client) AuditLog(ctx context.Context, query url.Values) ([]json.RawMessage, string, error) {
	page, err := get[struct {
		Entries []json.RawMessage `json:"entries"`
		Next    string            `json:"next_page_token"`
	}](ctx, c, "audit", query)
	return page.Entries, page.Next, err
}
