package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
)

const (
	defaultServer = "http://127.0.0.1:5000"
	// gcWidth is how many purges are under way at a time, gcIDs how many ids one
	// request for candidates names.
	gcWidth = 8
	gcIDs   = 500
	// gcShown bounds the problems that are shown one by one.
	gcShown = 10
)

// gcOptions are the flags of gc, most of them in the words of `mlflow gc`.
type gcOptions struct {
	server                        string
	olderThan                     age
	runs, experiments, modelNames []string
	reason                        string
	dry                           bool
}

func gcCommand() *cobra.Command {
	var o gcOptions
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove deleted runs, experiments and logged models for good",
		Long: `Remove deleted runs, experiments and logged models for good: from the tables and
from the artifact store of a running server. There is no way back. The event log
keeps every event.`,
		Example: `  runledger gc --older-than 30d --dry-run
  runledger gc --older-than 30d
  runledger gc --run-ids 5f0c…,81ab… --reason "request 4711"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return gc(cmd.Context(), o, cmd.OutOrStdout(), os.Stderr)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.server, "server", cmp.Or(os.Getenv("MLFLOW_TRACKING_URI"), defaultServer), "the running server (default: $MLFLOW_TRACKING_URI, or "+defaultServer+")")
	f.Lookup("server").DefValue = ""
	f.Var(&o.olderThan, "older-than", "only what was deleted at least so long ago, as in 30d or 1d2h3m4s")
	f.StringSliceVar(&o.runs, "run-ids", nil, "only these runs; they must be deleted")
	f.StringSliceVar(&o.experiments, "experiment-ids", nil, "only these experiments, with all that is in them; they must be deleted")
	f.StringSliceVar(&o.modelNames, "logged-model-ids", nil, "only these logged models; they must be deleted")
	f.StringVar(&o.reason, "reason", "", "why, for the event log")
	f.BoolVar(&o.dry, "dry-run", false, "only say what would be removed")
	return cmd
}

// age is a duration as `mlflow gc` takes it: days, hours, minutes and seconds,
// each of which may have a fraction and may be left out.
type age time.Duration

var agePattern = regexp.MustCompile(`^(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?$`)

// Set implements pflag.Value.
func (a *age) Set(text string) error {
	parts := agePattern.FindStringSubmatch(text)
	if parts == nil || text == "" {
		return fmt.Errorf("%q is no age such as 30d or 1d2h3m4s", text)
	}
	var seconds float64
	for i, unit := range []float64{24 * 60 * 60, 60 * 60, 60, 1} {
		if parts[i+1] == "" {
			continue
		}
		n, err := strconv.ParseFloat(parts[i+1], 64)
		if err != nil {
			return fmt.Errorf("%q is no number", parts[i+1])
		}
		seconds += n * unit
	}
	if seconds > math.MaxInt64/float64(time.Second) {
		return fmt.Errorf("%q is too long", text)
	}
	*a = age(seconds * float64(time.Second))
	return nil
}

// String implements pflag.Value.
func (a *age) String() string {
	if *a == 0 {
		return ""
	}
	return time.Duration(*a).String()
}

// Type implements pflag.Value.
func (a *age) Type() string { return "age" }

// gcItem is a candidate of the server.
type gcItem struct {
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Points int64  `json:"points"`
	Purged bool   `json:"purged"` // only its artifacts are left
}

var gcPaths = map[string]string{"experiment": "experiments", "run": "runs", "logged_model": "logged-models"}

// collection removes what is deleted, as a client of a server.
type collection struct {
	gcOptions
	out, progress io.Writer
	terminal      bool

	mu        sync.Mutex
	done      map[string]int64 // by kind
	points    int64
	files     int64
	bytes     int64
	failed    int64
	problems  []string // the first of those that failed
	elsewhere []string // where artifacts are left
	shown     time.Time
}

func gc(ctx context.Context, o gcOptions, out io.Writer, progress *os.File) error {
	info, err := progress.Stat()
	g := &collection{
		gcOptions: o, out: out, progress: progress, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0,
		done: make(map[string]int64), shown: time.Now(),
	}
	g.server = strings.TrimSuffix(g.server, "/")
	listings, err := g.listings(ctx)
	if err != nil {
		return err
	}
	for _, listing := range listings {
		if err := g.collect(ctx, listing); err != nil {
			return fmt.Errorf("%w (%s; run it again to go on)", err, g.summary())
		}
	}
	return g.report()
}

// listings returns the requests for candidates. Whatever was named must be ready
// to be removed: otherwise nothing is.
func (g *collection) listings(ctx context.Context) ([]url.Values, error) {
	named := map[string][]string{"experiment": g.experiments, "run": g.runs, "logged_model": g.modelNames}
	var refused []error
	for _, kind := range []string{"experiment", "run", "logged_model"} {
		for _, id := range named[kind] {
			if err := g.ask(ctx, http.MethodGet, kind, id, nil); err != nil {
				refused = append(refused, err)
			}
		}
	}
	if len(refused) > 0 {
		return nil, fmt.Errorf("nothing was removed: %w", errors.Join(refused...))
	}
	var listings []url.Values
	if len(g.experiments) > 0 {
		listings = append(listings, url.Values{"experiment_ids": {strings.Join(g.experiments, ",")}})
	}
	for ids := range slices.Chunk(slices.Concat(g.runs, g.modelNames), gcIDs) {
		listings = append(listings, url.Values{"ids": {strings.Join(ids, ",")}})
	}
	if len(listings) == 0 {
		listings = []url.Values{{}}
	}
	return listings, nil
}

// collect removes the candidates of a listing, experiments first. What the server
// refuses is counted; when it does not answer, that is the error.
func (g *collection) collect(ctx context.Context, listing url.Values) error {
	for {
		var page struct {
			Candidates    []gcItem `json:"candidates"`
			NextPageToken string   `json:"next_page_token"`
		}
		if err := g.request(ctx, http.MethodGet, "candidates", listing, &page); err != nil {
			return err
		}
		for len(page.Candidates) > 0 {
			n := 1
			for n < len(page.Candidates) && page.Candidates[n].Kind == page.Candidates[0].Kind {
				n++
			}
			if err := g.purge(ctx, page.Candidates[:n]); err != nil {
				return err
			}
			page.Candidates = page.Candidates[n:]
		}
		if page.NextPageToken == "" {
			return nil
		}
		listing.Set("page_token", page.NextPageToken)
	}
}

// purge removes items of one kind, or measures them.
func (g *collection) purge(ctx context.Context, items []gcItem) error {
	method := http.MethodPost
	if g.dry {
		method = http.MethodGet
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(gcWidth)
	for _, item := range items {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var removed struct {
				Files              int64  `json:"files"`
				Bytes              int64  `json:"bytes"`
				ArtifactsElsewhere string `json:"artifacts_elsewhere"`
			}
			err := g.ask(ctx, method, item.Kind, item.ID, &removed)
			if _, ok := errors.AsType[*apierr.Error](err); err != nil && !ok {
				return err
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			switch {
			case err != nil:
				g.failed++
				if len(g.problems) < gcShown {
					g.problems = append(g.problems, err.Error())
				}
			default:
				g.done[item.Kind]++
				g.points, g.files, g.bytes = g.points+item.Points, g.files+removed.Files, g.bytes+removed.Bytes
				if removed.ArtifactsElsewhere != "" {
					g.elsewhere = append(g.elsewhere, removed.ArtifactsElsewhere)
				}
			}
			g.showProgress()
			return nil
		})
	}
	return group.Wait()
}

// showProgress writes a line on a terminal, once a second.
func (g *collection) showProgress() {
	if g.terminal && time.Since(g.shown) >= time.Second {
		g.shown = time.Now()
		_, _ = fmt.Fprintf(g.progress, "\r\x1b[K%s", g.summary()) // only for the eye
	}
}

// summary says what has been removed so far.
func (g *collection) summary() string {
	verb := "removed"
	if g.dry {
		verb = "would remove"
	}
	return fmt.Sprintf("%s %d experiments, %d runs with %d points, %d logged models, %d artifact files of %d bytes",
		verb, g.done["experiment"], g.done["run"], g.points, g.done["logged_model"], g.files, g.bytes)
}

func (g *collection) report() error {
	if g.terminal {
		_, _ = fmt.Fprint(g.progress, "\r\x1b[K")
	}
	summary := g.summary()
	lines := []string{strings.ToUpper(summary[:1]) + summary[1:] + "."}
	if n := len(g.elsewhere); n > 0 {
		lines = append(lines, fmt.Sprintf("Left the artifacts at %d places that this server does not serve; delete them there:", n))
		lines = append(lines, g.elsewhere[:min(n, gcShown)]...)
	}
	switch {
	case g.dry:
		lines = append(lines, "Nothing was changed. Run it again without --dry-run to remove this for good: there is no way back.")
	case len(g.done) > 0:
		lines = append(lines, "The event log keeps all events, and says who removed what.")
	}
	if _, err := fmt.Fprintln(g.out, strings.Join(lines, "\n")); err != nil {
		return err
	}
	if g.failed > 0 {
		return fmt.Errorf("%d could not be removed; run it again to try them again:\n%s", g.failed, strings.Join(g.problems, "\n"))
	}
	return nil
}

// ask purges or measures one thing. What the server refuses is an *apierr.Error.
func (g *collection) ask(ctx context.Context, method, kind, id string, answer any) error {
	return g.request(ctx, method, gcPaths[kind]+"/"+url.PathEscape(id), url.Values{}, answer)
}

func (g *collection) request(ctx context.Context, method, path string, params url.Values, answer any) (err error) {
	params.Set("older_than_ms", strconv.FormatInt(time.Duration(g.olderThan).Milliseconds(), 10))
	req, err := http.NewRequestWithContext(ctx, method, g.server+"/api/v1/gc/"+path+"?"+params.Encode(), nil)
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	if g.reason != "" {
		req.Header.Set(httpapi.HeaderReason, g.reason)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no answer from the server: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode == http.StatusOK {
		if answer == nil {
			return nil
		}
		return json.NewDecoder(resp.Body).Decode(answer)
	}
	var refusal struct {
		Code    apierr.Code `json:"error_code"`
		Message string      `json:"message"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&refusal); err != nil || refusal.Code == apierr.EndpointNotFound {
		return fmt.Errorf("%s answers %s to gc: it is no Runledger server that can do this", g.server, resp.Status)
	}
	return apierr.Errorf(refusal.Code, "%s", refusal.Message)
}
