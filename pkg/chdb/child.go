package chdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"
)

// childEnv holds the childSpec of a process that is to become an engine. Only
// Start sets it.
const childEnv = "RUNLEDGER_ENGINE_CHILD"

// shutdownGrace is how long an engine may take to end after its standard input
// closed, before it is ended the hard way. A query that runs on would
// otherwise keep it alive.
const shutdownGrace = 5 * time.Second

// childPrefix marks what the engine process itself says on standard error,
// among what the engine logs there.
const childPrefix = "chdb: "

// Exit codes of the engine process, beside the engine's own.
const (
	exitFailed  = 70 // the engine did not start, or ended with an error
	exitOverrun = 71 // the engine did not shut down within shutdownGrace
)

// childSpec is what the parent tells the engine process. It holds no secret.
type childSpec struct {
	// Library is the path of libchdb.
	Library string `json:"library"`
	// Args are the arguments of `clickhouse local`.
	Args []string `json:"args"`
}

// RunIfChild turns the process into the engine, and does not return, if it was
// started by Start; otherwise it does nothing. The program whose executable
// Start re-executes calls it first thing in main, a test binary first thing in
// TestMain.
func RunIfChild() {
	raw, ok := os.LookupEnv(childEnv)
	if !ok {
		return
	}
	if err := runChild(raw); err != nil {
		fmt.Fprintln(os.Stderr, childPrefix+err.Error())
		os.Exit(exitFailed)
	}
	os.Exit(0)
}

func runChild(raw string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(raw), &spec); err != nil {
		return fmt.Errorf("read %s: %w", childEnv, err)
	}
	lib, err := purego.Dlopen(spec.Library, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return fmt.Errorf("load the ClickHouse engine from %s: %w", spec.Library, err)
	}
	// Standard input is a terminal on which nobody types: both the engine's
	// last query and this goroutine read it to its end, which comes when the
	// parent closes it or dies. The goroutine ends with the process.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		time.Sleep(shutdownGrace)
		os.Exit(exitOverrun)
	}()
	return runLocal(lib, spec.Args)
}

// localResult is libchdb's struct local_result_v2, of which only the error
// matters here.
type localResult struct {
	_            *byte          // buf
	_            uintptr        // len
	_            unsafe.Pointer // vec
	_            float64        // elapsed
	_, _         uint64         // rows and bytes read
	errorMessage *byte
}

// runLocal runs `clickhouse local` with args, and returns when it has ended.
func runLocal(lib uintptr, args []string) error {
	entry, err := purego.Dlsym(lib, "query_stable_v2")
	if err != nil {
		return fmt.Errorf("find the engine's entry point: %w", err)
	}
	var run func(argc int32, argv **byte) *localResult
	purego.RegisterFunc(&run, entry)

	var pinner runtime.Pinner
	defer pinner.Unpin()
	argv := make([]*byte, 0, len(args)+2)
	for _, arg := range append([]string{"clickhouse"}, args...) {
		b := append([]byte(arg), 0)
		pinner.Pin(&b[0])
		argv = append(argv, &b[0])
	}
	argv = append(argv, nil)
	pinner.Pin(&argv[0])

	runtime.LockOSThread()
	res := run(int32(len(argv)-1), &argv[0])
	switch {
	case res == nil:
		return errors.New("the ClickHouse engine ended without a result")
	case res.errorMessage != nil:
		return fmt.Errorf("the ClickHouse engine failed: %s", cString(res.errorMessage))
	}
	return nil
}

// cString copies a NUL-terminated string out of the engine's memory.
func cString(p *byte) string {
	var n int
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}
