package server_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// heldTable tells nothing until it is let.
type heldTable struct {
	server.Table
	let chan struct{}
}

func (t heldTable) Watch(ctx context.Context, fn func(bus.Change)) error {
	select {
	case <-t.let:
	case <-ctx.Done():
		return ctx.Err()
	}
	return t.Table.Watch(ctx, fn)
}

// The tables are read at one time; the server has its catalog when it has all of them.
func TestLoadedIsTheWholeCatalog(t *testing.T) {
	t.Parallel()
	b := openBus(t)
	s := start(t, b, server.Config{})
	join(t, s, "db1", "p")
	other, err := server.New(t.Context(), server.Config{Bus: b, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	let := make(chan struct{})
	server.WrapTables(other, func(name string, table server.Table) server.Table {
		if name == "backups" {
			return heldTable{table, let}
		}
		return table
	})
	servertest.Background(t, other.Run)
	servertest.Eventually(t, "it waits for the backups alone", func() bool {
		err := other.Ready()
		return len(other.Instances(who("p"), false)) == 1 && err != nil && strings.Contains(err.Error(), "(backups)")
	})
	if err := other.Loaded(); kindOf(err) != server.Unavailable {
		t.Errorf("without backups: %v", err)
	}
	if err := other.Ready(); kindOf(err) != server.Unavailable {
		t.Errorf("without backups: ready, %v", err)
	}
	close(let)
	if err := other.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.Ready(); err != nil {
		t.Errorf("with backups: %v", err)
	}
}
