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
// committed even when the client has gone: what it is about has happened. An
// upload for what is purged, or is being purged at the same time, is a
// RESOURCE_DOES_NOT_EXIST: nobody would ever delete it.
func (s *Service) RecordArtifact(c echo.Context, experimentID, owner string, e *events.Event) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request().Context()), recordTimeout)
	defer cancel()
	a := httpapi.Attributes(c, source)
	a.IdempotencyKey = "" // sending a file again is another upload
	_, subject := s.log.ArtifactSubject(cmp.Or(experimentID, events.NoOwner), owner)
	shard := s.shardOf(owner)
	lane, expect := shard.lane, anything
	switch adds := e.GetArtifactsDeleted() == nil; {
	case adds && events.ValidRunID(owner):
		expect = shard.expectKept
	case adds && events.ValidLoggedModelID(owner):
		lane, expect = s.models.lane(owner), s.models.expectKept
	}
	pos, err := lane.Do(ctx, func(ctx context.Context, b *eventlog.Batch) error {
		expected, committed, err := expect(ctx, owner)
		if err != nil {
			return err
		}
		return b.Append(subject, a, e, expected, committed)
	})
	s.instruments.command("artifacts/record", err)
	if err != nil {
		return err
	}
	c.Response().Header().Set(httpapi.HeaderStream, pos.Stream)
	c.Response().Header().Set(httpapi.HeaderSeq, strconv.FormatUint(pos.Seq, 10))
	return nil
}

// anything expects nothing of an owner.
func anything(context.Context, string) (expect eventlog.Expect, committed func(seq uint64), err error) {
	return expect, nil, nil
}
