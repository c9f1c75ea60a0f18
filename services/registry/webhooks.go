package registry

import (
	"cmp"
	"slices"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/webhooks"
)

const (
	defaultAttempts = 100
	maxAttempts     = 1000
)

func (s *Service) createWebhook(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.CreateWebhook](c.Request())
	if err != nil {
		return err
	}
	status := catalog.WebhookActive
	if req.Status != nil {
		status = *req.Status
	}
	if err := s.checkWebhook(c, req.Name, req.URL, status); err != nil {
		return err
	}
	names, err := mlflow.ValidateWebhookEvents(req.Events)
	if err != nil {
		return err
	}
	if err := mlflow.ValidateWebhookTexts(req.Description, req.Secret); err != nil {
		return err
	}
	id := uuid.NewString()
	if key := c.Request().Header.Get(httpapi.HeaderIdempotencyKey); key != "" {
		// So that a repeated request finds what the first one made.
		id = uuid.NewSHA1(uuid.NameSpaceURL, []byte("runledger:webhook:"+key)).String()
	}
	sealed, err := s.webhooks.SealSecret(id, req.Secret)
	if err != nil {
		return err
	}
	return s.changeWebhook(c, command{
		action: "webhook_created", webhook: id,
		decide: func(st *catalog.State) (*events.Event, error) {
			if st.WebhookCount() >= webhooks.Max {
				return nil, apierr.Errorf(apierr.InvalidParameterValue, "There are %d webhooks already, and there cannot be more", webhooks.Max)
			}
			return &events.Event{Data: &events.Event_WebhookCreated{WebhookCreated: &events.WebhookCreated{
				WebhookId: id, Name: req.Name, Url: req.URL, Description: req.Description, Events: names, Status: status, SealedSecret: sealed,
			}}}, nil
		},
	})
}

// checkWebhook checks the parts that both requests have; the empty ones are not
// there.
func (s *Service) checkWebhook(c echo.Context, name, url, status string) error {
	if name != "" {
		if err := mlflow.ValidateWebhookName(name); err != nil {
			return err
		}
	}
	if status != "" {
		if err := mlflow.ValidateWebhookStatus(status); err != nil {
			return err
		}
	}
	if url != "" {
		return s.webhooks.CheckURL(c.Request().Context(), url)
	}
	return nil
}

func (s *Service) updateWebhook(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.UpdateWebhook](c.Request())
	if err != nil {
		return err
	}
	id := httpapi.PathParam(c, "id")
	e := &events.WebhookUpdated{WebhookId: id, Description: req.Description, Status: req.Status}
	if req.Status != nil {
		if err := mlflow.ValidateWebhookStatus(*req.Status); err != nil {
			return err
		}
	}
	if err := s.checkWebhook(c, req.Name, req.URL, ""); err != nil {
		return err
	}
	if req.Name != "" {
		e.Name = &req.Name
	}
	if req.URL != "" {
		e.Url = &req.URL
	}
	if len(req.Events) > 0 {
		if e.Events, err = mlflow.ValidateWebhookEvents(req.Events); err != nil {
			return err
		}
	}
	if err := mlflow.ValidateWebhookTexts(deref(req.Description), deref(req.Secret)); err != nil {
		return err
	}
	if req.Secret != nil {
		if e.SealedSecret, err = s.webhooks.SealSecret(id, *req.Secret); err != nil {
			return err
		}
	}
	return s.changeWebhook(c, command{
		action: "webhook_updated", webhook: id,
		decide: func(st *catalog.State) (*events.Event, error) {
			if _, err := findWebhook(st, id); err != nil {
				return nil, err
			}
			return &events.Event{Data: &events.Event_WebhookUpdated{WebhookUpdated: e}}, nil
		},
	})
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (s *Service) deleteWebhook(c echo.Context) error {
	id := httpapi.PathParam(c, "id")
	return s.change(c, command{
		action: "webhook_deleted", webhook: id,
		decide: func(st *catalog.State) (*events.Event, error) {
			if _, err := findWebhook(st, id); err != nil {
				return nil, err
			}
			return &events.Event{Data: &events.Event_WebhookDeleted{WebhookDeleted: &events.WebhookDeleted{WebhookId: id}}}, nil
		},
	})
}

func (s *Service) getWebhook(c echo.Context) error {
	st, err := s.read(c)
	if err != nil {
		return err
	}
	w, err := findWebhook(st, httpapi.PathParam(c, "id"))
	if err != nil {
		return err
	}
	tellSeq(c, w.Last)
	return answerWebhook(c, w)
}

// webhookCursor is the token of a page of webhooks: the last one of the page
// before.
type webhookCursor struct {
	Seq uint64 `json:"seq"`
}

// listWebhooks answers with the webhooks, the latest first.
func (s *Service) listWebhooks(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.ListWebhooks](c.Request())
	if err != nil {
		return err
	}
	limit, err := mlflow.ValidateWebhooksMaxResults(req.MaxResults)
	if err != nil {
		return err
	}
	after, err := mlflow.DecodePageToken[webhookCursor](req.PageToken)
	if err != nil {
		return err
	}
	st, err := s.read(c)
	if err != nil {
		return err
	}
	var found []*catalog.Webhook
	for w := range st.Webhooks() {
		if req.PageToken == "" || w.Seq < after.Seq {
			found = append(found, w)
		}
	}
	slices.SortFunc(found, func(a, b *catalog.Webhook) int { return cmp.Compare(b.Seq, a.Seq) })
	var out mlflow.ListWebhooksResponse
	if int64(len(found)) > limit {
		found = found[:limit]
		if out.NextPageToken, err = mlflow.EncodePageToken(webhookCursor{found[limit-1].Seq}); err != nil {
			return err
		}
	}
	for _, w := range found {
		out.Webhooks = append(out.Webhooks, renderWebhook(w))
	}
	return mlflow.WriteJSON(c.Response(), out)
}

// testWebhook sends an example to a webhook and answers with what came of it.
func (s *Service) testWebhook(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.TestWebhook](c.Request())
	if err != nil {
		return err
	}
	st, err := s.read(c)
	if err != nil {
		return err
	}
	w, err := findWebhook(st, httpapi.PathParam(c, "id"))
	if err != nil {
		return err
	}
	event := w.Events[0]
	if req.Event != nil {
		names, err := mlflow.ValidateWebhookEvents([]mlflow.WebhookEvent{*req.Event})
		if err != nil {
			return err
		}
		event = names[0]
	}
	return mlflow.WriteJSON(c.Response(), mlflow.TestWebhookResponse{Result: s.webhooks.Test(c.Request().Context(), w, event)})
}

// attemptCursor is the token of a page of attempts: the last one of the page
// before.
type attemptCursor struct {
	Record uint64 `json:"record"`
}

type attemptsResponse struct {
	Deliveries    []webhooks.Attempt `json:"deliveries"`
	NextPageToken string             `json:"next_page_token"`
}

// webhookAttempts answers with what was sent to a webhook, the latest first. It
// does so for a deleted one too, as long as there is anything.
func (s *Service) webhookAttempts(c echo.Context) error {
	limit, err := pageLimit(c, defaultAttempts, maxAttempts)
	if err != nil {
		return err
	}
	before, err := mlflow.DecodePageToken[attemptCursor](c.QueryParam("page_token"))
	if err != nil {
		return err
	}
	id := httpapi.PathParam(c, "id")
	st, err := s.read(c)
	if err != nil {
		return err
	}
	_, unknown := findWebhook(st, id)
	if unknown != nil && uuid.Validate(id) != nil {
		return unknown
	}
	found, err := s.webhooks.Attempts(c.Request().Context(), id, before.Record, limit+1)
	if err != nil {
		return err
	}
	if len(found) == 0 && unknown != nil {
		return unknown
	}
	out := attemptsResponse{Deliveries: found}
	if len(found) > limit {
		out.Deliveries = found[:limit]
		if out.NextPageToken, err = mlflow.EncodePageToken(attemptCursor{found[limit-1].Record}); err != nil {
			return err
		}
	}
	return mlflow.WriteJSON(c.Response(), out)
}

// changeWebhook runs a command and answers with the webhook after it.
func (s *Service) changeWebhook(c echo.Context, cmd command) error {
	out, err := s.do(c, cmd)
	if err != nil {
		return err
	}
	w, err := findWebhook(out.state, cmd.webhook)
	if err != nil {
		return err
	}
	return answerWebhook(c, w)
}

func answerWebhook(c echo.Context, w *catalog.Webhook) error {
	return mlflow.WriteJSON(c.Response(), mlflow.WebhookResponse{Webhook: renderWebhook(w)})
}

func findWebhook(st *catalog.State, id string) (*catalog.Webhook, error) {
	w, ok := st.Webhook(id)
	if !ok {
		return nil, mlflow.WebhookNotFound(id)
	}
	return w, nil
}

func renderWebhook(w *catalog.Webhook) mlflow.Webhook {
	out := mlflow.Webhook{
		WebhookID: w.ID, Name: w.Name, Description: w.Description, URL: w.URL, Status: w.Status,
		CreationTimestamp: w.Created, LastUpdatedTimestamp: w.Updated,
	}
	for _, name := range w.Events {
		out.Events = append(out.Events, mlflow.ParseWebhookEvent(name))
	}
	return out
}
