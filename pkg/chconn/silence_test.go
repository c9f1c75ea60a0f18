package chconn_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/runledger/runledger/pkg/chconn"
)

// A read gives up when the other side has said nothing for the whole limit, however
// often its user looked meanwhile, and goes on as long as it says something.
func TestReadsOfASilentServerEnd(t *testing.T) { synctest.Test(t, readsOfASilentServerEnd) }

func readsOfASilentServerEnd(t *testing.T) {
	const limit = 10 * time.Second
	client, server := net.Pipe()
	defer server.Close()
	conn, err := chconn.Impatient(&clickhouse.Options{DialContext: func(context.Context, string) (net.Conn, error) { return client, nil }}, limit).
		DialContext(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 1)
	go func() {
		var err error
		for range 8 { // in all longer than the limit
			time.Sleep(limit / 5)
			if _, e := server.Write([]byte{1}); e != nil {
				err = e
			}
		}
		said <- err
	}()
	if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := <-said; err != nil {
		t.Fatal(err)
	}
	time.Sleep(limit) // nobody reads, which is no silence
	polls := 0
	for ; ; polls++ {
		if err := conn.SetReadDeadline(time.Now().Add(limit / 10)); err != nil {
			t.Fatal(err)
		}
		_, err = conn.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	if !errors.Is(err, chconn.ErrSilent) || polls != 9 {
		t.Errorf("after %d polls: %v", polls, err)
	}
	if _, err := conn.Write([]byte{1}); err == nil {
		t.Error("the connection is still open")
	}
}
