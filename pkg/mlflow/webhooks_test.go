package mlflow

import (
	"slices"
	"strings"
	"testing"
)

func TestValidateWebhook(t *testing.T) {
	for name, words := range map[string]string{
		"a": "", "A.b_c-9": "", strings.Repeat("x", 63): "",
		"":      "Webhook name '' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).",
		"a\n":   `Webhook name 'a\n' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).`,
		"a b":   "Webhook name 'a b' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).",
		"-a":    "Webhook name '-a' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).",
		"größe": "Webhook name 'größe' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).",
	} {
		checkMessage(t, ValidateWebhookName(name), words)
	}
	for address, words := range map[string]string{
		"https://a.example/b?c#d": "", "https://user@[::1]:8443/": "",
		"":                 "Webhook URL cannot be empty or just whitespace: ''",
		" ":                "Webhook URL cannot be empty or just whitespace: ' '",
		"http://a.example": "Invalid webhook URL scheme: 'http'. Allowed schemes are: https.",
		"a.example":        "Invalid webhook URL scheme: ''. Allowed schemes are: https.",
		"https:///path":    "Webhook URL must include a hostname: 'https:///path'",
		"https://a b/":     "Invalid webhook URL 'https://a b/'",
	} {
		_, err := ValidateWebhookURL(address, []string{"https"})
		checkMessage(t, err, words)
	}
	names, err := ValidateWebhookEvents([]WebhookEvent{{"MODEL_VERSION_TAG", "SET"}, {"PROMPT", "CREATED"}, {"MODEL_VERSION_TAG", "SET"}})
	if want := []string{"model_version_tag.set", "prompt.created"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("events %q, %v, want %q", names, err, want)
	}
	_, err = ValidateWebhookEvents([]WebhookEvent{{"MODEL_VERSION_TAG", "CREATED"}})
	checkMessage(t, err, "Invalid action 'created' for entity 'model_version_tag'. Valid actions are: ['deleted', 'set']")
	_, err = ValidateWebhookEvents([]WebhookEvent{{"BUDGET_POLICY", "EXCEEDED"}})
	checkMessage(t, err, `Invalid value "BUDGET_POLICY" for parameter 'events[0].entity' supplied: the registry has no such events.`)
	decodeJSON[CreateWebhook](t, `{"name":"a","url":"b","events":[{"entity":"PROMPT"}]}`, missing("events[0].action"))
	decodeJSON[CreateWebhook](t, `{"name":"a","url":"b"}`, missing("events"))
	if got := decodeJSON[TestWebhook](t, `{"event":null}`, ""); got.Event != nil {
		t.Errorf("no event is %+v", got.Event)
	}
	for event := range webhookActions {
		if got := ParseWebhookEvent(WebhookEvent{event, "X"}.String()); got != (WebhookEvent{event, "X"}) {
			t.Errorf("%s becomes %+v", event, got)
		}
	}
}
