package testenv_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/testenv"
)

func TestSwiftKeystone(t *testing.T) {
	if !testenv.Soak() {
		t.Skip("the tests of storage/swift, trove and cli have the two")
	}
	s, k := testenv.SwiftKeystone(t)
	again, _ := testenv.SwiftKeystone(t)
	if s != again {
		t.Error("a second call started another Swift")
	}
	resp, err := http.Get(s.URL + "/info")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	info, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(info), `"slo"`) {
		t.Errorf("/info: got %s, %v", info, err)
	}
	if !slices.Contains(s.Env(), "ST_USER=slipcover:backup") || !slices.Contains(k.Env(), "OS_USERNAME=demo") {
		t.Errorf("variables: got %q and %q", s.Env(), k.Env())
	}
	token, user := k.Token(t, k.Vars)
	if token == "" || user == "" {
		t.Errorf("token: got %q of user %q", token, user)
	}
}

func TestStartSwift(t *testing.T) {
	var url string
	t.Run("up", func(t *testing.T) {
		s := testenv.StartSwift(t, testenv.SwiftOptions{MaxObjectBytes: 4096})
		url = s.URL
		resp, err := http.Get(url + "/info")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		info, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(info), `"max_file_size": 4096`) {
			t.Errorf("/info: got %s, %v", info, err)
		}
	})
	if url == "" {
		return // skipped
	}
	if resp, err := http.Get(url + "/info"); err == nil {
		resp.Body.Close()
		t.Error("it answers after the test's end")
	}
}
