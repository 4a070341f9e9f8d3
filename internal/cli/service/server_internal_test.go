package service

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/config"
)

// A first start that is cut short before it has written the token down locks nobody out.
func TestFirstToken(t *testing.T) {
	b, err := bus.Open(t.Context(), bus.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	table, err := b.Table(t.Context(), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	v := &service{settings: &core.Settings{Config: &config.Config{StateDir: t.TempDir()}}, log: slog.New(slog.DiscardHandler), tokens: access.NewTokens(table)}
	file := adminTokenFile(v.settings)
	start := func() string {
		t.Helper()
		if err := v.firstToken(t.Context()); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	first := start()
	if again := start(); first == "" || again != first {
		t.Fatalf("the second start made another token")
	}
	if err := os.Remove(file); err != nil { // as if it had not come to be
		t.Fatal(err)
	}
	next := start()
	if c, err := v.tokens.Check(t.Context(), next); err != nil || c.Role != access.Admin { // and is used
		t.Fatalf("%v, %v", c, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := start(); got != "" {
		t.Error("a token is made though there is one in use")
	}
}
