package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// tell runs a command of the program, and returns its exit status and what it
// said.
func tell(t *testing.T, args ...string) (status int, said string) {
	t.Helper()
	p := launch(t, args...)
	status = p.wait(t, startTimeout)
	return status, p.stdout.String() + p.stderr.String()
}

// What was kept outside proves the ledger of a running server, of a stopped one
// and of an export; a changed ledger is found by each.
func TestAuditCommandsProveTheLedger(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	p := up(t, dir)
	c := p.client(t)
	if err := c.createModel(t.Context(), "digits"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		version, err := c.createVersion(t.Context(), "digits", "s3://models/digits")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.setStage(t.Context(), "digits", version, "Production", reason, "it is better"); err != nil {
			t.Fatal(err)
		}
	}
	keep := func(name, path string) string {
		t.Helper()
		status, body, err := c.get(t.Context(), path)
		if err != nil || status != 200 {
			t.Fatalf("%s: %d %s %v", path, status, body, err)
		}
		file := filepath.Join(outside, name)
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	keyFile := keep("key", "/api/v1/registry/key")
	if _, err := c.http.Post(c.base+"/api/v1/registry/tree-heads", "application/json", nil); err != nil {
		t.Fatal(err)
	}
	head := keep("head", "/api/v1/registry/tree-heads/latest")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	proof := []string{"--key", strings.TrimSpace(string(key)), "--against", head}

	verify := func(want int, words string, args ...string) {
		t.Helper()
		status, said := tell(t, append(append([]string{"audit", "verify"}, args...), proof...)...)
		if status != want || !strings.Contains(said, words) {
			t.Errorf("audit verify %v: exit status %d, want %d with %q: %s", args, status, want, words, said)
		}
	}
	verify(0, "7 entries", "--server", c.base)
	if status, said := tell(t, "registry", "history", "digits", "--server", c.base); status != 0 || strings.Count(said, "it is better") != 3 {
		t.Errorf("registry history: exit status %d: %s", status, said)
	}
	if status, said := tell(t, "audit", "log", "--server", c.base, "--type", "model_version_stage_set", "--text", "BETTER"); status != 0 ||
		strings.Count(said, "model_version digits/") != 3 || !strings.Contains(said, "Entries: 3.") {
		t.Errorf("audit log: exit status %d: %s", status, said)
	}
	if status, said := tell(t, "audit", "log", "--server", c.base, "--from", "yesterday"); status != 1 || !strings.Contains(said, "'from'") {
		t.Errorf("audit log of a bad time: exit status %d: %s", status, said)
	}
	export := filepath.Join(outside, "ledger.jsonl")
	if status, said := tell(t, append([]string{"audit", "export", "--server", c.base, "-o", export}, proof...)...); status != 0 {
		t.Fatalf("audit export: exit status %d: %s", status, said)
	}
	p.stop(t, syscall.SIGTERM)
	verify(0, "7 entries", "--data", dir)

	check := func(file string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "go", "run", ".", "--key", strings.TrimSpace(string(key)), file)
		cmd.Dir = filepath.Join("..", "verifier")
		said, err := cmd.CombinedOutput()
		return string(said), err
	}
	if said, err := check(export); err != nil {
		t.Errorf("the verifier refuses the export: %v: %s", err, said)
	}
	lines, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	forged := filepath.Join(outside, "forged.jsonl")
	if err := os.WriteFile(forged, bytes.Replace(lines, []byte("it is better"), []byte("it is cheaper"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := check(forged); err == nil {
		t.Errorf("the verifier takes a forged export: %s", said)
	}

	// Somebody starts anew, and removes what the server has signed before, but has
	// its key. What was kept outside shows it.
	for _, part := range []string{"nats", "registry", "clickhouse", "tree-heads"} {
		if err := os.RemoveAll(filepath.Join(dir, part)); err != nil {
			t.Fatal(err)
		}
	}
	p = up(t, dir)
	c = p.client(t)
	if err := c.createModel(t.Context(), "digits"); err != nil {
		t.Fatal(err)
	}
	verify(1, "tree", "--server", c.base)
}
