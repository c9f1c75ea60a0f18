package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// overloadTimeout is how long an answer may take at most, in a measurement of
// how long answers take.
const overloadTimeout = 3 * time.Minute

type overloadConfig struct {
	bin      string
	dir      string
	writers  []int
	points   int
	duration time.Duration
}

func overloadCommand() *cobra.Command {
	var c overloadConfig
	cmd := &cobra.Command{
		Use:   "overload",
		Short: "Measure what a fresh Runledger still does when more is asked of it than it can do",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(cmd.Context(), cmd.OutOrStdout(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.bin, "bin", filepath.Join("bin", "runledger"), "the program to load")
	f.StringVar(&c.dir, "dir", "", "where the temporary data directory is made (default: the system's temporary directory)")
	f.IntSliceVar(&c.writers, "writers", []int{8, 64, 256, 1024}, "numbers of writers at a time, each of which sends a request when the one before is answered")
	f.IntVar(&c.points, "points", 900, "points of a request")
	f.DurationVar(&c.duration, "duration", 15*time.Second, "length of the measurement with each number")
	return cmd
}

func (c overloadConfig) validate() error {
	switch {
	case len(c.writers) == 0 || slices.Min(c.writers) < 1:
		return errors.New("--writers must be numbers of at least 1")
	case c.points < 1 || c.points > batchPoints:
		return fmt.Errorf("--points must be from 1 to %d", batchPoints)
	case c.duration <= 0:
		return errors.New("--duration must be positive")
	}
	return nil
}

func (c overloadConfig) run(ctx context.Context, stdout io.Writer, logger *slog.Logger) (err error) {
	if err := c.validate(); err != nil {
		return err
	}
	p, err := findProgram(c.bin)
	if err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp(c.dir, "runledger-overload-"); err != nil {
		return fmt.Errorf("make a directory for the data: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	i, err := p.startInstance(ctx, c.dir, slices.Max(c.writers)+2, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	i.client.http.Timeout = overloadTimeout

	fmt.Fprintf(stdout, "Requests of %d points, %v with each number of writers, which wait as long as a refusal asks; %d processors (%s/%s), which the load generator shares.\n",
		c.points, c.duration, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "writers\tpoints/s\tanswered/s\tp50\tp99\tmost\trefused/s\tp99\tin flight, most\t")
	logger.Info("encoding the requests")
	bodies := make([][]byte, requests)
	for n := range bodies {
		bodies[n] = encodeBatch(workload{seed: 1, runs: 1}.points(n)[:c.points])
	}
	total := uint64(0)
	for _, writers := range c.writers {
		logger.Info("measuring", "writers", writers)
		o, err := c.measure(ctx, i, bodies, writers)
		if err != nil {
			return fmt.Errorf("%d writers: %w", writers, err)
		}
		total += uint64(o.answered.count()) * uint64(c.points)
		fmt.Fprintf(t, "%d\t%s\t%s\t%s ms\t%s ms\t%s ms\t%s\t%s ms\t%s\t\n", writers,
			number(o.perSecond*float64(c.points)), number(o.perSecond),
			number(millis(o.answered.percentile(50))), number(millis(o.answered.percentile(99))), number(millis(o.answered.percentile(100))),
			number(float64(o.refused.count())/c.duration.Seconds()), number(millis(o.refused.percentile(99))), number(o.queue))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := i.awaitCount(ctx, total); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "What was acknowledged is in the table, and nothing else.")
	return nil
}

// overload is how one number of writers fared.
type overload struct {
	answered, refused *latencies
	perSecond         float64 // answered while requests were sent
	queue             float64 // requests in flight, the most that were seen
}

func (c overloadConfig) measure(ctx context.Context, i *instance, bodies [][]byte, writers int) (o overload, err error) {
	o = overload{answered: newLatencies(), refused: newLatencies()}
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		o.queue = i.greatestQueue(watching)
	}()
	var within atomic.Int64
	began := time.Now()
	group, inner := errgroup.WithContext(ctx)
	for range writers {
		group.Go(func() error {
			var run string
			var body []byte
			for n := 0; time.Since(began) < c.duration; {
				if n%len(bodies) == 0 {
					var err error
					if run, err = i.client.createRun(inner); err != nil {
						return err
					}
				}
				body = append(body[:0], bodies[n%len(bodies)]...)
				setRunID(body, run)
				start := time.Now()
				_, again, err := i.client.once(inner, http.MethodPost, "/api/2.0/mlflow/runs/log-batch", body, nil)
				switch took := time.Since(start); {
				case again >= 0:
					o.refused.add(took)
					if err := sleep(inner, min(again, max(0, c.duration-time.Since(began)))); err != nil {
						return err
					}
				case err != nil:
					return err
				default:
					o.answered.add(took)
					if time.Since(began) <= c.duration {
						within.Add(1)
					}
					n++
				}
			}
			return nil
		})
	}
	err = group.Wait()
	o.perSecond = float64(within.Load()) / c.duration.Seconds()
	stop()
	<-watched
	return o, err
}

// greatestQueue looks at the queue until ctx ends, and returns its greatest length.
func (i *instance) greatestQueue(ctx context.Context) (most float64) {
	for {
		families, err := i.metrics(ctx)
		if err == nil {
			sum := 0.0
			for _, m := range families["runledger_ingest_requests_in_flight"].GetMetric() {
				sum += m.GetGauge().GetValue()
			}
			most = max(most, sum)
		}
		if sleep(ctx, 500*time.Millisecond) != nil {
			return most
		}
	}
}
