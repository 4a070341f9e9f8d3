package testenv_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/testenv"
)

func TestVersitygw(t *testing.T) {
	s := testenv.Versitygw(t)
	resp, err := http.Get(s.Endpoint + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusForbidden || err != nil || !strings.Contains(string(body), "<Code>AccessDenied</Code>") {
		t.Errorf("a request without a signature: got %s %s, %v", resp.Status, body, err)
	}
}
