package mlflow

import (
	"strings"
	"testing"
)

// What MLflow 3.17.2 makes of each location, on a server whose working directory
// is /srv/dir.
func TestArtifactLocationsAreMLflows(t *testing.T) {
	t.Attr("covers", "artifact-paths")
	const refused = "?"
	for _, tc := range []struct {
		given, kept, run string // the location, and the artifacts of a run below it
		path             string // in the artifact store, refused, or "" for what is elsewhere
	}{
		{"mlflow-artifacts:/tea%20time", "", "mlflow-artifacts:/tea%20time/run/artifacts", "tea time/run/artifacts"},
		{"mlflow-artifacts:/tea time", "", "mlflow-artifacts:/tea time/run/artifacts", "tea time/run/artifacts"},
		{"mlflow-artifacts:/x/", "", "mlflow-artifacts:/x/run/artifacts", "x/run/artifacts"},
		{"mlflow-artifacts:/x//", "", "mlflow-artifacts:/x//run/artifacts", "x/run/artifacts"},
		{"mlflow-artifacts:/", "", "mlflow-artifacts:/run/artifacts", "run/artifacts"},
		{"mlflow-artifacts:", "", "mlflow-artifacts:run/artifacts", "run/artifacts"},
		{"mlflow-artifacts:x/y", "", "mlflow-artifacts:x/y/run/artifacts", "x/y/run/artifacts"},
		{"mlflow-artifacts:///x", "", "mlflow-artifacts:/x/run/artifacts", "x/run/artifacts"},
		{"mlflow-artifacts:////x", "", "mlflow-artifacts://x/run/artifacts", "run/artifacts"},
		{"mlflow-artifacts://host:5000/x", "", "mlflow-artifacts://host:5000/x/run/artifacts", "x/run/artifacts"},
		{"mlflow-artifacts://host", "", "mlflow-artifacts://host/run/artifacts", "run/artifacts"},
		{"mlflow-artifacts:/x?a=b", "", "mlflow-artifacts:/x/run/artifacts?a=b", "x/run/artifacts"},
		{"mlflow-artifacts:/x#", "", "mlflow-artifacts:/x/run/artifacts", "x/run/artifacts"},
		{"mlflow-artifacts:/x?", "", "mlflow-artifacts:/x/run/artifacts", "x/run/artifacts"},
		{"mlflow-artifacts:/a;b", "", "mlflow-artifacts:/a;b/run/artifacts", "a;b/run/artifacts"},
		{"mlflow-artifacts:/50%", "", "mlflow-artifacts:/50%/run/artifacts", "50%/run/artifacts"},
		{"mlflow-artifacts:/50%25", "", "mlflow-artifacts:/50%25/run/artifacts", "50%/run/artifacts"},
		{"mlflow-artifacts:/é", "", "mlflow-artifacts:/é/run/artifacts", "é/run/artifacts"},
		{"mlflow-artifacts:/a/../b", "", "mlflow-artifacts:/a/../b/run/artifacts", refused},
		{"mlflow-artifacts:/a/%2e%2e/b", "", "mlflow-artifacts:/a/%2e%2e/b/run/artifacts", refused},
		{"mlflow-artifacts:/a%23b", "", "mlflow-artifacts:/a%23b/run/artifacts", refused},
		{"mlflow-artifacts:/a%3Fb", "", "mlflow-artifacts:/a%3Fb/run/artifacts", "a?b/run/artifacts"},
		{`mlflow-artifacts:/a\b`, "", `mlflow-artifacts:/a\b/run/artifacts`, `a\b/run/artifacts`},
		{"MLFLOW-ARTIFACTS:/x", "", "mlflow-artifacts:/x/run/artifacts", "x/run/artifacts"},
		{" mlflow-artifacts:/x", "", "mlflow-artifacts:/x/run/artifacts", "x/run/artifacts"},
		{"http://h/api/2.0/mlflow-artifacts/artifacts/x", "", "http://h/api/2.0/mlflow-artifacts/artifacts/x/run/artifacts", "x/run/artifacts"},
		{
			"https://h:1/p/api/2.0/mlflow-artifacts/artifacts/x/y?q=1", "",
			"https://h:1/p/api/2.0/mlflow-artifacts/artifacts/x/y/run/artifacts?q=1", "x/y/run/artifacts",
		},
		{"http://h/other", "", "http://h/other/run/artifacts", ""},
		{"s3://bucket/x", "", "s3://bucket/x/run/artifacts", ""},
		{"s3://bucket", "", "s3://bucket/run/artifacts", ""},
		{"s3://bucket/", "", "s3://bucket/run/artifacts", ""},
		{"s3:/x", "", "s3:/x/run/artifacts", ""},
		{"s3://bucket/x?a=b/c", "", "s3://bucket/x/run/artifacts?a=b/c", ""},
		{"gs://b/a;b", "", "gs://b/a;b/run/artifacts", ""},
		{"wasbs://c@a.blob.core.windows.net/p/", "", "wasbs://c@a.blob.core.windows.net/p/run/artifacts", ""},
		{"dbfs:/x", "", "dbfs:/x/run/artifacts", ""},
		{"weird:thing", "", "weird:thing/run/artifacts", ""},
		{`C:\x`, "", `c:\x/run/artifacts`, ""},
		{"/abs/dir/", "", "/abs/dir/run/artifacts", ""},
		{"/abs/a%20b", "", "/abs/a%20b/run/artifacts", ""},
		{"/data/what?", "", "/data/what?/run/artifacts", ""},
		{"rel", "/srv/dir/rel", "/srv/dir/rel/run/artifacts", ""},
		{"./rel//x/", "/srv/dir/rel/x", "/srv/dir/rel/x/run/artifacts", ""},
		{"../rel", "/srv/dir/../rel", "/srv/dir/../rel/run/artifacts", ""},
		{".", "/srv/dir", "/srv/dir/run/artifacts", ""},
		{"rel%20dir", "/srv/dir/rel dir", "/srv/dir/rel dir/run/artifacts", ""},
		{"a?b", "/srv/dir/a?b", "/srv/dir/a?b/run/artifacts", ""},
		{"a/b:c", "/srv/dir/a/b:c", "/srv/dir/a/b:c/run/artifacts", ""},
		{"1:2/x", "/srv/dir/1:2/x", "/srv/dir/1:2/x/run/artifacts", ""},
		{" rel", "/srv/dir/ rel", "/srv/dir/ rel/run/artifacts", ""},
		{"~/x", "/srv/dir/~/x", "/srv/dir/~/x/run/artifacts", ""},
		{"file:///abs", "", "file:///abs/run/artifacts", ""},
		{"file:/abs", "", "file:///abs/run/artifacts", ""},
		{"file:rel", "file:///srv/dir/rel", "file:///srv/dir/rel/run/artifacts", ""},
		{"file:rel/x?q=1", "file:///srv/dir/rel/x?q=1", "file:///srv/dir/rel/x/run/artifacts?q=1", ""},
		{"file:./rel", "file:///srv/dir/rel", "file:///srv/dir/rel/run/artifacts", ""},
		{"file://localhost/abs", "", "file://localhost/abs/run/artifacts", ""},
		{"file:", "file:///srv/dir", "file:///srv/dir/run/artifacts", ""},
	} {
		if err := ValidateArtifactLocation(tc.given); err != nil {
			t.Errorf("%s: %v", tc.given, err)
			continue
		}
		if tc.kept == "" {
			tc.kept = tc.given
		}
		kept, err := ResolveArtifactLocation(tc.given, "/srv/dir")
		if kept != tc.kept || err != nil {
			t.Errorf("%s is kept as %s, %v; want %s", tc.given, kept, err, tc.kept)
		}
		run := ArtifactURI(kept, "run/artifacts")
		if run != tc.run {
			t.Errorf("%s: a run's are at %s, want %s", tc.given, run, tc.run)
		}
		name, ok := ProxiedPath(run)
		if ok {
			if name, err = ValidateArtifactPath(name); err != nil {
				name = refused
			}
		}
		if ok != (tc.path != "") || name != tc.path {
			t.Errorf("%s: a run's path is %q, want %q", tc.given, name, tc.path)
		}
	}
	for given, message := range map[string]string{
		"mlflow-artifacts:/x?a=%2e%2e": "Invalid query string", "mlflow-artifacts:/x?a=/../b": "Invalid query string",
		"mlflow-artifacts:/x#f": "'artifact_location' URL can't include fragments or params.",
		"http://h/a;b":          "'artifact_location' URL can't include fragments or params.",
		"a;b":                   "'artifact_location' URL can't include fragments or params.",
		"runs:/x":               "Artifact location cannot be a runs:/ URI. Given: 'runs:/x'",
		strings.Repeat("a", MaxArtifactLocationLength+1): "Invalid artifact path length. The length of the artifact path cannot be greater than 2048 characters.",
	} {
		checkMessage(t, ValidateArtifactLocation(given), message)
	}
	_, err := ResolveArtifactLocation("file://host/abs", "/srv/dir")
	checkMessage(t, err, "file://host/abs is not a valid remote uri. For remote access on windows, please consider using a different scheme such as SMB (e.g. smb://<hostname>/<path>).")
}

// What mlflow.utils.uri.validate_path_is_safe of 3.17.2 returns, in its shortest
// form, and what it refuses. A name that it returns it returns again: clients pass
// those of a listing through it.
func TestArtifactPathsAreMLflows(t *testing.T) {
	t.Attr("covers", "artifact-paths")
	for given, want := range map[string]string{
		"": "", ".": "", "./": "", "a/b.txt": "a/b.txt", "a//b/": "a/b", "a/.": "a",
		"a%20b": "a b", "a%252Fb": "a/b", "k%step%1%timestamp%123%ab.png": "k%step%1%timestamp%123\ufffd.png",
		"a..b": "a..b", "...": "...", "100%": "100%", "a:b": "a:b", "ü/日": "ü/日", "é%C3%A9": "éé",
		`a\b`: `a\b`, `\\host`: `\\host`, `\x`: `\x`, `\..\x`: `\..\x`, `..\x`: `..\x`, "%5c..": `\..`, `a\..\..\b`: `a\..\..\b`, `a/%5c%5chost/x`: `a/\\host/x`,
		"a\x00": "a%00", "a%00": "a%00", "a\x01b": "a%01b", "a\x7fb": "a%7fb", "a\u0085b": "a\u0085b", "a\u2028b": "a\u2028b", "a/..%00": "a/..%00",
		"a\nb": "ab", "a\tb.txt": "ab.txt", "a\rb": "ab", "a b\t": "a b", "%09x": "x", "a%0ab": "ab",
		"a?": "a", "a%3F": "a", "a?b": "a?b", "a%3Fb": "a?b", "?x": "?x", "a;": "a", "a;b": "a;b", "a#": "a", "a?..": "a?..", "a;../b": "a;../b", "a/.;x": "a/.;x",
		"a;/": "a", "a?/": "a",
		"a/http:x": "a/http:x", "a/ b ": "a/ b ", "x:y": "x:y", "x%2": "x%2", "%%41": "%A", "%2541": "A", "%": "%", "%zz": "%zz", "a/[x]": "a/[x]",
		"\xff": "\ufffd", "%ff": "\ufffd", "caf\xe9": "caf\ufffd", "a.tmp": "a.tmp", ".x": ".x", "a.attrs": "a.attrs",
	} {
		got, err := ValidateArtifactPath(given)
		if got != want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", given, got, err, want)
		}
		if again, err := ValidateArtifactPath(got); again != got || err != nil {
			t.Errorf("%q: %q becomes %q, %v", given, got, again, err)
		}
	}
	for _, given := range []string{
		"..", "../x", "a/../b", "a/..", "/x", "//x", "a#b", "a%23b", "a%2523b", "%2e%2e/x", "%252e%252e%252fx", "%2Fetc",
		`\\host\share`, "C:/x", `C:\x`, "file:///etc/passwd", "FILE:x", "file:x", "a/%2e./b", "..%09", "a/.%09./b", "a/..\t/b", "1/r/%2e%2e\n/x",
		"..;/", "x/..?/",
		"%" + strings.Repeat("25", 12) + "2e",
	} {
		_, err := ValidateArtifactPath(given)
		checkMessage(t, err, "Invalid path")
	}
}
