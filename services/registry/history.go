package registry

import (
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/ledger"
)

const (
	defaultHistory = 100
	maxHistory     = 1000
)

// historyCursor is the token of a page of history.
type historyCursor struct {
	Index uint64 `json:"index"` // of the first entry
}

type historyResponse struct {
	Entries       []ledger.HistoryEntry `json:"entries"`
	NextPageToken string                `json:"next_page_token"`
}

// history answers with the ledger's entries about a model, oldest first, as of
// now or any moment.
func (s *Service) history(c echo.Context) error {
	name := httpapi.PathParam(c, "name")
	limit, err := pageLimit(c, defaultHistory, maxHistory)
	if err != nil {
		return err
	}
	from, err := mlflow.DecodePageToken[historyCursor](c.QueryParam("page_token"))
	if err != nil {
		return err
	}
	size, err := s.sizeAsOf(c)
	if err != nil {
		return err
	}
	entries, next, more, known, err := s.ledger.HistoryAsOf(name, size, from.Index, limit)
	if err != nil {
		return err
	}
	if !known {
		return mlflow.ModelNotFound(name)
	}
	out := historyResponse{Entries: entries}
	if out.Entries == nil {
		out.Entries = []ledger.HistoryEntry{}
	}
	if more {
		if out.NextPageToken, err = mlflow.EncodePageToken(historyCursor{Index: next}); err != nil {
			return err
		}
	}
	return mlflow.WriteJSON(c.Response(), out)
}

// pageLimit returns the max_results of a request.
func pageLimit(c echo.Context, otherwise, most int) (int, error) {
	text := c.QueryParam("max_results")
	if text == "" {
		return otherwise, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > most {
		return 0, apierr.Errorf(apierr.InvalidParameterValue,
			"Invalid value %q for parameter 'max_results' supplied. It must be an integer from 1 to %d.", text, most)
	}
	return limit, nil
}
