package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/natsfiles"
	"github.com/runledger/runledger/services/registry/audit"
)

// A data directory has one owner at a time, and a name for good.
func TestDataDirectoryHasOneOwnerAndOneName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "data")
	first, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := openDataDir(path); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("opened twice: %v, %v", second, err)
	}
	if err := os.MkdirAll(filepath.Join(path, natsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := lockStopped(path); err == nil || !strings.Contains(err.Error(), "stop the server first") {
		t.Errorf("its log can be changed while it is in use: %v", err)
	}
	if _, err := verifyData(t.Context(), path, "", audit.Options{}); err == nil {
		t.Error("verified while there is no ledger")
	}
	if err := os.MkdirAll(filepath.Join(path, ledgerDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := verifyData(t.Context(), path, "", audit.Options{}); err == nil || !strings.Contains(err.Error(), "--server") {
		t.Errorf("its ledger can be opened while it is in use: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockStopped(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(path); err == nil {
		t.Error("opened while its log is checked")
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if again.id != first.id || again.id == "" {
		t.Errorf("it was %q and is %q", first.id, again.id)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "id"), []byte("no id"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := openDataDir(path); err == nil {
		t.Errorf("opened under the name %q", again.id)
	}
	// Who was refused does not keep it locked.
	if unlock, err = lockStopped(path); err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

// Each accepted loss stays on record, and what is set aside stays as it was.
func TestLossesAreKeptOnRecord(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, lossesFile)
	for i := range 2 {
		l := loss{Stream: fmt.Sprint("RUNS_", i), Kept: 4, Lost: natsfiles.Span{First: 5, Last: 9}}
		if err := recordLosses(path, []loss{l, l}); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var last loss
	if len(lines) != 4 || json.Unmarshal([]byte(lines[3]), &last) != nil || last.Stream != "RUNS_1" || last.Lost.Last != 9 {
		t.Errorf("on record are %q", lines)
	}
	file := filepath.Join(dir, natsDir, "a", "b")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	aside := asideDir(dir, time.Now())
	if err := setAside(dir, aside, file); err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(filepath.Join(aside, natsDir, "a", "b")); err != nil || string(kept) != "kept" {
		t.Errorf("%q, %v", kept, err)
	}
	if err := setAside(dir, aside, file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("set aside twice: %v", err)
	}
}

// One damaged stream of many is enough to say so, and what was never acknowledged is no
// damage.
func TestReportOfTheLogNamesWhatIsDamaged(t *testing.T) {
	whole := eventlog.StreamReport{Stream: "RUNS_0"}
	damaged := eventlog.StreamReport{Stream: "RUNS_1", Files: natsfiles.Files{Missing: []natsfiles.Span{{First: 3, Last: 4}}}}
	if damaged.Err() == nil || whole.Err() != nil {
		t.Fatal(damaged.Err(), whole.Err())
	}
	for name, reports := range map[string][]eventlog.StreamReport{"first": {damaged, whole}, "last": {whole, damaged}, "only": {damaged}} {
		var out bytes.Buffer
		if err := printReports(&out, reports); err == nil || !strings.Contains(err.Error(), "damaged, in RUNS_1:") || !strings.Contains(out.String(), "3") {
			t.Errorf("%s: %v, %s", name, err, out.String())
		}
	}
	whole.Torn = 12
	var out bytes.Buffer
	if err := printReports(&out, []eventlog.StreamReport{whole}); err != nil || !strings.Contains(out.String(), "12 bytes behind the last one") {
		t.Errorf("%v, %s", err, out.String())
	}
}

// A file of an export has its name only when it is whole, and nothing else is left.
func TestExportThatFailsLeavesNothing(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	dir := t.TempDir()
	cmd := root()
	var said bytes.Buffer
	cmd.SetOut(&said)
	cmd.SetErr(&said)
	cmd.SetArgs([]string{"audit", "export", "--server", server.URL, "--output", filepath.Join(dir, "ledger.jsonl")})
	if err := cmd.ExecuteContext(t.Context()); err == nil {
		t.Fatalf("exported from no server: %s", said.String())
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// Every file and directory of --against counts.
func TestEveryTreeHeadFromElsewhereIsRead(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for i := range 3 {
		name := filepath.Join(dir, fmt.Sprint("head", i))
		if err := os.WriteFile(name, []byte(fmt.Sprint("head ", i)), 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	o := auditOptions{against: names}
	got, err := o.options(new(bytes.Buffer))
	if err != nil || len(got.Against) != 3 || string(got.Against[0]) != "head 0" || string(got.Against[2]) != "head 2" {
		t.Errorf("%q, %v", got.Against, err)
	}
	for _, o := range []auditOptions{{against: []string{t.TempDir()}}, {against: []string{filepath.Join(dir, "none")}}, {keys: []string{"no key"}}} {
		if _, err := o.options(new(bytes.Buffer)); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func TestNATSAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"nats://127.0.0.1:1,http://b":                 `scheme "http"`,
		"nats://127.0.0.1:1, nats://":                 "no host",
		"nats://ada:secret@127.0.0.1:1,tls://x:%zz@b": "not a URL",
	} {
		if _, err := dialNATS(address); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %s", address, err, want)
		}
	}
	if _, err := dialNATS("nats://ada:secret@127.0.0.1:1,nats://bob:secret@127.0.0.1:1"); err == nil || strings.Contains(err.Error(), "secret") || !isUnreachable(err) {
		t.Errorf("nobody is there: %v", err)
	}
}

// A wait ends with success, with an error that waiting does not mend, or with its context.
func TestAwaitEnds(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	soon, final := errors.New("not up yet"), errors.New("refused")
	notYet := func(err error) bool { return errors.Is(err, soon) }
	tries := 0
	if err := await(t.Context(), quiet, "x", notYet, func() error {
		if tries++; tries == 1 {
			return soon
		}
		return nil
	}); err != nil || tries != 2 {
		t.Errorf("%d tries, %v", tries, err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := await(bounded, quiet, "x", notYet, func() error { return final }); !errors.Is(err, final) {
		t.Errorf("an error that stays: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	tries = 0
	if err := await(ctx, quiet, "x", notYet, func() error {
		if tries++; tries > 3 {
			return final
		}
		stop()
		return soon
	}); !errors.Is(err, context.Canceled) || tries != 1 {
		t.Errorf("told to end: %v after %d tries", err, tries)
	}
}

// Profiles have what the process has in memory, keys too.
func TestProfilesAreForThisMachine(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "localhost:0", "127.0.0.1"} {
		n := &node{options: options{pprof: address}}
		if err := n.startProfiler(t.Context()); err == nil || len(n.closers) > 0 {
			t.Errorf("%s: %v", address, err)
		}
	}
	n := &node{options: options{pprof: "127.0.0.1:0", shutdownTimeout: time.Minute}, logger: slog.New(slog.DiscardHandler)}
	if err := n.startProfiler(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.close(); err != nil {
		t.Error(err)
	}
}

// A history is shown to its limit, page by page, and nothing in it moves the cursor.
func TestHistoryIsShownToItsLimit(t *testing.T) {
	const there = 250
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := strconv.Atoi(r.URL.Query().Get("page_token"))
		size, _ := strconv.Atoi(r.URL.Query().Get("max_results"))
		end := min(from+size, there, from+90) // a server may give fewer
		var entries []string
		for i := from; i < end; i++ {
			entries = append(entries, fmt.Sprintf(`{"seq":%d,"time":"2026-03-03T14:00:00Z","actor":"a\u009b2J","action":"x","version":"","before":null,"after":{"ab":%q},"reason":"r"}`,
				i+1, strings.Repeat("é", maxCell))) // cut at an odd byte
		}
		next := ""
		if end < there {
			next = fmt.Sprintf(`,"next_page_token":"%d"`, end)
		}
		fmt.Fprintf(w, `{"entries":[%s]%s}`, strings.Join(entries, ","), next)
	}))
	defer server.Close()
	for _, c := range []struct {
		limit, lines int
		hint         string
	}{{0, 251, ""}, {100, 101, "--page-token 100"}, {200, 201, "--page-token 200"}, {250, 251, ""}, {1, 2, "--page-token 1"}} {
		var out, hints bytes.Buffer
		cmd := root()
		cmd.SetOut(&out)
		cmd.SetErr(&hints)
		cmd.SetArgs([]string{"registry", "history", "m", "--limit", fmt.Sprint(c.limit), "--server", server.URL})
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "\n"); n != c.lines || !strings.Contains(hints.String(), c.hint) || (c.hint == "") != (hints.Len() == 0) {
			t.Errorf("--limit %d: %d lines, %q; want %d, %q", c.limit, n, hints.String(), c.lines, c.hint)
		}
		if !utf8.ValidString(out.String()) || strings.ContainsRune(out.String(), '\u009b') {
			t.Errorf("it shows %.300q", out.String())
		}
	}
}

func TestRollbackThatIsNotClear(t *testing.T) {
	for _, args := range []string{
		"m --to 1", "--to 1 --reason r", "m --all --to 1 --reason r", "m --reason r", "--all --to 1", "m n --to 1 --reason r",
	} {
		asked, _, err := askRegistry(t, http.StatusOK, `{"changes":[]}`, append([]string{"rollback", "--yes"}, strings.Fields(args)...)...)
		if err == nil || asked != "" {
			t.Errorf("%s: %v, asked %s", args, err, asked)
		}
	}
	if asked, _, err := askRegistry(t, http.StatusOK, `{"changes":[]}`, "rollback", "m", "--to", "1", "--dry-run"); err != nil || !strings.Contains(asked, `"dry_run":true`) {
		t.Errorf("without a reason, to look: %v, asked %s", err, asked)
	}
}
