package chdb

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLinesOfTheEngineAreLogged(t *testing.T) {
	var out bytes.Buffer
	w := &logWriter{logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, tt := range []struct {
		text, logged, said string
	}{
		{"2026.01.02 [ 1 ] {q} <Error> Merge: it went wrong\n", `level=WARN msg=clickhouse message="Merge: it went wrong"`, ""},
		{"2026.01.02 [ 1 ] {q} <Fatal> Handler: sig", "", ""},
		{"nal 11\n", `level=ERROR msg=clickhouse message="Handler: signal 11"`, "Handler: signal 11"},
		{"chdb: no library\n", `level=WARN msg=clickhouse message="no library"`, "no library"},
		{"2026.01.02 [ 1 ] {q} <Error> executeQuery: Code: 62\n2026.01.02 [ 1 ] {} <Error> TCPHandler: Code: 62\n", "level=DEBUG", "no library"},
		{"0. somewhere in a trace\n\n", `level=DEBUG msg=clickhouse message="0. somewhere in a trace"`, "no library"},
		{"Code: 76. DB::Exception: cannot open\n", "level=WARN", "Code: 76. DB::Exception: cannot open"},
		{strings.Repeat("x", maxLogLine+1), "level=DEBUG", "Code: 76. DB::Exception: cannot open"},
		{"the last", "", "Code: 76. DB::Exception: cannot open"},
	} {
		out.Reset()
		if n, err := w.Write([]byte(tt.text)); n != len(tt.text) || err != nil {
			t.Errorf("%.40q: %d, %v", tt.text, n, err)
		}
		logged := out.String()
		if !strings.Contains(logged, tt.logged) || tt.logged == "" && logged != "" || tt.logged == "level=DEBUG" && strings.Contains(logged, "WARN") || w.last() != tt.said {
			t.Errorf("%.40q: logged %q, said %q", tt.text, logged, w.last())
		}
	}
	out.Reset()
	w.flush()
	if !strings.Contains(out.String(), `message="the last"`) {
		t.Errorf("what came last was logged as %q", out.String())
	}
}

func TestPortsAreFreeAndOfThisMachineAlone(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := freeAddr(taken.Addr().String())
	if err != nil || addr == taken.Addr().String() || !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Errorf("with a port that is taken: %s, %v", addr, err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err := freeAddr(taken.Addr().String()); err != nil || again != taken.Addr().String() {
		t.Errorf("with a port that is free: %s, %v", again, err)
	}
}

func TestLocateKnowsWhatIsALibrary(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(libraryEnv, dir)
	if path, err := Locate(); err == nil {
		t.Errorf("the directory %s is taken for a library", path)
	}
	file := filepath.Join(dir, "libchdb.so")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(libraryEnv, file)
	if path, err := Locate(); path != file || err != nil {
		t.Errorf("%s, %v", path, err)
	}
	modules := map[string]bool{}
	for _, platform := range [][2]string{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}} {
		module, err := npmModule(platform[0], platform[1])
		if err != nil || !strings.Contains(module, platform[0]) {
			t.Errorf("%v: %s, %v", platform, module, err)
		}
		modules[module] = true
	}
	if _, err := npmModule("windows", "amd64"); err == nil || len(modules) != 4 {
		t.Errorf("%v, and of windows %v", modules, err)
	}
	root, sub := filepath.Join(dir, "w"), filepath.Join(dir, "w", "a", "b")
	if err := os.MkdirAll(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "go.work"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(sub)
	if found, ok := workspace(); !ok || found != root {
		t.Errorf("the workspace is %s, %v", found, ok)
	}
}

func TestDefaultsArePathsThatHoldAnywhere(t *testing.T) {
	t.Chdir(t.TempDir())
	c, err := Config{DataDir: "data", Library: "lib.so", Executable: "/bin/true"}.withDefaults()
	if err != nil || !filepath.IsAbs(c.DataDir) || !filepath.IsAbs(c.Library) || c.StartTimeout != defaultStartTimeout || c.LockTimeout != defaultLockTimeout || c.Logger == nil {
		t.Errorf("%+v, %v", c, err)
	}
}
