package registry

import (
	"maps"
	"slices"
	"strconv"

	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
)

func renderModel(m *catalog.Model) mlflow.RegisteredModel {
	out := mlflow.RegisteredModel{
		Name: m.Name, CreationTimestamp: m.Created, LastUpdatedTimestamp: m.Updated, Description: m.Description,
		Tags: renderTags(m.Tags),
	}
	for _, v := range m.LatestVersions() {
		// MLflow leaves the aliases out here.
		latest := renderVersion(m, v)
		latest.Aliases = nil
		out.LatestVersions = append(out.LatestVersions, latest)
	}
	for _, alias := range slices.Sorted(maps.Keys(m.Aliases)) {
		out.Aliases = append(out.Aliases, mlflow.Alias{Alias: alias, Version: strconv.FormatUint(m.Aliases[alias], 10)})
	}
	return out
}

func renderVersion(m *catalog.Model, v *catalog.Version) mlflow.ModelVersion {
	return mlflow.ModelVersion{
		Name: m.Name, Version: strconv.FormatUint(v.Number, 10), CreationTimestamp: v.Created,
		LastUpdatedTimestamp: m.VersionUpdated(v), UserID: v.UserID, CurrentStage: v.Stage, Description: v.Description,
		Source: v.Source, RunID: v.RunID, Status: mlflow.VersionReady, Tags: renderTags(v.Tags), RunLink: v.RunLink,
		Aliases: m.AliasesOf(v.Number), ModelID: v.ModelID,
	}
}

func renderTags(tags map[string]string) []mlflow.Tag {
	out := make([]mlflow.Tag, 0, len(tags))
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, mlflow.Tag{Key: key, Value: tags[key]})
	}
	return out
}
