package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/services/registry/audit"
	"github.com/runledger/runledger/services/registry/treehead"
)

const progressEvery = time.Second

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who did what; check the registry's ledger, or export it with proofs",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(auditLogCommand(), verifyCommand(), exportCommand())
	return cmd
}

// auditOptions are the flags that verify and export share.
type auditOptions struct {
	server  string
	against []string
	keys    []string
}

func (o *auditOptions) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.server, "server", defaultServer, "running server to ask; a user name may be in the URL")
	f.StringArrayVar(&o.against, "against", nil, "file with a tree head that was kept elsewhere, or directory of such; may be repeated")
	f.StringArrayVar(&o.keys, "key", nil, "verifier key of the server, kept elsewhere; may be repeated (default: the one that the server or the data directory has)")
}

// options reads the files and keys that the flags name.
func (o *auditOptions) options(stderr io.Writer) (audit.Options, error) {
	opts := audit.Options{Progress: progress(stderr)}
	for _, key := range o.keys {
		v, err := note.NewVerifier(key)
		if err != nil {
			return opts, fmt.Errorf("--key %q: %w", key, err)
		}
		opts.Keys = append(opts.Keys, v)
	}
	for _, name := range o.against {
		heads, err := readHeads(name)
		if err != nil {
			return opts, fmt.Errorf("--against: %w", err)
		}
		opts.Against = append(opts.Against, heads...)
	}
	return opts, nil
}

// readHeads reads the tree head in a file, or those in a directory.
func readHeads(name string) ([][]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		heads, err := treehead.ReadDir(name)
		if err == nil && len(heads) == 0 {
			err = fmt.Errorf("no tree heads in %s", name)
		}
		return heads, err
	}
	if info.Size() > treehead.MaxBytes {
		return nil, fmt.Errorf("%s: a tree head has at most %d bytes", name, treehead.MaxBytes)
	}
	head, err := os.ReadFile(name)
	return [][]byte{head}, err
}

// progress returns a function that says now and then how far long work has come.
func progress(w io.Writer) func(what string, done, total uint64) {
	last := time.Now()
	return func(what string, done, total uint64) {
		if time.Since(last) < progressEvery {
			return
		}
		last = time.Now()
		if total == 0 {
			fmt.Fprintf(w, "%s: %d\n", what, done)
			return
		}
		fmt.Fprintf(w, "%s: %d of %d\n", what, done, total)
	}
}

func verifyCommand() *cobra.Command {
	var o auditOptions
	var data, natsURL string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Recompute the registry's ledger and name the first entry that differs",
		Long: `Recompute the registry's ledger and name the first entry that differs.

With --server, read the entries of a running server, recompute the tree, and
compare it with the tree heads that the server signs and has signed.
With --data, do so in the data directory of a stopped one, and compare the
ledger with the event log too, key by key.

An operator who has the key can rewrite everything. Only a tree head that was
kept elsewhere shows that: give it with --against.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data != "" && cmd.Flags().Changed("server") {
				return errors.New("--server and --data: want one of them")
			}
			if data == "" && natsURL != "" {
				return errors.New("--nats-url: goes with --data")
			}
			opts, err := o.options(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			var report audit.Report
			if data != "" {
				report, err = verifyData(cmd.Context(), data, natsURL, opts)
			} else {
				report, err = verifyServer(cmd.Context(), o.server, opts, cmd.ErrOrStderr())
			}
			if err != nil {
				return err
			}
			printReport(cmd.OutOrStdout(), report, len(opts.Against))
			return nil
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&data, "data", "", "data directory of a stopped server to check instead")
	cmd.Flags().StringVar(&natsURL, "nats-url", "", "with --data: NATS server that has the event log, if it is not in the data directory")
	return cmd
}

func verifyServer(ctx context.Context, server string, o audit.Options, stderr io.Writer) (audit.Report, error) {
	c, err := audit.NewClient(server)
	if err != nil {
		return audit.Report{}, err
	}
	if len(o.Keys) == 0 {
		text, _, err := c.Key(ctx)
		if err != nil {
			return audit.Report{}, err
		}
		fmt.Fprintf(stderr, "Taking the server's word for its key: --key %s\n", text)
	}
	return audit.VerifyServer(ctx, c, o)
}

// verifyData verifies the data directory of a stopped server. It makes nothing in
// it, but NATS opens its own files.
func verifyData(ctx context.Context, dir, natsURL string, o audit.Options) (report audit.Report, err error) {
	if _, err := os.Stat(filepath.Join(dir, ledgerDir)); err != nil {
		return report, fmt.Errorf("no registry ledger in the data directory: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	locked, err := lock.TryLock()
	if err != nil {
		return report, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	if !locked {
		return report, fmt.Errorf("data directory %s is in use%s: ask the server instead, with --server", dir, owner(filepath.Join(dir, "pid")))
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	heads, err := treehead.ReadDir(filepath.Join(dir, headsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return report, err
	}
	if len(o.Keys) == 0 && len(heads)+len(o.Against) > 0 {
		key, err := treehead.LoadKey(filepath.Join(dir, keyFile), "")
		if err != nil {
			return report, fmt.Errorf("%w (name the verifier key with --key)", err)
		}
		v, err := note.NewVerifier(key.Verifier)
		if err != nil {
			return report, fmt.Errorf("verifier key: %w", err)
		}
		o.Keys = []note.Verifier{v}
	}
	log, closeLog, err := openLog(ctx, dir, natsURL)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	return audit.VerifyDir(ctx, filepath.Join(dir, ledgerDir), log, heads, o)
}

// openLog opens the event log in a data directory, or on a server; nil when there
// is neither.
func openLog(ctx context.Context, dir, natsURL string) (*eventlog.Log, func() error, error) {
	none := func() error { return nil }
	logger := slog.New(slog.DiscardHandler)
	if natsURL != "" {
		nc, err := dialNATS(natsURL)
		if err != nil {
			return nil, none, err
		}
		log, err := eventlog.Open(ctx, nc, eventlog.Config{Logger: logger})
		return log, func() error { nc.Close(); return nil }, err
	}
	if _, err := os.Stat(filepath.Join(dir, natsDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, none, nil
	}
	server, err := startNATS(ctx, dir, logger)
	if err != nil {
		return nil, none, err
	}
	log, err := eventlog.Open(ctx, server.Conn(), eventlog.Config{Logger: logger})
	if err != nil {
		return nil, none, errors.Join(err, server.Close())
	}
	return log, server.Close, nil
}

func printReport(w io.Writer, r audit.Report, against int) {
	fmt.Fprintf(w, "Every one of the %d entries is right. Root hash %s.\n", r.Size, r.Root)
	if r.Heads > 0 {
		fmt.Fprintf(w, "Compared with %d tree heads.\n", r.Heads)
	}
	if r.Stream {
		fmt.Fprintln(w, "The ledger is what the event log leads to, key by key.")
	}
	if r.Behind > 0 {
		fmt.Fprintf(w, "The event log has %d events more, which the next start applies.\n", r.Behind)
	}
	if against == 0 {
		fmt.Fprintln(w, "No tree head from elsewhere was given with --against: a rewrite of everything would not show.")
	}
}

func exportCommand() *cobra.Command {
	var o auditOptions
	var from uint64
	var model, output string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the registry's entries with proofs, to be checked offline",
		Long: `Write the registry's entries, each with the proof that it is in the tree whose
signed head is the first line, as JSON Lines. The whole ledger is verified
before. The program in verifier/ checks the file offline.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts, err := o.options(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			c, err := audit.NewClient(o.server)
			if err != nil {
				return err
			}
			return export(cmd, c, output, from, model, opts)
		},
	}
	o.register(cmd)
	cmd.Flags().Uint64Var(&from, "from", 0, "first entry")
	cmd.Flags().StringVar(&model, "model", "", "only the entries about a model that has or had this name")
	cmd.Flags().StringVarP(&output, "output", "o", "-", "file to write; - is standard output")
	return cmd
}

// export writes to a file that has its name only when it is whole.
func export(cmd *cobra.Command, c *audit.Client, output string, from uint64, model string, o audit.Options) error {
	if output == "-" {
		_, err := audit.Export(cmd.Context(), c, cmd.OutOrStdout(), from, model, o)
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(output), filepath.Base(output)+".tmp*")
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	entries, err := audit.Export(cmd.Context(), c, f, from, model, o)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), output)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d entries in %s\n", entries, output)
	return nil
}
