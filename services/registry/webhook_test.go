package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry"
	"github.com/runledger/runledger/services/registry/webhooks"
)

// receiver is a server that webhooks are sent to.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	took []delivery
	// answer returns the status for a delivery, and may take its time.
	answer func(delivery) int
}

type delivery struct {
	path, id, signature string
	Entity, Action      string
	Data                map[string]any
}

func (d delivery) event() string { return d.Entity + "." + d.Action }

func newReceiver(t *testing.T, answer func(delivery) int) *receiver {
	t.Helper()
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		d := delivery{path: req.URL.Path, id: req.Header.Get("X-MLflow-Delivery-Id"), signature: req.Header.Get("X-MLflow-Signature")}
		body, err := io.ReadAll(req.Body)
		if err == nil {
			err = json.Unmarshal(body, &d)
		}
		if err != nil {
			t.Errorf("a delivery that cannot be read: %v", err)
		}
		status := r.answer(d)
		if status == http.StatusOK {
			r.mu.Lock()
			r.took = append(r.took, d)
			r.mu.Unlock()
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(r.Close)
	return r
}

func always(status int) func(delivery) int { return func(delivery) int { return status } }

func (r *receiver) on(path string) []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []delivery
	for _, d := range r.took {
		if d.path == path {
			found = append(found, d)
		}
	}
	return found
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in a minute: ", what)
		}
	}
}

func (s *server) hook(url, secret string, names ...string) string {
	s.t.Helper()
	var list []fields
	for _, name := range names {
		entity, action, _ := strings.Cut(strings.ToUpper(name), ".")
		list = append(list, fields{"entity": entity, "action": action})
	}
	f := fields{"name": "hook", "url": url, "events": list, "secret": secret}
	return s.must("POST", "webhooks", f)["webhook"].(map[string]any)["webhook_id"].(string)
}

func (s *server) attempts(id string) []map[string]any {
	s.t.Helper()
	a := s.raw("GET", "/api/v1/webhooks/"+id+"/deliveries", nil)
	if a.status != http.StatusOK {
		s.t.Fatalf("deliveries of %s: %d %v", id, a.status, a.body)
	}
	var all []map[string]any
	for _, item := range a.body["deliveries"].([]any) {
		all = append(all, item.(map[string]any))
	}
	return all
}

// Two processes share the work: every event comes once to every webhook that
// wants it, and a slow webhook keeps no other waiting.
func TestTwoProcessesDeliverOnce(t *testing.T) {
	release := make(chan struct{})
	r := newReceiver(t, func(d delivery) int {
		if d.path == "/slow" {
			<-release
		}
		return http.StatusOK
	})
	n := natstest.Start(t)
	log := openLog(t, n)
	dir := t.TempDir()
	servers := [2]*server{start(t, log, filepath.Join(dir, "a")), start(t, log, filepath.Join(dir, "b"))}
	for _, s := range servers {
		t.Cleanup(s.close)
	}
	s := servers[0]
	slow := s.hook(r.URL+"/slow", "", "model_version.created")
	fast := s.hook(r.URL+"/fast", "secret", "model_version.created", "registered_model.created")
	s.create("m")
	const versions = 60
	var wg sync.WaitGroup
	for i := range versions {
		wg.Go(func() { servers[i%2].addVersion("m") })
	}
	wg.Wait()
	eventually(t, "all deliveries to the fast webhook", func() bool { return len(r.on("/fast")) >= versions+1 })
	if got := r.on("/slow"); len(got) != 0 {
		t.Errorf("the slow webhook took %d", len(got))
	}
	close(release)
	eventually(t, "all deliveries to the slow webhook", func() bool { return len(r.on("/slow")) >= versions })
	for path, want := range map[string]int{"/fast": versions + 1, "/slow": versions} {
		ids := make(map[string]bool)
		for _, d := range r.on(path) {
			ids[d.id] = true
			if (d.signature != "") != (path == "/fast") {
				t.Errorf("%s: signature %q", path, d.signature)
			}
		}
		if len(ids) != want || len(r.on(path)) != want {
			t.Errorf("%s: %d deliveries of %d events, want %d", path, len(r.on(path)), len(ids), want)
		}
	}
	eventually(t, "all attempts recorded", func() bool { return len(servers[1].attempts(fast)) == min(versions+1, 100) })
	for _, a := range s.attempts(fast) {
		if a["outcome"] != "delivered" || a["attempt"] != 1.0 || a["response_status"] != 200.0 {
			t.Errorf("attempt %v", a)
		}
	}
	// Of a deleted webhook only the record is left.
	s.must("DELETE", "webhooks/"+slow, nil)
	eventually(t, "the consumer to go", func() bool {
		_, err := log.JetStream().Consumer(t.Context(), events.StreamRegistry, "webhook-"+slow)
		return err == jetstream.ErrConsumerNotFound
	})
	if len(s.attempts(slow)) == 0 {
		t.Error("nothing is known of a deleted webhook")
	}
	for _, id := range []string{"nope", "00000000-0000-4000-8000-000000000000", "a.b", "*", "%3E"} {
		if a := s.raw("GET", "/api/v1/webhooks/"+id+"/deliveries", nil); a.status != http.StatusNotFound {
			t.Errorf("deliveries of %s: %d %v", id, a.status, a.body)
		}
	}
}

// A consumer that nobody deleted goes when the registry starts.
func TestOrphanedConsumersGo(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	const orphan = "webhook-00000000-0000-4000-8000-000000000000"
	_, err := log.JetStream().CreateConsumer(t.Context(), events.StreamRegistry, jetstream.ConsumerConfig{Durable: orphan, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	kept := "webhook-" + s.hook("http://127.0.0.1:1/", "", "prompt.created")
	eventually(t, "the orphan to go", func() bool {
		_, err := log.JetStream().Consumer(t.Context(), events.StreamRegistry, orphan)
		return err == jetstream.ErrConsumerNotFound
	})
	eventually(t, "the other to be there", func() bool {
		_, err := log.JetStream().Consumer(t.Context(), events.StreamRegistry, kept)
		return err == nil
	})
}

// A webhook whose consumer is made late, or again, misses nothing: it begins
// behind the event that made the webhook.
func TestALateConsumerMissesNothing(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, always(http.StatusOK))
	log := openLog(t, natstest.Start(t))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	id := s.hook(r.URL+"/late", "", "registered_model.created")
	s.create("first")
	eventually(t, "the first delivery", func() bool { return len(r.on("/late")) == 1 })
	if err := log.JetStream().DeleteConsumer(t.Context(), events.StreamRegistry, "webhook-"+id); err != nil {
		t.Fatal(err)
	}
	s.create("second")
	eventually(t, "the second delivery", func() bool {
		return slices.ContainsFunc(r.on("/late"), func(d delivery) bool { return d.Data["name"] == "second" })
	})
}

// What a prompt was told of is a prompt's event, also when the prompt has
// another name or is gone by the time it is delivered.
func TestAPromptIsOneAsOfTheEvent(t *testing.T) {
	open := make(chan struct{})
	r := newReceiver(t, func(delivery) int {
		select {
		case <-open:
			return http.StatusOK
		default:
			return http.StatusServiceUnavailable
		}
	})
	s := newServer(t)
	id := s.hook(r.URL+"/all", "", "model_version_alias.created", "prompt_alias.created", "model_version_tag.set", "prompt_version_tag.set", "prompt_tag.set")
	// The first delivery fails until all has happened, and those behind it too.
	prompt := []fields{{"key": "mlflow.prompt.is_prompt", "value": "true"}}
	for _, name := range []string{"renamed", "deleted", "made again"} {
		s.must("POST", "registered-models/create", fields{"name": name, "tags": prompt})
		s.must("POST", "model-versions/create", fields{"name": name, "source": "dummy-source", "tags": prompt})
		s.must("POST", "registered-models/alias", fields{"name": name, "alias": "a", "version": "1"})
		s.must("POST", "model-versions/set-tag", fields{"name": name, "version": "1", "key": "k", "value": "v"})
		s.must("POST", "registered-models/set-tag", fields{"name": name, "key": "k", "value": "v"})
	}
	s.must("POST", "registered-models/rename", fields{"name": "renamed", "new_name": "renamed now"})
	s.must("DELETE", "registered-models/delete", fields{"name": "deleted"})
	s.must("DELETE", "registered-models/delete", fields{"name": "made again"})
	s.create("made again")
	s.addVersion("made again")
	s.must("POST", "registered-models/alias", fields{"name": "made again", "alias": "b", "version": "1"})
	close(open)
	eventually(t, "all deliveries", func() bool { return len(r.on("/all")) >= 10 })
	var got []string
	for _, d := range r.on("/all") {
		got = append(got, fmt.Sprint(d.event(), " ", d.Data["name"]))
	}
	slices.Sort(got)
	want := []string{
		"model_version_alias.created made again",
		"prompt_alias.created deleted", "prompt_alias.created made again", "prompt_alias.created renamed",
		"prompt_tag.set deleted", "prompt_tag.set made again", "prompt_tag.set renamed",
		"prompt_version_tag.set deleted", "prompt_version_tag.set made again", "prompt_version_tag.set renamed",
	}
	if !slices.Equal(got, want) {
		t.Errorf("told of\n%q, want\n%q", got, want)
	}
	failed := slices.ContainsFunc(s.attempts(id), func(a map[string]any) bool { return a["outcome"] == "retrying" })
	if !failed {
		t.Error("nothing failed before")
	}
}

// An event whose secret cannot be read is not sent without a signature; it is
// sent once the process has the key again.
func TestNothingIsSentUnsigned(t *testing.T) {
	r := newReceiver(t, always(http.StatusOK))
	log := openLog(t, natstest.Start(t))
	dir := t.TempDir()
	right, wrong := filepath.Join(dir, "right"), filepath.Join(dir, "wrong")
	open := func(key string) *server { return startWithKey(t, log, filepath.Join(dir, "ledger"), key) }
	s := open(right)
	id := s.hook(r.URL+"/signed", "secret", "registered_model.created")
	s.close()
	s = open(wrong)
	s.create("m")
	eventually(t, "an attempt", func() bool { return len(s.attempts(id)) > 0 })
	if a := s.attempts(id)[0]; a["outcome"] != "retrying" || !strings.Contains(fmt.Sprint(a["error"]), "another key") {
		t.Errorf("the attempt with another key: %v", a)
	}
	if got := s.must("POST", "webhooks/"+id+"/test", fields{})["result"].(map[string]any); got["success"] != false {
		t.Errorf("the test with another key: %v", got)
	}
	s.close()
	if got := r.on("/signed"); len(got) != 0 {
		t.Errorf("sent with another key: %v", got)
	}
	s = open(right)
	defer s.close()
	eventually(t, "the delivery", func() bool { return len(r.on("/signed")) == 1 })
	if got := r.on("/signed")[0]; got.signature == "" {
		t.Error("it is not signed")
	}

	none := startWithKey(t, log, filepath.Join(dir, "none"), "")
	defer none.close()
	body := fields{"name": "hook", "url": r.URL, "events": []fields{{"entity": "PROMPT", "action": "CREATED"}}, "secret": "s"}
	if a := none.send("POST", "webhooks", body); a.status != http.StatusNotImplemented {
		t.Errorf("a secret without a key: %d %v", a.status, a.body)
	}
	delete(body, "secret")
	none.must("POST", "webhooks", body)
}

func startWithKey(t *testing.T, log *eventlog.Log, dir, key string) *server {
	t.Helper()
	service, err := registry.New(context.Background(), registry.Config{Log: log, Dir: dir, Registerer: prometheus.NewRegistry(), Webhooks: webhooks.Options{
		KeyFile: key, Schemes: []string{"http"}, AllowPrivate: true, FirstWait: 10 * time.Millisecond,
	}})
	if err != nil {
		t.Fatal(err)
	}
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	service.Register(e)
	return &server{t: t, service: service, dir: dir, echo: e}
}

// Each part of a webhook changes alone, and lists have each item once.
func TestPartsOfAWebhook(t *testing.T) {
	r := newReceiver(t, always(http.StatusOK))
	log := openLog(t, natstest.Start(t))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	ids := []string{s.hook(r.URL+"/first", "secret", "registered_model.created", "prompt.created"), s.hook(r.URL+"/second", "", "prompt.created")}
	s.create("a")
	s.create("b")
	eventually(t, "two attempts", func() bool { return len(s.attempts(ids[0])) == 2 })
	paged := func(path, list, key string) (got []string) {
		t.Helper()
		query := fields{"max_results": 1}
		for {
			a := s.raw("GET", path, query)
			for _, item := range asList(a.body[list]) {
				got = append(got, at(item, key))
			}
			token, _ := a.body["next_page_token"].(string)
			if query["page_token"] = token; token == "" || len(got) > 2 {
				return got
			}
		}
	}
	if got := paged("/api/2.0/mlflow/webhooks", "webhooks", "webhook_id"); !slices.Equal(got, []string{ids[1], ids[0]}) {
		t.Errorf("webhooks %v, want %v, the latest first", got, ids)
	}
	if got := paged("/api/v1/webhooks/"+ids[0]+"/deliveries", "deliveries", "seq"); !slices.Equal(got, []string{"4", "3"}) {
		t.Errorf("deliveries of events %v", got)
	}
	for _, part := range []fields{
		{"status": "DISABLED"}, {"description": "d"}, {"events": []fields{{"entity": "PROMPT", "action": "CREATED"}}}, {"secret": ""}, {"name": "n"},
	} {
		s.must("PATCH", "webhooks/"+ids[0], part)
	}
	w := s.must("GET", "webhooks/"+ids[0], nil)["webhook"]
	if got := fmt.Sprint(at(w, "status"), at(w, "description"), len(asList(w.(map[string]any)["events"])), at(w, "name")); got != "DISABLEDd1n" {
		t.Errorf("changed to %v", w)
	}
	recs := readAll(t, log)
	if secret := recs[len(recs)-2].GetWebhookUpdated().SealedSecret; secret == nil || len(secret) > 0 {
		t.Errorf("the secret that was taken away is %v", secret)
	}
}

// A delivery that cannot be recorded is made again, so that it leaves a trace.
func TestWhatIsNotRecordedComesAgain(t *testing.T) {
	const journal = "WEBHOOK_DELIVERIES"
	r := newReceiver(t, always(http.StatusOK))
	log := openLog(t, natstest.Start(t))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	js := log.JetStream()
	stream, err := js.Stream(t.Context(), journal)
	if err != nil {
		t.Fatal(err)
	}
	id := s.hook(r.URL+"/all", "", "registered_model.created")
	if err := js.DeleteStream(t.Context(), journal); err != nil {
		t.Fatal(err)
	}
	s.create("m")
	eventually(t, "a delivery", func() bool { return len(r.on("/all")) > 0 })
	if _, err := js.CreateStream(t.Context(), stream.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a record of it", func() bool { return len(s.attempts(id)) > 0 })
}

// A webhook's history is in the ledger, without its secret.
func TestWebhookCommands(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	id := s.hook("http://127.0.0.1:1/", "top secret", "prompt.created")
	seq := s.send("GET", "webhooks/"+id, nil).header.Get("Runledger-Seq")
	if a := s.send("PATCH", "webhooks/"+id, fields{"name": "other"}, "Runledger-Expect-Seq", seq+"0"); a.status != http.StatusConflict {
		t.Errorf("a change from another state: %d %v", a.status, a.body)
	}
	if a := s.send("PATCH", "webhooks/"+id, fields{"name": "other", "secret": ""}, "Runledger-Expect-Seq", seq); a.status != http.StatusOK {
		t.Errorf("a change: %d %v", a.status, a.body)
	}
	size := s.size()
	for _, c := range []struct {
		method, path string
		body         fields
	}{
		{"PATCH", "webhooks/" + id, fields{"name": "?"}},
		{"PATCH", "webhooks/" + id, fields{"url": "gopher://x"}},
		{"PATCH", "webhooks/" + id, fields{"events": []fields{{"entity": "X", "action": "Y"}}}},
		{"PATCH", "webhooks/" + id, fields{"events": []fields{{"entity": "PROMPT"}}}},
		{"PATCH", "webhooks/" + id, fields{"status": ""}},
		{"PATCH", "webhooks/" + id, fields{"secret": strings.Repeat("x", 1001)}},
		{"POST", "webhooks/" + id + "/test", fields{"event": fields{"entity": "X", "action": "Y"}}},
		{"POST", "webhooks/" + id + "/test", fields{"event": "x"}},
		{"GET", "webhooks", fields{"max_results": "-1"}},
		{"GET", "webhooks", fields{"page_token": "x"}},
		{"GET", "webhooks", fields{"max_results": "x"}},
	} {
		if a := s.send(c.method, c.path, c.body); a.status != http.StatusBadRequest || a.body["error_code"] != "INVALID_PARAMETER_VALUE" {
			t.Errorf("%s %s %v: %d %v", c.method, c.path, c.body, a.status, a.body)
		}
	}
	if got := s.size(); got != size {
		t.Errorf("the ledger grew from %v to %v entries", size, got)
	}
	// A repeated request makes one webhook, and a key is for one command.
	body := fields{"name": "hook", "url": "http://127.0.0.1:1/", "events": []fields{{"entity": "PROMPT", "action": "CREATED"}}}
	first := s.send("POST", "webhooks", body, "Idempotency-Key", "k").body["webhook"].(map[string]any)
	second := s.send("POST", "webhooks", body, "Idempotency-Key", "k").body["webhook"].(map[string]any)
	if first["webhook_id"] != second["webhook_id"] || s.size() != size+1 {
		t.Errorf("a repeated request made %v and %v", first, second)
	}
	for _, key := range []string{"k", "k2"} {
		_ = s.send("PATCH", "webhooks/"+id, fields{"name": "x"}, "Idempotency-Key", "k2")
		if a := s.send("PATCH", "webhooks/"+fmt.Sprint(first["webhook_id"]), fields{"name": "x"}, "Idempotency-Key", key); a.status != http.StatusBadRequest {
			t.Errorf("the key of another command: %d %v", a.status, a.body)
		}
	}
	for there := 2; ; there++ {
		if a := s.send("POST", "webhooks", body); a.status != http.StatusOK || there > webhooks.Max {
			if there != webhooks.Max {
				t.Errorf("there are %d webhooks, and may be %d", there, webhooks.Max)
			}
			if a.status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(a.body["message"]), "there cannot be more") {
				t.Errorf("one webhook too many: %d %v", a.status, a.body)
			}
			break
		}
	}
}
