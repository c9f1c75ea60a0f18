package artifacts_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/artifacts"
	"github.com/runledger/runledger/pkg/events"
)

func TestPurge(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (url, dir string){
		"file": func(t *testing.T) (string, string) {
			dir := t.TempDir()
			return "file://" + dir, dir
		},
		"s3": func(t *testing.T) (string, string) { return s3URL(t), "" },
	} {
		t.Run(name, func(t *testing.T) {
			url, dir := open(t)
			store, err := artifacts.OpenStore(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = store.Close() }()
			// Beside what goes there are names that begin like it.
			for _, path := range []string{"1/r1/artifacts/a", "1/r1/artifacts/deep/er/b", "1/r10/artifacts/a", "1/r1/artifacts2/a", "1/r2/artifacts/a"} {
				if err := store.Write(t.Context(), path, strings.NewReader("four"), unrecorded); err != nil {
					t.Fatal(err)
				}
			}
			var recorded []string
			record := func(_ artifacts.Place, e *events.Event) error {
				recorded = append(recorded, e.GetArtifactsDeleted().GetPaths()...)
				return nil
			}
			const uri = "mlflow-artifacts:/1/r1/artifacts"
			for _, step := range []struct {
				name  string
				dry   bool
				files int64
			}{{"dry", true, 2}, {"dry again", true, 2}, {"purge", false, 2}, {"purge again", false, 0}} {
				files, bytes, elsewhere, err := store.Purge(t.Context(), uri, "r1", step.dry, record)
				if files != step.files || bytes != 4*step.files || elsewhere || err != nil {
					t.Errorf("%s: %d files of %d bytes, %v, %v; want %d", step.name, files, bytes, elsewhere, err, step.files)
				}
			}
			for path, left := range map[string]int{"1/r1/artifacts": 0, "1/r1/artifacts2": 1, "1/r10/artifacts": 1, "1/r2/artifacts": 1} {
				if list, err := store.List(t.Context(), path); err != nil || len(list) != left {
					t.Errorf("%s holds %v, %v; want %d files", path, list, err, left)
				}
			}
			slices.Sort(recorded)
			if want := []string{"1/r1/artifacts/a", "1/r1/artifacts/deep/er/b"}; !slices.Equal(recorded, want) {
				t.Errorf("recorded %v, want %v", recorded, want)
			}
			if dir != "" {
				if _, err := os.Stat(filepath.Join(dir, "1/r1/artifacts")); !os.IsNotExist(err) {
					t.Errorf("the directory is still there: %v", err)
				}
			}
			for _, wrong := range []struct{ uri, id string }{
				{"mlflow-artifacts:/1", "1"}, {"mlflow-artifacts:/", ""}, {"mlflow-artifacts:/1/r2/artifacts", "r1"}, {"mlflow-artifacts:/1/../r1/artifacts", "r1"},
			} {
				if _, _, _, err := store.Purge(t.Context(), wrong.uri, wrong.id, false, record); apierr.CodeOf(err) != apierr.InvalidParameterValue {
					t.Errorf("%s of %q: %v, want INVALID_PARAMETER_VALUE", wrong.uri, wrong.id, err)
				}
			}
			if files, _, elsewhere, err := store.Purge(t.Context(), "s3://bucket/1/r2/artifacts", "r2", false, record); files != 0 || !elsewhere || err != nil {
				t.Errorf("another store: %d files, %v, %v", files, elsewhere, err)
			}
		})
	}
}

// An artifact whose run turns out to be purged when it is recorded goes, and the
// directories that were made for it.
func TestAnUploadForWhatIsPurgedLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	for name, url := range map[string]string{"file": "file://" + dir, "s3": s3URL(t)} {
		t.Run(name, func(t *testing.T) {
			_, store := serveStore(t, url)
			if err := store.Write(t.Context(), "1/r2/artifacts/kept", strings.NewReader("x"), unrecorded); err != nil {
				t.Fatal(err)
			}
			gone := apierr.Errorf(apierr.ResourceDoesNotExist, "Run with id=r1 not found")
			err := store.Write(t.Context(), "1/r1/artifacts/deep/f", strings.NewReader("x"), func(artifacts.Written) error { return gone })
			if !errors.Is(err, gone) {
				t.Errorf("got %v", err)
			}
			if list, err := store.List(t.Context(), "1/r1/artifacts/deep"); err != nil || len(list) != 0 {
				t.Errorf("left %v, %v", list, err)
			}
			if list, err := store.List(t.Context(), "1"); err != nil || len(list) != 1 {
				t.Errorf("of others and what is empty there is %v, %v", list, err)
			}
		})
	}
}
