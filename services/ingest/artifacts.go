package ingest

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
)

// recordTimeout bounds how long an event about artifacts waits to be committed.
const recordTimeout = 30 * time.Second

// RecordArtifact appends an event about the artifacts of a run or a logged model,
// events.NoOwner for neither, and says in the answer's headers where it is. It is
// committed even when the client has gone: what it is about has happened.
func (s *Service) RecordArtifact(c echo.Context, experimentID, owner string, e *events.Event) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request().Context()), recordTimeout)
	defer cancel()
	a := httpapi.Attributes(c, source)
	a.IdempotencyKey = "" // sending a file again is another upload
	_, subject := s.log.ArtifactSubject(cmp.Or(experimentID, events.NoOwner), owner)
	pos, err := s.shardOf(owner).lane.Do(ctx, func(_ context.Context, b *eventlog.Batch) error {
		return b.Append(subject, a, e, eventlog.Expect{}, nil)
	})
	s.instruments.command("artifacts/record", err)
	if err != nil {
		return err
	}
	c.Response().Header().Set(httpapi.HeaderStream, pos.Stream)
	c.Response().Header().Set(httpapi.HeaderSeq, strconv.FormatUint(pos.Seq, 10))
	return nil
}
