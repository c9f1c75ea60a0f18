package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
)

// startProfiler serves the Go runtime's profiles on a listener of their own. A
// profile shows what the process has in memory, so only this machine may ask.
func (n *node) startProfiler(ctx context.Context) error {
	if n.options.pprof == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(n.options.pprof)
	if err != nil {
		return fmt.Errorf("--pprof %q: %w", n.options.pprof, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("--pprof %q: not a loopback address", n.options.pprof)
	}
	listener, err := net.Listen("tcp", n.options.pprof)
	if err != nil {
		return fmt.Errorf("--pprof: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	n.onClose("profiler", func() error {
		err := server.Close()
		if served := <-served; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
	return nil
}
