// Command runledger is the whole of Runledger in one binary: `runledger up`
// runs everything in one process, `runledger ingest` and its like one service.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/runledger/runledger/pkg/chdb"
)

// version is set when a release is built.
var version = "dev"

func main() {
	chdb.RunIfChild()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "runledger:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "runledger",
		Short:         "Event-sourced experiment tracker and model registry that speaks MLflow's API",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(
		upCommand(),
		serviceCommand(parts{ingest: true}, "ingest", "Run the service that takes writes and keeps artifacts"),
		serviceCommand(parts{projector: true}, "projector", "Run the service that fills the tables from the log"),
		serviceCommand(parts{query: true}, "query", "Run the service that answers reads"),
		registryCommand(),
		auditCommand(),
		logCommand(),
		gcCommand(),
	)
	return cmd
}
