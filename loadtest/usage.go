package main

import (
	"fmt"
	"os"
	"time"

	"github.com/prometheus/procfs"
)

// The processes of a measurement.
const (
	procServer    = "server"
	procEngine    = "engine"
	procGenerator = "load generator"
)

// meter tells what processes use between its start and its end.
type meter struct {
	pids  map[string]int
	began time.Time
	cpu   map[string]float64 // seconds at the start
}

// usage is what a process has used: processor seconds, and the greatest
// resident memory since it was started, in bytes.
type usage struct {
	cpu    float64
	memory float64
}

func startMeter(pids map[string]int) (*meter, error) {
	m := &meter{pids: map[string]int{procGenerator: os.Getpid()}, began: time.Now(), cpu: make(map[string]float64)}
	for name, pid := range pids {
		m.pids[name] = pid
	}
	now, err := m.read()
	if err != nil {
		return nil, err
	}
	for name, u := range now {
		m.cpu[name] = u.cpu
	}
	return m, nil
}

// end returns what each process has used since the start, and how long that is.
func (m *meter) end() (map[string]usage, time.Duration, error) {
	now, err := m.read()
	if err != nil {
		return nil, 0, err
	}
	for name, u := range now {
		u.cpu -= m.cpu[name]
		now[name] = u
	}
	return now, time.Since(m.began), nil
}

func (m *meter) read() (map[string]usage, error) {
	out := make(map[string]usage)
	for name, pid := range m.pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			return nil, fmt.Errorf("what the %s uses: %w", name, err)
		}
		stat, err := p.Stat()
		if err != nil {
			return nil, fmt.Errorf("what the %s uses: %w", name, err)
		}
		status, err := p.NewStatus()
		if err != nil {
			return nil, fmt.Errorf("what the %s uses: %w", name, err)
		}
		out[name] = usage{cpu: stat.CPUTime(), memory: float64(status.VmHWM)}
	}
	return out, nil
}
