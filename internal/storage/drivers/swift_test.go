package drivers_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/drivers"
	"github.com/slipcover/slipcover/internal/testenv"
)

// One process has two accounts open at once, each with a container of the same name.
func TestTwoSwiftAccounts(t *testing.T) {
	server := testenv.Swift(t)
	const url = "swift://two-accounts/x"
	var stores [2]storage.Store
	for i, vars := range []map[string]string{server.Vars, server.Other()} {
		s, err := drivers.Open(t.Context(), url, drivers.Options{Create: true, Getenv: func(name string) string { return vars[name] }})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		stores[i] = s
	}
	texts := []string{"of the first account", "of the second"}
	for i, s := range stores {
		if err := s.Put(t.Context(), "a", strings.NewReader(texts[i]), storage.PutOptions{IfAbsent: true}); err != nil {
			t.Errorf("account %d: %v", i, err)
		}
	}
	for i, s := range stores {
		var got string
		err := s.Get(t.Context(), "a", 0, -1, func(r io.Reader) error {
			b, err := io.ReadAll(r)
			got = string(b)
			return err
		})
		if err != nil || got != texts[i] {
			t.Errorf("account %d: got %q, %v, want %q", i, got, err, texts[i])
		}
	}
	if err := stores[0].Delete(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if _, err := stores[0].Stat(t.Context(), "a"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("deleted: got %v", err)
	}
	if _, err := stores[1].Stat(t.Context(), "a"); err != nil {
		t.Errorf("the other account lost its object: %v", err)
	}
	_, err := drivers.Open(t.Context(), url, drivers.Options{Getenv: func(string) string { return "" }})
	if err == nil {
		t.Error("opened without a log-in")
	}
}
