package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// noPostgres is the value of --postgres that chooses SQLite.
const noPostgres = "none"

// The two that are compared.
const (
	sideRunledger = "Runledger"
	sideMLflow    = "MLflow"
)

type mlflowConfig struct {
	bin      string
	mlflow   string
	postgres string
	workers  int
	dir      string
	runs     int
	rounds   int
	duration time.Duration
	timeout  time.Duration
	json     bool
	profiles string
}

func mlflowCommand() *cobra.Command {
	var c mlflowConfig
	cmd := &cobra.Command{
		Use:   "mlflow",
		Short: "Measure a fresh Runledger beside MLflow's own server, both on this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(cmd.Context(), cmd.OutOrStdout(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.bin, "bin", filepath.Join("bin", "runledger"), "the program to measure")
	f.StringVar(&c.mlflow, "mlflow", filepath.Join(".venv-bench", "bin", "mlflow"), "MLflow's program, with psycopg2 beside it")
	f.StringVar(&c.postgres, "postgres", "", "directory of PostgreSQL's programs, or "+noPostgres+" for SQLite (default: Debian's newest, SQLite when there is none)")
	f.IntVar(&c.workers, "workers", 4, "worker processes of MLflow's server")
	f.StringVar(&c.dir, "dir", "", "where temporary data directories are made: the disk is part of what is measured (default: the system's temporary directory)")
	f.IntVar(&c.runs, "runs", 10_000, "runs to search through, each with 20 metrics and 5 parameters")
	f.IntVar(&c.rounds, "rounds", 3, "times that each operation is measured on both, taking turns")
	f.DurationVar(&c.duration, "duration", 4*time.Second, "length of a round of one operation on one of them")
	f.DurationVar(&c.timeout, "timeout", 15*time.Minute, "time limit of everything together")
	f.BoolVar(&c.json, "json", false, "print one JSON object a figure instead of a table")
	f.StringVar(&c.profiles, "profiles", "", "directory for a CPU profile of Runledger's server in each operation, in a round of its own")
	return cmd
}

func (c mlflowConfig) validate() error {
	switch {
	case c.workers < 1 || c.rounds < 1:
		return errors.New("--workers and --rounds must be at least 1")
	case c.runs < pageRuns:
		return fmt.Errorf("--runs must be at least %d", pageRuns)
	case c.duration <= 0 || c.timeout <= 0:
		return errors.New("--duration and --timeout must be positive")
	}
	return nil
}

// The figures beside those of the operations.
const (
	groupFill     = "to fill with the same data"
	groupStarted  = "memory when started"
	groupGreatest = "memory, greatest after an operation"
	groupAfter    = "memory at the end"
)

// comparison is one run of everything.
type comparison struct {
	mlflowConfig
	report  report
	logger  *slog.Logger
	version string // of MLflow
	store   string // what MLflow keeps its data in
}

func (c mlflowConfig) run(ctx context.Context, stdout io.Writer, logger *slog.Logger) (err error) {
	if err := c.validate(); err != nil {
		return err
	}
	p, err := findProgram(c.bin)
	if err != nil {
		return err
	}
	if c.mlflow, err = filepath.Abs(c.mlflow); err != nil {
		return fmt.Errorf("--mlflow: %w", err)
	}
	if _, err := os.Stat(c.mlflow); err != nil {
		return fmt.Errorf("--mlflow: %w (make bench-mlflow installs it)", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("the time limit of %v is over (--timeout)", c.timeout))
	defer cancel()
	if c.dir, err = os.MkdirTemp(c.dir, "runledger-bench-"); err != nil {
		return fmt.Errorf("make a directory for the data: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	// PostgreSQL's user must reach its directory in this one.
	if err := os.Chmod(c.dir, 0o711); err != nil {
		return err
	}
	b := &comparison{mlflowConfig: c, logger: logger}
	if err := b.compare(ctx, p); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return err
	}
	if c.json {
		return b.report.lines(stdout)
	}
	return b.table(stdout)
}

// compare starts both servers, fills them with the same data, and measures.
func (c *comparison) compare(ctx context.Context, p program) (err error) {
	ours, i, err := c.startRunledger(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	m, err := c.startMLflow(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	theirs, err := m.side()
	if err != nil {
		return err
	}
	sides := []*side{ours, theirs}
	if err := c.memory(sides, groupStarted); err != nil {
		return err
	}
	for _, s := range sides {
		took, err := s.fill(ctx, c.runs)
		if err != nil {
			return fmt.Errorf("fill %s: %w", s.name, err)
		}
		c.logger.Info("filled", "server", s.name, "runs", c.runs, "took", took)
		c.report.add(groupFill, s.name, "s", took.Seconds())
	}
	if err := m.analyze(ctx); err != nil {
		return err
	}
	for _, o := range operations {
		if err := c.measure(ctx, o, sides); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		if c.profiles != "" {
			if err := c.profile(ctx, o, ours, i); err != nil {
				return fmt.Errorf("profile %s: %w", o.name, err)
			}
		}
	}
	if err := c.memory(sides, groupAfter); err != nil {
		return err
	}
	for _, s := range sides {
		c.report.add(groupGreatest, s.name, "MB", s.greatest/1e6)
	}
	return nil
}

// measure has the servers take turns with an operation. Their answers must
// agree.
func (c *comparison) measure(ctx context.Context, o operation, sides []*side) error {
	answers := make(map[int]answer)
	for round := range c.rounds {
		for _, s := range sides {
			used, err := s.cpu()
			if err != nil {
				return err
			}
			r, err := o.run(ctx, s, c.duration)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			now, err := s.cpu()
			if err != nil {
				return err
			}
			if err := agree(answers, r.answers, s.name); err != nil {
				return err
			}
			c.logger.Info("measured", "operation", o.name, "round", round+1, "server", s.name,
				"calls", r.took.count(), "p50", r.took.percentile(50), "cpu", now-used)
			c.report.add(o.name, s.name+", calls/s", "calls/s", r.perSecond)
			c.report.latencies(o.name, s.name, r.took)
			c.report.add(o.name, s.name+", processor time of a call", "ms", 1000*(now-used)/float64(r.took.count()))
		}
	}
	return c.memory(sides, "")
}

// memory reports what both have in memory now.
func (c *comparison) memory(sides []*side, group string) error {
	for _, s := range sides {
		bytes, err := s.resident()
		if err != nil {
			return err
		}
		s.greatest = max(s.greatest, bytes)
		if group != "" {
			c.report.add(group, s.name, "MB", bytes/1e6)
		}
	}
	return nil
}

// profile has an operation run once more on Runledger.
func (c *comparison) profile(ctx context.Context, o operation, ours *side, i *instance) error {
	if err := os.MkdirAll(c.profiles, 0o755); err != nil {
		return err
	}
	path := filepath.Join(c.profiles, strings.NewReplacer(" ", "-", ",", "").Replace(o.name)+".pprof")
	profiled := make(chan error, 1)
	go func() { profiled <- i.saveProfile(ctx, max(1, int(c.duration.Seconds())), path) }()
	_, err := o.run(ctx, ours, c.duration)
	return errors.Join(err, <-profiled)
}

func (c *comparison) startRunledger(ctx context.Context, p program) (*side, *instance, error) {
	dir := filepath.Join(c.dir, "runledger")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	pprof := ""
	if c.profiles != "" {
		var err error
		if pprof, err = freeAddress(); err != nil {
			return nil, nil, err
		}
	}
	i, err := p.startInstance(ctx, dir, smallConnections+1, pprof)
	if err != nil {
		return nil, nil, err
	}
	return &side{name: sideRunledger, client: i.client, pids: []int{i.cmd.Process.Pid, i.engine.Pid()}}, i, nil
}

// mlflowServer is MLflow's own server on empty stores.
type mlflowServer struct {
	*daemon
	address  string
	postgres *postgres // nil: SQLite
}

// startMLflow starts MLflow's server as its documentation advises for a team,
// and quicker where an ordinary option makes it so: no log of each request, no
// telemetry, no processes for jobs.
func (c *comparison) startMLflow(ctx context.Context) (m *mlflowServer, err error) {
	m = &mlflowServer{}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	dir := filepath.Join(c.dir, "mlflow")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return m, err
	}
	version, err := exec.CommandContext(ctx, c.mlflow, "--version").Output()
	if err != nil {
		return m, fmt.Errorf("%s --version: %w", c.mlflow, err)
	}
	c.version = strings.TrimSpace(strings.TrimPrefix(string(version), "mlflow, version "))
	uri := "sqlite:///" + filepath.Join(dir, "mlflow.db")
	c.store = "SQLite"
	programs := c.postgresPrograms()
	if programs != "" {
		if m.postgres, err = startPostgres(ctx, programs, c.dir); err != nil {
			return m, err
		}
		uri, c.store = m.postgres.uri(), "PostgreSQL"
	}
	if m.address, err = freeAddress(); err != nil {
		return m, err
	}
	host, port, _ := strings.Cut(m.address, ":")
	cmd := exec.CommandContext(ctx, c.mlflow, "server", "--host", host, "--port", port, "--workers", strconv.Itoa(c.workers),
		"--backend-store-uri", uri, "--artifacts-destination", filepath.Join(dir, "artifacts"),
		"--uvicorn-opts", "--no-access-log --log-level warning")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MLFLOW_DISABLE_TELEMETRY=true", "DO_NOT_TRACK=true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if m.daemon, err = startDaemon(cmd, syscall.SIGTERM, dir); err != nil {
		return m, fmt.Errorf("start MLflow's server: %w", err)
	}
	probe, err := newClient("http://"+m.address, 1)
	if err != nil {
		return m, err
	}
	defer probe.close()
	if err := m.await(ctx, func(ctx context.Context) error { _, err := probe.get(ctx, "/health", nil); return err }); err != nil {
		return m, fmt.Errorf("start MLflow's server: %w", err)
	}
	return m, nil
}

// postgresPrograms returns the directory of PostgreSQL's programs, empty for
// SQLite.
func (c *comparison) postgresPrograms() string {
	switch c.postgres {
	case noPostgres:
		return ""
	case "":
		found := findPostgres()
		if found == "" {
			c.logger.Warn("PostgreSQL is not installed, so MLflow's server gets SQLite, which teams do not use; on Debian: apt-get install postgresql")
		}
		return found
	default:
		return c.postgres
	}
}

// side returns the server as one to be measured.
func (m *mlflowServer) side() (*side, error) {
	client, err := newClient("http://"+m.address, smallConnections+1)
	if err != nil {
		return nil, err
	}
	s := &side{name: sideMLflow, client: client, pids: []int{m.cmd.Process.Pid}}
	if m.postgres != nil {
		s.pids = append(s.pids, m.postgres.cmd.Process.Pid)
	}
	return s, nil
}

// analyze has PostgreSQL look at what it was filled with.
func (m *mlflowServer) analyze(ctx context.Context) error {
	if m.postgres == nil {
		return nil
	}
	return m.postgres.analyze(ctx)
}

func (m *mlflowServer) close() error {
	var errs []error
	if m.daemon != nil {
		errs = append(errs, m.daemon.close())
	}
	if m.postgres != nil {
		errs = append(errs, m.postgres.close())
	}
	return errors.Join(errs...)
}

// table writes the figures as a Markdown table.
func (c *comparison) table(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "MLflow %s with %s, %d workers (uvicorn); %d processors (%s/%s), which the load generator shares.\n"+
		"Medians of %d rounds of %v. What is measured: docs/benchmarks.md\n\n",
		c.version, c.store, c.workers, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, c.rounds, c.duration)
	out.WriteString("| | connections | Runledger: calls/s | p50 | p99 | MLflow: calls/s | p50 | p99 | times as fast |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, o := range operations {
		fmt.Fprintf(&out, "| %s | %d", o.name, o.connections)
		for _, name := range []string{sideRunledger, sideMLflow} {
			fmt.Fprintf(&out, " | %s | %s ms | %s ms", number(c.report.value(o.name, name+", calls/s")),
				number(c.report.value(o.name, name+" p50")), number(c.report.value(o.name, name+" p99")))
		}
		fmt.Fprintf(&out, " | **%s** |\n", number(c.report.value(o.name, sideMLflow+" p50")/c.report.value(o.name, sideRunledger+" p50")))
	}
	out.WriteString("\n| | Runledger | MLflow | ratio |\n|---|--:|--:|--:|\n")
	for _, row := range []struct{ group, unit string }{
		{groupFill, "s"},
		{groupStarted, "MB"},
		{groupGreatest, "MB"},
		{groupAfter, "MB"},
	} {
		ours, theirs := c.report.value(row.group, sideRunledger), c.report.value(row.group, sideMLflow)
		fmt.Fprintf(&out, "| %s | %s %s | %s %s | %s |\n", row.group, number(ours), row.unit, number(theirs), row.unit, number(theirs/ours))
	}
	_, err := io.WriteString(w, out.String())
	return err
}
