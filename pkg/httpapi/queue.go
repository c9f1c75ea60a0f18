package httpapi

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/runledger/runledger/pkg/apierr"
)

const (
	// maxWait is how long a request may be expected to wait for its answer.
	maxWait = 5 * time.Second
	// alwaysTaken is how many requests are worked on at a time however long that
	// takes: an ordinary sweep on a slow machine is not refused.
	alwaysTaken = 64
	// pacePeriod is for how long answers are counted to tell how many there are a
	// second. They come in groups, those that share a commit.
	pacePeriod = 2 * time.Second
	// maxRetryAfter bounds how long a client is asked to wait, but for a second.
	maxRetryAfter = 15 * time.Second
)

// Queue keeps what waits for a server's work as short as it can answer in time. A
// request counts from when all of its body is there until it is answered. As long
// as there are more than alwaysTaken of them, the answers a second are what the
// server can do, and the requests divided by that are how long one more would
// wait. Beyond maxWait it is refused, before anything is done for it.
type Queue struct {
	mu       sync.Mutex
	inFlight int
	// Since there are more than alwaysTaken requests: when the current period
	// began, the answers and the refusals in it, the answers a second of the two
	// before, -1 before there was one, and the refusals of the last.
	began         time.Time
	done, refused int
	paces         [2]float64
	before        int
	counts        *prometheus.CounterVec
}

// NewQueue returns a queue that shows itself in the metrics of a service, which
// are registered with r, nil for nowhere.
func NewQueue(r prometheus.Registerer, service string) *Queue {
	q := &Queue{}
	auto := promauto.With(r)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "runledger", Subsystem: service, Name: "requests_in_flight",
		Help: "Requests whose bodies have arrived and that are not answered yet.",
	}, func() float64 { return float64(q.InFlight()) })
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "runledger", Subsystem: service, Name: "expected_wait_seconds",
		Help: "How long one more request would wait, by what is answered a second; 0 while few are in flight. Beyond 5 requests are refused with 429.",
	}, func() float64 {
		q.mu.Lock()
		defer q.mu.Unlock()
		return min(q.expected(time.Now()), time.Hour).Seconds()
	})
	q.counts = auto.NewCounterVec(prometheus.CounterOpts{
		Namespace: "runledger", Subsystem: service, Name: "requests_refused_total",
		Help: "Requests that were refused since they would have waited too long: before their bodies were read, or after.",
	}, []string{"body"})
	return q
}

// Limit is middleware that refuses requests with REQUEST_LIMIT_EXCEEDED that would
// wait too long.
func (q *Queue) Limit(h echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) error {
		if err := q.admit(false, "unread"); err != nil {
			return err
		}
		entered := false
		enter := func() error {
			if entered {
				return nil
			}
			err := q.admit(true, "read")
			entered = err == nil
			return err
		}
		defer func() {
			if entered {
				q.leave()
			}
		}()
		if b, ok := ec.Request().Body.(*steadyBody); ok {
			b.arrived = enter
		} else if err := enter(); err != nil {
			return err
		}
		return h(ec)
	}
}

// InFlight returns the number of requests that are being worked on.
func (q *Queue) InFlight() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inFlight
}

// admit returns an error when one more request would wait too long, and else counts
// it when it enters.
func (q *Queue) admit(enters bool, body string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if wait := q.expected(now); wait > maxWait {
		q.counts.WithLabelValues(body).Inc()
		q.refused++
		// As many are to come back in a second as are answered then: fewer would
		// leave the server idle, more would be refused again, and MLflow's clients
		// give up after seven times.
		asking := float64(q.inFlight + q.refused + q.before)
		spread := time.Duration(float64(wait) * asking / float64(q.inFlight))
		return apierr.Errorf(apierr.RequestLimitExceeded, "The server has more requests than it can answer in %v, try again later", maxWait).
			WithRetryAfter(time.Second + rand.N(min(spread, maxRetryAfter)))
	}
	if enters {
		if q.inFlight++; q.inFlight == alwaysTaken+1 {
			q.began, q.done, q.paces = now, 0, [2]float64{-1, -1}
			q.refused, q.before = 0, 0
		}
	}
	return nil
}

func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pace(time.Now())
	q.done++
	q.inFlight--
}

// pace ends the current period when it is over.
func (q *Queue) pace(now time.Time) {
	if took := now.Sub(q.began); q.inFlight > alwaysTaken && took >= pacePeriod {
		q.paces = [2]float64{float64(q.done) / took.Seconds(), q.paces[0]}
		q.began, q.done, q.before, q.refused = now, 0, q.refused, 0
	}
}

// expected returns how long one more request would wait, 0 as long as that is not
// known.
func (q *Queue) expected(now time.Time) time.Duration {
	if q.inFlight <= alwaysTaken {
		return 0
	}
	q.pace(now)
	best := max(q.paces[0], q.paces[1])
	if best < 0 {
		return 0
	}
	seconds := float64(q.inFlight) / max(best, 0.01)
	return time.Duration(seconds * float64(time.Second))
}
