package registry

import (
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
)

// tagPrompt marks the models and versions that are MLflow's prompts.
const tagPrompt = "mlflow.prompt.is_prompt"

// maxNameLength bounds the name of a model, in bytes. MLflow's databases take
// 256 characters or, with SQLite, any number.
const maxNameLength = 1000

func (s *Service) createModel(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.CreateRegisteredModel](c.Request())
	if err != nil {
		return err
	}
	if err := validateNewName(req.Name); err != nil {
		return err
	}
	for _, t := range req.Tags {
		if err := mlflow.ValidateRegistryTag(t); err != nil {
			return err
		}
	}
	return s.changeModel(c, req.Name, command{
		action: "registered_model_created", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			if m, ok := st.Model(req.Name); ok {
				return nil, modelExists(m, req)
			}
			return &events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{
				Name: req.Name, Description: req.Description, Tags: eventTags(req.Tags),
			}}}, nil
		},
	})
}

func modelExists(m *catalog.Model, req *mlflow.CreateRegisteredModel) error {
	// Here MLflow asks whether there is the tag at all, whatever its value.
	kind := map[bool]string{false: "Registered Model", true: "Prompt"}
	_, marked := m.Tags[tagPrompt]
	was, is := kind[marked], kind[slices.ContainsFunc(req.Tags, func(t mlflow.Tag) bool { return t.Key == tagPrompt })]
	switch {
	case was != is:
		return apierr.Errorf(apierr.ResourceAlreadyExists, "Tried to create a %s with name '%s', but the name is already taken by a %s. "+
			"MLflow does not allow creating a model and a prompt with the same name.", strings.ToLower(is), req.Name, strings.ToLower(was))
	case is == kind[true]:
		return apierr.Errorf(apierr.ResourceAlreadyExists, "Prompt (name=%s) already exists.", req.Name)
	}
	return mlflow.ModelExists(req.Name)
}

func (s *Service) getModel(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetRegisteredModel](c.Request())
	if err != nil {
		return err
	}
	st, err := s.readAsOf(c)
	if err != nil {
		return err
	}
	m, err := findModel(st, req.Name)
	if err != nil {
		return err
	}
	tellSeq(c, m.Last)
	return answerModel(c, m)
}

func (s *Service) updateModel(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.UpdateRegisteredModel](c.Request())
	if err != nil {
		return err
	}
	return s.changeModel(c, req.Name, command{
		action: "registered_model_updated", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			if _, err := findModel(st, req.Name); err != nil {
				return nil, err
			}
			return &events.Event{Data: &events.Event_RegisteredModelUpdated{RegisteredModelUpdated: &events.RegisteredModelUpdated{
				Name: req.Name, Description: req.Description,
			}}}, nil
		},
	})
}

func (s *Service) renameModel(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.RenameRegisteredModel](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateNewModelName(req.NewName); err != nil {
		return err
	}
	if err := validateNewName(req.NewName); err != nil {
		return err
	}
	return s.changeModel(c, req.NewName, command{
		action: "registered_model_renamed", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			if _, err := findModel(st, req.Name); err != nil {
				return nil, err
			}
			if req.Name == req.NewName {
				return nil, nil
			}
			if _, taken := st.Model(req.NewName); taken {
				return nil, mlflow.ModelExists(req.NewName)
			}
			return &events.Event{Data: &events.Event_RegisteredModelRenamed{RegisteredModelRenamed: &events.RegisteredModelRenamed{
				Name: req.Name, NewName: req.NewName,
			}}}, nil
		},
	})
}

func (s *Service) deleteModel(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteRegisteredModel](c.Request())
	if err != nil {
		return err
	}
	return s.change(c, command{
		action: "registered_model_deleted", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			if _, err := findModel(st, req.Name); err != nil {
				return nil, err
			}
			return &events.Event{Data: &events.Event_RegisteredModelDeleted{RegisteredModelDeleted: &events.RegisteredModelDeleted{
				Name: req.Name,
			}}}, nil
		},
	})
}

func (s *Service) latestVersions(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.GetLatestVersions](c.Request())
	if err != nil {
		return err
	}
	st, err := s.readAsOf(c)
	if err != nil {
		return err
	}
	m, err := findModel(st, req.Name)
	if err != nil {
		return err
	}
	wanted := make(map[string]bool)
	for _, stage := range req.Stages {
		canonical, err := mlflow.ValidateStage(stage)
		if err != nil {
			return err
		}
		wanted[canonical] = true
	}
	var out mlflow.GetLatestVersionsResponse
	for _, v := range m.LatestVersions() {
		if len(wanted) == 0 || wanted[v.Stage] {
			out.ModelVersions = append(out.ModelVersions, renderVersion(m, v))
		}
	}
	return mlflow.WriteJSON(c.Response(), out)
}

func (s *Service) setModelTag(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.SetRegisteredModelTag](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateModelName(req.Name); err != nil {
		return err
	}
	if err := mlflow.ValidateRegistryTag(mlflow.Tag{Key: req.Key, Value: req.Value}); err != nil {
		return err
	}
	return s.change(c, command{
		action: "registered_model_tag_set", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			m, err := findModel(st, req.Name)
			if err != nil {
				return nil, err
			}
			if old, ok := m.Tags[req.Key]; ok && old == req.Value {
				return nil, nil
			}
			return &events.Event{Data: &events.Event_RegisteredModelTagSet{RegisteredModelTagSet: &events.RegisteredModelTagSet{
				Name: req.Name, Tag: &events.Tag{Key: req.Key, Value: req.Value},
			}}}, nil
		},
	})
}

func (s *Service) deleteModelTag(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteRegisteredModelTag](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateModelName(req.Name); err != nil {
		return err
	}
	if err := mlflow.ValidateTagKey(req.Key); err != nil {
		return err
	}
	return s.change(c, command{
		action: "registered_model_tag_deleted", model: req.Name,
		decide: func(st *catalog.State) (*events.Event, error) {
			m, err := findModel(st, req.Name)
			if err != nil {
				return nil, err
			}
			if _, ok := m.Tags[req.Key]; !ok {
				return nil, nil
			}
			return &events.Event{Data: &events.Event_RegisteredModelTagDeleted{RegisteredModelTagDeleted: &events.RegisteredModelTagDeleted{
				Name: req.Name, Key: req.Key,
			}}}, nil
		},
	})
}

// changeModel runs a command and answers with the model of that name after it.
func (s *Service) changeModel(c echo.Context, name string, cmd command) error {
	out, err := s.do(c, cmd)
	if err != nil {
		return err
	}
	m, err := findModel(out.state, name)
	if err != nil {
		return err
	}
	return answerModel(c, m)
}

// change runs a command that answers with nothing.
func (s *Service) change(c echo.Context, cmd command) error {
	if _, err := s.do(c, cmd); err != nil {
		return err
	}
	return mlflow.WriteJSON(c.Response(), mlflow.Empty{})
}

func answerModel(c echo.Context, m *catalog.Model) error {
	return mlflow.WriteJSON(c.Response(), mlflow.RegisteredModelResponse{RegisteredModel: renderModel(m)})
}

func findModel(st *catalog.State, name string) (*catalog.Model, error) {
	if err := mlflow.ValidateModelName(name); err != nil {
		return nil, err
	}
	m, ok := st.Model(name)
	if !ok {
		return nil, mlflow.ModelNotFound(name)
	}
	return m, nil
}

func validateNewName(name string) error {
	if err := mlflow.ValidateModelName(name); err != nil {
		return err
	}
	if len(name) > maxNameLength {
		return apierr.Errorf(apierr.InvalidParameterValue, "'name' exceeds the maximum length of %d bytes", maxNameLength)
	}
	if strings.ContainsRune(name, 0) {
		return apierr.Errorf(apierr.InvalidParameterValue, "Invalid model name %q. Names cannot contain a NUL character.", name)
	}
	return nil
}

func isPrompt(tags map[string]string) bool { return strings.EqualFold(tags[tagPrompt], "true") }

func isPromptRequest(tags []mlflow.Tag) bool {
	value := ""
	for _, t := range tags {
		if t.Key == tagPrompt {
			value = t.Value
		}
	}
	return strings.EqualFold(value, "true")
}

// eventTags keeps the last value of a repeated key.
func eventTags(tags []mlflow.Tag) []*events.Tag {
	place := make(map[string]*events.Tag, len(tags))
	var out []*events.Tag
	for _, t := range tags {
		if e, ok := place[t.Key]; ok {
			e.Value = t.Value
			continue
		}
		e := &events.Tag{Key: t.Key, Value: t.Value}
		place[t.Key] = e
		out = append(out, e)
	}
	return out
}
