package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	callTimeout = time.Minute
	maxAnswer   = 64 << 20 // bytes
)

// call sends a request of Runledger's own API to a server and decodes the answer
// into answer, unless that is nil. A nil request has no body; headers are names
// and values in turn. Its error has what the server says of a request that it
// refuses.
func call(ctx context.Context, method, server, path string, request, answer any, headers ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return fmt.Errorf("ask the server: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(server, "/")+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var told struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(text, &told) != nil || told.Message == "" {
			told.Message = resp.Status
		}
		return fmt.Errorf("the server refused: %s", printable(told.Message))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("the server answered %s: %w", resp.Status, err)
	}
	return nil
}
