package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"
)

const (
	// soakShare is the part of the sustainable rate that a soak loads a server with.
	soakShare = 0.5
	// rampStep is how long each number of connections is tried.
	rampStep = 10 * time.Second
	// soakProgress is how often a soak says how far it is.
	soakProgress = time.Minute
	// soakWindows is how many windows a soak has that is too short for six of
	// the window that was asked for.
	soakWindows = 6
	// soakSpace is the free space on the disk below which a soak ends: the
	// machine is not to suffer from it. In bytes.
	soakSpace = 2 << 30
)

// rampConnections are the numbers of connections that are tried; the fastest
// counts.
var rampConnections = []int{4, 8, 16, 32}

type soakConfig struct {
	bin         string
	dir         string
	duration    time.Duration
	window      time.Duration
	sample      time.Duration
	rate        float64
	connections int
}

func soakCommand() *cobra.Command {
	var c soakConfig
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Load a fresh Runledger for a long time with what clients do all day, and see what grows",
		Long: `Load a fresh Runledger for a long time with what clients do all day: at half the
rate that it sustains, which is measured first, or at a rate that is given.

It fails when memory, goroutines, open files or parts of a table grow after the
first window, or when something that was written is not there at the end. What
"grow" means is printed with the figures.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(cmd.Context(), cmd.OutOrStdout(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.bin, "bin", filepath.Join("bin", "runledger"), "the program to load")
	f.StringVar(&c.dir, "dir", "", "where the temporary data directory is made; an hour may need tens of GB (default: the system's temporary directory)")
	f.DurationVar(&c.duration, "duration", time.Hour, "how long the load lasts")
	f.DurationVar(&c.window, "window", 10*time.Minute, "length of a line of the table; a sixth of the duration if that is less")
	f.DurationVar(&c.sample, "sample", 5*time.Second, "time between two looks at the processes")
	f.Float64Var(&c.rate, "rate", 0, "requests a second (default: half of what a ramp finds)")
	f.IntVar(&c.connections, "connections", 16, "clients at a time")
	return cmd
}

func (c soakConfig) validate() error {
	switch {
	case c.duration <= 0 || c.window <= 0 || c.sample <= 0:
		return errors.New("--duration, --window and --sample must be positive")
	case c.connections < 1:
		return errors.New("--connections must be at least 1")
	case c.rate < 0:
		return errors.New("--rate must not be negative")
	case c.windowLength() < 5*c.sample:
		return fmt.Errorf("--sample must be at most a fifth of a window, which is %v", c.windowLength())
	}
	return nil
}

func (c soakConfig) windowLength() time.Duration { return min(c.window, c.duration/soakWindows) }

func (c soakConfig) run(ctx context.Context, stdout io.Writer, logger *slog.Logger) (err error) {
	if err := c.validate(); err != nil {
		return err
	}
	p, err := findProgram(c.bin)
	if err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp(c.dir, "runledger-soak-"); err != nil {
		return fmt.Errorf("make a directory for the data: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	i, err := p.startInstance(ctx, c.dir, max(c.connections, rampConnections[len(rampConnections)-1])+2, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	s := newSweeps(i)
	ramped := c.rate == 0
	if ramped {
		found, err := c.ramp(ctx, s, logger)
		if err != nil {
			return fmt.Errorf("find the sustainable rate: %w", err)
		}
		c.rate = soakShare * found
	}
	logger.Info("the soak begins", "requests/s", int(c.rate), "duration", c.duration, "data", c.dir)
	o := newObserver(i, s, c.dir)
	if err := c.load(ctx, s, o, logger); err != nil {
		return err
	}
	logger.Info("comparing what was written with what is there", "runs", s.runs())
	lost := s.verify(ctx)
	fmt.Fprintf(stdout, "%v at %.0f requests/s over %d connections", c.duration, c.rate, c.connections)
	if ramped {
		fmt.Fprintf(stdout, ", half of the %.0f that a ramp found", c.rate/soakShare)
	}
	fmt.Fprintf(stdout, "; %d processors (%s/%s), which the load generator shares.\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	grown, err := o.report(stdout)
	if err != nil {
		return err
	}
	if lost == nil {
		fmt.Fprintf(stdout, "\nEverything written is there: %d runs, %d points, %d model versions, and a sample of the files.\n", s.runs(), s.points.Load(), s.versions.Load())
	}
	return errors.Join(lost, grown)
}

// ramp returns the most requests a second that the server takes, with what
// the tables need to catch up.
func (c soakConfig) ramp(ctx context.Context, s *sweeps, logger *slog.Logger) (best float64, err error) {
	for _, connections := range rampConnections {
		began, before := time.Now(), s.requests.Load()
		if err := s.run(ctx, rampStep, connections, rate.NewLimiter(rate.Inf, 0)); err != nil {
			return 0, err
		}
		if err := s.caughtUp(ctx); err != nil {
			return 0, err
		}
		found := float64(s.requests.Load()-before) / time.Since(began).Seconds()
		logger.Info("tried", "connections", connections, "requests/s", int(found))
		best = max(best, found)
	}
	return best, nil
}

// load runs the load, and o beside it.
func (c soakConfig) load(ctx context.Context, s *sweeps, o *observer, logger *slog.Logger) error {
	observing, stop := context.WithCancel(ctx)
	defer stop()
	observed := make(chan error, 1)
	go func() {
		err := o.observe(observing, c.sample, c.windowLength(), logger)
		if err != nil {
			stop()
		}
		observed <- err
	}()
	err := s.run(observing, c.duration, c.connections, rate.NewLimiter(rate.Limit(c.rate), c.connections))
	stop()
	if watched := <-observed; watched != nil {
		return watched // the load ended for that reason
	}
	return err
}
