package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	requestTimeout = 30 * time.Second
	// maxRetries bounds how often a request is repeated that the server was too
	// busy for, maxRetryWait how long it is waited each time.
	maxRetries   = 100
	maxRetryWait = 5 * time.Second
)

// client talks to a Runledger on this machine. It is safe for concurrent use.
type client struct {
	base    string
	http    *http.Client
	retries atomic.Int64 // requests repeated since the server was busy
}

// newClient returns a client that keeps up to connections open. It refuses an
// address that is not a loopback one: this program is for its own machine.
func newClient(base string, connections int) (*client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("address of the server: %w", err)
	}
	if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("address of the server: %s is not a loopback address", u.Host)
	}
	return &client{base: base, http: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections,
			DisableCompression: true, WriteBufferSize: 128 << 10,
		},
	}}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// post calls an endpoint of MLflow's API. into, when not nil, receives the
// answer, a *bytes.Buffer as it came, anything else decoded.
func (c *client) post(ctx context.Context, path string, body []byte, into any) error {
	_, err := c.request(ctx, http.MethodPost, "/api/2.0/mlflow/"+path, body, into)
	return err
}

// get reads what is at a path. It returns the headers of the answer.
func (c *client) get(ctx context.Context, path string, into any) (http.Header, error) {
	return c.request(ctx, http.MethodGet, path, nil, into)
}

// request sends a request, and repeats it as long as the server asks for that.
func (c *client) request(ctx context.Context, method, path string, body []byte, into any) (http.Header, error) {
	for try := 0; ; try++ {
		header, again, err := c.once(ctx, method, path, body, into)
		if again < 0 || try == maxRetries {
			return header, err
		}
		c.retries.Add(1)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", path, ctx.Err())
		case <-time.After(again):
		}
	}
}

// once returns when to try again, negative for not at all.
func (c *client) once(ctx context.Context, method, path string, body []byte, into any) (http.Header, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, -1, fmt.Errorf("%s: %w", path, err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.do(req, into)
	if res == nil {
		return nil, -1, err
	}
	if err == nil || res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusServiceUnavailable {
		return res.Header, -1, err
	}
	seconds, parseErr := strconv.Atoi(res.Header.Get("Retry-After"))
	if parseErr != nil {
		return res.Header, -1, err
	}
	return res.Header, min(time.Duration(seconds)*time.Second, maxRetryWait), err
}

// do returns the response, its body closed, also with the error that a status
// other than 200 is.
func (c *client) do(req *http.Request, into any) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err // names the method and the address
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10)) // what there is of it
		return res, fmt.Errorf("%s: %s: %s", req.URL.Path, res.Status, said)
	}
	switch into := into.(type) {
	case nil:
	case *bytes.Buffer:
		into.Reset()
		if _, err := into.ReadFrom(res.Body); err != nil {
			return res, fmt.Errorf("%s: read the answer: %w", req.URL.Path, err)
		}
	default:
		if err := json.NewDecoder(res.Body).Decode(into); err != nil {
			return res, fmt.Errorf("%s: decode the answer: %w", req.URL.Path, err)
		}
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return res, fmt.Errorf("%s: read the answer: %w", req.URL.Path, err)
	}
	return res, nil
}

// createRun creates a run in the default experiment, and returns its id.
func (c *client) createRun(ctx context.Context) (string, error) {
	return c.createRunIn(ctx, "0", "", time.Now().UnixMilli())
}

// createRunIn creates a run, with a name of the server's when name is empty.
// The start is in milliseconds since the Unix epoch; neither id nor name need
// escaping.
func (c *client) createRunIn(ctx context.Context, experiment, name string, start int64) (string, error) {
	var created struct {
		Run struct {
			Info struct {
				RunID string `json:"run_id"`
			} `json:"info"`
		} `json:"run"`
	}
	body := fmt.Appendf(nil, `{"experiment_id": "%s", "user_id": "loadtest", "run_name": "%s", "start_time": %d, "tags": []}`, experiment, name, start)
	err := c.post(ctx, "runs/create", body, &created)
	return created.Run.Info.RunID, err
}

func (c *client) createRuns(ctx context.Context, n int) ([]string, error) {
	ids := make([]string, n)
	for i := range ids {
		var err error
		if ids[i], err = c.createRun(ctx); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

type point struct {
	Timestamp int64   `json:"timestamp"`
	Step      int64   `json:"step"`
	Value     float64 `json:"value"`
}

// history returns the points of a metric, by timestamp, and whether they may be
// fewer than were acknowledged before.
func (c *client) history(ctx context.Context, runID, key string) (points []point, stale bool, err error) {
	var answer struct {
		Metrics []point `json:"metrics"`
	}
	query := url.Values{"run_id": {runID}, "metric_key": {key}}
	header, err := c.get(ctx, "/api/2.0/mlflow/metrics/get-history?"+query.Encode(), &answer)
	return answer.Metrics, header.Get("Runledger-Stale") != "", err
}
