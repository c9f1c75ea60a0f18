package mlflow

import (
	"slices"
	"strings"
	"testing"
)

func TestValidateWebhook(t *testing.T) {
	for name, words := range map[string]string{
		"a": "", "A.b_c-9": "", strings.Repeat("x", 63): "",
		strings.Repeat("x", 64): "Webhook name '" + strings.Repeat("x", 64) + "' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).",
		"":                      "Webhook name '' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).",
		"a\n":                   `Webhook name 'a\n' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).`,
		"a b":                   "Webhook name 'a b' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).",
		"-a":                    "Webhook name '-a' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).",
		"größe":                 "Webhook name 'größe' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).",
	} {
		checkMessage(t, ValidateWebhookName(name), words)
	}
	for address, words := range map[string]string{
		"https://a.example/b?c#d": "", "https://user@[::1]:8443/": "",
		"":                 "Webhook URL cannot be empty or just whitespace: ''",
		" ":                "Webhook URL cannot be empty or just whitespace: ' '",
		"http://a.example": "Invalid webhook URL scheme: 'http'. Allowed schemes are: https.",
		"a.example":        "Invalid webhook URL scheme: ''. Allowed schemes are: https.",
		"https://:8443/":   "Webhook URL must include a hostname: 'https://:8443/'",
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
	long := strings.Repeat("é", 1001)
	checkMessage(t, ValidateWebhookTexts(long[:2000], long[:2000]), "")
	checkMessage(t, ValidateWebhookTexts(long, ""), "'Webhook description' exceeds the maximum length of 1000 characters")
	checkMessage(t, ValidateWebhookTexts("", long), "'Webhook secret' exceeds the maximum length of 1000 characters")
	_, err = ValidateWebhookURL("https://a.example/"+strings.Repeat("x", 483), []string{"https"})
	checkMessage(t, err, "'Webhook URL' exceeds the maximum length of 500 characters")
	for status, words := range map[string]string{
		"ACTIVE": "", "DISABLED": "", "active": `Invalid value "active" for parameter 'status' supplied: it must be ACTIVE or DISABLED.`,
	} {
		checkMessage(t, ValidateWebhookStatus(status), words)
	}
	for n, want := range map[int64]int64{0: 100, 1: 1, 1000: 1000, 1001: 0, -1: 0} {
		if got, err := ValidateWebhooksMaxResults(n); got != want || (err != nil) != (want == 0) {
			t.Errorf("pages of %d: %d, %v", n, got, err)
		}
	}
	for event := range webhookActions {
		if got := ParseWebhookEvent(WebhookEvent{event, "X"}.String()); got != (WebhookEvent{event, "X"}) {
			t.Errorf("%s becomes %+v", event, got)
		}
	}
}
