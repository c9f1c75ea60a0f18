package main

import (
	"net/url"
	"path/filepath"
	"testing"
)

func TestArtifactsURL(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ data, artifacts, want string }{
		{"data", "", "data/artifacts"},
		{"100%zz:#?", "", "100%zz:#?/artifacts"},
		{"data", "a b", "a b"},
		{"data", "x:y#z?%zz", "x:y#z?%zz"},
		{"data", "/srv/a", "/srv/a"},
		{"data", "file:///srv/a%20b", "/srv/a b"},
	} {
		o := options{dataDir: test.data, artifacts: test.artifacts}
		got, err := o.artifactsURL()
		if err != nil {
			t.Errorf("--data %q --artifacts %q: %v", test.data, test.artifacts, err)
			continue
		}
		u, err := url.Parse(got)
		if err != nil {
			t.Fatal(err)
		}
		want := test.want
		if !filepath.IsAbs(want) {
			want = filepath.Join(here, want)
		}
		if u.Scheme != "file" || u.Path != want {
			t.Errorf("--data %q --artifacts %q is %s %q, want %q", test.data, test.artifacts, u.Scheme, u.Path, want)
		}
	}
	if got, err := (&options{artifacts: "s3://bucket?region=x"}).artifactsURL(); err != nil || got != "s3://bucket?region=x" {
		t.Error(got, err)
	}
	for _, bad := range []string{"file://relative/a", "file://", "file:///%zz"} {
		if got, err := (&options{artifacts: bad}).artifactsURL(); err == nil {
			t.Errorf("--artifacts %q is %q, want an error", bad, got)
		}
	}
}
