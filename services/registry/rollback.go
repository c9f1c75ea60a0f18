package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"google.golang.org/protobuf/proto"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/ledger"
)

const (
	// maxRollbackBytes bounds what one rollback writes, in bytes.
	maxRollbackBytes = 8 << 20
	// maxReason is as much of a reason as an event keeps, in bytes.
	maxReason = 1024
	// maxNamed is how many missing versions an error names.
	maxNamed = 20
)

// rollbackRequest asks for a rollback.
type rollbackRequest struct {
	To      json.RawMessage `json:"to"` // a time in RFC 3339, or the number of an entry
	DryRun  bool            `json:"dry_run"`
	Restore bool            `json:"restore"` // what was deleted since, too
	Reason  string          `json:"reason"`
}

// rollbackResponse has the difference, which is what was done, or would be.
type rollbackResponse struct {
	To     uint64 `json:"to"` // the number of the entry as of which
	DryRun bool   `json:"dry_run"`
	// Seq is the last event about the model, or in the registry, when the
	// difference was computed: the condition under which it holds.
	Seq     uint64         `json:"seq"`
	Changes []catalog.Step `json:"changes"`
	// First and Last are the numbers of the entries of the rollback, 0 for none.
	First uint64 `json:"first_seq"`
	Last  uint64 `json:"last_seq"`
}

// rollback is a decided one.
type rollback struct {
	to      uint64
	restore bool
	reason  string

	whole bool   // it rests on the whole registry, not on one model alone
	on    uint64 // the last event about what it rests on
	steps []catalog.Step
}

// source is the source of the events of a rollback, which tells them from others.
func (r *rollback) source() string { return fmt.Sprintf("%s/rollback?to=%d", source, r.to) }

// events returns the events if what the rollback rests on is as it was.
func (r *rollback) events(last uint64) ([]*events.Event, error) {
	if last != r.on {
		return nil, apierr.Errorf(apierr.ResourceConflict,
			"The registry was changed after the difference was computed: the last event is %d, it was %d. Nothing was rolled back. Look at the difference again.",
			last, r.on)
	}
	out := make([]*events.Event, len(r.steps))
	for i, step := range r.steps {
		out[i] = step.Event
	}
	return out, nil
}

// rollbackModel brings a model back to how it was.
func (s *Service) rollbackModel(c echo.Context) error {
	name := httpapi.PathParam(c, "name")
	if err := mlflow.ValidateModelName(name); err != nil {
		return err
	}
	return s.rollback(c, name)
}

// rollbackAll brings the whole registry back to how it was.
func (s *Service) rollbackAll(c echo.Context) error { return s.rollback(c, "") }

func (s *Service) rollback(c echo.Context, model string) error {
	req, to, err := decodeRollback(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), pastLimit)
	defer cancel()
	now, err := s.current(ctx)
	if err != nil {
		return err
	}
	r := &rollback{restore: req.Restore, reason: req.Reason}
	if r.to, err = s.moment(c, "to", to, now); err != nil {
		return err
	}
	cmd := command{action: "rollback", model: model, rollback: r}
	if key := c.Request().Header.Get(httpapi.HeaderIdempotencyKey); key != "" {
		entry, done, err := s.ledger.ByIdempotencyKey(key)
		if err != nil {
			return err
		}
		if done && cmd.sameAs(entry) {
			return s.answerDone(ctx, c, cmd, entry)
		}
	}
	if err := pastError(s.plan(ctx, cmd, now)); err != nil {
		return err
	}
	answer := rollbackResponse{To: r.to, DryRun: req.DryRun, Seq: r.on, Changes: r.steps}
	if req.DryRun {
		tellSeq(c, r.on)
		return mlflow.WriteJSON(c.Response(), answer)
	}
	out, err := s.do(c, cmd)
	switch {
	case err != nil:
		return err
	case out.done != nil:
		return s.answerDone(ctx, c, cmd, *out.done)
	case len(r.steps) > 0:
		answer.Last = out.state.Seq()
		answer.First = answer.Last - uint64(len(r.steps)) + 1
	}
	return mlflow.WriteJSON(c.Response(), answer)
}

// answerDone answers a rollback that was done before, under the same idempotency
// key, with what it did. last is its last entry.
func (s *Service) answerDone(ctx context.Context, c echo.Context, cmd command, last ledger.Entry) error {
	first := last
	for first.Index > 0 {
		before, err := s.ledger.Entry(first.Index - 1)
		if err != nil {
			return err
		}
		if before.IdempotencyKey != last.IdempotencyKey {
			break
		}
		first = before
	}
	state, err := s.past.At(ctx, first.Index)
	if err != nil {
		return pastError(err)
	}
	cmd.rollback.restore = true
	if err := pastError(s.plan(ctx, cmd, state)); err != nil {
		return err
	}
	r := cmd.rollback
	return mlflow.WriteJSON(c.Response(), rollbackResponse{To: r.to, Seq: r.on, Changes: r.steps, First: first.Seq, Last: last.Seq})
}

// plan computes the difference between a state and the one to go back to.
func (s *Service) plan(ctx context.Context, cmd command, now *catalog.State) error {
	r := cmd.rollback
	then, err := s.past.At(ctx, r.to)
	if err != nil {
		return err
	}
	p := catalog.NewRollback(now, time.Now())
	if cmd.model != "" {
		err = s.planModel(ctx, r, p, cmd.model, now, then)
	} else {
		err = s.planAll(ctx, r, p, now, then)
	}
	if err != nil {
		return err
	}
	if len(p.Missing) > 0 && !r.restore {
		named := strings.Join(p.Missing[:min(len(p.Missing), maxNamed)], ", ")
		return apierr.Errorf(apierr.InvalidParameterValue,
			"Deleted since then: %s, %d in all. Ask for it with 'restore' to bring back what was deleted too.", named, len(p.Missing))
	}
	size := 0
	for _, step := range p.Steps {
		size += proto.Size(step.Event)
	}
	if err := checkSize(len(p.Steps), size); err != nil {
		return err
	}
	if r.steps = p.Steps; r.steps == nil {
		r.steps = []catalog.Step{}
	}
	return nil
}

// checkSize returns an error for more than fits into one atomic commit.
func checkSize(steps, size int) error {
	if steps > eventlog.MaxEvents || size > maxRollbackBytes {
		return apierr.Errorf(apierr.InvalidParameterValue,
			"The rollback is too large to be done at once: %d changes of %d bytes, at most %d of %d bytes. Roll back one model at a time, or in steps.",
			steps, size, eventlog.MaxEvents, maxRollbackBytes)
	}
	return nil
}

func (s *Service) planModel(ctx context.Context, r *rollback, p *catalog.Rollback, name string, now, then *catalog.State) error {
	m, ok := now.Model(name)
	if !ok {
		// What is not there is not known by its last event.
		r.whole, r.on = true, now.Seq()
		old, ok := then.Model(name)
		if !ok {
			return mlflow.ModelNotFound(name)
		}
		if renamed := now.ModelByID(old.ID); renamed != nil {
			return apierr.Errorf(apierr.InvalidParameterValue, "Registered Model '%s' is called '%s' now. Roll that back.", name, renamed.Name)
		}
		return s.planRestore(ctx, r, p, old, now)
	}
	r.whole, r.on = false, m.Last
	old := then.ModelByID(m.ID)
	switch {
	case old == nil && m.ID > r.to:
		return apierr.Errorf(apierr.InvalidParameterValue,
			"Invalid value for parameter 'to' supplied: Registered Model '%s' did not exist as of entry %d. Entry %d created it.", name, r.to, m.ID)
	case old == nil:
		return apierr.Errorf(apierr.InvalidParameterValue,
			"Invalid value for parameter 'to' supplied: Registered Model '%s' did not exist as of entry %d: it was deleted then, and has been restored since.", name, r.to)
	}
	return p.Model(m, old)
}

func (s *Service) planAll(ctx context.Context, r *rollback, p *catalog.Rollback, now, then *catalog.State) error {
	r.whole, r.on = true, now.Seq()
	byID := make(map[uint64]*catalog.Model, now.Len())
	for m := range now.Models() {
		byID[m.ID] = m
	}
	were := make(map[uint64]bool, then.Len())
	for m := range then.Models() {
		were[m.ID] = true
	}
	for m := range now.Models() {
		// It was made before then and not there: it has been restored since.
		if !were[m.ID] && m.ID <= r.to {
			if err := p.DeleteModel(m); err != nil {
				return err
			}
		}
	}
	for old := range then.Models() {
		var err error
		if m := byID[old.ID]; m != nil {
			err = p.Model(m, old)
		} else {
			err = s.planRestore(ctx, r, p, old, now)
		}
		if err == nil {
			err = checkSize(len(p.Steps), 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// planRestore adds a model that was deleted since, and before now.
func (s *Service) planRestore(ctx context.Context, r *rollback, p *catalog.Rollback, old *catalog.Model, now *catalog.State) error {
	next := old.Next
	if r.restore {
		deletion, err := s.ledger.LastAbout(old.ID, now.Seq())
		if err != nil {
			return err
		}
		before, err := s.past.At(ctx, deletion-1)
		if err != nil {
			return err
		}
		last := before.ModelByID(old.ID)
		if last == nil {
			return apierr.Errorf(apierr.ResourceConflict, "Registered Model '%s' is being changed by another request. Try again.", old.Name)
		}
		next = last.Next
	}
	err := p.RestoreModel(old, next)
	if errors.Is(err, catalog.ErrMisfit) {
		return apierr.Wrap(err, apierr.ResourceAlreadyExists,
			fmt.Sprintf("Registered Model '%s' was deleted since, and another one has the name now. Rename that first.", old.Name))
	}
	return err
}

// decodeRollback reads and checks a request, and returns the text of its "to".
func decodeRollback(c echo.Context) (req rollbackRequest, to string, err error) {
	if err := httpapi.DecodeBody(c, &req); err != nil {
		return req, "", err
	}
	req.Reason = cmp.Or(req.Reason, c.Request().Header.Get(httpapi.HeaderReason))
	switch {
	case len(req.To) == 0 || string(req.To) == "null":
		return req, "", apierr.Errorf(apierr.InvalidParameterValue, "Missing value for required parameter 'to': a time, or the number of an entry")
	case strings.TrimSpace(req.Reason) == "" && !req.DryRun:
		return req, "", apierr.Errorf(apierr.InvalidParameterValue, "Missing value for required parameter 'reason': say why")
	case len(req.Reason) > maxReason:
		return req, "", apierr.Errorf(apierr.InvalidParameterValue, "'reason' exceeds the maximum length of %d bytes", maxReason)
	}
	if json.Unmarshal(req.To, &to) != nil {
		to = string(req.To) // a number
	}
	return req, to, nil
}
