package chdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// libraryEnv names the engine's library, for an installation that keeps it
// elsewhere.
const libraryEnv = "RUNLEDGER_LIBCHDB"

// Locate returns the path of the engine's library (libchdb). It is, in this
// order: the value of RUNLEDGER_LIBCHDB; beside the executable, in lib/,
// ../lib/runledger/ or ../engine/node_modules/; in a test binary, in
// engine/node_modules/ of the workspace around the working directory.
func Locate() (string, error) {
	if path := os.Getenv(libraryEnv); path != "" {
		if err := readable(path); err != nil {
			return "", fmt.Errorf("%s does not name the ClickHouse engine: %w", libraryEnv, err)
		}
		return path, nil
	}

	module, err := npmModule(runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the executable: %w", err)
	}
	if resolved, err := filepath.EvalSymlinks(exe); err == nil {
		exe = resolved
	}
	dir := filepath.Dir(exe)
	// A build for macOS carries the name libchdb.so as well.
	candidates := []string{
		filepath.Join(dir, "lib", "libchdb.so"),
		filepath.Join(dir, "..", "lib", "runledger", "libchdb.so"),
		filepath.Join(dir, "..", "engine", "node_modules", module, "libchdb.so"),
	}
	if testing.Testing() {
		if root, ok := workspace(); ok {
			candidates = append(candidates, filepath.Join(root, "engine", "node_modules", module, "libchdb.so"))
		}
	}
	var tried error
	for _, path := range candidates {
		err := readable(path)
		if err == nil {
			return path, nil
		}
		tried = errors.Join(tried, err)
	}
	return "", fmt.Errorf("the ClickHouse engine is not installed: run `make build`, or set %s to the path of libchdb: %w", libraryEnv, tried)
}

// npmModule names the npm package that carries the engine for a platform, as
// engine/package.json lists it.
func npmModule(goos, goarch string) (string, error) {
	switch goos + "/" + goarch {
	case "linux/amd64":
		return filepath.Join("@chdb", "lib-linux-x64-gnu"), nil
	case "linux/arm64":
		return filepath.Join("@chdb", "lib-linux-arm64-gnu"), nil
	case "darwin/amd64":
		return filepath.Join("@chdb", "lib-darwin-x64"), nil
	case "darwin/arm64":
		return filepath.Join("@chdb", "lib-darwin-arm64"), nil
	}
	return "", fmt.Errorf("the embedded ClickHouse engine is not made for %s/%s: use a ClickHouse server", goos, goarch)
}

// workspace returns the closest directory with a go.work at or above the
// working directory.
func workspace() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}

// readable tells whether path is a regular file that can be opened.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	return nil
}
