package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/procfs"
)

// observer looks at a server again and again while it is under load.
type observer struct {
	*instance
	load    *sweeps
	dir     string // of the data
	began   time.Time
	current *window
	windows []*window
}

// window is a stretch of time and what was seen in it.
type window struct {
	from, to               time.Duration // since the load began
	samples                []sample
	runs, requests, points int64
	retries, stale         int64
	writes, reads          *latencies
}

// sample is one look at the processes.
type sample struct {
	figures              map[string]float64
	parts                map[string]float64 // active ones, by table
	logBytes, tableBytes float64
}

// The figures of a sample.
const (
	serverMemory     = "server: resident memory"
	serverHeap       = "server: Go heap"
	serverGoroutines = "server: goroutines"
	serverFiles      = "server: open files"
	engineMemory     = "engine: resident memory"
	engineFiles      = "engine: open files"
)

// allowance is how much a figure may be greater at the end than after the
// warm-up: by a share and a constant.
type allowance struct {
	share, plus float64
	unit        string
	scale       float64 // of what is shown
}

const mega = 1e6

// allowances say what is not growth. Caches that fill and merges that happen to
// run are below, a few hundred bytes lost with each request of an hour are not.
var allowances = map[string]allowance{
	serverMemory:     {0.25, 48 * mega, "MB", mega},
	serverHeap:       {0.25, 32 * mega, "MB", mega},
	serverGoroutines: {0.10, 25, "", 1},
	serverFiles:      {0.25, 50, "", 1},
	engineMemory:     {0.25, 96 * mega, "MB", mega},
	engineFiles:      {0.25, 200, "", 1},
}

// partsAllowance is that of each table's parts.
var partsAllowance = allowance{0.5, 25, "", 1}

func newObserver(i *instance, load *sweeps, dir string) *observer {
	return &observer{instance: i, load: load, dir: dir}
}

// observe looks at the server until ctx ends.
func (o *observer) observe(ctx context.Context, every, length time.Duration, logger *slog.Logger) error {
	o.began = time.Now()
	o.open(0)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	said := o.began
	for {
		select {
		case <-ctx.Done():
			o.close()
			return nil
		case <-ticker.C:
		}
		s, err := o.look(ctx)
		if ctx.Err() != nil {
			o.close()
			return nil
		}
		if err != nil {
			return fmt.Errorf("look at the server: %w", err)
		}
		o.current.samples = append(o.current.samples, s)
		elapsed := time.Since(o.began)
		if elapsed >= o.current.from+length {
			o.close()
			o.open(elapsed)
		}
		if time.Since(said) >= soakProgress {
			said = time.Now()
			logger.Info("soaking", "minutes", int(elapsed.Minutes()), "runs", o.load.runs(), "requests", o.load.requests.Load(), "points", o.load.points.Load(),
				"server_mb", int(s.figures[serverMemory]/mega), "engine_mb", int(s.figures[engineMemory]/mega),
				"goroutines", int(s.figures[serverGoroutines]), "parts", int(s.totalParts()), "log_mb", int(s.logBytes/mega), "tables_mb", int(s.tableBytes/mega))
		}
	}
}

func (o *observer) open(from time.Duration) {
	o.load.window()
	o.current = &window{
		from: from, runs: int64(o.load.runs()), requests: o.load.requests.Load(), points: o.load.points.Load(),
		retries: o.client.retries.Load(), stale: o.load.stale.Load(),
	}
}

// close ends the current window. One that has hardly begun is none.
func (o *observer) close() {
	w := o.current
	if len(w.samples) < 2 {
		return
	}
	w.to = time.Since(o.began)
	w.runs, w.requests, w.points = int64(o.load.runs())-w.runs, o.load.requests.Load()-w.requests, o.load.points.Load()-w.points
	w.retries, w.stale = o.client.retries.Load()-w.retries, o.load.stale.Load()-w.stale
	w.writes, w.reads = o.load.window()
	o.windows = append(o.windows, w)
}

func (o *observer) look(ctx context.Context) (sample, error) {
	s := sample{figures: make(map[string]float64), parts: make(map[string]float64)}
	families, err := o.metrics(ctx)
	if err != nil {
		return s, err
	}
	gauge := func(name string) float64 { return families[name].GetMetric()[0].GetGauge().GetValue() }
	for _, name := range []string{"go_memstats_heap_inuse_bytes", "go_goroutines"} {
		if len(families[name].GetMetric()) == 0 {
			return s, fmt.Errorf("/metrics has no %s", name)
		}
	}
	s.figures[serverHeap], s.figures[serverGoroutines] = gauge("go_memstats_heap_inuse_bytes"), gauge("go_goroutines")
	for _, p := range []struct {
		pid           int
		memory, files string
	}{{o.cmd.Process.Pid, serverMemory, serverFiles}, {o.engine.Pid(), engineMemory, engineFiles}} {
		proc, err := procfs.NewProc(p.pid)
		if err != nil {
			return s, err
		}
		status, err := proc.NewStatus()
		if err != nil {
			return s, err
		}
		files, err := proc.FileDescriptorsLen()
		if err != nil {
			return s, err
		}
		s.figures[p.memory], s.figures[p.files] = float64(status.VmRSS), float64(files)
	}
	rows, err := o.engine.conn.Query(ctx, "SELECT table, count(), sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase() GROUP BY table")
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var table string
		var parts, bytes uint64
		if err := rows.Scan(&table, &parts, &bytes); err != nil {
			return s, err
		}
		s.parts[table] = float64(parts)
		s.tableBytes += float64(bytes)
	}
	if err := rows.Err(); err != nil {
		return s, err
	}
	if s.logBytes, err = size(filepath.Join(o.dir, "data", "nats")); err != nil {
		return s, err
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(o.dir, &disk); err != nil {
		return s, fmt.Errorf("free space of %s: %w", o.dir, err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < soakSpace {
		return s, fmt.Errorf("only %d MB are free in %s: make room, choose another directory with --dir, or a lower --rate", free>>20, o.dir)
	}
	return s, nil
}

// metrics reads the server's own metrics.
func (i *instance) metrics(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.client.base+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("read /metrics: %w", err)
	}
	res, err := i.client.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read /metrics: %w", err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read /metrics: %w", err)
	}
	return families, nil
}

// size returns the bytes of the files in a directory, as far as they stay.
func size(dir string) (float64, error) {
	var sum float64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				sum += float64(info.Size())
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return sum, err
}

func (s sample) totalParts() (sum float64) {
	for _, n := range s.parts {
		sum += n
	}
	return sum
}

// medianOf returns the middle of what f says of the samples of windows.
func medianOf(windows []*window, f func(sample) float64) float64 {
	var values []float64
	for _, w := range windows {
		for _, s := range w.samples {
			values = append(values, f(s))
		}
	}
	return median(values)
}

// growth is a figure after the warm-up and at the end.
type growth struct {
	name string
	allowance
	first, last float64
}

func (g growth) most() float64 { return g.first*(1+g.share) + g.plus }
func (g growth) grown() bool   { return g.last > g.most() }

// growths compares, by medians, the first third of the windows after the warm-up, which is the
// first window, with the last third.
func growths(windows []*window) []growth {
	if len(windows) < 3 {
		return nil
	}
	after := windows[1:]
	third := max(1, len(after)/3)
	first, last := after[:third], after[len(after)-third:]
	compare := func(name string, a allowance, f func(sample) float64) growth {
		return growth{name: name, allowance: a, first: medianOf(first, f), last: medianOf(last, f)}
	}
	var out []growth
	for _, name := range slices.Sorted(maps.Keys(allowances)) {
		out = append(out, compare(name, allowances[name], func(s sample) float64 { return s.figures[name] }))
	}
	tables := make(map[string]bool)
	for _, w := range windows {
		for _, s := range w.samples {
			for table := range s.parts {
				tables[table] = true
			}
		}
	}
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		out = append(out, compare("parts of "+table, partsAllowance, func(s sample) float64 { return s.parts[table] }))
	}
	return out
}

// report writes the windows and what grew, and returns an error for that.
func (o *observer) report(w io.Writer) (grown, failed error) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\nminutes\truns\trequests/s\tpoints/s\twrite p50\tp99\tread p50\tp99\trepeated\tstale\tserver MB\theap MB\tgoroutines\tfiles\tengine MB\tfiles\tparts\tlog MB\ttables MB\t")
	for _, v := range o.windows {
		one := []*window{v}
		seconds := (v.to - v.from).Seconds()
		of := func(name string, unit float64) string {
			return number(medianOf(one, func(s sample) float64 { return s.figures[name] }) / unit)
		}
		last := v.samples[len(v.samples)-1]
		fmt.Fprintf(t, "%s-%s\t%d\t%s\t%s\t%s ms\t%s ms\t%s ms\t%s ms\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n",
			number(v.from.Minutes()), number(v.to.Minutes()), v.runs, number(float64(v.requests)/seconds), number(float64(v.points)/seconds),
			number(millis(v.writes.percentile(50))), number(millis(v.writes.percentile(99))),
			number(millis(v.reads.percentile(50))), number(millis(v.reads.percentile(99))), v.retries, v.stale,
			of(serverMemory, mega), of(serverHeap, mega), of(serverGoroutines, 1), of(serverFiles, 1), of(engineMemory, mega), of(engineFiles, 1),
			number(medianOf(one, sample.totalParts)), number(last.logBytes/mega), number(last.tableBytes/mega))
	}
	if err := t.Flush(); err != nil {
		return nil, err
	}
	found := growths(o.windows)
	if found == nil {
		return nil, errors.New("the load ended before there were three windows to compare")
	}
	fmt.Fprintln(w, "\nMedians of the first third of the windows after the first one, and of the last third:")
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var names []string
	for _, g := range found {
		verdict := "flat"
		if g.grown() {
			verdict = "GREW"
			names = append(names, g.name)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\tat most %s\t%s\n", g.name, number(g.first/g.scale), number(g.last/g.scale), g.unit, number(g.most()/g.scale), verdict)
	}
	if err := t.Flush(); err != nil {
		return nil, err
	}
	if names != nil {
		grown = fmt.Errorf("these grew: %s", strings.Join(names, ", "))
	}
	return grown, nil
}
