package chconn_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/chdb/chdbtest"
)

// Both clients' errors are told apart by their codes.
func TestErrorsAreToldApartByTheirCodes(t *testing.T) {
	for code, want := range map[proto.Error]struct{ denied, damage bool }{
		proto.ErrUnknownUser: {denied: true}, proto.ErrWrongPassword: {denied: true}, proto.ErrRequiredPassword: {denied: true},
		proto.ErrAuthenticationFailed: {denied: true}, proto.ErrChecksumDoesntMatch: {damage: true}, proto.ErrCannotReadAllData: {damage: true},
		proto.ErrCorruptedData: {damage: true}, proto.ErrFileDoesntExist: {damage: true}, proto.ErrCannotDecompress: {damage: true},
		proto.ErrUnknownTable: {}, proto.ErrMemoryLimitExceeded: {},
	} {
		for _, err := range []error{&clickhouse.Exception{Code: int32(code)}, &ch.Exception{Code: code}} {
			err = fmt.Errorf("wrapped: %w", err)
			if chconn.Denied(err) != want.denied || chconn.IsDamage(err) != want.damage {
				t.Errorf("%v of %T: denied %v, damage %v", code, errors.Unwrap(err), chconn.Denied(err), chconn.IsDamage(err))
			}
		}
	}
	if chconn.Denied(nil) || chconn.IsDamage(nil) || chconn.Denied(errors.New("x")) || chconn.IsDamage(errors.New("x")) {
		t.Error("an error that is none of ClickHouse")
	}
}

func TestDialTriesEveryAddress(t *testing.T) {
	_, opts := chdbtest.Open(t)
	good := *opts
	var asked []string
	good.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
		asked = append(asked, addr)
		if strings.HasPrefix(addr, "bad") {
			return nil, errors.New("nobody is at " + addr)
		}
		return opts.DialContext(ctx, addr)
	}
	good.Addr = []string{"bad1:1", "bad2:1", "good:1", "bad3:1"}
	client, err := chconn.Dial(t.Context(), &good, "test")
	if err != nil {
		t.Fatal(err)
	}
	var database proto.ColStr
	if err := client.Do(t.Context(), ch.Query{Body: "SELECT currentDatabase() AS d", Result: proto.Results{{Name: "d", Data: &database}}}); err != nil {
		t.Error(err)
	} else if database.Row(0) != opts.Auth.Database {
		t.Errorf("the database is %s", database.Row(0))
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if len(asked) != 3 {
		t.Errorf("it asked %v", asked)
	}
	good.Addr = []string{"bad1:1", "bad2:1"}
	if _, err := chconn.Dial(t.Context(), &good, "test"); err == nil || !strings.Contains(err.Error(), "bad1") || !strings.Contains(err.Error(), "bad2") {
		t.Errorf("nobody answers: %v", err)
	}
	wrong := *opts
	wrong.Auth.Password = "wrong"
	if _, err := chconn.Dial(t.Context(), &wrong, "test"); !chconn.Denied(err) {
		t.Errorf("a wrong password: %v", err)
	}
}

// Silence begins anew with what is sent: the other side has something to answer.
func TestSilenceBeginsWithTheLastByteOfEitherSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10 * time.Second
		client, server := net.Pipe()
		defer server.Close()
		conn, err := chconn.Impatient(&clickhouse.Options{DialContext: func(context.Context, string) (net.Conn, error) { return client, nil }}, limit).
			DialContext(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				if _, err := server.Read(make([]byte, 1)); err != nil {
					return
				}
			}
		}()
		for range 3 { // in all longer than the limit
			if err := conn.SetDeadline(time.Now().Add(limit * 6 / 10)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, chconn.ErrSilent) {
				t.Fatal("silent in spite of what was sent meanwhile")
			}
			if err := conn.SetDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, chconn.ErrSilent) || time.Since(begin) != limit {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
}
