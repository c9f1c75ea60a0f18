package artifacts

import (
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/events"
)

// Record appends an event about artifacts to the log, on behalf of a request,
// before the request is answered: of an upload when the bytes are in the store,
// of a replacement and of a deletion before they change, so that a request that is repeated
// after an error makes up for what is missing. Its error is the request's.
type Record func(c echo.Context, at Place, e *events.Event) error

// Place is whose an artifact is, by its path: "<experiment>/<run>/artifacts/…"
// or "<experiment>/models/<logged model>/artifacts/…", where the location of an
// experiment may be longer than its id.
type Place struct {
	ExperimentID string // "" when the path does not begin with one
	RunID        string // "" for an artifact that is no run's
	ModelID      string // "" for an artifact that is no logged model's
	Path         string // below the owner's artifacts; the whole path without an owner
}

// Owner returns the run or the logged model, "" without one.
func (p Place) Owner() string { return p.RunID + p.ModelID }

// PlaceOf returns whose the artifact at a path of the store is.
func PlaceOf(name string) Place {
	parts := strings.Split(name, "/")
	place := Place{Path: name}
	for i := 1; i+2 < len(parts); i++ {
		if parts[i+1] != "artifacts" {
			continue
		}
		switch owner := parts[i]; {
		case events.ValidRunID(owner):
			place.RunID = owner
		case parts[i-1] == "models" && events.ValidLoggedModelID(owner):
			place.ModelID = owner
		default:
			continue
		}
		if _, err := strconv.ParseUint(parts[0], 10, 64); err == nil {
			place.ExperimentID = parts[0]
		}
		place.Path = strings.Join(parts[i+2:], "/")
		break
	}
	return place
}

// recordUpload records what was written or is about to be, and says the former in
// the answer's header Repr-Digest (RFC 9530).
func (p *Proxy) recordUpload(c echo.Context, name string, w Written) error {
	if !w.Replacing {
		c.Response().Header().Set(HeaderReprDigest, reprDigest(w.SHA256))
	}
	if p.Record == nil {
		return nil
	}
	at := PlaceOf(name)
	if w.Replacing {
		begun := &events.ArtifactReplacementBegun{Path: name, RunId: at.RunID, ModelId: at.ModelID}
		if !w.Unread {
			begun.Sha256 = w.SHA256[:]
		}
		return p.Record(c, at, &events.Event{Data: &events.Event_ArtifactReplacementBegun{ArtifactReplacementBegun: begun}})
	}
	return p.Record(c, at, &events.Event{Data: &events.Event_ArtifactUploaded{ArtifactUploaded: &events.ArtifactUploaded{
		Path: name, RunId: at.RunID, ModelId: at.ModelID, ArtifactPath: at.Path, Size: w.Size, Sha256: w.SHA256[:], ContentType: ContentType(name),
	}}})
}

// recordDeletion records which artifacts go.
func (p *Proxy) recordDeletion(c echo.Context, names []string) error {
	if p.Record == nil {
		return nil
	}
	return eachDeletion(names, func(at Place, e *events.Event) error { return p.Record(c, at, e) })
}

// eachDeletion calls record with the events of a deletion: one for each owner,
// or a few where the names are many.
func eachDeletion(names []string, record func(at Place, e *events.Event) error) error {
	for len(names) > 0 {
		at := PlaceOf(names[0])
		n, size := 0, 0
		for n < len(names) && size < maxDeletedBytes && PlaceOf(names[n]).Owner() == at.Owner() {
			size += len(names[n])
			n++
		}
		err := record(at, &events.Event{Data: &events.Event_ArtifactsDeleted{ArtifactsDeleted: &events.ArtifactsDeleted{
			RunId: at.RunID, ModelId: at.ModelID, Paths: names[:n],
		}}})
		if err != nil {
			return err
		}
		names = names[n:]
	}
	return nil
}
