package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/runledger/runledger/services/registry/audit"
)

const (
	historyPage = 100
	maxCell     = 120 // bytes of before and after in the table
)

func historyCommand() *cobra.Command {
	var server, token string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "Show who changed a registered model, when, why and how",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := audit.NewClient(server)
			if err != nil {
				return err
			}
			if limit < 0 {
				return fmt.Errorf("--limit %d: want 0 or more", limit)
			}
			show := &historyPrinter{out: cmd.OutOrStdout(), asJSON: asJSON}
			for left := limit; ; {
				page := historyPage
				if limit > 0 {
					page = min(page, left)
				}
				entries, next, err := c.History(cmd.Context(), args[0], token, page)
				if err != nil {
					return err
				}
				if err := show.page(entries); err != nil {
					return fmt.Errorf("write the history: %w", err)
				}
				left -= len(entries)
				if next == "" {
					return nil
				}
				if token = next; limit > 0 && left <= 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "There are more: go on with --page-token %s\n", next)
					return nil
				}
			}
		},
	}
	f := cmd.Flags()
	f.StringVar(&server, "server", defaultServer, "running server to ask; a user name may be in the URL")
	f.IntVar(&limit, "limit", 0, "entries to show; 0 is all")
	f.StringVar(&token, "page-token", "", "where to go on, as the last call said")
	f.BoolVar(&asJSON, "json", false, "show whole entries as JSON Lines")
	return cmd
}

// historyPrinter shows pages of a history, as a table or as JSON Lines.
type historyPrinter struct {
	out    io.Writer
	asJSON bool
	begun  bool
}

func (p *historyPrinter) page(entries []audit.HistoryEntry) error {
	if p.asJSON {
		for _, e := range entries {
			if _, err := fmt.Fprintf(p.out, "%s\n", e.Raw); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	if !p.begun {
		fmt.Fprintln(w, "ENTRY\tTIME\tACTOR\tACTION\tVERSION\tBEFORE\tAFTER\tREASON\tREQUEST")
		p.begun = true
	}
	for _, e := range entries {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Seq, printable(e.Time), printable(e.Actor), printable(e.Action),
			printable(e.Version), short(e.Before), short(e.After), printable(e.Reason), printable(e.RequestID))
	}
	return w.Flush()
}

// short returns a document without the times, cut to a width.
func short(raw json.RawMessage) string {
	var fields map[string]any
	if json.Unmarshal(raw, &fields) == nil && fields != nil {
		withoutTimes(fields)
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false) // it is for a terminal
		if e.Encode(fields) == nil {
			raw = bytes.TrimSpace(text.Bytes())
		}
	}
	text := printable(string(raw))
	if len(text) > maxCell {
		text = strings.ToValidUTF8(text[:maxCell], "") + "…"
	}
	return text
}

func withoutTimes(fields map[string]any) {
	for k, v := range fields {
		if strings.HasSuffix(k, "_timestamp") {
			delete(fields, k)
		}
		if inner, ok := v.(map[string]any); ok {
			withoutTimes(inner)
		}
	}
}

// printable replaces what would move the cursor of a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}
