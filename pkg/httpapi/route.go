package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

// Action is what a caller does with a resource.
type Action string

// The actions.
const (
	Read    Action = "read"
	Create  Action = "create"
	Edit    Action = "edit"    // adds to it, or changes it
	Delete  Action = "delete"  // marks it as deleted, or brings it back
	Purge   Action = "purge"   // removes for good what is deleted
	Promote Action = "promote" // moves a stage or an alias, or all of them back
	Approve Action = "approve" // decides, or says what is needed, for a promotion
)

// Resource is the kind of what a route is about.
type Resource string

// The resources.
const (
	Server          Resource = "server" // and what it says of itself
	Experiment      Resource = "experiment"
	Run             Resource = "run"
	LoggedModel     Resource = "logged_model"
	Artifact        Resource = "artifact"
	RegisteredModel Resource = "registered_model"
	Webhook         Resource = "webhook"
	Trail           Resource = "audit_trail" // of all that was done
	Ledger          Resource = "ledger"      // of the registry
)

// Kind is how much a request may cost, and so which budget it has where it reads
// tables.
type Kind string

// The kinds.
const (
	KindSearch Kind = ""      // and everything that says nothing else
	KindPoint  Kind = "point" // one run, experiment or logged model
	KindSeries Kind = "series"
	KindSweep  Kind = "sweep"
	KindAudit  Kind = "audit"
)

// apiRoot is below what Runledger's own API is.
const apiRoot = "/api/v1/"

// Route is what a server answers, and what that means. All but Kind, Takes and
// Small is required.
type Route struct {
	Method   string
	Path     string // as echo has it: "/api/v1/models/:name"
	Action   Action
	Resource Resource
	Kind     Kind
	// Takes is what a request may have; required of Runledger's own API. MLflow's
	// routes check requests as MLflow does.
	Takes *Takes
	// Small says that a request is not large, so that LimitTime bounds it.
	Small   bool
	Handler echo.HandlerFunc
}

// Under returns routes below each of some roots, which their paths go on from.
func Under(roots []string, routes ...Route) []Route {
	out := make([]Route, 0, len(roots)*len(routes))
	for _, root := range roots {
		for _, r := range routes {
			r.Path = root + r.Path
			out = append(out, r)
		}
	}
	return out
}

// Add adds routes to a server. It panics when one lacks what it must have, which no
// request can be the reason of.
func Add(e *echo.Echo, routes ...Route) {
	for _, r := range routes {
		if err := r.check(); err != nil {
			panic(fmt.Sprintf("httpapi: route %s %s: %v", r.Method, r.Path, err))
		}
		e.Add(r.Method, r.Path, r.handle())
	}
}

func (r Route) check() error {
	switch {
	case r.Method == "" || !strings.HasPrefix(r.Path, "/"):
		return errors.New("has no method or path")
	case r.Action == "" || r.Resource == "":
		return errors.New("does not say what it does with what")
	case r.Handler == nil:
		return errors.New("has no handler")
	case strings.HasPrefix(r.Path, apiRoot) && r.Takes == nil:
		return errors.New("does not say what it takes")
	case r.Action == Read && r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost:
		return fmt.Errorf("reads by %s", r.Method)
	case r.Action != Read && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		return fmt.Errorf("changes something by %s, which browsers send from any page", r.Method)
	}
	return nil
}

type routeKey struct{}

// handle returns the route's handler, for requests whose context knows the route.
func (r Route) handle() echo.HandlerFunc {
	h := r.Handler
	if r.Small {
		h = LimitTime(h)
	}
	return func(ec echo.Context) error {
		req := ec.Request()
		ec.SetRequest(req.WithContext(r.Context(req.Context())))
		if r.Takes != nil {
			if err := r.Takes.check(ec, r.Action == Read); err != nil {
				return err
			}
		}
		return h(ec)
	}
}

// Context returns the context of a request of the route, for RouteOf.
func (r *Route) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, routeKey{}, r)
}

// RouteOf returns the route of the request that a context belongs to; it is empty for
// another context.
func RouteOf(ctx context.Context) Route {
	if r, ok := ctx.Value(routeKey{}).(*Route); ok {
		return *r
	}
	return Route{}
}
