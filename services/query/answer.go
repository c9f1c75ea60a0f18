package query

import (
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"
)

// answer writes a JSON object with one list to a client, item by item: its
// memory does not grow with the list. Nothing is written before the first item,
// so that an error until then is answered as one.
type answer struct {
	list    string // the name of the list
	enc     *jsontext.Encoder
	started bool
}

func newAnswer(ec echo.Context, list string) *answer {
	return &answer{list: list, enc: jsontext.NewEncoder(lateHead{ec})}
}

func (a *answer) tokens(tokens ...jsontext.Token) error {
	for _, t := range tokens {
		if err := a.enc.WriteToken(t); err != nil {
			return err
		}
	}
	return nil
}

// item adds an item to the list.
func (a *answer) item(v any) error {
	if !a.started {
		a.started = true
		if err := a.tokens(jsontext.BeginObject, jsontext.String(a.list), jsontext.BeginArray); err != nil {
			return err
		}
	}
	return json.MarshalEncode(a.enc, v)
}

// end completes the answer. An empty list is left out, and so is an empty token.
func (a *answer) end(nextPageToken string) error {
	if !a.started {
		return a.tokens(jsontext.BeginObject, jsontext.EndObject)
	}
	if err := a.tokens(jsontext.EndArray); err != nil {
		return err
	}
	if nextPageToken != "" {
		if err := a.tokens(jsontext.String("next_page_token"), jsontext.String(nextPageToken)); err != nil {
			return err
		}
	}
	return a.tokens(jsontext.EndObject)
}

// lateHead writes the head of an answer before its first bytes.
type lateHead struct{ ec echo.Context }

func (w lateHead) Write(p []byte) (int, error) {
	if !w.ec.Response().Committed {
		w.ec.Response().Header().Set(echo.HeaderContentType, echo.MIMEApplicationJSON)
		w.ec.Response().WriteHeader(http.StatusOK)
	}
	return w.ec.Response().Write(p)
}
