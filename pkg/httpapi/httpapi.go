// Package httpapi is what every HTTP service of Runledger has in common: one
// server set-up, one error form, health and metrics, and what a request says
// of who asks and why.
package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/labstack/echo-contrib/echoprometheus"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/caller"
	"github.com/runledger/runledger/pkg/events"
)

// PathVersion is where a protocol says its version. Like /health it is answered
// whatever name a request has for the server.
const PathVersion = "/version"

// Headers of Runledger's own.
const (
	HeaderIdempotencyKey = "Idempotency-Key"
	HeaderReason         = "Runledger-Reason"
	HeaderStream         = "Runledger-Stream"      // of a write
	HeaderSeq            = "Runledger-Seq"         // of a write; of a read of one model, the last event about it
	HeaderExpectSeq      = "Runledger-Expect-Seq"  // of a write to the registry: only if that is the last event about the model
	HeaderWatermark      = "Runledger-Watermark"   // of a read
	HeaderAsOf           = "Runledger-As-Of"       // of a read of the registry's past: after how many entries
	HeaderAllowStale     = "Runledger-Allow-Stale" // of a request for a read: "true" asks for old data rather than for none
	HeaderStale          = "Runledger-Stale"       // "true" of such a read whose data are old
	HeaderAge            = "Runledger-Age"         // of such a read: for how many seconds events may be missing
)

const (
	readHeaderTimeout = 10 * time.Second
	bodyTimeout       = time.Minute
	idleTimeout       = 2 * time.Minute
	// writeTimeout is within how long a client must take what is written to it,
	// answerTimeout within how long the answer must begin.
	writeTimeout   = 30 * time.Second
	answerTimeout  = 10 * time.Minute
	maxHeaderBytes = 64 << 10
	healthPath     = "/health"
	readyPath      = "/readyz"

	// answered is the context's key of an error that has been dealt with.
	answered = "runledger-error-answered"
)

// Config configures New.
type Config struct {
	Logger   *slog.Logger
	Registry *prometheus.Registry
	Checks   []Check
	// BodyBytes bounds the memory for bodies that are held until their requests are
	// answered; beyond it they are refused with 429. 0 is 256 MiB.
	BodyBytes int64
	// Hosts are the names under which the server answers; nil is all.
	Hosts *Hosts
	// Prefix is a path below which everything is served too; see CheckPrefix.
	Prefix string
}

// New returns a server with /health, /readyz and /metrics, to which the services add
// their routes. A handler returns its
// errors; the server answers them as MLflow does.
func New(c Config) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = func(err error, ec echo.Context) { writeError(c.Logger, err, ec) }
	e.Pre(underPrefix(c.Prefix))
	e.Use(limitWrites, limitReads(newBodies(cmp.Or(c.BodyBytes, defaultBodyBytes), c.Registry)), middleware.RequestID())
	// What MLflow's server tells browsers of every answer.
	e.Use(middleware.SecureWithConfig(middleware.SecureConfig{ContentTypeNosniff: "nosniff", XFrameOptions: "SAMEORIGIN"}))
	e.Use(echoprometheus.NewMiddlewareWithConfig(echoprometheus.MiddlewareConfig{
		Namespace: "runledger", Subsystem: "http", Registerer: c.Registry, DoNotUseRequestPathFor404: true,
		// Each value of a label takes memory for good, so clients choose none.
		LabelFuncs: map[string]echoprometheus.LabelValueFunc{
			"host":   func(echo.Context, error) string { return "" },
			"method": func(ec echo.Context, _ error) string { return methodLabel(ec.Request().Method) },
			"action": func(ec echo.Context, _ error) string { return string(RouteOf(ec.Request().Context()).Action) },
			"resource": func(ec echo.Context, _ error) string {
				return string(RouteOf(ec.Request().Context()).Resource)
			},
		},
	}))
	e.Use(middleware.RequestLoggerWithConfig(middleware.RequestLoggerConfig{
		LogMethod: true, LogURI: true, LogRoutePath: true, LogStatus: true, LogLatency: true, LogRequestID: true, LogError: true, HandleError: true,
		LogValuesFunc: func(ec echo.Context, v middleware.RequestLoggerValues) error {
			level := slog.LevelDebug
			// Not being ready is an answer, and asked for again and again.
			if v.Status >= http.StatusInternalServerError && v.RoutePath != readyPath {
				level = slog.LevelWarn
			}
			c.Logger.LogAttrs(ec.Request().Context(), level, "request",
				slog.String("method", v.Method), slog.String("uri", v.URI), slog.Int("status", v.Status),
				slog.Duration("latency", v.Latency), slog.String("request_id", v.RequestID), slog.Any("error", v.Error))
			return nil
		},
	}))
	e.Use(middleware.RecoverWithConfig(middleware.RecoverConfig{
		LogErrorFunc: func(_ echo.Context, err error, stack []byte) error {
			c.Logger.Error("panic in a handler", slog.Any("error", err), slog.String("stack", string(stack)))
			return err
		},
	}))
	if c.Hosts != nil {
		e.Use(c.Hosts.check)
	}
	e.Use(identify, refuseCrossOrigin(), checkQuery, checkText)
	ok := func(ec echo.Context) error { return ec.String(http.StatusOK, "OK") }
	about := func(method, path string, h echo.HandlerFunc) Route {
		return Route{Method: method, Path: path, Action: Read, Resource: Server, Handler: h}
	}
	Add(
		e,
		about(http.MethodGet, healthPath, ok),
		about(http.MethodHead, healthPath, ok),
		about(http.MethodGet, readyPath, (&Readiness{Checks: c.Checks}).answer),
		about(http.MethodGet, "/metrics", echoprometheus.NewHandlerWithConfig(echoprometheus.HandlerConfig{Gatherer: c.Registry})),
	)
	return e
}

// checkQuery refuses a query string that the standard library reads only in part: a
// misspelt filter must not answer with everything.
func checkQuery(next echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		if _, err := url.ParseQuery(ec.Request().URL.RawQuery); err != nil {
			return apierr.Errorf(apierr.InvalidParameterValue, "The query string is not valid: %s.", err)
		}
		return next(ec)
	}
}

// methodLabel returns a request's method, "other" for one that no route has.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return method
	}
	return "other"
}

// Serve answers requests on l until ctx ends, and then until the requests that
// are under way are done, for at most drain.
func Serve(ctx context.Context, l net.Listener, h http.Handler, drain time.Duration) error {
	return serve(ctx, limitConnections(l, maxConnections, maxPerAddress), h, drain)
}

func serve(ctx context.Context, l *connections, h http.Handler, drain time.Duration) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, WriteTimeout: answerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ConnState: l.observe,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests still under way after %v: %w", drain, err), server.Close())
	}
	<-failed
	return err
}

// LimitTime is middleware for a request that is not large: all of its body must be
// there within bodyTimeout, however steadily it comes, and its context ends then. It
// is held in memory, see HoldBody.
func LimitTime(h echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		b, ok := ec.Request().Body.(*steadyBody)
		if !ok {
			b = &steadyBody{controller: http.NewResponseController(ec.Response())}
		}
		b.held, b.until = true, time.Now().Add(bodyTimeout)
		// The first read of a body sets a sooner one.
		if err := b.deadline(b.until); err != nil {
			return err
		}
		return h(ec)
	}
}

// limitWrites keeps a client that does not take its answer from holding what
// the request needs: an answer may take long, each write of it may not.
func limitWrites(next echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		w := ec.Response().Writer
		ec.Response().Writer = &steadyWriter{ResponseWriter: w, controller: http.NewResponseController(w)}
		return next(ec)
	}
}

type steadyWriter struct {
	http.ResponseWriter
	controller *http.ResponseController
}

func (w *steadyWriter) Write(p []byte) (int, error) {
	if err := w.controller.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, fmt.Errorf("limit the time of a write: %w", err)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Attributes returns attributes for an event that a request causes: a fresh id
// and the time, who asks, why, under which request id and idempotency key.
func Attributes(ec echo.Context, source string) events.Attributes {
	who := caller.Of(ec.Request().Context())
	a := events.New(source, who.Name, time.Now())
	a.RequestID = who.RequestID
	a.Reason = ec.Request().Header.Get(HeaderReason)
	a.IdempotencyKey = ec.Request().Header.Get(HeaderIdempotencyKey)
	return a
}

// identify is middleware that tells what a request reaches who asks.
func identify(next echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		who := caller.Caller{RequestID: ec.Response().Header().Get(echo.HeaderXRequestID)}
		if name, _, ok := ec.Request().BasicAuth(); ok && name != "" {
			who.Name, who.Proof = name, caller.Claimed
		}
		ec.SetRequest(ec.Request().WithContext(caller.With(ec.Request().Context(), who)))
		return next(ec)
	}
}

// AllowsStale reports whether the client takes old data when there are no others
// in time. Nobody else is given any.
func AllowsStale(ec echo.Context) bool { return ec.Request().Header.Get(HeaderAllowStale) == "true" }

// TellStale says in the answer that its data are old, and how old: age is how long
// ago the first event was logged that they may lack, negative when that is not
// known.
func TellStale(ec echo.Context, age time.Duration) {
	h := ec.Response().Header()
	h.Set(HeaderStale, "true")
	if age >= 0 {
		h.Set(HeaderAge, strconv.FormatFloat(age.Seconds(), 'f', 3, 64))
	}
}

func writeError(logger *slog.Logger, err error, ec echo.Context) {
	// Middleware that needs to know the outcome has the error answered before
	// it returns it, and it is returned here once more.
	if ec.Get(answered) != nil {
		return
	}
	ec.Set(answered, true)
	if ec.Response().Committed {
		// Half of the answer is out: only a broken connection tells the client.
		logger.Warn("answer broken off", slog.String("uri", ec.Request().RequestURI), slog.Any("error", err))
		panic(http.ErrAbortHandler)
	}
	told := translate(err)
	if told.Code == apierr.InternalError {
		logger.Error("internal error", slog.String("uri", ec.Request().RequestURI), slog.Any("error", err))
	}
	if err := apierr.Write(ec.Response(), told); err != nil {
		logger.Debug("error not delivered", slog.Any("error", err))
	}
}

// translate gives echo's own errors their code.
func translate(err error) *apierr.Error {
	if he, ok := errors.AsType[*echo.HTTPError](err); ok {
		switch he.Code {
		case http.StatusNotFound, http.StatusMethodNotAllowed:
			return apierr.Errorf(apierr.EndpointNotFound, "%s", http.StatusText(http.StatusNotFound))
		case http.StatusRequestEntityTooLarge, http.StatusBadRequest, http.StatusUnsupportedMediaType:
			return apierr.Errorf(apierr.BadRequest, "%v", he.Message)
		}
	}
	return apierr.From(err)
}
