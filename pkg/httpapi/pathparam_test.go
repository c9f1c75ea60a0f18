package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
)

// TestPathParamIsTheNameThatWasEscaped: whichever of its bytes a client escapes.
func TestPathParamIsTheNameThatWasEscaped(t *testing.T) {
	var got string
	e := echo.New()
	for _, path := range []string{"/m/:name", "/m/:name/tags/:tag"} {
		e.GET(path, func(ec echo.Context) error {
			got = httpapi.PathParam(ec, "name")
			return nil
		})
	}
	everyByte := func(name string) string {
		var b strings.Builder
		for _, c := range []byte(name) {
			fmt.Fprintf(&b, "%%%02x", c)
		}
		return b.String()
	}
	least := func(name string) string { // only what cannot be there as it is
		return strings.NewReplacer("%", "%25", "/", "%2F", "?", "%3F", "#", "%23", " ", "%20", `"`, "%22").Replace(name)
	}
	pieces := []string{"", "%", "%25", "%2F", "%2f", "%zz", "/", "+", " ", "#", "?", ";", "é", "🦆", "a", "\\", ":", "&", "=", `"`, "%C3%A9", "@", "*", "|"}
	for _, a := range pieces {
		for _, b := range pieces {
			name := "m" + a + b + "n"
			for _, escaped := range []string{url.PathEscape(name), everyByte(name), least(name)} {
				for _, path := range []string{"/m/" + escaped, "/m/" + escaped + "/tags/x", "/m/" + escaped + "/tags/%2F"} {
					got = "no answer"
					rec := httptest.NewRecorder()
					e.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
					if got != name {
						t.Fatalf("GET %s: the name is %q, want %q", path, got, name)
					}
				}
			}
		}
	}
}
