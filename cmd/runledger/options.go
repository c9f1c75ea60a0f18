package main

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/spf13/cobra"
)

// options are the flags that the commands share.
type options struct {
	dataDir       string
	listen        string
	allowedHosts  []string
	staticPrefix  string
	artifacts     string
	natsURL       string
	clickhouseURL string
	shards        int
	replicas      int
	logMaxBytes   int64
	logLevel      slog.Level
	pprof         string
	treeHeadKey   string
	treeHeadEvery time.Duration
	rebuildLedger bool

	shutdownTimeout time.Duration

	webhookKey          string
	webhookSchemes      []string
	webhookAllowPrivate bool
}

func (o *options) register(cmd *cobra.Command, defaultListen string) {
	f := cmd.Flags()
	f.StringVar(&o.dataDir, "data", "runledger-data", "directory for everything that is kept on disk")
	f.StringVar(&o.listen, "listen", defaultListen, "address to answer HTTP on; port 0 chooses a free one")
	f.StringSliceVar(&o.allowedHosts, "allowed-hosts", nil, "more names under which requests may ask for the server in the header Host, as ml.example.com or *.example.com; * is all (default: addresses, localhost and, when it listens on more than loopback, the machine's name and names without a dot)")
	f.StringVar(&o.staticPrefix, "static-prefix", "", "path below which everything is served too, as /mlflow, for proxies that do not take it away")
	f.StringVar(&o.natsURL, "nats-url", "", "NATS server to use, for example nats://host:4222 (up: default is one in this process)")
	f.StringVar(&o.clickhouseURL, "clickhouse-url", "", "ClickHouse server to use, for example clickhouse://user:password@host:9000/database (up: default is one in a child process)")
	f.StringVar(&o.artifacts, "artifacts", "", "where artifacts are kept: a directory, file:///path or s3://bucket?region=… (up: default is artifacts in the data directory)")
	f.IntVar(&o.shards, "shards", 0, "run streams of a new event log (default 4); an existing log keeps its number")
	f.IntVar(&o.replicas, "replicas", 1, "copies of each stream, for a NATS cluster")
	f.Int64Var(&o.logMaxBytes, "log-max-bytes", 0, "size at which each stream refuses writes, in bytes (default: no limit)")
	f.StringVar(&o.webhookKey, "webhook-key", "", "file with the key that the secrets of webhooks are encrypted with; made if it is not there (default: webhook.key in the data directory)")
	f.StringSliceVar(&o.webhookSchemes, "webhook-schemes", []string{"https"}, "schemes that the addresses of webhooks may have: https, http")
	f.BoolVar(&o.webhookAllowPrivate, "webhook-allow-private", false, "let webhooks reach addresses that are not on the public internet")
	f.DurationVar(&o.shutdownTimeout, "shutdown-timeout", 20*time.Second, "how long requests that are under way, and then each part, may take to end when the process is told to")
	f.StringVar(&o.pprof, "pprof", "", "loopback address for the Go runtime's profiles")
	_ = f.MarkHidden("pprof") // fails only for a flag that does not exist
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "least level that is logged: DEBUG, INFO, WARN or ERROR")
}

// registerRegistry adds the flags of the registry alone.
func (o *options) registerRegistry(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.treeHeadKey, "tree-head-key", "", "file with the key that signs the registry's tree heads (default: "+keyFile+" in the data directory, made at the first start)")
	f.BoolVar(&o.rebuildLedger, "rebuild-ledger", false, "set the registry's ledger aside, and build it again from the event log: for one that is damaged")
	f.DurationVar(&o.treeHeadEvery, "tree-head-every", time.Hour, "how often to sign a tree head if there are new entries; 0 is only at the start and when asked")
}

func (o *options) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: o.logLevel}))
}

// artifactsURL returns the artifact store's URL for artifacts.OpenStore.
func (o *options) artifactsURL() (string, error) {
	dir := o.artifacts
	if dir == "" {
		dir = filepath.Join(o.dataDir, "artifacts")
	} else if scheme, _, ok := strings.Cut(dir, "://"); ok && scheme != "file" {
		return dir, nil
	} else if ok {
		u, err := url.Parse(dir)
		if err != nil {
			return "", fmt.Errorf("--artifacts: %w", err)
		}
		if u.Host != "" || u.Path == "" {
			return "", fmt.Errorf("--artifacts %q: want three slashes and the whole path, as in file:///srv/artifacts", dir)
		}
		dir = u.Path
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("--artifacts %q: %w", o.artifacts, err)
	}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}).String(), nil
}

func (o *options) clickhouse() (*clickhouse.Options, error) {
	opts, err := clickhouse.ParseDSN(o.clickhouseURL)
	if err != nil {
		return nil, fmt.Errorf("--clickhouse-url: %w", err)
	}
	return opts, nil
}
