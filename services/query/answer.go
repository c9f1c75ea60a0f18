package query

import (
	"errors"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"
)

// stallTimeout bounds how long a client may take to read one piece of an
// answer, so that a slow one does not keep a slot.
const stallTimeout = 30 * time.Second

// answer writes a JSON object with one list to a client, item by item: its
// memory does not grow with the list. Nothing is written before the first item,
// so that an error until then is answered as one.
type answer struct {
	list    string // the name of the list
	w       *patientWriter
	enc     *jsontext.Encoder
	started bool
}

func newAnswer(ec echo.Context, list string) *answer {
	w := &patientWriter{ec: ec, control: http.NewResponseController(ec.Response())}
	return &answer{list: list, w: w, enc: jsontext.NewEncoder(w)}
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

// patientWriter writes the head of an answer before its first bytes, and gives
// the client stallTimeout for each piece.
type patientWriter struct {
	ec      echo.Context
	control *http.ResponseController
}

func (w *patientWriter) Write(p []byte) (int, error) {
	if !w.ec.Response().Committed {
		w.ec.Response().Header().Set(echo.HeaderContentType, echo.MIMEApplicationJSON)
		w.ec.Response().WriteHeader(http.StatusOK)
	}
	if err := w.control.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return w.ec.Response().Write(p)
}
