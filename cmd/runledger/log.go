package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsfiles"
	"github.com/runledger/runledger/pkg/natsserver"
)

// lossesFile has a line of JSON for each loss that an operator accepted.
const lossesFile = "accepted-losses.jsonl"

// startNATS starts the server of a data directory, unless that would make the loss
// of events worse, or hide it.
func startNATS(ctx context.Context, dataDir string, logger *slog.Logger) (*natsserver.Server, error) {
	s, err := natsserver.Start(ctx, natsserver.Config{DataDir: filepath.Join(dataDir, natsDir), Check: eventlog.CheckBeforeStart, Logger: logger})
	if errors.Is(err, eventlog.ErrDamaged) {
		return nil, fmt.Errorf("%w\nNothing was changed. `runledger log check --data %s` lists the damage; "+
			"docs/operate.md, \"When something breaks\", says what to do", err, dataDir)
	}
	return s, err
}

func logCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Check the event log of a stopped server",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(logCheckCommand(), acceptLossCommand())
	return cmd
}

func logCheckCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read every event in the data directory of a stopped server, and list what is missing or damaged",
		Long: `Read every event in the data directory of a stopped server: whether each is there,
is what was written, and can be read. Say which are not. Nothing is changed.

It ends with status 0 if the log is whole, and 1 if it is not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			unlock, err := lockStopped(data)
			if err != nil {
				return err
			}
			reports, err := checkLog(cmd.Context(), data, cmd.ErrOrStderr())
			if err == nil {
				err = printReports(cmd.OutOrStdout(), reports)
			}
			return errors.Join(err, unlock())
		},
	}
	cmd.Flags().StringVar(&data, "data", "runledger-data", "data directory of the stopped server")
	return cmd
}

// lockStopped takes the lock of a data directory that is there. It makes nothing
// in it but the lock.
func lockStopped(dir string) (unlock func() error, err error) {
	if _, err := os.Stat(filepath.Join(dir, natsDir)); err != nil {
		return nil, fmt.Errorf("--data: no event log in the data directory: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	if !locked {
		return nil, fmt.Errorf("data directory %s is in use%s: stop the server first", dir, owner(filepath.Join(dir, "pid")))
	}
	return lock.Unlock, nil
}

func checkLog(ctx context.Context, dataDir string, stderr io.Writer) ([]eventlog.StreamReport, error) {
	dir := filepath.Join(dataDir, natsDir)
	streams, err := eventlog.FileStreams(dir)
	if err != nil {
		return nil, err
	}
	if len(streams) == 0 {
		return nil, fmt.Errorf("event log in %s: there are no streams", dir)
	}
	tell := progress(stderr)
	var reports []eventlog.StreamReport
	for _, stream := range streams {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r, err := eventlog.CheckFiles(dir, stream, func(seq uint64) { tell("Event of "+stream, seq, 0) })
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// printReports says what was found of each stream, and returns ErrDamaged unless
// all are whole.
func printReports(w io.Writer, reports []eventlog.StreamReport) error {
	var damaged []string
	for _, r := range reports {
		if err := r.Err(); err != nil {
			damaged = append(damaged, r.Stream)
			text := strings.TrimSuffix(err.Error(), ": "+eventlog.ErrDamaged.Error())
			if _, err := fmt.Fprintln(w, strings.ReplaceAll(text, "; ", "\n    ")); err != nil {
				return err
			}
			continue
		}
		note := ""
		if r.Torn > 0 {
			note = fmt.Sprintf("; %d bytes behind the last one are the rest of a write that was not acknowledged", r.Torn)
		}
		if _, err := fmt.Fprintf(w, "%s has all of its %d events%s\n", r.Stream, r.Last, note); err != nil {
			return err
		}
	}
	if len(damaged) > 0 {
		return fmt.Errorf("the event log is damaged, in %s: restore a backup, or see `runledger log accept-loss --help`", strings.Join(damaged, ", "))
	}
	return nil
}

func acceptLossCommand() *cobra.Command {
	var data string
	var yes bool
	cmd := &cobra.Command{
		Use:   "accept-loss",
		Short: "Go on with a damaged event log, without the events from the first missing one on",
		Long: `Go on with a damaged event log for which there is no backup. Each damaged stream
is cut off before its first event that is missing or damaged: what comes behind it
may rest on it. The tables and the ledger are set aside, to be made again from what
is left; so are, if the registry's stream is cut, its signed tree heads, which say
of more than there is.

Without --yes it says what would be lost, and changes nothing. Every file that is
changed is kept, in a directory beside it, and the loss is recorded in
` + lossesFile + `.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			unlock, err := lockStopped(data)
			if err != nil {
				return err
			}
			return errors.Join(acceptLoss(cmd, data, yes), unlock())
		},
	}
	cmd.Flags().StringVar(&data, "data", "runledger-data", "data directory of the stopped server")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// loss is what was given up of a stream.
type loss struct {
	At       time.Time      `json:"at"`
	Stream   string         `json:"stream"`
	Kept     uint64         `json:"kept"`     // the last event that was kept
	Lost     natsfiles.Span `json:"lost"`     // what was given up
	Readable uint64         `json:"readable"` // of the lost ones
	Files    string         `json:"files"`    // where the files are that were changed
}

func acceptLoss(cmd *cobra.Command, dataDir string, yes bool) error {
	out := cmd.OutOrStdout()
	reports, err := checkLog(cmd.Context(), dataDir, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	aside := asideDir(dataDir, now)
	var losses []loss
	for _, r := range reports {
		if r.Err() == nil {
			continue
		}
		kept := r.Keep()
		l := loss{At: now, Stream: r.Stream, Kept: kept, Lost: natsfiles.Span{First: kept + 1, Last: r.End()}, Files: aside}
		l.Readable = r.Messages - kept
		losses = append(losses, l)
		if _, err := fmt.Fprintf(out, "%s keeps the events 1 to %d, and loses %s, of which %d can be read\n", l.Stream, l.Kept, l.Lost, l.Readable); err != nil {
			return err
		}
	}
	if len(losses) == 0 {
		_, err := fmt.Fprintln(out, "The event log is whole: there is no loss to accept.")
		return err
	}
	if !yes {
		return errors.New("nothing was changed: say --yes to go on without these events")
	}
	if err := recordLosses(filepath.Join(dataDir, lossesFile), losses); err != nil {
		return err
	}
	// What was made from more of the log goes first: a log that is shorter than
	// they are is refused.
	derived := []string{clickHouseDir, ledgerDir}
	for _, l := range losses {
		if l.Stream == events.StreamRegistry {
			derived = append(derived, headsDir)
		}
	}
	for _, name := range derived {
		if err := setAside(dataDir, aside, filepath.Join(dataDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, l := range losses {
		err := natsfiles.Cut(filepath.Join(dataDir, natsDir), l.Stream, l.Kept, func(path string) error { return setAside(dataDir, aside, path) })
		if err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "Done, and recorded in %s. What was changed is in %s.\n", filepath.Join(dataDir, lossesFile), aside)
	return err
}

// asideDir names a directory for what is moved out of the way.
func asideDir(dataDir string, now time.Time) string {
	return filepath.Join(dataDir, "set-aside-"+now.UTC().Format("20060102T150405.000Z"))
}

// setAside moves a file or directory in a data directory to the same place below
// aside.
func setAside(dataDir, aside, path string) error {
	rel, err := filepath.Rel(dataDir, path)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); err != nil {
		return err
	}
	to := filepath.Join(aside, rel)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return fmt.Errorf("set %s aside: %w", path, err)
	}
	if err := os.Rename(path, to); err != nil {
		return fmt.Errorf("set %s aside: %w", path, err)
	}
	return nil
}

func recordLosses(path string, losses []loss) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("record the loss: %w", err)
	}
	e := json.NewEncoder(f)
	for _, l := range losses {
		err = errors.Join(err, e.Encode(l))
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("record the loss: %w", err)
	}
	return nil
}
