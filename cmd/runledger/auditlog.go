package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/runledger/runledger/services/registry/audit"
)

const (
	auditLogPage  = 1000
	defaultLog    = 100
	followEvery   = time.Second
	followOverlap = 10 * time.Second // by how much the times of entries may be out of order
	typePrefix    = "runledger."
)

// auditColumns are those of the server's CSV, see services/query.
var auditColumns = []string{
	"stream", "seq", "event_id", "time", "type", "actor", "reason", "request_id", "entity_kind", "entity_id", "experiment_id", "data",
}

// auditLogOptions are the flags of audit log.
type auditLogOptions struct {
	server       string
	types        []string
	token        string
	limit        int
	json, csv    bool
	follow       bool
	followEvery  time.Duration
	followOrigin time.Time
}

// auditLogFilters are the flags that are parameters of GET /api/v1/audit by the
// same names, and what they ask for.
var auditLogFilters = []struct{ name, usage string }{
	{"actor", "who did it; '' for nobody who said so"},
	{"entity-kind", "run, experiment, logged_model, artifact, registered_model, model_version or webhook"},
	{"entity-id", "what it was done to; a model version is NAME/VERSION"},
	{"experiment-id", "what is in an experiment"},
	{"request-id", "what one request did"},
	{"from", "since when, with a zone: 2026-03-03T14:00:00Z"},
	{"to", "until when, not included"},
	{"text", "a text in the event, its reason, its entity or its actor, in any case"},
}

func auditLogCommand() *cobra.Command {
	var o auditLogOptions
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show who did what, when and why",
		Long: `Show who did what, when and why: every event but metric points. The newest
entries come first, unless --order oldest says otherwise.`,
		Example: `  runledger audit log --actor ada --from 2026-03-01T00:00:00Z
  runledger audit log --type model_version_stage_set --text Production
  runledger audit log --entity-kind run --limit 0 --csv > runs.csv
  runledger audit log --follow`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			for _, name := range append([]string{"order"}, filterNames()...) {
				if f := cmd.Flags().Lookup(name); f.Changed {
					query.Set(strings.ReplaceAll(name, "-", "_"), f.Value.String())
				}
			}
			for _, t := range o.types {
				query.Add("type", typePrefix+strings.TrimPrefix(t, typePrefix))
			}
			if err := o.check(query); err != nil {
				return err
			}
			c, err := audit.NewClient(o.server)
			if err != nil {
				return err
			}
			o.followEvery, o.followOrigin = followEvery, time.Now()
			return o.run(cmd.Context(), c, query, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.server, "server", defaultServer, "running server to ask; a user name may be in the URL")
	for _, filter := range auditLogFilters {
		f.String(filter.name, "", filter.usage)
	}
	f.StringArrayVar(&o.types, "type", nil, "what was done, as run_deleted; may be repeated")
	f.String("order", "newest", "what comes first: newest or oldest")
	f.IntVar(&o.limit, "limit", defaultLog, "entries to show; 0 is all")
	f.StringVar(&o.token, "page-token", "", "where to go on, as the last call said")
	f.BoolVar(&o.json, "json", false, "show whole entries as JSON Lines")
	f.BoolVar(&o.csv, "csv", false, "show whole entries as CSV, under a line of names")
	f.BoolVarP(&o.follow, "follow", "f", false, "show entries as they come, from --from or now on, until interrupted")
	return cmd
}

func filterNames() []string {
	names := make([]string, len(auditLogFilters))
	for i, f := range auditLogFilters {
		names[i] = f.name
	}
	return names
}

func (o auditLogOptions) check(query url.Values) error {
	switch {
	case o.limit < 0:
		return fmt.Errorf("--limit %d: want 0 or more", o.limit)
	case o.json && o.csv:
		return errors.New("--json and --csv: want one of them")
	case o.follow && (query.Has("to") || query.Has("order") || o.token != ""):
		return errors.New("--follow: goes without --to, --order and --page-token")
	}
	return nil
}

// auditLogEntry is what a table shows of an entry.
type auditLogEntry struct {
	Stream     string                     `json:"stream"`
	Seq        uint64                     `json:"seq"`
	Time       time.Time                  `json:"time"`
	Type       string                     `json:"type"`
	Actor      string                     `json:"actor"`
	Reason     string                     `json:"reason"`
	RequestID  string                     `json:"request_id"`
	EntityKind string                     `json:"entity_kind"`
	EntityID   string                     `json:"entity_id"`
	Data       map[string]json.RawMessage `json:"data"`
}

func (o auditLogOptions) run(ctx context.Context, c *audit.Client, query url.Values, out, hints io.Writer) error {
	show := &auditLogPrinter{out: out, asJSON: o.json, asCSV: o.csv}
	if o.follow {
		return o.followLog(ctx, c, query, show)
	}
	for token, left := o.token, o.limit; ; {
		size := auditLogPage
		if o.limit > 0 {
			size = min(size, left)
		}
		query.Set("page_token", token)
		query.Set("max_results", strconv.Itoa(size))
		entries, next, err := c.AuditLog(ctx, query)
		if err != nil {
			return err
		}
		if err := show.page(entries); err != nil {
			return fmt.Errorf("write the entries: %w", err)
		}
		left -= len(entries)
		switch {
		case next == "" && show.shown == 0:
			fmt.Fprintln(hints, "No entries. Leave a filter out, or see them all: runledger audit log --help")
			return nil
		case next == "":
			if !o.json && !o.csv {
				fmt.Fprintf(hints, "Entries: %d. To see whole events, add --json.\n", show.shown)
			}
			return nil
		case o.limit > 0 && left <= 0:
			fmt.Fprintf(hints, "There are more: go on with --page-token %s, or see all with --limit 0\n", next)
			return nil
		}
		token = next
	}
}

// followLog shows entries as they come, until ctx ends. Entries get their time
// before they are committed, so that one may turn up behind a later one: each
// question goes back a little, and what was shown is not shown again.
func (o auditLogOptions) followLog(ctx context.Context, c *audit.Client, query url.Values, show *auditLogPrinter) error {
	type place struct {
		stream string
		seq    uint64
	}
	shown := make(map[place]time.Time)
	since := o.followOrigin
	if text := query.Get("from"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, text); err != nil {
			return fmt.Errorf("--from %q: want a time with its zone, as 2026-03-03T14:00:00Z", text)
		}
	}
	query.Set("order", "oldest")
	query.Set("max_results", strconv.Itoa(auditLogPage))
	for {
		query.Set("from", since.Format(time.RFC3339Nano))
		for token := ""; ; {
			query.Set("page_token", token)
			entries, next, err := c.AuditLog(ctx, query)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			var fresh []json.RawMessage
			for _, raw := range entries {
				var e auditLogEntry
				if err := json.Unmarshal(raw, &e); err != nil {
					return fmt.Errorf("read an entry: %w", err)
				}
				if _, ok := shown[place{e.Stream, e.Seq}]; ok {
					continue
				}
				shown[place{e.Stream, e.Seq}] = e.Time
				fresh = append(fresh, raw)
				if e.Time.Add(-followOverlap).After(since) {
					since = e.Time.Add(-followOverlap)
				}
			}
			if err := show.page(fresh); err != nil {
				return fmt.Errorf("write the entries: %w", err)
			}
			if token = next; token == "" {
				break
			}
		}
		for at, t := range shown {
			if t.Before(since) {
				delete(shown, at)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.followEvery):
		}
	}
}

// auditLogPrinter shows pages of entries, as a table, as JSON Lines or as CSV.
type auditLogPrinter struct {
	out           io.Writer
	asJSON, asCSV bool
	begun         bool
	shown         int
}

func (p *auditLogPrinter) page(entries []json.RawMessage) error {
	begun := p.begun
	p.begun, p.shown = true, p.shown+len(entries)
	switch {
	case p.asJSON:
		for _, raw := range entries {
			if _, err := fmt.Fprintf(p.out, "%s\n", raw); err != nil {
				return err
			}
		}
		return nil
	case p.asCSV:
		return p.csvPage(entries, begun)
	case len(entries) == 0:
		p.begun = begun
		return nil
	}
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	if !begun {
		fmt.Fprintln(w, "TIME\tACTOR\tACTION\tENTITY\tREASON\tREQUEST\tEVENT")
	}
	for _, raw := range entries {
		var e auditLogEntry
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		var data json.RawMessage // of its only field
		for _, data = range e.Data {
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s %s\t%s\t%s\t%s\n", e.Time.UTC().Format(time.RFC3339Nano), printable(e.Actor),
			printable(strings.TrimPrefix(e.Type, typePrefix)), printable(e.EntityKind), printable(e.EntityID), printable(e.Reason), printable(e.RequestID), short(data))
	}
	return w.Flush()
}

func (p *auditLogPrinter) csvPage(entries []json.RawMessage, begun bool) error {
	w := csv.NewWriter(p.out)
	if !begun {
		if err := w.Write(auditColumns); err != nil {
			return err
		}
	}
	for _, raw := range entries {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return err
		}
		row := make([]string, len(auditColumns))
		for i, name := range auditColumns {
			if json.Unmarshal(fields[name], &row[i]) != nil {
				row[i] = string(fields[name]) // no text: as JSON has it
			}
		}
		if err := w.Write(row); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}
