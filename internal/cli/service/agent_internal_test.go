package service

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/config"
)

// TestKeyWithoutStorage: an agent that starts while the storage is away reads with the key
// that it made before, once the storage is back.
func TestKeyWithoutStorage(t *testing.T) {
	env, _, _ := clitest.Env(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "y")
	c, err := config.Load(config.Options{File: os.DevNull, Environ: []string{"HOME=" + t.TempDir()},
		Flags: map[string]string{"repository": "s3://bucket?endpoint=http://127.0.0.1:1", "retry_for": "0", "state_dir": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	s, log := &core.Settings{Config: c}, slog.New(slog.DiscardHandler)
	if _, err := serviceKey(t.Context(), env, s, log); err != nil {
		t.Fatal(err)
	}
	s.Identities = nil // as after a new start
	if err := readyRepository(t.Context(), env, s, log, readers{ownKey: true}); err != nil {
		t.Fatal(err)
	}
	if len(s.Identities) != 1 || s.Identities[0] != serviceKeyFile(s) {
		t.Errorf("it reads with %q", s.Identities)
	}
}

// TestRepositoryGone: where a service has had its repository it makes no second one in the
// empty directory of a disk that isn't mounted, neither at its start nor for a backup.
func TestRepositoryGone(t *testing.T) {
	env, _, _ := clitest.Env(t)
	dir := t.TempDir()
	place, away := filepath.Join(dir, "repo"), filepath.Join(dir, "away")
	c, err := config.Load(config.Options{File: os.DevNull, Environ: []string{"HOME=" + t.TempDir()},
		Flags: map[string]string{"repository": "file://" + place, "retry_for": "0", "state_dir": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	s, log := &core.Settings{Config: c}, slog.New(slog.DiscardHandler)
	ready := func() {
		t.Helper()
		if err := readyRepository(t.Context(), env, s, log, readers{ownKey: true}); err != nil {
			t.Fatal(err)
		}
	}
	open := func() (string, error) {
		r, done, err := (&agentRepositories{env: env, settings: s, readers: readers{ownKey: true}, log: log}).open(t.Context(), agent.Open{Make: true})
		if err != nil {
			return "", err
		}
		defer done()
		return r.Config().ID, nil
	}
	ready()
	first, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(place, away); err != nil {
		t.Fatal(err)
	}
	for _, mountPoint := range []bool{false, true} {
		if mountPoint {
			if err := os.Mkdir(place, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		ready()
		if _, err := open(); err == nil || !strings.Contains(err.Error(), "mount") {
			t.Errorf("with an empty directory %v: got %v", mountPoint, err)
		}
		if list, _ := os.ReadDir(place); len(list) > 0 {
			t.Errorf("with an empty directory %v: %v was made", mountPoint, list)
		}
	}
	if err := os.Remove(place); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, place); err != nil {
		t.Fatal(err)
	}
	ready()
	if again, err := open(); err != nil || again != first {
		t.Errorf("with the disk back: got repository %s, %v, want %s", again, err, first)
	}
}

func TestSameLogIn(t *testing.T) {
	for _, test := range []struct {
		own, asked string
		want       bool
	}{
		{"/backups", "file:///backups", true},
		{"file:///backups", "file:///old", true},
		{"/backups", "swift://c", false},
		{"swift://c/new", "swift://old/p", true},
		{"swift://c", "swift://c?auth_url=https://evil.example", false},
		{"swift://c?auth_url=https://k/v3&region=r", "swift://d?region=r&auth_url=https://k/v3", true},
		{"s3://b?endpoint=https://minio:9000", "s3://other?endpoint=https://minio:9000", true},
		{"s3://b?endpoint=https://minio:9000", "s3://b?endpoint=https://evil.example", false},
		{"s3://b?endpoint=https://minio:9000", "s3://b", false},
		{"sftp://u@h/x", "sftp://u@h/y", true},
		{"sftp://u:secret@h/x", "sftp://u@h/x", true},
		{"sftp://u@h/x", "sftp://u@evil/x", false},
		{"sftp://u@h/x", "sftp://v@h/x", false},
		{"s3://b", "gs://b", false},
		{"s3://b", "s3://b?%zz", false},
		{"s3://b", "s3://b?x=%zz&endpoint=https://evil.example", false},
	} {
		if got := sameLogIn(test.own, test.asked); got != test.want {
			t.Errorf("%s, %s: %v, want %v", test.own, test.asked, got, test.want)
		}
	}
}
