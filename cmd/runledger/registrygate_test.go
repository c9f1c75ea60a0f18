package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// askRegistry runs a command of the registry against a server that gives one
// answer, and returns what the server was asked and what was printed.
func askRegistry(t *testing.T, status int, answer string, args ...string) (asked, printed string, err error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) > 0 && !json.Valid(body) {
			t.Errorf("%q: %v", body, err)
		}
		user, _, _ := r.BasicAuth()
		asked += strings.TrimSpace(strings.Join([]string{user, r.Method, r.RequestURI, string(body)}, " ")) + "\n"
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer) // the client says when it is cut off
	}))
	defer server.Close()
	cmd := registryCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	var out strings.Builder
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append(args, "--server", strings.Replace(server.URL, "://", "://ada@", 1)+"/"))
	err = cmd.ExecuteContext(t.Context())
	return asked, out.String(), err
}

func TestGateCommands(t *testing.T) {
	const gates = `{"gates":[{"target":{"stage":"Production"},"conditions":["metrics.recall >= 0.95","metrics.\"a\u001b\" > 1"],` +
		`"required_tags":{"owner":"","validated":"yes"},"approvals":2},{"target":{"alias":"champion"},"conditions":[],"required_tags":{},"approvals":1}]}`
	for name, c := range map[string]struct {
		args           []string
		answer         string
		asked, printed string
	}{
		"set": {
			[]string{"gate", "set", "a b/c", "--stage", "Production", "--condition", "metrics.a = 1, 2", "--condition", "x", "--tag", "k", "--tag", "l=m=n", "--approvals", "2"},
			"{}",
			`ada PUT /api/v1/models/a%20b%2Fc/gates/stages/Production {"conditions":["metrics.a = 1, 2","x"],"required_tags":{"k":"","l":"m=n"},"approvals":2}` + "\n",
			`Promotions of "a b/c" to stage Production pass this gate now.` + "\n",
		},
		"list": {
			[]string{"gate", "list", "m", "--as-of", "2026-03-03T14:00:00+01:00"},
			gates,
			"ada GET /api/v1/models/m/gates?as_of=2026-03-03T14%3A00%3A00%2B01%3A00\n",
			"TARGET            ASKS FOR\n" +
				"stage Production  metrics.recall >= 0.95\n" +
				"stage Production  metrics.\"a\uFFFD\" > 1\n" +
				"stage Production  tag owner\n" +
				"stage Production  tag validated=yes\n" +
				"stage Production  approvals: 2\n" +
				"alias champion    approvals: 1\n",
		},
		"list of none": {[]string{"gate", "list", "m"}, `{"gates":[]}`, "ada GET /api/v1/models/m/gates\n", "No gates: every version may be promoted.\n"},
		"delete": {
			[]string{"gate", "delete", "m", "--alias", "champion"},
			"{}",
			"ada DELETE /api/v1/models/m/gates/aliases/champion\n", `Promotions of "m" to alias champion pass no gate now.` + "\n",
		},
		"approve": {
			[]string{"approve", "m", "3", "--comment", "fine"},
			`{"status":"Approved"}`,
			`ada POST /api/v1/models/m/versions/3/approval {"comment":"fine","status":"Approved"}` + "\n", `Version 3 of "m": Approved` + "\n",
		},
		"reject": {
			[]string{"reject", "m", "3"},
			`{"status":"Rejected"}`,
			`ada POST /api/v1/models/m/versions/3/approval {"comment":"","status":"Rejected"}` + "\n", `Version 3 of "m": Rejected` + "\n",
		},
		"request": {
			[]string{"request-approval", "m", "3"},
			`{"status":"PendingManualApproval"}`,
			`ada POST /api/v1/models/m/versions/3/approval {"comment":"","status":"PendingManualApproval"}` + "\n", `Version 3 of "m": PendingManualApproval` + "\n",
		},
	} {
		asked, printed, err := askRegistry(t, http.StatusOK, c.answer, c.args...)
		if err != nil || asked != c.asked || printed != c.printed {
			t.Errorf("%s: %v\nasked   %swant    %sprinted %swant    %s", name, err, asked, c.asked, printed, c.printed)
		}
	}
}

func TestGateCommandsThatCannotBe(t *testing.T) {
	for name, args := range map[string][]string{
		"no target":         {"gate", "set", "m", "--approvals", "1"},
		"two targets":       {"gate", "set", "m", "--stage", "Production", "--alias", "a", "--approvals", "1"},
		"no model":          {"gate", "set", "--stage", "Production"},
		"a tag of no key":   {"gate", "set", "m", "--stage", "Production", "--tag", "=x"},
		"a tag of no value": {"gate", "set", "m", "--stage", "Production", "--tag", "k="},
		"a tag twice":       {"gate", "set", "m", "--stage", "Production", "--tag", "k", "--tag", "k=1"},
		"no version":        {"approve", "m"},
		"an empty version":  {"approve", "m", ""},
	} {
		if asked, _, err := askRegistry(t, http.StatusOK, "{}", args...); err == nil || asked != "" {
			t.Errorf("%s: %v, asked %q", name, err, asked)
		}
	}
	for answer, want := range map[string]string{
		`{"error_code":"PERMISSION_DENIED","message":"not \u001b[2J you"}`: "the server refused: not \uFFFD[2J you",
		"<html>": "the server refused: 403 Forbidden",
	} {
		if _, _, err := askRegistry(t, http.StatusForbidden, answer, "approve", "m", "1"); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", answer, err, want)
		}
	}
}
