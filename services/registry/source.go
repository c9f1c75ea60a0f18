package registry

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
)

// maxSourceLength bounds a source, in bytes.
const maxSourceLength = 4096

// origin is what a new version is made from.
type origin struct {
	source   string
	location string // where source resolves to, "" when it is source
	runID    string
	modelID  string
}

// uri is a URI taken apart as MLflow does, which never fails.
type uri struct{ scheme, host, path string }

func parseURI(s string) uri {
	var u uri
	if scheme, rest, ok := strings.Cut(s, ":"); ok && isScheme(scheme) {
		u.scheme, s = strings.ToLower(scheme), rest
	}
	if rest, ok := strings.CutPrefix(s, "//"); ok {
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		u.host, s = rest[:end], rest[end:]
	}
	s, _, _ = strings.Cut(s, "#")
	u.path, _, _ = strings.Cut(s, "?")
	return u
}

func isScheme(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789+-.", rune(c))) {
			return false
		}
	}
	return s != ""
}

// local reports whether the URI is a path of a file system.
func (u uri) local() bool { return u.scheme == "" || u.scheme == "file" }

// owners is what the log has of what a request says its source belongs to.
type owners struct {
	root  string                     // of the artifacts of its run, "" when there is none or it does not matter
	model *events.LoggedModelCreated // nil when there is none
}

// owners looks a request's run and logged model up. It refuses a source that is
// too long.
func (s *Service) owners(ctx context.Context, req *mlflow.CreateModelVersion) (o owners, err error) {
	if len(req.Source) > maxSourceLength {
		return o, apierr.Errorf(apierr.InvalidParameterValue, "'source' exceeds the maximum length of %d bytes", maxSourceLength)
	}
	if req.ModelID != nil && *req.ModelID != "" {
		o.model, err = s.log.LoggedModel(ctx, *req.ModelID)
		return o, err
	}
	u := parseURI(req.Source)
	if req.RunID == nil || *req.RunID == "" || !u.local() && !isArtifactProxy(req.Source) || mlflow.ValidateRunID(*req.RunID) != nil {
		return o, nil
	}
	run, err := s.log.Run(ctx, *req.RunID)
	o.root = run.GetArtifactUri()
	return o, err
}

// resolveSource checks where a new version is to come from: not from outside the
// artifacts of the logged model or the run that the request names.
func resolveSource(st *catalog.State, req *mlflow.CreateModelVersion, from owners) (origin, error) {
	o := origin{source: req.Source}
	if req.RunID != nil {
		o.runID = *req.RunID
	}
	if req.ModelID != nil {
		o.modelID = *req.ModelID
	}
	if isPromptRequest(req.Tags) {
		if req.Source != "dummy-source" && req.Source != "prompt-template" {
			return o, invalidSource("Invalid prompt source: '%s'. Prompt sources must use an MLflow placeholder.", req.Source)
		}
		return o, nil
	}
	u := parseURI(req.Source)
	if u.scheme == "models" {
		return resolveModelSource(st, req, o, from.model, u)
	}
	owner, root := "run_id", from.root
	if o.modelID != "" {
		owner, root = "model_id", from.model.GetArtifactUri()
		if o.runID == "" {
			o.runID = from.model.GetSourceRunId()
		}
	}
	if u.local() {
		return o, checkLocal(u, req.Source, o, owner, root)
	}
	if hasRelativePart(req.Source) {
		return o, invalidSource("Invalid model version source: '%s'. If supplying a source as an http, https, "+
			"local file path, ftp, objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path "+
			"references present. Please provide an absolute path.", req.Source)
	}
	switch {
	case u.scheme == "runs":
		run, _, _ := strings.Cut(strings.TrimPrefix(u.path, "/"), "/")
		if run == "" {
			return o, invalidSource("Not a proper runs:/ URI: %s. Runs URIs must be of the form "+
				"'runs:/<run_id>/run-relative/path/to/artifact'", req.Source)
		}
		if owner != "run_id" || u.host != "" || o.runID != run {
			return o, notContained(req.Source, owner)
		}
	case isArtifactProxy(req.Source) && !within(req.Source, root):
		return o, notContained(req.Source, owner)
	}
	if o.modelID != "" && from.model == nil {
		return o, mlflow.LoggedModelNotFound(o.modelID)
	}
	return o, nil
}

func checkLocal(u uri, source string, o origin, owner, root string) error {
	if o.runID != "" || o.modelID != "" {
		if root == "" {
			return notContained(source, owner)
		}
		source = path.Clean("/" + strings.TrimPrefix(unquote(u.path), "/"))
		if u.scheme == "" && !strings.HasPrefix(u.path, "/") {
			source = u.path
		}
		r := parseURI(root)
		dir := path.Clean(unquote(r.path))
		if r.local() && strings.HasPrefix(dir, "/") && (u.host == "" || u.host == "localhost") &&
			!strings.ContainsRune(source, 0) && (source == dir || strings.HasPrefix(source, strings.TrimSuffix(dir, "/")+"/")) {
			return nil
		}
	}
	return invalidSource("Invalid model version source: '%s'. To use a local path as a model version source, the %[2]s request parameter "+
		"has to be specified and the local path has to be contained within the artifact directory of the run specified by the %[2]s.",
		source, owner)
}

// resolveModelSource resolves models:/name/version and its like, and
// models:/model_id, which must be the logged model that the request names.
func resolveModelSource(st *catalog.State, req *mlflow.CreateModelVersion, o origin, model *events.LoggedModelCreated, u uri) (origin, error) {
	if u.host != "" {
		return o, invalidSource("Invalid model version source: '%s'. Registered model sources must use the active model registry.", req.Source)
	}
	name, suffix, alias, ok := parseModelPath(u.path)
	if ok && suffix == "" && alias == "" && model != nil && name == model.GetModelId() {
		o.location = model.GetArtifactUri()
		if o.runID == "" {
			o.runID = model.GetSourceRunId()
		}
		return o, nil
	}
	if !ok || suffix == "" && alias == "" {
		return o, notContained(req.Source, "model_id")
	}
	m, err := findModel(st, name)
	if err != nil {
		return o, err
	}
	if isPrompt(m.Tags) {
		return o, invalidSource("Invalid model version source: '%s'. Prompt versions cannot be used as model version sources.", req.Source)
	}
	v, err := findReferenced(st, m, suffix, alias)
	if err != nil {
		return o, err
	}
	if req.RunID != nil && o.runID != v.RunID || req.ModelID != nil && o.modelID != v.ModelID {
		return o, invalidSource("Invalid model version source: '%s'. The run_id and model_id request parameters must match "+
			"the referenced model version.", req.Source)
	}
	return origin{
		source: fmt.Sprintf("models:/%s/%d", name, v.Number), location: v.DownloadURI(), runID: v.RunID, modelID: v.ModelID,
	}, nil
}

// parseModelPath takes /name/suffix or /name@alias apart; /id has neither.
func parseModelPath(p string) (name, suffix, alias string, ok bool) {
	p, absolute := strings.CutPrefix(p, "/")
	p = strings.TrimLeft(p, "/")
	parts := strings.Split(p, "/")
	switch {
	case !absolute || len(parts) > 2 || strings.TrimSpace(parts[0]) == "":
		return "", "", "", false
	case len(parts) == 2:
		return parts[0], parts[1], "", strings.TrimSpace(parts[1]) != ""
	}
	at := strings.LastIndexByte(p, '@')
	if at < 0 {
		return p, "", "", true
	}
	return p[:at], "", p[at+1:], strings.TrimSpace(p[at+1:]) != ""
}

// findReferenced returns the version that a number, a stage, "latest" or an
// alias stands for.
func findReferenced(st *catalog.State, m *catalog.Model, suffix, alias string) (*catalog.Version, error) {
	if alias != "" {
		if err := mlflow.ValidateAlias(alias); err != nil {
			return nil, err
		}
		_, v, err := findByAlias(st, m.Name, alias)
		return v, err
	}
	if strings.Trim(suffix, "0123456789") == "" {
		_, v, err := findVersion(st, m.Name, suffix)
		return v, err
	}
	if strings.EqualFold(suffix, "latest") {
		if v := m.Latest(); v != nil {
			return v, nil
		}
		return nil, invalidSource("No versions of model with name '%s' found", m.Name)
	}
	stage, err := mlflow.ValidateStage(suffix)
	if err != nil {
		return nil, err
	}
	for _, v := range m.LatestVersions() {
		if v.Stage == stage {
			return v, nil
		}
	}
	return nil, invalidSource("No versions of model with name '%s' and stage '%s' found", m.Name, suffix)
}

// hasRelativePart reports whether a source, once decoded as often as it was
// encoded, has a path that could lead out of where it begins.
func hasRelativePart(source string) bool {
	decoded := unquote(source)
	for part := range strings.SplitSeq(decoded, "/") {
		if part == ".." {
			return true
		}
	}
	p := strings.TrimRight(parseURI(decoded).path, "/")
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return strings.ContainsRune(p, 0) || !strings.HasPrefix(p, "/") || path.Clean(p) != p
}

// isArtifactProxy reports whether a source is behind the artifact API.
func isArtifactProxy(source string) bool {
	scheme, _, parts := normalized(source)
	if scheme == "mlflow-artifacts" {
		return true
	}
	return (scheme == "http" || scheme == "https") &&
		strings.Contains("/"+strings.Join(parts, "/")+"/", "/api/2.0/mlflow-artifacts/artifacts/")
}

// within reports whether source is root or below it.
func within(source, root string) bool {
	scheme, host, parts := normalized(source)
	rootScheme, rootHost, rootParts := normalized(root)
	if scheme != rootScheme || host != rootHost || len(rootParts) == 0 || len(parts) < len(rootParts) {
		return false
	}
	for i, part := range rootParts {
		if parts[i] != part {
			return false
		}
	}
	return true
}

func normalized(s string) (scheme, host string, parts []string) {
	u := parseURI(s)
	for part := range strings.SplitSeq(u.path, "/") {
		if part != "" {
			parts = append(parts, unquote(part))
		}
	}
	return u.scheme, strings.ToLower(u.host), parts
}

// unquote decodes percent-encoding as often as there is any. What is not
// encoding stays as it is.
func unquote(s string) string {
	for {
		decoded := unquoteOnce(s)
		if decoded == s {
			return s
		}
		s = decoded
	}
}

func unquoteOnce(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				b.WriteString(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func invalidSource(format string, args ...any) error {
	return apierr.Errorf(apierr.InvalidParameterValue, format, args...)
}

func notContained(source, owner string) error {
	return invalidSource("Invalid model version source: '%s'. The %s request parameter must identify the resource that contains the source.",
		source, owner)
}
