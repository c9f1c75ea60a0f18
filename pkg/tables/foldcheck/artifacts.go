package foldcheck

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// artifact folds an upload, which a replacement's beginning is not, or a deletion:
// the last one of a path counts.
func (f *fold) artifact(rec eventlog.Record) error {
	var run, model, id string
	if u := rec.GetArtifactUploaded(); u != nil {
		run, model, id = u.GetRunId(), u.GetModelId(), u.GetPath()
		f.tables["artifacts"][artifactKey(run, model, u.GetPath())] = artifactRow(u.GetArtifactPath(), uint64(u.GetSize()), string(u.GetSha256()),
			u.GetContentType(), rec.Actor, rec.Time, events.Shard(owner(run, model), f.shards), rec.Seq)
	}
	if b := rec.GetArtifactReplacementBegun(); b != nil {
		run, model, id = b.GetRunId(), b.GetModelId(), b.GetPath()
	}
	if d := rec.GetArtifactsDeleted(); d != nil {
		run, model, id = d.GetRunId(), d.GetModelId(), d.GetPaths()[0]
		for _, path := range d.GetPaths() {
			delete(f.tables["artifacts"], artifactKey(run, model, path))
		}
	}
	kind := "artifact"
	if model != "" {
		kind, id = "logged_model", model
	}
	if run != "" {
		kind, id = "run", run
	}
	exp := strings.Split(rec.Subject, ".")[2]
	if exp == "-" {
		exp = ""
	}
	return f.audit(rec, kind, id, exp)
}

func owner(run, model string) string {
	if run+model == "" {
		return "-"
	}
	return run + model
}

func artifactKey(run, model, path string) string { return fmt.Sprintf("%q %q %q", run, model, path) }

func artifactRow(path string, size uint64, sha256, contentType, actor string, at time.Time, shard int, seq uint64) string {
	return fmt.Sprintf("%q %d bytes %x %q by %q at %s shard %d seq %d", path, size, sha256, contentType, actor, at.UTC().Format(time.RFC3339Nano), shard, seq)
}

func (r *reader) artifacts(ctx context.Context, conn driver.Conn) {
	r.table(ctx, conn, "artifacts", `SELECT run_id, model_id, store_path, path, size, sha256, CAST(content_type, 'String'), CAST(actor, 'String'),
		uploaded_at, shard, seq FROM artifacts FINAL`, func(rows driver.Rows) (string, string, error) {
		var (
			run, model, storePath, path, digest, contentType, actor string
			size, seq                                               uint64
			at                                                      time.Time
			shard                                                   uint16
		)
		err := rows.Scan(&run, &model, &storePath, &path, &size, &digest, &contentType, &actor, &at, &shard, &seq)
		return artifactKey(run, model, storePath), artifactRow(path, size, digest, contentType, actor, at, int(shard), seq), err
	})
}
