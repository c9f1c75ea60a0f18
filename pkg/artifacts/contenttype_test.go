package artifacts_test

import (
	"testing"

	"github.com/runledger/runledger/pkg/artifacts"
)

// What mlflow.utils.mime_type_utils of 3.17.2 says of each name.
func TestContentTypesAreMLflows(t *testing.T) {
	for name, want := range map[string]string{
		"a.txt": "text/plain", "MLmodel": "text/plain", "mlproject": "text/plain", "MLproject": "application/octet-stream",
		"x.mlproject": "text/plain", "x.MLmodel": "text/plain", "a.TXT": "text/plain", "a.JSON": "application/json",
		"txt": "text/plain", "log": "text/plain", "json": "text/plain", ".txt": "application/octet-stream", ".profile": "application/octet-stream",
		"a.": "application/octet-stream", "a": "application/octet-stream", "a.html": "text/html", "a.HTML": "text/html",
		"a.png": "image/png", "a.svg": "image/svg+xml", "a.pkl": "application/octet-stream", "a.tar.gz": "application/x-tar",
		"a.tgz": "application/x-tar", "a.csv.gz": "text/csv", "a.gz": "application/octet-stream", "a.csv": "text/plain", "a.tar": "application/x-tar",
		"a.zip": "application/zip", "a.pdf": "application/pdf", "dir/a.css": "text/css", "a.mjs": "application/javascript",
		"a.wasm": "application/wasm", "a.h5": "application/x-hdf5", "a.mp4": "video/mp4", "a.b.py": "text/plain", "..a.txt": "text/plain",
		"a.svgz": "image/svg+xml", "a.Z": "application/octet-stream", "a.tar.bz2": "application/x-tar", "conda.yaml": "text/plain",
		"a.avif": "image/avif", "a.md": "text/plain", "a.ipynb": "text/plain", "x.html.gz": "text/html", "日.txt": "text/plain",
	} {
		if got := artifacts.ContentType(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
