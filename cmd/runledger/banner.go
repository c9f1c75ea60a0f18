package main

import (
	"fmt"
	"io"
	"net"
)

// banner tells where the server is and what to try next.
func banner(w io.Writer, p parts, embedded bool, addr net.Addr, dir string) {
	url := "http://" + addr.String()
	if host, port, err := net.SplitHostPort(addr.String()); err == nil && (host == "::" || host == "0.0.0.0") {
		url = "http://localhost:" + port
	}
	if !embedded {
		fmt.Fprintf(w, "Runledger %s answers at %s (health: %s/readyz)\n", p.names(), url, url)
		return
	}
	fmt.Fprintf(w, `
  Runledger %s is up.

  Tracking URI   %s
  Data           %s
  Health         %s/readyz
  API            %s/api/v1/docs

  Point a training script at it:

    export MLFLOW_TRACKING_URI=%s

  or run the demo in another terminal:  make demo
  Stop with Ctrl-C.

`, version, url, dir, url, url, url)
}
