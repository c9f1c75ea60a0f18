package query

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/puddle/v2"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/watermark"
)

// retryAfter is what a client is asked to wait when ClickHouse is away.
const retryAfter = 2 * time.Second

// database runs statements against ClickHouse within the budget of the kind of
// their request.
type database struct {
	conn     driver.Conn
	columns  *puddle.Pool[*ch.Client] // for what is read block by block
	slotWait time.Duration
	profiles map[httpapi.Kind]*profile
	report   func(damage error) // that a part of a table seems damaged
	replaced func(context.Context) bool
}

func openDatabase(c Config, replaced func(context.Context) bool) (*database, error) {
	opts := chconn.Impatient(c.ClickHouse, c.MaxSilence)
	d := &database{slotWait: c.SlotWait, profiles: make(map[httpapi.Kind]*profile), replaced: replaced, report: func(damage error) { _ = watermark.ReportDamage(c.NATS, damage.Error()) }}
	requests := 0
	for k, b := range budgets(c) {
		d.profiles[k] = newProfile(b)
		requests += b.requests
	}
	opts.MaxOpenConns = connsPerRequest * requests
	opts.MaxIdleConns = connsPerRequest * c.MaxRequests
	var err error
	if d.conn, err = clickhouse.Open(opts); err != nil {
		return nil, fmt.Errorf("connect to ClickHouse: %w", err)
	}
	d.columns, err = puddle.NewPool(&puddle.Config[*ch.Client]{
		Constructor: func(ctx context.Context) (*ch.Client, error) {
			return chconn.Dial(ctx, opts, "runledger-query")
		},
		Destructor: func(client *ch.Client) { _ = client.Close() },
		MaxSize:    int32(opts.MaxOpenConns),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to ClickHouse: %w", err), d.conn.Close())
	}
	return d, nil
}

// connsPerRequest is how many statements one request has under way at most.
const connsPerRequest = 2

// each runs a statement and calls visit for every row of its answer. An error
// of visit ends the statement and is returned as it is.
func (d *database) each(ctx context.Context, s *statement, visit func(scan func(dest ...any) error) error) error {
	ctx, cancel := context.WithCancel(clickhouse.Context(ctx, clickhouse.WithSettings(d.profile(ctx).settings)))
	defer cancel()
	rows, err := d.conn.Query(ctx, s.text.String(), s.args...)
	if err != nil {
		return d.failed(ctx, err)
	}
	if err := d.same(ctx); err != nil {
		cancel()
		_ = rows.Close()
		return err
	}
	var visitErr error
	scan := func(dest ...any) error {
		if err := rows.Scan(dest...); err != nil {
			return d.failed(ctx, err)
		}
		return nil
	}
	for visitErr == nil && rows.Next() {
		visitErr = visit(scan)
	}
	if visitErr != nil {
		// Nobody wants the rest: end the statement, so that Close need not read it.
		cancel()
		_ = rows.Close()
		return visitErr
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return d.failed(ctx, err)
	}
	return nil
}

// same returns an error when a statement that has begun may read tables that its
// request has not waited for: it reads what there was when it began.
func (d *database) same(ctx context.Context) error {
	if d.replaced(ctx) {
		return unavailable(errReplaced)
	}
	return nil
}

var errReplaced = errors.New("the tables were replaced")

// blocks runs a statement and calls visit with the number of rows of each block
// of its answer, which is in columns until visit returns. An error of visit ends
// the statement and is returned as it is.
func (d *database) blocks(ctx context.Context, s *statement, columns proto.Results, visit func(rows int) error) error {
	conn, err := d.acquire(ctx)
	if err != nil {
		return d.failed(ctx, err)
	}
	var visitErr error
	begun := false
	begin := func() error {
		if begun {
			return nil
		}
		begun = true
		return d.same(ctx)
	}
	err = conn.Value().Do(ctx, ch.Query{
		Body:       s.text.String(),
		Parameters: s.parameters(),
		Settings:   d.profile(ctx).columnSettings(),
		Result:     columns,
		OnResult: func(_ context.Context, b proto.Block) error {
			if visitErr = begin(); visitErr == nil && b.Rows > 0 {
				visitErr = visit(b.Rows)
			}
			return visitErr
		},
	})
	if conn.Value().IsClosed() || err != nil && !ch.IsException(err) {
		conn.Destroy()
	} else {
		conn.Release()
	}
	if visitErr != nil {
		return visitErr
	}
	if err != nil {
		return d.failed(ctx, err)
	}
	return begin()
}

// probeTimeout is how long a connection that was idle may take to answer.
const probeTimeout = 5 * time.Second

// acquire returns a connection that answers: those that are idle may all be to a
// server that is gone.
func (d *database) acquire(ctx context.Context) (*puddle.Resource[*ch.Client], error) {
	for {
		asked := time.Now()
		conn, err := d.columns.Acquire(ctx)
		if err != nil || conn.CreationTime().After(asked) {
			return conn, err
		}
		probe, cancel := context.WithTimeout(ctx, probeTimeout)
		// Not Ping: that gives up at the first poll for the answer.
		err = conn.Value().Do(probe, ch.Query{Body: "SELECT 1 AS one", Result: proto.Results{{Name: "one", Data: new(proto.ColUInt8)}}})
		cancel()
		if err == nil {
			return conn, nil
		}
		conn.Destroy()
		if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, chconn.ErrSilent) {
			return nil, errors.Join(chconn.ErrSilent, err)
		}
	}
}

// errEnough ends a statement of which enough rows have been read.
var errEnough = errors.New("enough rows")

// some is each for at most limit rows, without a limit if that is 0. It reports
// whether there were more.
func (d *database) some(ctx context.Context, s *statement, limit int, visit func(scan func(dest ...any) error) error) (more bool, err error) {
	n := 0
	err = d.each(ctx, s, func(scan func(dest ...any) error) error {
		if n++; limit > 0 && n > limit {
			return errEnough
		}
		return visit(scan)
	})
	if errors.Is(err, errEnough) {
		return true, nil
	}
	return false, err
}

func (d *database) ready(ctx context.Context) error {
	if err := d.conn.Ping(ctx); err != nil {
		return fmt.Errorf("ClickHouse: %w", err)
	}
	return nil
}

func (d *database) close() error {
	d.columns.Close()
	return d.conn.Close()
}

// Error codes of ClickHouse.
const (
	codeUnknownTable      = 60
	codeUnknownDatabase   = 81
	codeTooManyRows       = 158
	codeTimeoutExceeded   = 159
	codeTooSlow           = 160
	codeTooManyQueries    = 202
	codeMemoryLimit       = 241
	codeSocketTimeout     = 209
	codeNetworkError      = 210
	codeAborted           = 236
	codeQueryWasCancelled = 394
)

// failed is databaseError, and has the tables checked if they may be the cause.
func (d *database) failed(ctx context.Context, err error) error {
	if chconn.IsDamage(err) {
		d.report(err)
	}
	return databaseError(ctx, err)
}

// databaseError gives an error of ClickHouse or its driver a code: what a client
// may try again later never is an internal error.
func databaseError(ctx context.Context, err error) error {
	if chconn.IsDamage(err) {
		return apierr.Wrap(err, apierr.TemporarilyUnavailable, "The tables are damaged; they are checked, and built again from the log").WithRetryAfter(retryAfter)
	}
	if exception, ok := errors.AsType[*clickhouse.Exception](err); ok {
		return exceptionError(err, exception.Code)
	}
	if exception, ok := ch.AsException(err); ok {
		return exceptionError(err, int32(exception.Code))
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return errors.Join(ctxErr, err)
	}
	if errors.Is(err, chconn.ErrSilent) {
		return unavailable(err)
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, clickhouse.ErrAcquireConnTimeout) || errors.Is(err, clickhouse.ErrAcquireConnNoAddress) ||
		errors.Is(err, clickhouse.ErrConnectionClosed) {
		return unavailable(err)
	}
	return fmt.Errorf("read from ClickHouse: %w", err)
}

// exceptionError does so with an error that ClickHouse gave a code.
func exceptionError(err error, code int32) error {
	switch code {
	case codeTimeoutExceeded, codeTooSlow:
		return apierr.Wrap(err, apierr.RequestLimitExceeded,
			"The read takes longer than a read may: narrow it, or ask for smaller pages").WithRetryAfter(retryAfter)
	case codeTooManyRows:
		return apierr.Wrap(err, apierr.InvalidParameterValue, "The read takes more rows than a read may: select fewer runs, metrics or steps")
	case codeMemoryLimit:
		return apierr.Wrap(err, apierr.RequestLimitExceeded,
			"The read needs more memory than there is for it: narrow it, or ask for smaller pages").WithRetryAfter(retryAfter)
	case codeTooManyQueries:
		return apierr.Wrap(err, apierr.RequestLimitExceeded, "Too many reads are under way, try again").WithRetryAfter(retryAfter)
	case codeUnknownTable, codeUnknownDatabase, codeSocketTimeout, codeNetworkError, codeAborted, codeQueryWasCancelled:
		return unavailable(err)
	}
	return fmt.Errorf("read from ClickHouse: %w", err)
}

func unavailable(err error) error {
	return apierr.Wrap(err, apierr.TemporarilyUnavailable, "The tables are not available, try again").WithRetryAfter(retryAfter)
}
