package registry

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/filter"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
)

// place is where a model or a version is in any order: what it can be ordered
// by. The last place of a page is the cursor to the next one.
type place struct {
	Name    string `json:"name"`
	Version uint64 `json:"version_number,omitempty"`
	Created int64  `json:"creation_timestamp"`
	Updated int64  `json:"last_updated_timestamp"`
}

// ranked is a match at its place.
type ranked[T any] struct {
	place
	item T
}

// compare compares two places by the clauses, then by name and the newer
// version first.
func compare(orders []filter.Order, a, b place) int {
	for _, o := range orders {
		var c int
		switch o.Key {
		case "name":
			c = strings.Compare(a.Name, b.Name)
		case "version_number":
			c = cmp.Compare(a.Version, b.Version)
		case "creation_timestamp":
			c = cmp.Compare(a.Created, b.Created)
		default:
			c = cmp.Compare(a.Updated, b.Updated)
		}
		if o.Desc {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(b.Version, a.Version))
}

// page returns the matches behind the token's place, at most limit, and the
// token of the next page.
func page[T any](matches []ranked[T], orders []filter.Order, token string, limit int64) ([]T, string, error) {
	after, err := mlflow.DecodePageToken[place](token)
	if err != nil {
		return nil, "", err
	}
	if token != "" {
		matches = slices.DeleteFunc(matches, func(m ranked[T]) bool { return compare(orders, m.place, after) <= 0 })
	}
	slices.SortFunc(matches, func(a, b ranked[T]) int { return compare(orders, a.place, b.place) })
	next := ""
	if int64(len(matches)) > limit {
		matches = matches[:limit]
		if next, err = mlflow.EncodePageToken(matches[limit-1].place); err != nil {
			return nil, "", err
		}
	}
	items := make([]T, len(matches))
	for i, m := range matches {
		items[i] = m.item
	}
	return items, next, nil
}

func (s *Service) searchModels(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.SearchRegisteredModels](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateModelsMaxResults(req.MaxResults); err != nil {
		return err
	}
	expr, err := filter.ParseRegisteredModels(req.Filter)
	if err != nil {
		return filterError(err)
	}
	orders, err := filter.ParseRegisteredModelOrder(req.OrderBy)
	if err != nil {
		return filterError(err)
	}
	expr, prompts := splitPrompt(expr)
	st, err := s.readAsOf(c)
	if err != nil {
		return err
	}
	var matches []ranked[*catalog.Model]
	for m := range st.Models() {
		if !prompts && m.Tags[tagPrompt] == "true" || !filter.Match(expr, modelRecord{m}) {
			continue
		}
		matches = append(matches, ranked[*catalog.Model]{place{Name: m.Name, Created: m.Created, Updated: m.Updated}, m})
	}
	found, next, err := page(matches, orders, req.PageToken, req.MaxResults)
	if err != nil {
		return err
	}
	out := mlflow.SearchRegisteredModelsResponse{NextPageToken: next}
	for _, m := range found {
		out.RegisteredModels = append(out.RegisteredModels, renderModel(m))
	}
	return mlflow.WriteJSON(c.Response(), out)
}

func (s *Service) searchVersions(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.SearchModelVersions](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateVersionsMaxResults(req.MaxResults); err != nil {
		return err
	}
	expr, err := filter.ParseModelVersions(req.Filter)
	if err != nil {
		return filterError(err)
	}
	orders, err := filter.ParseModelVersionOrder(req.OrderBy)
	if err != nil {
		return filterError(err)
	}
	if len(orders) == 0 {
		orders = []filter.Order{{Key: "last_updated_timestamp", Desc: true}}
	}
	expr, prompts := splitPrompt(expr)
	st, err := s.readAsOf(c)
	if err != nil {
		return err
	}
	var matches []ranked[versionRecord]
	for m := range st.Models() {
		if !prompts && hasPromptVersion(m) {
			continue
		}
		for v := range m.Versions() {
			if r := (versionRecord{m, v}); filter.Match(expr, r) {
				at := place{Name: m.Name, Version: v.Number, Created: v.Created, Updated: m.VersionUpdated(v)}
				matches = append(matches, ranked[versionRecord]{at, r})
			}
		}
	}
	found, next, err := page(matches, orders, req.PageToken, req.MaxResults)
	if err != nil {
		return err
	}
	out := mlflow.SearchModelVersionsResponse{NextPageToken: next}
	for _, r := range found {
		// MLflow leaves the aliases out here, and clients that copy a registry set
		// them once more where they find some.
		version := renderVersion(r.model, r.version)
		version.Aliases = nil
		out.ModelVersions = append(out.ModelVersions, version)
	}
	return mlflow.WriteJSON(c.Response(), out)
}

func filterError(err error) error {
	if e, ok := errors.AsType[*filter.Error](err); ok {
		return apierr.Errorf(apierr.InvalidParameterValue, "%s", e.Message)
	}
	return err
}

// splitPrompt reports whether a filter asks for prompts, which its first
// comparison of their tag says. If it does not, they are left out, and its
// comparisons of that tag too: what is no prompt does not have the tag.
func splitPrompt(expr filter.Expr) (filter.Expr, bool) {
	about := func(c filter.Comparison) bool { return c.Entity == filter.Tag && c.Key == tagPrompt }
	if i := slices.IndexFunc(expr, about); i >= 0 {
		value := strings.ToLower(expr[i].Value.Str)
		if expr[i].Op == filter.OpEq && value == "true" || expr[i].Op == filter.OpNe && value == "false" {
			return expr, true
		}
	}
	return slices.DeleteFunc(expr, about), false
}

func hasPromptVersion(m *catalog.Model) bool {
	for v := range m.AllVersions() {
		if v.Tags[tagPrompt] == "true" {
			return true
		}
	}
	return false
}

type modelRecord struct{ model *catalog.Model }

// Lookup implements filter.Record.
func (r modelRecord) Lookup(entity filter.Entity, key string) (filter.Value, bool) {
	if entity == filter.Tag {
		return tagValue(r.model.Tags, key)
	}
	return filter.StringValue(r.model.Name), key == "name"
}

type versionRecord struct {
	model   *catalog.Model
	version *catalog.Version
}

// Lookup implements filter.Record.
func (r versionRecord) Lookup(entity filter.Entity, key string) (filter.Value, bool) {
	if entity == filter.Tag {
		return tagValue(r.version.Tags, key)
	}
	switch key {
	case "name":
		return filter.StringValue(r.model.Name), true
	case "run_id":
		return filter.StringValue(r.version.RunID), true
	case "source_path":
		return filter.StringValue(r.version.Source), true
	case "version_number":
		return filter.IntValue(int64(r.version.Number)), true
	}
	return filter.Value{}, false
}

func tagValue(tags map[string]string, key string) (filter.Value, bool) {
	value, ok := tags[key]
	return filter.StringValue(value), ok
}
