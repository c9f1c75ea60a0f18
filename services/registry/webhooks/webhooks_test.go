package webhooks_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/webhooks"
)

func TestSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	// However many processes make the file at once, they have one key.
	var made [8]*webhooks.Dispatcher
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() {
			var err error
			if made[i], err = webhooks.WithSecret(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the key file: %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Fatalf("beside the key file: %v, %v", files, err)
	}
	const secret = "a secret"
	for _, d := range made {
		sealed, err := d.SealSecret("hook", secret)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(sealed, []byte(secret)) {
			t.Fatal("the secret is in clear")
		}
		if opened, err := made[0].OpenSecret("hook", sealed); err != nil || opened != secret {
			t.Errorf("opened %q, %v", opened, err)
		}
		if _, err := d.OpenSecret("other hook", sealed); err == nil {
			t.Error("a secret opens for another webhook")
		}
		for i := range sealed {
			forged := bytes.Clone(sealed)
			forged[i] ^= 1
			if _, err := d.OpenSecret("hook", forged); err == nil {
				t.Errorf("a secret opens with byte %d changed", i)
			}
			if _, err := d.OpenSecret("hook", sealed[:i]); err == nil && i > 0 {
				t.Errorf("a secret opens with %d of its bytes", i)
			}
		}
		again, err := d.SealSecret("hook", secret)
		if err != nil || bytes.Equal(again, sealed) {
			t.Errorf("sealed twice, it is the same: %v", err)
		}
	}
	other, err := webhooks.WithSecret(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := made[0].SealSecret("hook", secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.OpenSecret("hook", sealed); !errors.Is(err, webhooks.ErrOtherKey) {
		t.Errorf("opened with another key: %v", err)
	}
	for name, text := range map[string]string{"short": "AAAA", "not base64": strings.Repeat("?", 44), "empty": ""} {
		broken := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(broken, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := webhooks.WithSecret(broken); err == nil || !strings.Contains(err.Error(), broken) {
			t.Errorf("a key file that is %s: %v", name, err)
		}
	}
}

func TestPause(t *testing.T) {
	total := time.Duration(0)
	for attempt := uint64(1); attempt <= 36; attempt++ {
		longest := min(time.Second<<min(attempt-1, 30), time.Hour)
		for range 50 {
			if got := webhooks.Pause(time.Second, attempt); got < longest/2 || got > longest {
				t.Fatalf("pause after attempt %d: %v, want %v to %v", attempt, got, longest/2, longest)
			}
		}
		total += longest
	}
	if total < 12*time.Hour || total > 48*time.Hour {
		t.Errorf("all pauses together are %v, the documentation says about a day", total)
	}
	if got := webhooks.Pause(time.Second, 1<<40); got > time.Hour {
		t.Errorf("pause after very many attempts: %v", got)
	}
}

// What is checked at the connection holds whatever was checked before.
func TestNothingReachesInside(t *testing.T) {
	reached := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer inside.Close()
	d := webhooks.Guarded()
	for _, address := range []string{
		inside.URL, strings.Replace(inside.URL, "127.0.0.1", "localhost", 1), strings.Replace(inside.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1),
		strings.Replace(inside.URL, "127.0.0.1", "0.0.0.0", 1),
	} {
		r := d.Test(t.Context(), webhooks.ToServer(address), "prompt.created")
		if r.Success || r.ResponseStatus != 0 || !strings.Contains(r.ErrorMessage, "prohibited") {
			t.Errorf("%s: %+v", address, r)
		}
		if err := d.CheckURL(t.Context(), address); err == nil {
			t.Errorf("%s may be a webhook's", address)
		}
	}
	if reached {
		t.Error("a server inside was reached")
	}
}

// A delivery is what MLflow's is, and of an answer as much is taken as is bounded.
func TestADelivery(t *testing.T) {
	d, err := webhooks.WithClient(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	var got *http.Request
	var body []byte
	elsewhere := false
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		_, _ = w.Write(make([]byte, 1<<20))
	})
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { elsewhere = true })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/busy", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "86400")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	hook := webhooks.ToServer(s.URL + "/ok")
	if hook.SealedSecret, err = d.SealSecret(hook.ID, "secret"); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 3, 14, 0, 0, 0, time.UTC)
	if sent := d.Send(t.Context(), hook, "prompt_tag.set", at); sent.Status != http.StatusOK || sent.Failure != "" || len(sent.Body) != 64<<10 {
		t.Errorf("sent: %d %q, %d bytes", sent.Status, sent.Failure, len(sent.Body))
	}
	const want = `{"entity":"prompt_tag","action":"set","timestamp":"2026-03-03T14:00:00.000000+00:00",` +
		`"data":{"key":"example_key","name":"example_prompt","value":"example_value"}}`
	if string(body) != want || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%v\n got %s\nwant %s", got.Header, body, want)
	}
	mac := hmac.New(sha256.New, []byte("secret"))
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", got.Header.Get("X-MLflow-Delivery-Id"), got.Header.Get("X-MLflow-Timestamp"), body)
	if signature := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); got.Header.Get("X-MLflow-Signature") != signature {
		t.Errorf("signed %v, want %s", got.Header, signature)
	}
	seconds, err := strconv.ParseInt(got.Header.Get("X-MLflow-Timestamp"), 10, 64)
	if age := time.Since(time.Unix(seconds, 0)); err != nil || age < 0 || age > time.Hour {
		t.Errorf("sent at %v: %v", seconds, err)
	}
	for path, want := range map[string]webhooks.Sent{
		"/moved": {Status: http.StatusTemporaryRedirect, RetryAfter: 7 * time.Second},
		"/busy":  {Status: http.StatusServiceUnavailable, RetryAfter: time.Hour},
	} {
		if sent := d.Send(t.Context(), webhooks.ToServer(s.URL+path), "prompt.created", at); sent.Status != want.Status || sent.RetryAfter != want.RetryAfter || sent.Failure == "" {
			t.Errorf("%s: %+v, want %+v", path, sent, want)
		}
	}
	if elsewhere {
		t.Error("a delivery went where the receiver sent it")
	}
}

// An event is sent a bounded number of times.
func TestTheLastAttempt(t *testing.T) {
	before := time.Now()
	a := webhooks.Attempt{Attempt: webhooks.MaxAttempts - 1}
	if wait := a.Failed("no", time.Second, 0); wait < 30*time.Minute || a.Outcome != webhooks.Retrying || a.Next < before.Add(wait).UnixMilli() || a.Error != "no" {
		t.Errorf("the last but one: %v, %+v", wait, a)
	}
	a = webhooks.Attempt{Attempt: webhooks.MaxAttempts}
	if wait := a.Failed("no", time.Second, 0); wait != 0 || a.Outcome != webhooks.GivenUp || a.Next != 0 {
		t.Errorf("the last: %v, %+v", wait, a)
	}
	a = webhooks.Attempt{Attempt: 1}
	if wait := a.Failed("no", time.Second, time.Minute); wait != time.Minute {
		t.Errorf("asked to wait a minute, it waits %v", wait)
	}
}

func TestEveryEventHasAnExample(t *testing.T) {
	for event, example := range webhooks.Examples {
		if _, err := mlflow.ValidateWebhookEvents([]mlflow.WebhookEvent{mlflow.ParseWebhookEvent(event)}); err != nil {
			t.Errorf("%s: %v", event, err)
		}
		if example["name"] == "" {
			t.Errorf("%s: the example has no name", event)
		}
	}
	if len(webhooks.Examples) != 14 {
		t.Errorf("%d examples, MLflow's registry has 14 events", len(webhooks.Examples))
	}
}
