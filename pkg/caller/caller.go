// Package caller says who asks, to all that a request reaches.
package caller

import "context"

// Proof is how a caller has shown to be who it says it is.
type Proof string

const (
	// Anonymous is a caller that says nothing of itself.
	Anonymous Proof = ""
	// Claimed is a name that nothing has checked: the user name of HTTP basic
	// authentication.
	Claimed Proof = "claimed"
)

// Caller is who makes a request.
type Caller struct {
	Name      string // "" for Anonymous
	Proof     Proof
	RequestID string
}

type key struct{}

// With returns a context of what c asks for.
func With(ctx context.Context, c Caller) context.Context { return context.WithValue(ctx, key{}, c) }

// Of returns who asks for what a context belongs to, the zero Caller for what nobody
// has asked for.
func Of(ctx context.Context) Caller {
	c, _ := ctx.Value(key{}).(Caller)
	return c
}
