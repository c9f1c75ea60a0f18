// Command loadtest puts load on Runledger and measures what it does with it.
// It starts what it measures itself, on this machine's loopback interface, and
// talks to nothing else.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := &cobra.Command{
		Use:           "loadtest",
		Short:         "Put load on Runledger, and measure what it does with it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(benchCommand(), mlflowCommand(), soakCommand(), overloadCommand())
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "loadtest:", err)
		stop()
		os.Exit(1)
	}
}
