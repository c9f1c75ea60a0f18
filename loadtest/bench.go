package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/spf13/cobra"
)

const (
	// smallConnections is how many clients log single metrics at a time.
	smallConnections = 32
	// maxPoints bounds the memory of the encoded requests: about 2 GB.
	maxPoints = 20_000_000
	// moderate is the part of the rate that was measured at which points are
	// logged while visibility is probed.
	moderate = 0.5
)

type benchConfig struct {
	bin         string
	dir         string
	points      int
	connections int
	runs        int
	rounds      int
	duration    time.Duration
	timeout     time.Duration
	json        bool
	cpuProfile  string
}

func benchCommand() *cobra.Command {
	var c benchConfig
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a fresh Runledger beside a bare ClickHouse engine, both on this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(cmd.Context(), cmd.OutOrStdout(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.bin, "bin", filepath.Join("bin", "runledger"), "the program to measure")
	f.StringVar(&c.dir, "dir", "", "where temporary data directories are made: the disk is part of what is measured (default: the system's temporary directory)")
	f.IntVar(&c.points, "points", 2_000_000, "metric points of an ingest round; rounded up to whole requests of 1000")
	f.IntVar(&c.connections, "connections", 8, "connections that log batches")
	f.IntVar(&c.runs, "runs", 32, "runs that the points belong to")
	f.IntVar(&c.rounds, "rounds", 3, "times that both sides ingest, taking turns")
	f.DurationVar(&c.duration, "duration", 5*time.Second, "length of each of the other measurements")
	f.DurationVar(&c.timeout, "timeout", 3*time.Minute, "time limit of everything together")
	f.BoolVar(&c.json, "json", false, "print one JSON object a figure instead of a table")
	f.StringVar(&c.cpuProfile, "cpuprofile", "", "file for a CPU profile of the server during one more ingest round")
	return cmd
}

func (c benchConfig) validate() error {
	switch {
	case c.points < 1 || c.points > maxPoints:
		return fmt.Errorf("--points must be from 1 to %d", maxPoints)
	case c.connections < 1 || c.runs < 1 || c.rounds < 1:
		return errors.New("--connections, --runs and --rounds must be at least 1")
	case c.duration <= 0 || c.timeout <= 0:
		return errors.New("--duration and --timeout must be positive")
	}
	return nil
}

// bench is one run of everything.
type bench struct {
	benchConfig
	program program
	load    load
	rows    []proto.Input // what load comes to in the table
	report  report
	logger  *slog.Logger
}

func (c benchConfig) run(ctx context.Context, stdout io.Writer, logger *slog.Logger) (err error) {
	if err := c.validate(); err != nil {
		return err
	}
	b := &bench{benchConfig: c, logger: logger}
	if b.program, err = findProgram(c.bin); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("the time limit of %v is over (--timeout)", c.timeout))
	defer cancel()
	if b.dir, err = os.MkdirTemp(c.dir, "runledger-bench-"); err != nil {
		return fmt.Errorf("make a directory for the data: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	logger.Info("encoding the requests")
	b.load = newLoad(workload{seed: 1, runs: c.runs, batches: (c.points + batchPoints - 1) / batchPoints})
	b.rows = bareInserts(b.load.workload)

	if err := b.measure(ctx); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return err
	}
	if c.json {
		return b.report.lines(stdout)
	}
	fmt.Fprintf(stdout, "%d points a round, %d runs, %d connections; %d processors (%s/%s), which the load generator shares.\n"+
		"Medians, the rounds in parentheses. What is measured: docs/benchmarks.md\n",
		b.load.total(), c.runs, c.connections, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	return b.report.table(stdout)
}

const (
	groupIngest    = "ingest over HTTP"
	groupCPU       = "processor time of an ingest round"
	groupProjector = "projector in an ingest round"
	groupBare      = "bare ClickHouse"
	groupRatio     = "side by side"
	groupVisible   = "visible after acknowledged"
	groupSmall     = "single requests"
	groupMemory    = "greatest resident memory"
)

// The figures that others are made from.
const (
	nameQueryable = "until queryable"
	nameBareBest  = "fastest"
)

func (b *bench) measure(ctx context.Context) error {
	for round := range b.rounds {
		if err := b.ingestRound(ctx, round); err != nil {
			return fmt.Errorf("ingest round %d: %w", round+1, err)
		}
		if err := b.bareRound(ctx, round); err != nil {
			return fmt.Errorf("bare round %d: %w", round+1, err)
		}
	}
	b.report.add(groupRatio, "Runledger until queryable / bare ClickHouse", "",
		b.report.value(groupIngest, nameQueryable)/b.report.value(groupBare, nameBareBest))
	if b.cpuProfile != "" {
		if err := b.profile(ctx); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
	}
	return b.onInstance(ctx, "other", "", b.others)
}

// onInstance calls f with a fresh instance, whose data are removed afterwards.
func (b *bench) onInstance(ctx context.Context, name, pprof string, f func(context.Context, *instance) error) (err error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	i, err := b.program.startInstance(ctx, dir, max(b.connections, smallConnections)+1, pprof)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	return f(ctx, i)
}

func (b *bench) ingestRound(ctx context.Context, round int) error {
	return b.onInstance(ctx, fmt.Sprintf("ingest-%d", round+1), "", func(ctx context.Context, i *instance) error {
		m, err := startMeter(i.pids())
		if err != nil {
			return err
		}
		in, runs, err := i.ingest(ctx, b.load, b.connections)
		if err != nil {
			return err
		}
		used, took, err := m.end()
		if err != nil {
			return err
		}
		if err := i.verify(ctx, b.load, runs); err != nil {
			return err
		}
		total := float64(b.load.total())
		b.logger.Info("ingested", "round", round+1, "acknowledged", in.acknowledged, "queryable", in.queryable)
		b.report.add(groupIngest, "acknowledged", "points/s", total/in.acknowledged.Seconds())
		b.report.add(groupIngest, nameQueryable, "points/s", total/in.queryable.Seconds())
		b.report.latencies(groupIngest, "request", in.requests)
		b.report.add(groupIngest, "repeated since the server was busy", "requests", float64(i.client.retries.Load()))
		var sum float64
		for _, name := range []string{procServer, procEngine, procGenerator} {
			sum += used[name].cpu
			b.report.add(groupCPU, name, "s", used[name].cpu)
		}
		b.report.add(groupCPU, "share of the load generator", "%", 100*used[procGenerator].cpu/sum)
		b.report.add(groupCPU, "processors in use", "", sum/took.Seconds())
		b.report.add(groupMemory, procServer+", ingest round", "MB", used[procServer].memory/1e6)
		b.report.add(groupMemory, procEngine+", ingest round", "MB", used[procEngine].memory/1e6)
		p, err := i.projection(ctx)
		if err != nil {
			return err
		}
		b.report.add(groupProjector, "flushes", "", p.flushes.count)
		b.report.add(groupProjector, "flush, mean", "ms", p.flushes.meanMillis())
		b.report.add(groupProjector, "points of an insert into metrics, mean", "", p.rows["metrics"]/max(1, p.inserts["metrics"].count))
		for _, table := range []string{"metrics", "latest_metrics"} {
			b.report.add(groupProjector, "insert into "+table+", mean", "ms", p.inserts[table].meanMillis())
		}
		return nil
	})
}

func (b *bench) bareRound(ctx context.Context, round int) (err error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("bare-%d", round+1))
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e, err := b.program.startEngine(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if err := e.migrate(ctx); err != nil {
		return err
	}
	best, bestCPU := 0.0, 0.0
	for _, connections := range bareConnections {
		m, err := startMeter(map[string]int{procEngine: e.Pid()})
		if err != nil {
			return err
		}
		took, err := e.bare(ctx, b.rows, b.load.total(), connections)
		if err != nil {
			return err
		}
		used, _, err := m.end()
		if err != nil {
			return err
		}
		b.logger.Info("inserted", "round", round+1, "connections", connections, "took", took)
		rate := float64(b.load.total()) / took.Seconds()
		if rate > best {
			best, bestCPU = rate, used[procEngine].cpu
		}
		b.report.add(groupBare, fmt.Sprintf("connections: %d", connections), "points/s", rate)
	}
	b.report.add(groupBare, nameBareBest, "points/s", best)
	b.report.add(groupBare, "processor time of the engine, fastest", "s", bestCPU)
	return nil
}

// others measures what is not ingest of many points, one after the other.
func (b *bench) others(ctx context.Context, i *instance) error {
	p, err := i.newProber(ctx)
	if err != nil {
		return err
	}
	probe := func(ctx context.Context, when string) error {
		b.logger.Info("probing visibility", "when", when)
		asked, err := repeat(ctx, b.duration, p.asked)
		if err != nil {
			return err
		}
		b.report.latencies(groupVisible, when+", read through the API", asked)
		b.report.add(groupVisible, when+", read through the API, probes", "", float64(asked.count()))
		passive, err := repeat(ctx, b.duration, p.passive)
		if err != nil {
			return err
		}
		b.report.latencies(groupVisible, when+", in the table by itself", passive)
		b.report.add(groupVisible, when+", in the table by itself, probes", "", float64(passive.count()))
		return nil
	}
	if err := probe(ctx, "idle"); err != nil {
		return err
	}
	target := moderate * b.report.value(groupIngest, nameQueryable)
	reached, err := i.underLoad(ctx, b.load, b.connections, target, func(ctx context.Context) error { return probe(ctx, "under load") })
	if err != nil {
		return err
	}
	b.report.add(groupVisible, "load, reached", "points/s", reached)

	b.logger.Info("single requests")
	err = b.closedLoop(i, fmt.Sprintf("log-metric, %d at a time", smallConnections), func() (*latencies, float64, error) {
		return i.client.logMetrics(ctx, b.duration, smallConnections)
	})
	if err != nil {
		return err
	}
	err = b.closedLoop(i, fmt.Sprintf("create-run and log-batch of 10, %d at a time", b.connections), func() (*latencies, float64, error) {
		return i.client.createAndLog(ctx, b.duration, b.connections)
	})
	if err != nil {
		return err
	}

	m, err := startMeter(i.pids())
	if err != nil {
		return err
	}
	used, err := m.read()
	if err != nil {
		return err
	}
	b.report.add(groupMemory, procServer+", after the rest", "MB", used[procServer].memory/1e6)
	b.report.add(groupMemory, procEngine+", after the rest", "MB", used[procEngine].memory/1e6)
	return nil
}

// closedLoop reports on calls that each connection makes one after the other.
func (b *bench) closedLoop(i *instance, name string, f func() (*latencies, float64, error)) error {
	m, err := startMeter(i.pids())
	if err != nil {
		return err
	}
	took, perSecond, err := f()
	if err != nil {
		return err
	}
	used, _, err := m.end()
	if err != nil {
		return err
	}
	b.report.add(groupSmall, name, "calls/s", perSecond)
	b.report.latencies(groupSmall, name, took)
	sum := used[procServer].cpu + used[procEngine].cpu + used[procGenerator].cpu
	b.report.add(groupSmall, name+", share of the load generator", "%", 100*used[procGenerator].cpu/sum)
	return nil
}

// profile has one more round profiled, for about as long as a round takes.
func (b *bench) profile(ctx context.Context) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	seconds := float64(b.load.total()) / b.report.value(groupIngest, nameQueryable)
	return b.onInstance(ctx, "profiled", address, func(ctx context.Context, i *instance) error {
		b.logger.Info("profiling", "seconds", max(1, int(seconds)))
		profiled := make(chan error, 1)
		go func() { profiled <- i.saveProfile(ctx, max(1, int(seconds)), b.cpuProfile) }()
		_, _, err := i.ingest(ctx, b.load, b.connections)
		return errors.Join(err, <-profiled)
	})
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// saveProfile saves a CPU profile of the server's next seconds.
func (i *instance) saveProfile(ctx context.Context, seconds int, path string) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", i.pprof, seconds), nil)
	if err != nil {
		return fmt.Errorf("profile the server: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("profile the server: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("profile the server: %s", res.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, res.Body)
	return err
}
