package webhooks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"code.dny.dev/ssrf"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
)

// The headers of a delivery (mlflow/webhooks/constants.py).
const (
	headerSignature  = "X-MLflow-Signature"
	headerTimestamp  = "X-MLflow-Timestamp"
	headerDeliveryID = "X-MLflow-Delivery-Id"
	signatureVersion = "v1"
)

const (
	requestTimeout = 10 * time.Second
	resolveTimeout = 5 * time.Second
	// ackWait is after what time an event that a process took comes again: a
	// request and its record must be done by then.
	ackWait    = requestTimeout + journalTimeout
	maxPending = 1000
	// maxResponse bounds what is read of an answer, maxShown what of it is
	// recorded, in bytes.
	maxResponse = 64 << 10
	maxShown    = 256
)

// guard refuses to connect to what is not on the public internet, at the moment
// of the connection: what a name resolved to before does not matter.
func guard() *ssrf.Guardian { return ssrf.New(ssrf.WithAnyPort()) }

func newClient(allowPrivate bool) *http.Client {
	dialer := &net.Dialer{Timeout: requestTimeout}
	if !allowPrivate {
		dialer.Control = guard().Safe
	}
	return &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			DialContext:         dialer.DialContext, // and no proxy, which would be what is guarded
			TLSHandshakeTimeout: requestTimeout, ForceAttemptHTTP2: true, MaxIdleConns: Max, MaxIdleConnsPerHost: 1,
			IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: maxResponse,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// CheckURL checks the address of a webhook: its form, and unless that is allowed,
// that its name does not stand for an address that is not public. It returns
// MLflow's errors.
func (d *Dispatcher) CheckURL(ctx context.Context, address string) error {
	host, err := mlflow.ValidateWebhookURL(address, d.options.Schemes)
	if err != nil || d.options.AllowPrivate {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return apierr.Errorf(apierr.InvalidParameterValue, "Cannot resolve Webhook URL hostname '%s': %s", host, err)
	}
	g := guard()
	for _, ip := range ips {
		ip = ip.Unmap()
		network := map[bool]string{true: "tcp4", false: "tcp6"}[ip.Is4()]
		if g.Safe(network, netip.AddrPortFrom(ip, 443).String(), nil) != nil {
			return apierr.Errorf(apierr.InvalidParameterValue,
				"Webhook URL must not resolve to a non-public IP address. '%s' resolves to %s.", host, ip)
		}
	}
	return nil
}

// result is what came of a request.
type result struct {
	status     int // of HTTP, 0: there was no answer
	body       []byte
	took       time.Duration
	retryAfter time.Duration
	err        error
}

// failure says why an event is not delivered, "" when it is: the answer has to be
// a 2xx.
func (r result) failure() string {
	switch {
	case r.err != nil:
		return r.err.Error()
	case r.status/100 != 2:
		return fmt.Sprintf("answered %d %s: %q", r.status, http.StatusText(r.status), r.body[:min(len(r.body), maxShown)])
	}
	return ""
}

// send sends a notice to a webhook, as mlflow/webhooks/delivery.py does.
func (d *Dispatcher) send(ctx context.Context, hook *catalog.Webhook, n notice, deliveryID string) (r result) {
	start := time.Now()
	defer func() { r.took = time.Since(start) }()
	secret, err := d.openSecret(hook.ID, hook.SealedSecret)
	if err != nil {
		return result{err: err}
	}
	body, err := json.Marshal(n.payload())
	if err != nil {
		return result{err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(body))
	if err != nil {
		return result{err: unwrapURL(err)}
	}
	timestamp := strconv.FormatInt(start.Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "runledger")
	// Written as they are, and not as Go spells headers: a receiver may compare.
	req.Header[headerDeliveryID] = []string{deliveryID}
	req.Header[headerTimestamp] = []string{timestamp}
	if secret != "" {
		req.Header[headerSignature] = []string{sign(secret, deliveryID, timestamp, body)}
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return result{err: unwrapURL(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	r.status = resp.StatusCode
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		r.retryAfter = time.Duration(min(seconds, int(maxWait/time.Second))) * time.Second
	}
	// An answer that breaks off is an answer: its status has come.
	r.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	return r
}

// unwrapURL takes the address away from what went wrong.
func unwrapURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// sign returns the signature of a delivery: version, and HMAC-SHA256 over
// "<delivery id>.<timestamp>.<body>" in base64 (mlflow/webhooks/delivery.py,
// _generate_hmac_signature).
func sign(secret, deliveryID, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(deliveryID + "." + timestamp + "."))
	mac.Write(body)
	return signatureVersion + "," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// deliveryID is the same for every attempt to tell a webhook of an event, so that
// a receiver knows what it has had already.
func deliveryID(eventID, webhookID string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("runledger:"+eventID+"/"+webhookID)).String()
}

// pause returns how long to wait after that many attempts: twice as long each
// time, and up to half of it less, so that not all come at once.
func pause(first time.Duration, attempt uint64) time.Duration {
	wait := maxWait
	if shift := attempt - 1; shift < 32 && first<<shift < maxWait {
		wait = first << shift
	}
	return wait/2 + rand.N(wait/2+1)
}

func wants(hook *catalog.Webhook, event string) bool {
	return hook.Status == catalog.WebhookActive && slices.Contains(hook.Events, event)
}

func isTimeout(err error) bool {
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded)
}

// Test sends an example of an event to a webhook, once, and returns what came of
// it. It is not recorded.
func (d *Dispatcher) Test(ctx context.Context, hook *catalog.Webhook, event string) mlflow.WebhookTestResult {
	r := d.send(ctx, hook, notice{event: event, at: time.Now(), data: examples[event]}, uuid.NewString())
	if r.err != nil {
		return mlflow.WebhookTestResult{ErrorMessage: "Failed to test webhook: " + r.err.Error()}
	}
	return mlflow.WebhookTestResult{Success: r.status < http.StatusBadRequest, ResponseStatus: r.status, ResponseBody: string(r.body)}
}
