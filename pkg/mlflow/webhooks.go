package mlflow

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Webhook is a webhook as MLflow's REST API shows it: never with its secret.
// Times are milliseconds since the Unix epoch.
type Webhook struct {
	WebhookID            string         `json:"webhook_id"`
	Name                 string         `json:"name"`
	Description          string         `json:"description,omitzero"`
	URL                  string         `json:"url"`
	Events               []WebhookEvent `json:"events"`
	Status               string         `json:"status"` // ACTIVE or DISABLED
	CreationTimestamp    int64          `json:"creation_timestamp"`
	LastUpdatedTimestamp int64          `json:"last_updated_timestamp"`
}

// WebhookEvent is a kind of event that webhooks are told of. In requests and
// answers its parts are in upper case.
type WebhookEvent struct {
	Entity string `json:"entity"`
	Action string `json:"action"`
}

func (r *WebhookEvent) fields() []field {
	return []field{
		{name: "entity", required: true, dst: &r.Entity},
		{name: "action", required: true, dst: &r.Action},
	}
}

// String returns the event as MLflow's payloads have it: "model_version.created".
func (r WebhookEvent) String() string { return strings.ToLower(r.Entity + "." + r.Action) }

// ParseWebhookEvent is the inverse of String.
func ParseWebhookEvent(s string) WebhookEvent {
	entity, action, _ := strings.Cut(strings.ToUpper(s), ".")
	return WebhookEvent{entity, action}
}

// webhookActions are the kinds of events that there are. MLflow has one more,
// budget_policy.exceeded, of its gateway.
var webhookActions = map[string][]string{
	"REGISTERED_MODEL":    {"CREATED"},
	"MODEL_VERSION":       {"CREATED"},
	"MODEL_VERSION_TAG":   {"DELETED", "SET"},
	"MODEL_VERSION_ALIAS": {"CREATED", "DELETED"},
	"PROMPT":              {"CREATED"},
	"PROMPT_VERSION":      {"CREATED"},
	"PROMPT_TAG":          {"DELETED", "SET"},
	"PROMPT_VERSION_TAG":  {"DELETED", "SET"},
	"PROMPT_ALIAS":        {"CREATED", "DELETED"},
}

// WebhookResponse answers the RPCs that return one webhook.
type WebhookResponse struct {
	Webhook Webhook `json:"webhook"`
}

// CreateWebhook is the request that makes a webhook. Check it with
// ValidateWebhook. A nil Status is ACTIVE.
type CreateWebhook struct {
	Name, URL   string
	Events      []WebhookEvent
	Description string
	Secret      string
	Status      *string
}

func (r *CreateWebhook) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "url", required: true, dst: &r.URL},
		{name: "events", required: true, dst: listOf(&r.Events)},
		{name: "description", dst: &r.Description},
		{name: "secret", dst: &r.Secret},
		{name: "status", dst: &r.Status},
	}
}

// UpdateWebhook is the request that changes a webhook, which its path names. What
// is nil or empty stays as it is; an empty Description or Secret, when it is
// there, takes what there was away.
type UpdateWebhook struct {
	Name, URL   string
	Events      []WebhookEvent
	Description *string
	Secret      *string
	Status      *string
}

func (r *UpdateWebhook) fields() []field {
	return []field{
		{name: "name", dst: &r.Name},
		{name: "description", dst: &r.Description},
		{name: "url", dst: &r.URL},
		{name: "events", dst: listOf(&r.Events)},
		{name: "secret", dst: &r.Secret},
		{name: "status", dst: &r.Status},
	}
}

// ListWebhooks is the request for a page of webhooks; check MaxResults with
// ValidateWebhooksMaxResults.
type ListWebhooks struct {
	MaxResults int64
	PageToken  string
}

func (r *ListWebhooks) fields() []field {
	return []field{
		{name: "max_results", dst: &r.MaxResults},
		{name: "page_token", dst: &r.PageToken},
	}
}

// ListWebhooksResponse answers it.
type ListWebhooksResponse struct {
	Webhooks      []Webhook `json:"webhooks,omitempty"`
	NextPageToken string    `json:"next_page_token,omitzero"`
}

// TestWebhook is the request to send an example to a webhook, which its path
// names. A nil Event is the webhook's first one.
type TestWebhook struct{ Event *WebhookEvent }

func (r *TestWebhook) fields() []field {
	return []field{{name: "event", dst: optional(&r.Event)}}
}

// TestWebhookResponse answers it.
type TestWebhookResponse struct {
	Result WebhookTestResult `json:"result"`
}

// WebhookTestResult is what came of an example that was sent to a webhook.
type WebhookTestResult struct {
	Success        bool   `json:"success"`
	ResponseStatus int    `json:"response_status,omitzero"` // of HTTP; 0: there was no answer
	ResponseBody   string `json:"response_body,omitzero"`
	ErrorMessage   string `json:"error_message,omitzero"`
}

// Limits on webhooks: MLflow's columns for the first three.
const (
	MaxWebhookURLLength         = 500
	MaxWebhookDescriptionLength = 1000
	MaxWebhookNameLength        = 63
	MaxWebhookSecretLength      = 1000
	DefaultListWebhooks         = 100
	MaxListWebhooks             = 1000
)

var webhookName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$`)

// ValidateWebhookName checks the name of a webhook.
func ValidateWebhookName(name string) error {
	if len(name) > MaxWebhookNameLength || !webhookName.MatchString(name) {
		return invalidf("Webhook name %s is invalid. It must start and end with a letter or digit, "+
			"be less than 63 characters long, and contain only letters, digits, dots (.), "+
			"underscores (_), and hyphens (-).", clip(pyRepr(name)))
	}
	return nil
}

// ValidateWebhookURL checks the address of a webhook, and returns its host name.
// Only these schemes may be used.
func ValidateWebhookURL(address string, schemes []string) (host string, err error) {
	if strings.TrimSpace(address) == "" {
		return "", invalidf("Webhook URL cannot be empty or just whitespace: %s", pyRepr(address))
	}
	if err := checkLength("Webhook URL", address, MaxWebhookURLLength); err != nil {
		return "", err
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", invalidf("Invalid webhook URL %s", pyRepr(address))
	}
	if !slices.Contains(schemes, u.Scheme) {
		return "", invalidf("Invalid webhook URL scheme: %s. Allowed schemes are: %s.", pyRepr(u.Scheme), strings.Join(schemes, ", "))
	}
	if u.Hostname() == "" {
		return "", invalidf("Webhook URL must include a hostname: %s", pyRepr(address))
	}
	return u.Hostname(), nil
}

// ValidateWebhookEvents checks what a webhook is to be told of, and returns it as
// String has it, each once.
func ValidateWebhookEvents(list []WebhookEvent) ([]string, error) {
	if len(list) == 0 {
		return nil, invalidf("Webhook events must be a non-empty list of WebhookEvent objects: [].")
	}
	var names []string
	for i, e := range list {
		actions, ok := webhookActions[e.Entity]
		if !ok {
			return nil, invalidValue(fmt.Sprintf("events[%d].entity", i), jsonQuote(clip(e.Entity)), "the registry has no such events.")
		}
		if !slices.Contains(actions, e.Action) {
			return nil, invalidf("Invalid action '%s' for entity '%s'. Valid actions are: %s",
				strings.ToLower(clip(e.Action)), strings.ToLower(e.Entity), strings.ToLower(pyList(actions)))
		}
		if name := e.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// ValidateWebhookTexts checks the description and the secret of a webhook.
func ValidateWebhookTexts(description, secret string) error {
	if err := checkLength("Webhook description", description, MaxWebhookDescriptionLength); err != nil {
		return err
	}
	return asError(checkLength("Webhook secret", secret, MaxWebhookSecretLength))
}

// ValidateWebhookStatus checks the status of a webhook.
func ValidateWebhookStatus(status string) error {
	if status != "ACTIVE" && status != "DISABLED" {
		return invalidValue("status", jsonQuote(clip(status)), "it must be ACTIVE or DISABLED.")
	}
	return nil
}

// ValidateWebhooksMaxResults checks the size of a page of webhooks, and returns
// it with 0 replaced by MLflow's.
func ValidateWebhooksMaxResults(n int64) (int64, error) {
	if n == 0 {
		return DefaultListWebhooks, nil
	}
	if n < 1 || n > MaxListWebhooks {
		return 0, invalidf("max_results must be between 1 and %d.", MaxListWebhooks)
	}
	return n, nil
}
