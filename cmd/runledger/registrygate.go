package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// serverUsage describes --server in the commands that ask the registry.
const serverUsage = "running server to ask; a user name may be in the URL"

// gateRules are what a gate asks for, as the registry's API has them.
type gateRules struct {
	Conditions []string          `json:"conditions"`
	Tags       map[string]string `json:"required_tags"`
	Approvals  int               `json:"approvals"`
}

// gateTarget is what a gate guards: a stage or an alias.
type gateTarget struct {
	Stage string `json:"stage"`
	Alias string `json:"alias"`
}

func (t *gateTarget) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.Stage, "stage", "", "the stage that it guards")
	cmd.Flags().StringVar(&t.Alias, "alias", "", "the alias that it guards")
	cmd.MarkFlagsOneRequired("stage", "alias")
	cmd.MarkFlagsMutuallyExclusive("stage", "alias")
}

// path returns the path of the gate of a model.
func (t *gateTarget) path(model string) string {
	if t.Alias != "" {
		return gatesPath(model) + "/aliases/" + url.PathEscape(t.Alias)
	}
	return gatesPath(model) + "/stages/" + url.PathEscape(t.Stage)
}

func (t *gateTarget) String() string {
	if t.Alias != "" {
		return "alias " + t.Alias
	}
	return "stage " + t.Stage
}

func gatesPath(model string) string { return "/api/v1/models/" + url.PathEscape(model) + "/gates" }

func gateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gate",
		Short: "Say what a version has to fulfil before it gets a stage or an alias",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(gateSetCommand(), gateListCommand(), gateDeleteCommand())
	return cmd
}

func gateSetCommand() *cobra.Command {
	var target gateTarget
	var rules gateRules
	var tags []string
	var server string
	cmd := &cobra.Command{
		Use:   "set NAME (--stage STAGE | --alias ALIAS) [--condition C]... [--tag KEY[=VALUE]]... [--approvals N]",
		Short: "Set a gate, in place of the one that is there",
		Example: `  runledger registry gate set digits --stage Production \
    --condition 'metrics.recall >= 0.95' --condition 'metrics.recall >= current - 1%' \
    --tag validated=yes --approvals 2`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if rules.Tags, err = parseTags(tags); err != nil {
				return err
			}
			if err := call(cmd.Context(), http.MethodPut, server, target.path(args[0]), rules, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Promotions of %q to %s pass this gate now.\n", args[0], &target)
			return err
		},
	}
	target.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&rules.Conditions, "condition", nil, "condition on a figure, for example 'metrics.recall >= 0.95'; can be repeated")
	f.StringArrayVar(&tags, "tag", nil, "tag that the version must have, KEY or KEY=VALUE; can be repeated")
	f.IntVar(&rules.Approvals, "approvals", 0, "how many people have to approve, without who asks for it")
	f.StringVar(&server, "server", defaultServer, serverUsage)
	return cmd
}

// parseTags reads KEY or KEY=VALUE. A tag without a value may have any, and so
// KEY= is an error.
func parseTags(texts []string) (map[string]string, error) {
	tags := make(map[string]string, len(texts))
	for _, text := range texts {
		key, value, hasValue := strings.Cut(text, "=")
		if key == "" || hasValue && value == "" {
			return nil, fmt.Errorf("--tag %q: want KEY, or KEY=VALUE", text)
		}
		if _, ok := tags[key]; ok {
			return nil, fmt.Errorf("--tag %q: %s is there twice", text, key)
		}
		tags[key] = value
	}
	return tags, nil
}

func gateListCommand() *cobra.Command {
	var server, asOf string
	cmd := &cobra.Command{
		Use:   "list NAME",
		Short: "List the gates of a registered model",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := gatesPath(args[0])
			if asOf != "" {
				path += "?" + url.Values{"as_of": {asOf}}.Encode()
			}
			var answer gatesAnswer
			if err := call(cmd.Context(), http.MethodGet, server, path, nil, &answer); err != nil {
				return err
			}
			return answer.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&asOf, "as-of", "", "as of a moment: a time like 2026-03-03T14:00:00Z, or the number of an entry")
	cmd.Flags().StringVar(&server, "server", defaultServer, serverUsage)
	return cmd
}

type gatesAnswer struct {
	Gates []struct {
		Target gateTarget `json:"target"`
		gateRules
	} `json:"gates"`
}

// print shows a line for each thing that a gate asks for.
func (a gatesAnswer) print(out io.Writer) error {
	if len(a.Gates) == 0 {
		_, err := fmt.Fprintln(out, "No gates: every version may be promoted.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tASKS FOR")
	for _, g := range a.Gates {
		target := printable(g.Target.String())
		for _, c := range g.Conditions {
			fmt.Fprintf(w, "%s\t%s\n", target, printable(c))
		}
		for _, key := range slices.Sorted(maps.Keys(g.Tags)) {
			tag := "tag " + key
			if value := g.Tags[key]; value != "" {
				tag += "=" + value
			}
			fmt.Fprintf(w, "%s\t%s\n", target, printable(tag))
		}
		if g.Approvals > 0 {
			fmt.Fprintf(w, "%s\tapprovals: %d\n", target, g.Approvals)
		}
	}
	return w.Flush()
}

func gateDeleteCommand() *cobra.Command {
	var target gateTarget
	var server string
	cmd := &cobra.Command{
		Use:   "delete NAME (--stage STAGE | --alias ALIAS)",
		Short: "Delete a gate: every version may pass then",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := call(cmd.Context(), http.MethodDelete, server, target.path(args[0]), nil, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "Promotions of %q to %s pass no gate now.\n", args[0], &target)
			return err
		},
	}
	target.flags(cmd)
	cmd.Flags().StringVar(&server, "server", defaultServer, serverUsage)
	return cmd
}

// decisionCommand approves or rejects a version: status is one of the registry's
// approval states.
func decisionCommand(name, status, short string) *cobra.Command {
	var server, comment string
	cmd := &cobra.Command{
		Use:   name + " NAME VERSION",
		Short: short,
		Long: short + `.

Your user name is in the URL: --server http://ada@127.0.0.1:5000. A later one
of yours takes its place.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(args[0]) == "" || args[1] == "" {
				return errors.New("want the NAME of a model and a VERSION")
			}
			path := "/api/v1/models/" + url.PathEscape(args[0]) + "/versions/" + url.PathEscape(args[1]) + "/approval"
			var answer struct {
				Status string `json:"status"`
			}
			if err := call(cmd.Context(), http.MethodPost, server, path, map[string]string{"status": status, "comment": comment}, &answer); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "Version %s of %q: %s\n", args[1], args[0], printable(answer.Status))
			return err
		},
	}
	cmd.Flags().StringVar(&comment, "comment", "", "why; it is kept in the history")
	cmd.Flags().StringVar(&server, "server", defaultServer, serverUsage)
	return cmd
}
