package registry

import (
	"context"
	"log/slog"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/caller"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
)

func (s *Service) createVersion(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.CreateModelVersion](c.Request())
	if err != nil {
		return err
	}
	from, err := s.owners(c.Request().Context(), req)
	if err != nil {
		return err
	}
	user := caller.Of(c.Request().Context()).Name
	out, err := s.do(c, command{
		action: "model_version_created", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			origin, err := resolveSource(st, req, from)
			if err != nil {
				return nil, err
			}
			if err := mlflow.ValidateModelName(req.Name); err != nil {
				return nil, err
			}
			for _, t := range req.Tags {
				if err := mlflow.ValidateVersionTag(t); err != nil {
					return nil, err
				}
			}
			m, err := findModel(st, req.Name)
			if err != nil {
				return nil, err
			}
			return &events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{
				Name: req.Name, Version: m.Next, Source: origin.source, StorageLocation: origin.location, RunId: origin.runID,
				ModelId: origin.modelID, RunLink: req.RunLink, Description: req.Description, Tags: eventTags(req.Tags), UserId: user,
			}}}, nil
		},
	})
	if err != nil {
		return err
	}
	m, v, err := findVersion(out.state, req.Name, strconv.FormatUint(out.version, 10))
	if err != nil {
		return err
	}
	if v.ModelID != "" && !isPromptRequest(req.Tags) {
		// The version is there, whatever becomes of the tag.
		if err := s.listVersion(c.Request().Context(), user, v.ModelID, req.Name, v.Number); err != nil {
			s.logger.Warn("registry: version is not listed on its logged model", slog.Any("error", err))
		}
	}
	return answerVersion(c, m, v)
}

func (s *Service) getVersion(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetModelVersion](c.Request())
	if err != nil {
		return err
	}
	st, err := s.readAsOf(c)
	if err != nil {
		return err
	}
	m, v, err := findVersion(st, req.Name, req.Version)
	if err != nil {
		return err
	}
	tellSeq(c, m.Last)
	return answerVersion(c, m, v)
}

func (s *Service) downloadURI(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetDownloadURI](c.Request())
	if err != nil {
		return err
	}
	st, err := s.readAsOf(c)
	if err != nil {
		return err
	}
	_, v, err := findVersion(st, req.Name, req.Version)
	if err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), mlflow.GetDownloadURIResponse{ArtifactURI: v.DownloadURI()})
}

// DownloadURI returns where the files of a model version are now. It returns
// MLflow's errors for a name or a version that is malformed or not there, and
// TEMPORARILY_UNAVAILABLE when the ledger is behind.
func (s *Service) DownloadURI(ctx context.Context, name, version string) (string, error) {
	state, err := s.current(ctx)
	if err != nil {
		return "", err
	}
	_, v, err := findVersion(state, name, version)
	if err != nil {
		return "", err
	}
	return v.DownloadURI(), nil
}

func (s *Service) updateVersion(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.UpdateModelVersion](c.Request())
	if err != nil {
		return err
	}
	return s.changeVersion(c, req.Name, command{
		action: "model_version_updated", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			_, v, err := findVersion(st, req.Name, req.Version)
			if err != nil {
				return nil, err
			}
			e := &events.ModelVersionUpdated{Name: req.Name, Version: v.Number}
			if req.Description != nil {
				e.Description = *req.Description
			}
			return &events.Event{Data: &events.Event_ModelVersionUpdated{ModelVersionUpdated: e}}, nil
		},
	})
}

func (s *Service) transitionStage(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.TransitionStage](c.Request())
	if err != nil {
		return err
	}
	stage, err := mlflow.ValidateStage(req.Stage)
	if err != nil {
		return err
	}
	if req.ArchiveExistingVersions && stage != mlflow.StageStaging && stage != mlflow.StageProduction {
		return mlflow.ArchiveFromInactiveStage(req.Stage)
	}
	out, err := s.promote(c, catalog.Target{Stage: stage}, req.Name, req.Version, command{
		action: "model_version_stage_set", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			m, v, err := findVersion(st, req.Name, req.Version)
			if err != nil {
				return nil, err
			}
			e := &events.ModelVersionStageSet{Name: req.Name, Version: v.Number, FromStage: v.Stage, ToStage: stage}
			if req.ArchiveExistingVersions {
				for other := range m.Versions() {
					if other.Stage == stage && other.Number != v.Number {
						e.ArchivedVersions = append(e.ArchivedVersions, other.Number)
					}
				}
			}
			return &events.Event{Data: &events.Event_ModelVersionStageSet{ModelVersionStageSet: e}}, nil
		},
	})
	if err != nil {
		return err
	}
	return answerOutcome(c, req.Name, out)
}

func (s *Service) deleteVersion(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteModelVersion](c.Request())
	if err != nil {
		return err
	}
	return s.change(c, command{
		action: "model_version_deleted", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			_, v, err := findVersion(st, req.Name, req.Version)
			if err != nil {
				return nil, err
			}
			return &events.Event{Data: &events.Event_ModelVersionDeleted{ModelVersionDeleted: &events.ModelVersionDeleted{
				Name: req.Name, Version: v.Number,
			}}}, nil
		},
	})
}

func (s *Service) setVersionTag(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.SetModelVersionTag](c.Request())
	if err != nil {
		return err
	}
	if err := validateVersionOf(req.Name, req.Version); err != nil {
		return err
	}
	if err := mlflow.ValidateVersionTag(mlflow.Tag{Key: req.Key, Value: req.Value}); err != nil {
		return err
	}
	return s.change(c, command{
		action: "model_version_tag_set", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			_, v, err := findVersion(st, req.Name, req.Version)
			if err != nil {
				return nil, err
			}
			if old, ok := v.Tags[req.Key]; ok && old == req.Value {
				return nil, nil
			}
			return &events.Event{Data: &events.Event_ModelVersionTagSet{ModelVersionTagSet: &events.ModelVersionTagSet{
				Name: req.Name, Version: v.Number, Tag: &events.Tag{Key: req.Key, Value: req.Value},
			}}}, nil
		},
	})
}

func (s *Service) deleteVersionTag(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteModelVersionTag](c.Request())
	if err != nil {
		return err
	}
	if err := validateVersionOf(req.Name, req.Version); err != nil {
		return err
	}
	if err := mlflow.ValidateTagKey(req.Key); err != nil {
		return err
	}
	return s.change(c, command{
		action: "model_version_tag_deleted", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			_, v, err := findVersion(st, req.Name, req.Version)
			if err != nil {
				return nil, err
			}
			if _, ok := v.Tags[req.Key]; !ok {
				return nil, nil
			}
			return &events.Event{Data: &events.Event_ModelVersionTagDeleted{ModelVersionTagDeleted: &events.ModelVersionTagDeleted{
				Name: req.Name, Version: v.Number, Key: req.Key,
			}}}, nil
		},
	})
}

func (s *Service) setAlias(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.SetAlias](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateModelName(req.Name); err != nil {
		return err
	}
	if err := mlflow.ValidateNewAlias(req.Alias); err != nil {
		return err
	}
	if _, err := s.promote(c, catalog.Target{Alias: req.Alias}, req.Name, req.Version, command{
		action: "alias_set", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			m, v, err := findVersion(st, req.Name, req.Version)
			if err != nil {
				return nil, err
			}
			if m.Aliases[req.Alias] == v.Number {
				return nil, nil
			}
			return &events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{
				Name: req.Name, Alias: req.Alias, Version: v.Number, PreviousVersion: m.Aliases[req.Alias],
			}}}, nil
		},
	}); err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), mlflow.Empty{})
}

func (s *Service) deleteAlias(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteAlias](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateModelName(req.Name); err != nil {
		return err
	}
	if err := mlflow.ValidateAlias(req.Alias); err != nil {
		return err
	}
	return s.change(c, command{
		action: "alias_deleted", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			m, err := findModel(st, req.Name)
			if err != nil {
				return nil, err
			}
			version, ok := m.Aliases[req.Alias]
			if !ok {
				return nil, nil
			}
			return &events.Event{Data: &events.Event_AliasDeleted{AliasDeleted: &events.AliasDeleted{
				Name: req.Name, Alias: req.Alias, PreviousVersion: version,
			}}}, nil
		},
	})
}

func (s *Service) getByAlias(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetByAlias](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateModelName(req.Name); err != nil {
		return err
	}
	if err := mlflow.ValidateAlias(req.Alias); err != nil {
		return err
	}
	st, err := s.readAsOf(c)
	if err != nil {
		return err
	}
	m, v, err := findByAlias(st, req.Name, req.Alias)
	if err != nil {
		return err
	}
	tellSeq(c, m.Last)
	return answerVersion(c, m, v)
}

// findByAlias returns the version that an alias points at. The alias "latest",
// in any case, is the highest version.
func findByAlias(st *catalog.State, name, alias string) (*catalog.Model, *catalog.Version, error) {
	m, err := findModel(st, name)
	if err != nil {
		return nil, nil, err
	}
	if strings.EqualFold(alias, "latest") {
		v := m.Latest()
		if v == nil {
			return nil, nil, mlflow.LatestVersionNotFound(name)
		}
		return m, v, nil
	}
	v, ok := m.Version(m.Aliases[alias])
	if !ok {
		return nil, nil, mlflow.AliasNotFound(alias)
	}
	return m, v, nil
}

// changeVersion runs a command and answers with the version of the model that
// it is about.
func (s *Service) changeVersion(c echo.Context, model string, cmd command) error {
	out, err := s.do(c, cmd)
	if err != nil {
		return err
	}
	return answerOutcome(c, model, out)
}

func answerOutcome(c echo.Context, model string, out outcome) error {
	m, v, err := findVersion(out.state, model, strconv.FormatUint(out.version, 10))
	if err != nil {
		return err
	}
	return answerVersion(c, m, v)
}

func answerVersion(c echo.Context, m *catalog.Model, v *catalog.Version) error {
	return mlflow.WriteJSON(c.Response(), mlflow.ModelVersionResponse{ModelVersion: renderVersion(m, v)})
}

func validateVersionOf(name, version string) error {
	if err := mlflow.ValidateModelName(name); err != nil {
		return err
	}
	_, err := mlflow.ValidateVersion(version)
	return err
}

func findVersion(st *catalog.State, name, version string) (*catalog.Model, *catalog.Version, error) {
	if err := mlflow.ValidateModelName(name); err != nil {
		return nil, nil, err
	}
	number, err := mlflow.ValidateVersion(version)
	if err != nil {
		return nil, nil, err
	}
	if m, ok := st.Model(name); ok && number > 0 {
		if v, ok := m.Version(uint64(number)); ok {
			return m, v, nil
		}
	}
	return nil, nil, mlflow.VersionNotFound(name, strconv.FormatInt(number, 10))
}
