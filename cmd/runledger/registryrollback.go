package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/runledger/runledger/pkg/httpapi"
)

// rollbackAnswer is what the registry answers, see services/registry.
type rollbackAnswer struct {
	To      uint64           `json:"to"`
	Seq     uint64           `json:"seq"`
	Changes []rollbackChange `json:"changes"`
	First   uint64           `json:"first_seq"`
	Last    uint64           `json:"last_seq"`
}

type rollbackChange struct {
	Model   string  `json:"model"`
	Version string  `json:"version"`
	What    string  `json:"what"`
	Key     string  `json:"key"`
	From    *string `json:"from"`
	To      *string `json:"to"`
}

// rollbackOptions are the flags of a rollback.
type rollbackOptions struct {
	to, reason, server             string
	all, dryRun, restore, yes, ask bool
}

func rollbackCommand() *cobra.Command {
	var o rollbackOptions
	cmd := &cobra.Command{
		Use:   "rollback NAME --to TIME|ENTRY --reason TEXT",
		Short: "Bring a registered model, or all of them, back to how it was",
		Long: `Bring a registered model back to how it was: its aliases, its description and
tags, and the stages, descriptions and tags of its versions. What was done since
stays in the history, and so does the rollback.

It prints the changes first, and asks before it makes them when it runs in a
terminal. If somebody changes the model in between, nothing is done.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == o.all {
				return errors.New("want the NAME of a model, or --all")
			}
			if o.reason == "" && !o.dryRun {
				return errors.New("--reason: say why; it is kept in the history")
			}
			o.ask = !o.yes && isatty.IsTerminal(os.Stdin.Fd())
			path := "/api/v1/registry/rollback"
			if !o.all {
				path = "/api/v1/models/" + url.PathEscape(args[0]) + "/rollback"
			}
			return o.run(cmd.Context(), path, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.to, "to", "", "moment to go back to: a time like 2026-03-03T14:00:00Z, or the number of an entry, after which it was so")
	f.StringVar(&o.reason, "reason", "", "why; it is kept in the history")
	f.StringVar(&o.server, "server", defaultServer, "running server to ask; a user name may be in the URL")
	f.BoolVar(&o.all, "all", false, "roll back the whole registry")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would be changed, and change nothing")
	f.BoolVar(&o.restore, "restore", false, "bring back what was deleted since, too")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	_ = cmd.MarkFlagRequired("to") // fails only for a flag that does not exist
	return cmd
}

// run shows what is to be changed, asks if it has to, and changes it on the
// condition that nobody else has.
func (o rollbackOptions) run(ctx context.Context, path string, in io.Reader, out io.Writer) error {
	request := map[string]any{"to": o.to, "restore": o.restore, "reason": o.reason, "dry_run": true}
	plan, err := o.post(ctx, path, request)
	if err != nil {
		return err
	}
	if err := plan.print(out); err != nil || o.dryRun || len(plan.Changes) == 0 {
		return err
	}
	if o.ask {
		fmt.Fprint(out, "\nMake these changes? [y/N] ")
		answer, err := bufio.NewReader(in).ReadString('\n')
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(errors.New("nothing was changed"), err)
		}
	}
	request["dry_run"] = false
	request["to"] = plan.To // a time may mean more entries by now
	done, err := o.post(ctx, path, request, httpapi.HeaderExpectSeq, strconv.FormatUint(plan.Seq, 10))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\nDone: entries %d to %d. To undo it, roll back to entry %d.\n", done.First, done.Last, done.First-1)
	return err
}

func (o rollbackOptions) post(ctx context.Context, path string, request map[string]any, headers ...string) (answer rollbackAnswer, err error) {
	err = call(ctx, http.MethodPost, o.server, path, request, &answer, headers...)
	return answer, err
}

// print shows the changes as a table.
func (a rollbackAnswer) print(out io.Writer) error {
	if len(a.Changes) == 0 {
		_, err := fmt.Fprintf(out, "Nothing to change: it is as it was after entry %d.\n", a.To)
		return err
	}
	fmt.Fprintf(out, "Back to how it was after entry %d:\n\n", a.To)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tVERSION\tWHAT\tNOW\tTHEN")
	for _, c := range a.Changes {
		what := c.What
		if c.Key != "" {
			what += " " + strconv.Quote(c.Key)
		}
		fmt.Fprintf(w, "%q\t%s\t%s\t%s\t%s\n", c.Model, c.Version, what, value(c.From), value(c.To))
	}
	return w.Flush()
}

// value shows a text in one line, and what is not there as a dash.
func value(text *string) string {
	if text == nil {
		return "-"
	}
	return strconv.Quote(*text)
}
