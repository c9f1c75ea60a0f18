package test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

var rebuildsMetric = regexp.MustCompile(`(?m)^runledger_projector_rebuilds_total (\S+)$`)

// A table part that is lost or changed on disk never makes a wrong answer: reads are
// refused until the tables have been built again, by themselves, and say what they said.
func TestDamagedTablePartsMakeNoWrongAnswers(t *testing.T) {
	dir := t.TempDir()
	p := up(t, dir)
	c := p.client(t)
	work := startWorkload(t, func() *client { return c }, seed(t), 3, 1, 150)
	work.wait(t)
	before := work.answers(t, c)
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)

	for name, damage := range map[string]func(part string) error{
		"lost": os.RemoveAll,
		"flipped byte": func(part string) error {
			file := largest(t, filepath.Join(part, "*.bin"))
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			content[len(content)/2] ^= 1
			return os.WriteFile(file, content, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			part := largest(t, filepath.Join(dir, "clickhouse", "store", "store", "*", "*", "all_*"))
			t.Log(part)
			// No other part can stand in for it.
			for _, other := range glob(t, filepath.Join(filepath.Dir(part), "all_*")) {
				if other != part {
					if err := os.RemoveAll(other); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := damage(part); err != nil {
				t.Fatal(err)
			}
			p := launch(t, "up", "--data", dir, "--listen", "127.0.0.1:0")
			c := p.client(t)
			refused := 0
			eventually(t, startTimeout, func() string { return "the tables are not built again" }, func(ctx context.Context) bool {
				for path, was := range before {
					if !strings.HasPrefix(path, "/") {
						continue // not a request
					}
					answer, header, err := do[any](ctx, c, http.MethodGet, path, nil)
					failed, isAnswer := errors.AsType[*apiError](err)
					switch {
					case isAnswer && failed.Status == http.StatusServiceUnavailable && failed.RetryAfter != "":
						refused++
					case isAnswer:
						t.Fatalf("%s: %v", path, err)
					case err != nil:
						return false
					case fresh(header) && encode(t, answer) != was:
						t.Fatalf("%s\nwas %.500s\n is %.500s", path, was, encode(t, answer))
					}
				}
				_, metrics, err := c.get(ctx, "/metrics")
				found := rebuildsMetric.FindSubmatch(metrics)
				return err == nil && found != nil && string(found[1]) == "1"
			})
			p.awaitReady(t)
			for path, is := range work.answers(t, c) {
				if is != before[path] {
					t.Errorf("%s\nwas %.500s\n is %.500s", path, before[path], is)
				}
			}
			t.Logf("%d reads were refused", refused)
			work.verify(t, c)
			p.awaitProjected(t)
			p.stop(t, syscall.SIGTERM)
			verifyTables(t, dir)
		})
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("nothing is at %s: %v", pattern, err)
	}
	return paths
}

// largest returns the path that matches with the most bytes at and below it.
func largest(t *testing.T, pattern string) (path string) {
	t.Helper()
	most := int64(-1)
	for _, p := range glob(t, pattern) {
		if n := size(t, p); n > most {
			path, most = p, n
		}
	}
	return path
}

func encode(t *testing.T, answer any) string {
	t.Helper()
	encoded, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}
