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
	empty   bool   // an empty list is written too
	enc     *jsontext.Encoder
	started bool
}

func newAnswer(ec echo.Context, list string) *answer {
	return &answer{list: list, enc: jsontext.NewEncoder(lateHead{ec, echo.MIMEApplicationJSON}, jsontext.AllowInvalidUTF8(true))}
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
	if err := a.start(); err != nil {
		return err
	}
	return json.MarshalEncode(a.enc, v)
}

func (a *answer) start() error {
	if a.started {
		return nil
	}
	a.started = true
	return a.tokens(jsontext.BeginObject, jsontext.String(a.list), jsontext.BeginArray)
}

// end completes the answer. An empty token is left out, and so is an empty list
// where MLflow leaves it out.
func (a *answer) end(nextPageToken string) error {
	if !a.started && !a.empty {
		return a.tokens(jsontext.BeginObject, jsontext.EndObject)
	}
	if err := a.start(); err != nil {
		return err
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

// endWith completes the answer with a member after the list.
func (a *answer) endWith(name string, v any) error {
	if err := a.start(); err != nil {
		return err
	}
	if err := a.tokens(jsontext.EndArray, jsontext.String(name)); err != nil {
		return err
	}
	if err := json.MarshalEncode(a.enc, v); err != nil {
		return err
	}
	return a.tokens(jsontext.EndObject)
}

// lateHead writes the head of an answer before its first bytes.
type lateHead struct {
	ec          echo.Context
	contentType string
}

func (w lateHead) Write(p []byte) (int, error) {
	w.begin()
	return w.ec.Response().Write(p)
}

func (w lateHead) begin() {
	if !w.ec.Response().Committed {
		w.ec.Response().Header().Set(echo.HeaderContentType, w.contentType)
		w.ec.Response().WriteHeader(http.StatusOK)
	}
}
