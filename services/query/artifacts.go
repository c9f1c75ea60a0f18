package query

import (
	"cmp"
	"encoding/hex"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	defaultArtifacts = 1000
	maxArtifacts     = 10_000
)

// artifactEntry is an artifact, as GET /api/v1/artifacts shows it.
type artifactEntry struct {
	Path        string    `json:"path"` // below the artifacts of its run or logged model
	Size        uint64    `json:"size"` // bytes
	SHA256      string    `json:"sha256"`
	ContentType string    `json:"content_type"`
	UploadedAt  time.Time `json:"uploaded_at"`
	Actor       string    `json:"actor"`
}

var artifactKeys = []sortKey{{expr: "store_path", typ: typeText}}

// listArtifacts answers with the artifacts of a run or a logged model as the log
// has them: what was uploaded, by size and digest.
func (s *Service) listArtifacts(ec echo.Context) error {
	p := httpapi.QueryParams(ec)
	runID, modelID := p.Text("run_id"), p.Text("model_id")
	limit := p.Int("max_results", defaultArtifacts, 1, maxArtifacts)
	token := p.Text("page_token")
	if err := p.Err(); err != nil {
		return err
	}
	if (runID == "") == (modelID == "") {
		return apierr.Errorf(apierr.InvalidParameterValue, "Name a run in 'run_id' or a logged model in 'model_id'.")
	}
	notFound := mlflow.LoggedModelNotFound(modelID)
	if runID != "" {
		notFound = mlflow.RunNotFound(runID)
	}
	if runID != "" && !events.ValidRunID(runID) || modelID != "" && !events.ValidLoggedModelID(modelID) {
		return notFound
	}
	asked := digest("artifacts", runID, modelID)
	after, err := decodeToken(token, asked, artifactKeys)
	if err != nil {
		return err
	}
	ctx := ec.Request().Context()
	stream, subject := s.log.ArtifactSubject(events.Any, runID+modelID)
	_, seq, err := s.log.LastFor(ctx, stream, subject)
	if err != nil {
		return err
	}
	if seq == 0 {
		// It has none, or there is no such owner.
		owner, ownSubject := s.log.LoggedModelSubject(events.Any, modelID)
		if runID != "" {
			owner, ownSubject = s.log.RunSubject(events.Any, runID, events.KindMeta)
		}
		if _, created, err := s.log.LastFor(ctx, owner, ownSubject); err != nil || created == 0 {
			return cmp.Or(err, error(notFound))
		}
	}
	if _, err := s.fresh.await(ec, eventlog.Position{Stream: stream, Seq: seq}); err != nil {
		return err
	}
	leave, err := s.db.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	var st statement
	st.write("SELECT store_path, path, size, sha256, content_type, uploaded_at, actor FROM artifacts FINAL WHERE run_id = ", st.bind("String", runID),
		" AND model_id = ", st.bind("String", modelID))
	if after != nil {
		st.write(" AND ", st.after(artifactKeys, after))
	}
	st.write(" ORDER BY ", orderBy(artifactKeys), " LIMIT ", st.bind("UInt64", limit+1))
	out := newAnswer(ec, "artifacts")
	out.empty = true
	var storePath string
	more, err := s.db.some(ctx, &st, limit, func(scan func(...any) error) error {
		var e artifactEntry
		var digest string
		if err := scan(&storePath, &e.Path, &e.Size, &digest, &e.ContentType, &e.UploadedAt, &e.Actor); err != nil {
			return err
		}
		e.Actor = validUTF8(e.Actor)
		e.SHA256 = hex.EncodeToString([]byte(digest))
		return out.item(e)
	})
	if err != nil {
		return err
	}
	next := ""
	if more {
		if next, err = encodeToken(asked, artifactKeys, []any{storePath}); err != nil {
			return err
		}
	}
	return out.end(next)
}
