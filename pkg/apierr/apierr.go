// Package apierr holds the error value that every service answers with: a
// code that decides the HTTP status, a message that is safe to show to the
// caller, and optionally how long to wait before trying again.
package apierr

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Code names a kind of failure, spelled as MLflow's clients expect it in the
// "error_code" of an answer.
type Code string

// The codes of MLflow's REST API that Runledger answers with.
const (
	// InvalidParameterValue is a request that can never succeed as it stands.
	InvalidParameterValue Code = "INVALID_PARAMETER_VALUE"
	// BadRequest is a request that could not be understood.
	BadRequest Code = "BAD_REQUEST"
	// ResourceAlreadyExists is a name that is taken.
	ResourceAlreadyExists Code = "RESOURCE_ALREADY_EXISTS"
	// Unauthenticated is a caller that has not said who it is.
	Unauthenticated Code = "UNAUTHENTICATED"
	// PermissionDenied is a known caller that may not do this.
	PermissionDenied Code = "PERMISSION_DENIED"
	// ResourceDoesNotExist is a run, experiment, model or version that is not there.
	ResourceDoesNotExist Code = "RESOURCE_DOES_NOT_EXIST"
	// EndpointNotFound is a path that the server does not serve.
	EndpointNotFound Code = "ENDPOINT_NOT_FOUND"
	// ResourceConflict is a write that lost against a concurrent one.
	ResourceConflict Code = "RESOURCE_CONFLICT"
	// RequestLimitExceeded is a caller that sends more than it may: slow down.
	RequestLimitExceeded Code = "REQUEST_LIMIT_EXCEEDED"
	// Cancelled is a request whose caller went away.
	Cancelled Code = "CANCELLED"
	// InvalidState is a resource in a state that forbids the operation.
	// MLflow answers it with 500, which its clients retry.
	InvalidState Code = "INVALID_STATE"
	// FeatureDisabled is a part of MLflow's API that this server does not have.
	// MLflow answers it with 500, which its clients would repeat.
	FeatureDisabled Code = "FEATURE_DISABLED"
	// InternalError is a failure that is not the caller's.
	InternalError Code = "INTERNAL_ERROR"
	// NotImplemented is an operation that Runledger does not offer.
	NotImplemented Code = "NOT_IMPLEMENTED"
	// TemporarilyUnavailable is a server that cannot take the request now.
	TemporarilyUnavailable Code = "TEMPORARILY_UNAVAILABLE"
	// DeadlineExceeded is an operation that ran out of time.
	DeadlineExceeded Code = "DEADLINE_EXCEEDED"
)

// statusCancelled is the status MLflow gives a cancelled request; net/http has
// no name for it.
const statusCancelled = 499

// HTTPStatus returns the status that MLflow answers the code with, but for
// FeatureDisabled, and 500 for a code it does not know.
func (c Code) HTTPStatus() int {
	switch c {
	case InvalidParameterValue, BadRequest, ResourceAlreadyExists, FeatureDisabled:
		return http.StatusBadRequest
	case Unauthenticated:
		return http.StatusUnauthorized
	case PermissionDenied:
		return http.StatusForbidden
	case ResourceDoesNotExist, EndpointNotFound:
		return http.StatusNotFound
	case ResourceConflict:
		return http.StatusConflict
	case RequestLimitExceeded:
		return http.StatusTooManyRequests
	case Cancelled:
		return statusCancelled
	case NotImplemented:
		return http.StatusNotImplemented
	case TemporarilyUnavailable:
		return http.StatusServiceUnavailable
	case DeadlineExceeded:
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

// Error is a failure with a code. Message is shown to the caller; the cause is
// for logs only.
type Error struct {
	Code    Code
	Message string
	// RetryAfter is how long the caller should wait before it tries again;
	// zero says nothing about it.
	RetryAfter time.Duration

	err error
}

// Errorf returns an error with the code and a formatted message. A %w verb
// keeps its operand as the cause, and shows its text to the caller as well.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), err: errors.Unwrap(err)}
}

// Wrap returns an error with the code and message whose cause is err. The
// caller of the API sees the message and never the cause. Wrap of a nil err is
// an error without a cause.
func Wrap(err error, code Code, message string) *Error {
	return &Error{Code: code, Message: message, err: err}
}

// Error returns the code, the message and the cause, for logs.
func (e *Error) Error() string {
	if e.err == nil {
		return string(e.Code) + ": " + e.Message
	}
	return string(e.Code) + ": " + e.Message + ": " + e.err.Error()
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.err }

// Is reports whether target is an *Error of the same code, so that
// errors.Is(err, &apierr.Error{Code: c}) asks for a kind of failure. A target
// with a message must match it too.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Message == "" || t.Message == e.Message)
}

// WithRetryAfter returns a copy of e that asks the caller to wait for d.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// CodeOf returns the code of the first *Error in err's chain, Cancelled and
// DeadlineExceeded for the errors of a context, InternalError for any other
// error, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return From(err).Code
}

// From returns what a caller may see of err: the first *Error in its chain, or
// an error that gives no more away than its code. It returns nil for nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Wrap(err, Cancelled, "The request was cancelled.")
	case errors.Is(err, context.DeadlineExceeded):
		return Wrap(err, DeadlineExceeded, "The request took too long.")
	}
	return Wrap(err, InternalError, "An internal error occurred.")
}
