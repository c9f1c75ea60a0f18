package httpapi

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
)

// A connection that cannot be closed is no reason to accept no more: a server ends
// with the first error of its listener.
func TestARefusedConnectionEndsNothing(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitConnections(closing{inner}, 10, 1)
	t.Cleanup(func() { _ = l.Close() })
	dial := func() net.Conn {
		t.Helper()
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	dial()
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l.observe(first, http.StateActive)
	second := dial()
	accepted := make(chan error)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a connection beyond the share of its address: %v", err)
	}
	_ = first.Close()
	dial()
	if err := <-accepted; err != nil {
		t.Errorf("the next connection is not accepted: %v", err)
	}
}

// closing is a listener whose connections say that they cannot be closed.
type closing struct{ net.Listener }

func (l closing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return unclosable{c}, err
}

type unclosable struct{ net.Conn }

func (c unclosable) Close() error { return errors.Join(c.Conn.Close(), errors.New("cannot be closed")) }
