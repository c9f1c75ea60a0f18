package registry

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/provenance"
)

// traceLimit bounds how long a request waits for where a version comes from.
const traceLimit = 20 * time.Second

// lineageResponse says which version it was, who put it there, and what it was
// made from.
type lineageResponse struct {
	AsOf uint64 `json:"as_of"` // the number of the last entry that counts
	// At is up to when the run and the logged model are told of; nil is now.
	At      *time.Time          `json:"at"`
	Version mlflow.ModelVersion `json:"model_version"`
	// AlsoInStage has the other versions in the stage that was asked for.
	AlsoInStage []string `json:"also_in_stage"`
	// PutBy is the entry that put the version where it was asked for, or made it;
	// Replaced are the versions that it took away from there.
	PutBy    *ledger.HistoryEntry `json:"put_by"`
	Replaced []string             `json:"replaced"`
	*provenance.Origin
}

// wanted is where a version is asked for: by its number, in a stage, or at an
// alias.
type wanted struct{ version, stage, alias string }

// lineage answers which version was where, who put it there and why, and what it
// was made from, as of now or any moment.
func (s *Service) lineage(c echo.Context) error {
	name := httpapi.PathParam(c, "name")
	p := httpapi.QueryParams(c)
	at := wanted{version: p.Text("version"), stage: p.Text("stage"), alias: p.Text("alias")}
	moment := p.Text(fieldAsOf)
	if err := p.Err(); err != nil {
		return err
	}
	if err := at.check(); err != nil {
		return err
	}
	st, err := s.readAsOf(c)
	if err != nil {
		return err
	}
	m, v, others, err := at.find(st, name)
	if err != nil {
		return err
	}
	answer := lineageResponse{AsOf: st.Seq(), Version: renderVersion(m, v), AlsoInStage: []string{}, Replaced: []string{}}
	for _, other := range others {
		answer.AlsoInStage = append(answer.AlsoInStage, strconv.FormatUint(other, 10))
	}
	var until time.Time
	if moment != "" {
		if until, err = s.timeOf(moment, st.Seq()); err != nil {
			return err
		}
		answer.At = &until
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), traceLimit)
	defer cancel()
	if err := s.findEntry(ctx, &answer, at, m.ID, v.Number); err != nil {
		return traceError(err)
	}
	if answer.Origin, err = s.tracer.Trace(ctx, v, until); err != nil {
		return traceError(err)
	}
	return mlflow.WriteJSON(c.Response(), answer)
}

// check makes the stage one of MLflow's, and returns an error unless one place is
// named.
func (p *wanted) check() (err error) {
	named := 0
	for _, text := range []string{p.version, p.stage, p.alias} {
		if text != "" {
			named++
		}
	}
	if named != 1 {
		return apierr.Errorf(apierr.InvalidParameterValue, "Name one of 'version', 'stage' and 'alias'.")
	}
	if p.stage != "" {
		p.stage, err = mlflow.ValidateStage(p.stage)
	}
	if p.alias != "" {
		err = mlflow.ValidateAlias(p.alias)
	}
	return err
}

// find returns the version at a place: in a stage the one with the highest
// number, as models:/name/stage does, and the numbers of the others.
func (p wanted) find(st *catalog.State, name string) (m *catalog.Model, v *catalog.Version, others []uint64, err error) {
	switch {
	case p.version != "":
		m, v, err = findVersion(st, name, p.version)
		return m, v, nil, err
	case p.alias != "":
		m, v, err = findByAlias(st, name, p.alias)
		return m, v, nil, err
	}
	if m, err = findModel(st, name); err != nil {
		return nil, nil, nil, err
	}
	for old := range m.Versions() {
		if old.Stage != p.stage {
			continue
		}
		if v != nil {
			others = append(others, v.Number)
		}
		v = old
	}
	if v == nil {
		return nil, nil, nil, apierr.Errorf(apierr.ResourceDoesNotExist, "No version of '%s' is in stage '%s' after entry %d", name, p.stage, st.Seq())
	}
	slices.Reverse(others)
	return m, v, others, nil
}

// timeOf returns the time of a moment that was parsed before: that of the entry
// with the number.
func (s *Service) timeOf(moment string, n uint64) (time.Time, error) {
	if !isNumber(moment) {
		return parseTime(moment)
	}
	entry, err := s.ledger.Entry(n - 1)
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339Nano, entry.Time)
}

// placed is what an entry changed, as far as it says where versions are.
type placed struct {
	Aliases  map[string]string `json:"aliases"`
	Versions map[string]struct {
		Stage string `json:"current_stage"`
	} `json:"versions"`
}

// findEntry finds the last entry that put the version where it was asked for, and
// what it took away from there.
func (s *Service) findEntry(ctx context.Context, answer *lineageResponse, at wanted, model, number uint64) error {
	version := strconv.FormatUint(number, 10)
	hint := `"current_stage":`
	if at.alias != "" {
		hint = `"aliases":`
	}
	entry, err := s.ledger.LastWhere(ctx, model, answer.AsOf, hint, func(e ledger.Entry) (bool, error) {
		var before, after placed
		if err := errors.Join(json.Unmarshal(e.Before, &before), json.Unmarshal(e.After, &after)); err != nil {
			return false, err
		}
		switch {
		case after.Aliases[at.alias] == version:
			if old := before.Aliases[at.alias]; old != "" {
				answer.Replaced = append(answer.Replaced, old)
			}
			return true, nil
		case at.alias != "":
			return false, nil
		case at.stage == "":
			// Versions are made, and restored, from nothing or a deleted one.
			old, there := before.Versions[version]
			return after.Versions[version].Stage != "" && (!there || old.Stage == catalog.StageDeleted), nil
		case after.Versions[version].Stage != at.stage:
			return false, nil
		}
		for other, was := range before.Versions {
			if was.Stage == at.stage {
				answer.Replaced = append(answer.Replaced, other)
			}
		}
		slices.Sort(answer.Replaced)
		return true, nil
	})
	answer.PutBy = entry
	return err
}

func traceError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return apierr.Wrap(err, apierr.TemporarilyUnavailable, "The lineage takes too long to be read from the log").WithRetryAfter(time.Second)
	}
	return err
}
