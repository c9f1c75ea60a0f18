package query

import (
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
)

func decodeBody(ec echo.Context, v any) error { return httpapi.DecodeBody(ec, v) }

func invalid(field, format string, args ...any) error {
	return httpapi.InvalidField(field, format, args...)
}
