package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	_ "gocloud.dev/blob/s3blob" // artifact stores by the scheme of their URL
	"golang.org/x/sync/errgroup"

	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/chdb"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	mlflowserver "github.com/runledger/runledger/pkg/mlflow/server"
	"github.com/runledger/runledger/pkg/natsserver"
	"github.com/runledger/runledger/pkg/openapi"
	"github.com/runledger/runledger/services/ingest"
	"github.com/runledger/runledger/services/projector"
	"github.com/runledger/runledger/services/query"
	"github.com/runledger/runledger/services/registry"
	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/treehead"
	"github.com/runledger/runledger/services/registry/webhooks"
)

const (
	// While the process is not ready, it says after sayFirst what it waits for, and
	// then more and more seldom.
	askEvery = 50 * time.Millisecond
	sayFirst = 2 * time.Second
	sayLast  = time.Minute
)

// What is in the data directory.
const (
	natsDir       = "nats"
	clickHouseDir = "clickhouse"
	ledgerDir     = "registry"
	headsDir      = "tree-heads"
	keyFile       = "tree-head-key"
)

// parts are the services that a process runs.
type parts struct{ ingest, projector, query, registry bool }

func (p parts) usesClickHouse() bool { return p.projector || p.query }

func (p parts) usesArtifacts() bool { return p.ingest || p.registry }

func (p parts) names() string {
	var names []string
	for _, part := range []struct {
		name string
		runs bool
	}{{"ingest", p.ingest}, {"projector", p.projector}, {"query", p.query}, {"registry", p.registry}} {
		if part.runs {
			names = append(names, part.name)
		}
	}
	return strings.Join(names, ", ")
}

func upCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run all of Runledger in one process, with NATS and ClickHouse built in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), o, parts{true, true, true, true}, true, cmd.OutOrStdout())
		},
	}
	o.register(cmd, "127.0.0.1:5000")
	o.registerRegistry(cmd)
	return cmd
}

func registryCommand() *cobra.Command {
	cmd := serviceCommand(parts{registry: true}, "registry", "Run the model registry, or ask one")
	cmd.AddCommand(
		historyCommand(), rollbackCommand(), gateCommand(),
		decisionCommand("approve", "Approved", "Approve a version of a registered model"),
		decisionCommand("reject", "Rejected", "Reject a version of a registered model"),
		decisionCommand("request-approval", "PendingManualApproval", "Ask others to approve a version; earlier decisions no longer count"),
	)
	return cmd
}

func serviceCommand(p parts, name, short string) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// A directory of its own would hide the files from the other services.
			if p.usesArtifacts() && o.artifacts == "" {
				return errors.New("--artifacts is missing: name the store that ingest and registry share, " +
					"for example --artifacts 's3://bucket?region=…', or a directory that all of them see")
			}
			return run(cmd.Context(), o, p, false, cmd.OutOrStdout())
		},
	}
	o.register(cmd, "127.0.0.1:0")
	_ = cmd.MarkFlagRequired("nats-url") // fails only for a flag that does not exist
	if p.usesClickHouse() {
		_ = cmd.MarkFlagRequired("clickhouse-url")
	}
	if p.registry {
		o.registerRegistry(cmd)
	}
	return cmd
}

// node is what runs in this process, in the order in which it was started.
type node struct {
	options  options
	logger   *slog.Logger
	registry *prometheus.Registry
	checks   []httpapi.Check
	routes   []func(*echo.Echo)
	holderID string
	dir      string

	nats       *nats.Conn
	clickhouse *clickhouse.Options
	log        *eventlog.Log
	projector  *projector.Projector

	started bool // start has returned
	closers []closer
}

func (n *node) check(name string, ready func(context.Context) error) {
	n.checks = append(n.checks, httpapi.Check{Name: name, Ready: ready})
}

// run starts the parts and serves until ctx ends. embedded says that NATS and
// ClickHouse run here unless their addresses are given.
func run(ctx context.Context, o options, p parts, embedded bool, stdout io.Writer) (err error) {
	n := &node{options: o, logger: o.logger(), registry: prometheus.NewRegistry()}
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // told to stop while starting
		}
		if !errors.Is(err, errStuck) || n.started {
			err = errors.Join(err, n.close())
		}
	}()
	defer context.AfterFunc(ctx, func() { n.logger.Info("shutting down") })()

	hostname, _ := os.Hostname() // without one the server is not asked by it
	hosts, err := httpapi.NewHosts(o.listen, hostname, o.allowedHosts)
	if err != nil {
		return fmt.Errorf("--allowed-hosts: %w", err)
	}
	if err := httpapi.CheckPrefix(o.staticPrefix); err != nil {
		return fmt.Errorf("--static-prefix %w", err)
	}
	if o.shutdownTimeout < time.Second {
		return fmt.Errorf("--shutdown-timeout %v: want 1s at least", o.shutdownTimeout)
	}
	// A busy address is refused before anything is started for it.
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("%w (choose another address with --listen)", err)
	}
	defer func() { _ = listener.Close() }() // closed already after Serve

	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	// The projector outlives the last request, which may wait for it.
	projecting, stopProjector := context.WithCancel(context.WithoutCancel(ctx))
	defer stopProjector()
	handler := new(httpapi.Starting)
	served := background(func() error {
		defer stopProjector()
		defer stopServing()
		return httpapi.Serve(serving, listener, handler, n.options.shutdownTimeout)
	})

	begun := background(func() error { return n.start(serving, p, embedded, hosts, handler) })
	select {
	case err = <-begun:
	case <-serving.Done():
		err = n.within("start", begun)
	}
	if n.started = !errors.Is(err, errStuck); err != nil {
		stopServing()
		return errors.Join(err, <-served)
	}

	projected := make(<-chan error)
	if n.projector != nil {
		projected = background(func() error {
			defer stopServing()
			return n.projector.Run(projecting)
		})
	}
	if !embedded || n.awaitReady(serving) {
		banner(stdout, p, embedded, listener.Addr(), n.dir)
	}
	err = <-served
	if n.projector != nil {
		err = errors.Join(err, n.within("projector", projected))
	}
	return err
}

// start starts the parts, and has requests answered by them.
func (n *node) start(ctx context.Context, p parts, embedded bool, hosts *httpapi.Hosts, handler *httpapi.Starting) error {
	if err := n.startProfiler(ctx); err != nil {
		return err
	}
	if err := n.openDir(embedded || p.registry); err != nil {
		return err
	}
	if err := n.openBackends(ctx, p, embedded); err != nil {
		return err
	}
	if err := n.startServices(ctx, p); err != nil {
		return err
	}
	e := httpapi.New(httpapi.Config{Logger: n.logger, Registry: n.registry, Checks: n.checks, Hosts: hosts, Prefix: n.options.staticPrefix})
	mlflowserver.Register(e)
	for _, register := range n.routes {
		register(e)
	}
	if err := openapi.Register(e, n.options.staticPrefix); err != nil {
		return err
	}
	handler.Serve(e)
	return nil
}

// awaitReady waits until every check is passed, says meanwhile what it waits for,
// and reports whether that was before ctx ended.
func (n *node) awaitReady(ctx context.Context) bool {
	readiness := httpapi.Readiness{Checks: n.checks}
	say, silence := time.Now().Add(sayFirst), sayFirst
	for {
		wrong := readiness.Ask(ctx)
		if ctx.Err() != nil || len(wrong) == 0 {
			return ctx.Err() == nil
		}
		if time.Now().After(say) {
			silence = min(2*silence, sayLast)
			say = time.Now().Add(silence)
			for name, err := range wrong {
				n.logger.Info("not ready yet", slog.String("check", name), slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(askEvery):
		}
	}
}

// openDir takes the data directory, when this process keeps anything on disk.
func (n *node) openDir(needed bool) error {
	if !needed {
		return nil
	}
	dir, err := openDataDir(n.options.dataDir)
	if err != nil {
		return err
	}
	n.onClose("data directory", dir.Close)
	n.dir, n.holderID = dir.path, dir.id
	return nil
}

// openBackends starts NATS and ClickHouse side by side, or finds those whose
// addresses are given, and opens the log.
func (n *node) openBackends(ctx context.Context, p parts, embedded bool) error {
	var (
		server *natsserver.Server
		engine *chdb.Server
	)
	group, groupCtx := errgroup.WithContext(ctx)
	if n.options.natsURL == "" && embedded {
		group.Go(func() (err error) {
			server, err = startNATS(groupCtx, n.dir, n.logger)
			return err
		})
	}
	if n.options.clickhouseURL == "" && embedded && p.usesClickHouse() {
		group.Go(func() (err error) {
			engine, err = chdb.Start(groupCtx, chdb.Config{DataDir: filepath.Join(n.dir, clickHouseDir), Logger: n.logger})
			return err
		})
	}
	err := group.Wait()
	var writable func() context.Context
	if server != nil {
		writable = server.Writable
		n.onClose("NATS", server.Close)
		n.nats = server.Conn()
		n.check("jetstream", func(context.Context) error { return server.Health() })
	}
	if engine != nil {
		n.onClose("ClickHouse engine", func() error {
			// What has not shut down by then is killed, in time to be noticed.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.options.shutdownTimeout*3/4)
			defer cancel()
			return engine.Close(ctx)
		})
		n.clickhouse = engine.Options()
		n.check("clickhouse_engine", func(context.Context) error { return engine.Err() })
	}
	if err != nil {
		return err
	}
	if n.nats == nil {
		if n.nats, err = connectNATS(ctx, n.options.natsURL, n.logger); err != nil {
			return err
		}
		n.onClose("NATS connection", func() error { n.nats.Close(); return nil })
		n.check("nats", func(ctx context.Context) error { return n.nats.FlushWithContext(ctx) })
	}
	if n.clickhouse == nil && p.usesClickHouse() {
		if n.clickhouse, err = n.options.clickhouse(); err != nil {
			return err
		}
		if err := checkClickHouse(ctx, n.clickhouse, n.logger); err != nil {
			return err
		}
	}
	n.log, err = openEventLog(ctx, n.nats, eventlog.Config{
		Shards: n.options.shards, Replicas: n.options.replicas, MaxBytes: n.options.logMaxBytes, Writable: writable, Logger: n.logger,
	})
	if err != nil {
		return err
	}
	n.check("event_log", func(context.Context) error {
		var errs []error
		for _, stream := range n.log.Streams() {
			errs = append(errs, n.log.Damage(stream))
		}
		return errors.Join(errs...)
	})
	return nil
}

// openHeads finds the key that signs tree heads, or makes one that is named after
// the data directory.
func (n *node) openHeads() (*treehead.Keeper, error) {
	file, name := n.options.treeHeadKey, ""
	if file == "" {
		file, name = filepath.Join(n.dir, keyFile), "runledger/"+n.holderID
	}
	key, err := treehead.LoadKey(file, name)
	if err != nil {
		return nil, err
	}
	n.logger.Info("registry: tree heads are signed", slog.String("verifier_key", key.Verifier))
	return treehead.OpenKeeper(filepath.Join(n.dir, headsDir), key)
}

// startServices starts the services of p; they are closed in reverse.
func (n *node) startServices(ctx context.Context, p parts) error {
	if p.projector {
		s, err := projector.New(ctx, projector.Config{
			Log: n.log, Conn: n.nats, ClickHouse: n.clickhouse, HolderID: n.holderID, Logger: n.logger, Registerer: n.registry,
		})
		if err != nil {
			return err
		}
		n.projector = s
		n.check("projector", s.Ready)
	}
	if p.query {
		s, err := query.New(ctx, query.Config{
			Log: n.log, NATS: n.nats, ClickHouse: n.clickhouse, Registerer: n.registry,
		})
		if err != nil {
			return err
		}
		n.onClose("query", s.Close)
		n.check("query", s.Ready)
		n.routes = append(n.routes, s.Register)
	}
	var store *artifacts.Store
	if p.usesArtifacts() {
		var err error
		if store, err = n.openArtifacts(ctx, p); err != nil {
			return err
		}
	}
	var versions *registry.Service
	var record artifacts.Record
	if p.registry {
		heads, err := n.openHeads()
		if err != nil {
			return err
		}
		dir := filepath.Join(n.dir, ledgerDir)
		if n.options.rebuildLedger {
			if err := n.setLedgerAside(dir); err != nil {
				return err
			}
		}
		s, err := registry.New(ctx, registry.Config{
			Log: n.log, Dir: dir, Logger: n.logger, Registerer: n.registry,
			Heads: heads, HeadEvery: n.options.treeHeadEvery,
			Webhooks: webhooks.Options{
				KeyFile: cmp.Or(n.options.webhookKey, filepath.Join(n.dir, "webhook.key")),
				Schemes: n.options.webhookSchemes, AllowPrivate: n.options.webhookAllowPrivate,
			},
		})
		if errors.Is(err, ledger.ErrDamaged) {
			return fmt.Errorf("%w\nAll that is in the ledger is in the event log too. Start with --rebuild-ledger to set %s aside and build it again", err, dir)
		}
		if err != nil {
			return err
		}
		n.onClose("registry", s.Close)
		n.check("registry", s.Ready)
		n.routes = append(n.routes, s.Register)
		versions = s
	}
	if p.ingest {
		s, err := ingest.New(ctx, ingest.Config{Log: n.log, PurgeArtifacts: purgeArtifacts(store), Logger: n.logger, Registerer: n.registry})
		if err != nil {
			return err
		}
		n.onClose("ingest", func() error { s.Close(); return nil })
		n.check("ingest", s.Ready)
		n.routes = append(n.routes, s.Register)
		record = func(c echo.Context, at artifacts.Place, e *events.Event) error {
			return s.RecordArtifact(c, at.ExperimentID, cmp.Or(at.Owner(), events.NoOwner), e)
		}
	}
	if store != nil {
		return n.serveArtifacts(p, store, versions, record)
	}
	return nil
}

// setLedgerAside moves a damaged ledger out of the way. The tree heads stay: the
// next one is signed only if the new ledger contains what they say.
func (n *node) setLedgerAside(dir string) error {
	aside := asideDir(n.dir, time.Now())
	switch err := setAside(n.dir, aside, dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	n.logger.Info("registry: the ledger is built again from the event log", slog.String("old_one", aside))
	return nil
}

// purgeArtifacts tells ingest what the store is about to delete.
func purgeArtifacts(store *artifacts.Store) ingest.PurgeArtifacts {
	return func(ctx context.Context, uri, id string, dry bool, record ingest.RecordArtifacts) (files, bytes int64, elsewhere bool, err error) {
		return store.Purge(ctx, uri, id, dry, func(at artifacts.Place, e *events.Event) error {
			return record(at.ExperimentID, cmp.Or(at.Owner(), events.NoOwner), e)
		})
	}
}

func (n *node) openArtifacts(ctx context.Context, p parts) (*artifacts.Store, error) {
	url, err := n.options.artifactsURL()
	if err != nil {
		return nil, err
	}
	store, err := artifacts.OpenStore(ctx, url)
	if err != nil {
		return nil, err
	}
	n.onClose("artifacts", store.Close)
	ready := store.Ready
	if p.ingest {
		ready = store.Writable
	}
	n.check("artifacts", ready)
	return store, nil
}

// serveArtifacts serves the files of runs and logged models beside ingest, and those of model
// versions beside the registry.
func (n *node) serveArtifacts(p parts, store *artifacts.Store, versions *registry.Service, record artifacts.Record) error {
	digests, err := artifacts.NewDigests(n.log)
	if err != nil {
		return err
	}
	proxy := artifacts.NewProxy(artifacts.Config{Store: store, Locate: artifactURI(n.log), Record: record, Digest: digests.Of})
	if p.ingest {
		n.routes = append(n.routes, proxy.Register, func(e *echo.Echo) { proxy.RegisterLoggedModels(e, modelURI(n.log)) })
	}
	if p.registry {
		n.routes = append(n.routes, func(e *echo.Echo) { proxy.RegisterModelVersions(e, versions.DownloadURI) })
	}
	return nil
}

// modelURI finds the artifacts of a logged model in its first event.
func modelURI(log *eventlog.Log) func(context.Context, string) (string, error) {
	return func(ctx context.Context, id string) (string, error) {
		created, err := log.LoggedModel(ctx, id)
		if err != nil {
			return "", err
		}
		if created == nil {
			return "", mlflow.LoggedModelNotFound(id)
		}
		return created.GetArtifactUri(), nil
	}
}

// artifactURI finds the artifacts of a run in its first event.
func artifactURI(log *eventlog.Log) func(context.Context, string) (string, error) {
	return func(ctx context.Context, runID string) (string, error) {
		created, err := log.Run(ctx, runID)
		if err != nil {
			return "", err
		}
		if created == nil {
			return "", mlflow.RunNotFound(runID)
		}
		return created.GetArtifactUri(), nil
	}
}
