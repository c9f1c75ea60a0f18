package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
)

func server(t *testing.T, checks ...httpapi.Check) (*echo.Echo, string) {
	t.Helper()
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Checks: checks})
	s := httptest.NewServer(e)
	t.Cleanup(s.Close)
	return e, s.URL
}

func get(t *testing.T, url string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp, strings.TrimSpace(string(body)), err
}

func TestErrorsAreMLflows(t *testing.T) {
	e, url := server(t)
	for path, err := range map[string]error{
		"/coded":    fmt.Errorf("log batch: %w", apierr.Errorf(apierr.ResourceDoesNotExist, "Run with id=x not found")),
		"/busy":     apierr.Errorf(apierr.RequestLimitExceeded, "busy").WithRetryAfter(1500 * time.Millisecond),
		"/internal": errors.New("secret"),
	} {
		e.GET(path, func(echo.Context) error { return err })
	}
	e.GET("/panics", func(echo.Context) error { panic("secret") })
	for _, tc := range []struct {
		path, body, retryAfter string
		status                 int
	}{
		{"/coded", `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Run with id=x not found"}`, "", 404},
		{"/busy", `{"error_code":"REQUEST_LIMIT_EXCEEDED","message":"busy"}`, "2", 429},
		{"/nowhere", `{"error_code":"ENDPOINT_NOT_FOUND","message":"Not Found"}`, "", 404},
		{"/coded?a=%zz", `{"error_code":"INVALID_PARAMETER_VALUE","message":"The query string is not valid: invalid URL escape \"%zz\"."}`, "", 400},
		{"/coded?a=1;b=2", `{"error_code":"INVALID_PARAMETER_VALUE","message":"The query string is not valid: invalid semicolon separator in query."}`, "", 400},
	} {
		resp, body, err := get(t, url+tc.path)
		if err != nil || resp.StatusCode != tc.status || body != tc.body || resp.Header.Get("Retry-After") != tc.retryAfter {
			t.Errorf("%s: %v %v %s", tc.path, err, resp, body)
		}
	}
	for _, path := range []string{"/internal", "/panics"} {
		resp, body, err := get(t, url+path)
		if err != nil || resp.StatusCode != 500 || strings.Contains(body, "secret") || !strings.Contains(body, "INTERNAL_ERROR") {
			t.Errorf("%s: %v %v %s", path, err, resp, body)
		}
	}
}

// What is not served is MLflow's ENDPOINT_NOT_FOUND, by which its clients know an
// older server: tracing, evaluation, the gateway, other methods of known paths.
func TestEndpointNotFound(t *testing.T) {
	e, url := server(t)
	addMLflow(e, http.MethodPost, "/runs/create", func(echo.Context) error { return nil })
	for _, tc := range []struct{ method, path string }{
		{"GET", "/api/2.0/mlflow/runs/create"},
		{"PUT", "/ajax-api/2.0/mlflow/runs/create"},
		{"DELETE", "/health"},
		{"POST", "/version"},
		{"POST", "/api/2.0/mlflow/runs/create/"},
		{"POST", "/api/9.0/mlflow/runs/create"},
		{"GET", "/"},
		{"GET", "/api/2.0/mlflow"},
		{"POST", "/graphql"},
		{"POST", "/v1/traces"},
		{"POST", "/api/2.0/mlflow/traces"},
		{"GET", "/api/2.0/mlflow/traces"},
		{"PATCH", "/api/2.0/mlflow/traces/tr-1"},
		{"POST", "/api/3.0/mlflow/traces"},
		{"POST", "/api/3.0/mlflow/traces/search"},
		{"GET", "/api/3.0/mlflow/traces/tr-1"},
		{"DELETE", "/api/3.0/mlflow/traces/tr-1/tags"},
		{"POST", "/api/3.0/mlflow/datasets/create"},
		{"POST", "/api/3.0/mlflow/scorers/register"},
		{"GET", "/api/2.0/mlflow/gateway/endpoints/list"},
		{"GET", "/api/3.0/mlflow/workspaces"},
		{"POST", "/ajax-api/2.0/mlflow/gateway-proxy"},
		{"GET", "/ajax-api/3.0/mlflow/ui-telemetry"},
		{"GET", "/api/3.0/mlflow/server-features"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, url+tc.path, strings.NewReader(`{"run_id":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if want := `{"error_code":"ENDPOINT_NOT_FOUND","message":"Not Found"}`; err != nil || resp.StatusCode != 404 ||
			string(body) != want || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v %d %s %s", tc.method, tc.path, err, resp.StatusCode, resp.Header.Get("Content-Type"), body)
		}
	}
}

// TestHalfAnAnswerIsNotAWholeOne: an error after the answer has begun breaks
// the connection, so that the client cannot take what it has for all of it.
func TestHalfAnAnswerIsNotAWholeOne(t *testing.T) {
	e, url := server(t)
	e.GET("/half", func(c echo.Context) error {
		if err := c.String(http.StatusOK, strings.Repeat("x", 100_000)); err != nil {
			return err
		}
		return errors.New("the rest is lost")
	})
	if _, body, err := get(t, url+"/half"); err == nil {
		t.Errorf("got an answer of %d bytes and no error", len(body))
	}
}

func TestReadyNamesWhatIsWrong(t *testing.T) {
	good := httpapi.Check{Name: "log", Ready: func(context.Context) error { return nil }}
	bad := httpapi.Check{Name: "tables", Ready: func(context.Context) error { return errors.New("no answer") }}
	_, url := server(t, good)
	if resp, body, err := get(t, url+"/readyz"); err != nil || resp.StatusCode != 200 || body != `{"ready":true,"checks":{"log":"ok"}}` {
		t.Error(resp, body, err)
	}
	_, url = server(t, good, bad)
	if resp, body, err := get(t, url+"/readyz"); err != nil || resp.StatusCode != 503 || body != `{"ready":false,"checks":{"log":"ok","tables":"no answer"}}` {
		t.Error(resp, body, err)
	}
	for path, want := range map[string]string{"/health": "OK"} {
		if resp, body, err := get(t, url+path); err != nil || resp.StatusCode != 200 || body != want {
			t.Error(path, resp, body, err)
		}
	}
	if _, body, err := get(t, url+"/metrics"); err != nil || !strings.Contains(body, "runledger_http_requests_total") {
		t.Error(body, err)
	}
}

func TestServeFinishesWhatIsUnderWay(t *testing.T) {
	e, _ := server(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	e.GET("/slow", func(c echo.Context) error {
		close(begun)
		<-finish
		return c.String(http.StatusOK, "done")
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpapi.Serve(ctx, l, e, 20*time.Second) }()
	answer := make(chan string, 1)
	go func() {
		_, body, err := get(t, "http://"+l.Addr().String()+"/slow")
		answer <- fmt.Sprint(body, err)
	}()
	<-begun
	stop()
	close(finish)
	if got := <-answer; got != "done<nil>" {
		t.Errorf("the request under way got %s", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestClientsChooseNoMetricLabels(t *testing.T) {
	_, url := server(t)
	req, err := http.NewRequestWithContext(t.Context(), "CHOSEN", url+"/chosen", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "chosen.example"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	_, metrics, err := get(t, url+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(metrics, `method="other"`) || strings.Contains(strings.ToLower(metrics), "chosen") {
		t.Error(metrics)
	}
}

// pipes is a listener of connections in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestClientThatTakesNothingIsLetGoAndASlowOneIsNot(t *testing.T) {
	const pause, writes = 25 * time.Second, 30 // longer together than an answer may take to begin
	for name, takes := range map[string]bool{"takes nothing": false, "slow": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
				wrote := make(chan error, 1)
				e.GET("/long", func(c echo.Context) error {
					var err error
					for range writes {
						if _, err = c.Response().Write(make([]byte, 64<<10)); err != nil {
							break
						}
					}
					wrote <- err
					return err
				})
				ctx, stop := context.WithCancel(t.Context())
				l := make(pipes)
				served := make(chan error, 1)
				go func() { served <- httpapi.Serve(ctx, l, e, time.Second) }()
				client, server := net.Pipe()
				l <- server
				if _, err := io.WriteString(client, "GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				read := make(chan int64, 1)
				go func() {
					var n int64
					for takes {
						m, err := io.CopyN(io.Discard, client, 64<<10)
						if n += m; err != nil {
							break
						}
						time.Sleep(pause)
					}
					read <- n
				}()
				err := <-wrote
				if takes == (err != nil) {
					t.Errorf("the write ended with %v", err)
				}
				if n := <-read; takes && n < writes*64<<10 {
					t.Errorf("%d bytes arrived", n)
				}
				_ = client.Close()
				stop()
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
