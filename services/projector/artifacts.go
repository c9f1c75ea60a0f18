package projector

import (
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// artifact is a row of artifacts, whose key is its path in the store.
type artifact struct {
	seq                  uint64
	runID, modelID, path string
	size                 uint64 // bytes
	sha256               [32]byte
	contentType, actor   string
	at                   time.Time
	deleted              bool
}

func entityOfArtifact(runID, modelID, path string) (kind, id string) {
	switch {
	case runID != "":
		return entityRun, runID
	case modelID != "":
		return entityLoggedModel, modelID
	default:
		return entityArtifact, path
	}
}

func (f *folder) foldUpload(rec eventlog.Record, e *events.ArtifactUploaded) error {
	if len(e.GetSha256()) != 32 || e.GetSize() < 0 {
		return unprojectable(rec, "%d bytes with a digest of %d", e.GetSize(), len(e.GetSha256()))
	}
	if rec.Seq > f.done[tableArtifacts] {
		f.artifacts.set(e.GetPath(), artifact{
			seq: rec.Seq, runID: e.GetRunId(), modelID: e.GetModelId(), path: e.GetArtifactPath(), size: uint64(e.GetSize()),
			sha256: [32]byte(e.GetSha256()), contentType: e.GetContentType(), actor: rec.Actor, at: rec.Time,
		})
	}
	return f.foldAudit(rec)
}

func (f *folder) foldDeletion(rec eventlog.Record, e *events.ArtifactsDeleted) error {
	if rec.Seq > f.done[tableArtifacts] {
		for _, path := range e.GetPaths() {
			f.artifacts.set(path, artifact{seq: rec.Seq, runID: e.GetRunId(), modelID: e.GetModelId(), actor: rec.Actor, at: rec.Time, deleted: true})
		}
	}
	return f.foldAudit(rec)
}

func (f *folder) artifactRows() proto.Input {
	var (
		storePath, run, model, path proto.ColStr
		size, seq                   proto.ColUInt64
		digest                      proto.ColFixedStr
		contentType, actor          = lowCardinality(), lowCardinality()
		at                          = new(proto.ColDateTime64).WithPrecision(proto.PrecisionMicro).WithLocation(time.UTC)
		deleted                     proto.ColUInt8
		shard                       proto.ColUInt16
	)
	digest.SetSize(32)
	for _, key := range f.artifacts.order {
		row := f.artifacts.rows[key]
		storePath.Append(key)
		run.Append(row.runID)
		model.Append(row.modelID)
		path.Append(row.path)
		size.Append(row.size)
		digest.Append(row.sha256[:])
		contentType.Append(row.contentType)
		actor.Append(row.actor)
		at.Append(row.at)
		if row.deleted {
			deleted.Append(1)
		} else {
			deleted.Append(0)
		}
		shard.Append(f.shard)
		seq.Append(row.seq)
	}
	return proto.Input{
		{Name: "store_path", Data: &storePath},
		{Name: "run_id", Data: &run},
		{Name: "model_id", Data: &model},
		{Name: "path", Data: &path},
		{Name: "size", Data: &size},
		{Name: "sha256", Data: &digest},
		{Name: "content_type", Data: contentType},
		{Name: "actor", Data: actor},
		{Name: "uploaded_at", Data: at},
		{Name: "deleted", Data: &deleted},
		{Name: "shard", Data: &shard},
		{Name: "seq", Data: &seq},
	}
}
