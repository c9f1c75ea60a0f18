package webhooks_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
