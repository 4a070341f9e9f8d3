package open

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// remote is a storage elsewhere whose next calls fail.
func remote(fails *int) storage.Store {
	return faulty.New(mem.New(), func(faulty.Op) faulty.Action {
		if *fails--; *fails >= 0 {
			return faulty.Fail(fmt.Errorf("%w: get http://u:hunter2@host/x\n: 503", storage.ErrUnavailable))
		}
		return faulty.Action{}
	})
}

func TestRemoteStorage(t *testing.T) {
	for _, mode := range []string{"plain", "bar", "json", "none"} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				env, _, stderr := clitest.Env(t)
				env.StderrTerminal = mode == "bar"
				s := &core.Settings{Config: &config.Config{RetryFor: 10 * time.Minute, Progress: mode, CacheSize: 1 << 20}}
				fails := 20
				store, err := guard(env, s, core.Measured(env, s, remote(&fails)))
				if err != nil {
					t.Fatal(err)
				}
				if err := store.Put(t.Context(), "segments/a", strings.NewReader("12345"), storage.PutOptions{IfAbsent: true}); err != nil {
					t.Fatal(err)
				}
				for range 3 { // all but the first from the cache
					if err := store.Get(t.Context(), "segments/a", 1, 2, func(r io.Reader) error { _, err := io.ReadAll(r); return err }); err != nil {
						t.Fatal(err)
					}
				}
				wantWaiting(t, mode, stderr.String())
				if got := env.TrafficJSON(); got.Requests != 22 || got.Retries != 20 || got.Errors != 20 || got.Uploaded != 5 || got.Downloaded != 5 || got.Kinds["put"].Requests != 21 {
					t.Errorf("got %+v", got)
				}
				if got, want := env.TrafficLine(), "storage: 22 requests, 20 tried again, 5 B up, 5 B down in 0s"; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}

// wantWaiting looks at what is told of waits that last some minutes: a line at the
// beginning and one each minute.
func wantWaiting(t *testing.T, mode, told string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(told, "\n"), "\n")
	if mode == "none" {
		if told != "" {
			t.Errorf("told %q", told)
		}
		return
	}
	if len(lines) < 2 || len(lines) > 8 || strings.Contains(told, "hunter2") {
		t.Errorf("told %q", told)
	}
	for _, line := range lines {
		if mode == "json" {
			var w waitingJSON
			if err := json.Unmarshal([]byte(line), &w); err != nil || w.Waiting != "put" || w.Seconds <= 0 || w.Since.IsZero() || !strings.HasSuffix(w.Message, "503") {
				t.Errorf("%q: %+v, %v", line, w, err)
			}
			continue
		}
		want := "slipcover: the storage is not available since 00:00:00 UTC, put is tried again in "
		if mode == "bar" {
			want = clearsLine + want
		}
		if !strings.HasPrefix(line, want) || !strings.HasSuffix(line, "s: get http://u:***@host/x: : 503") {
			t.Errorf("told %q", line)
		}
	}
}

// Limits hold for all storages of a command together.
func TestLimitsOfAllStorages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		env, _, _ := clitest.Env(t)
		s := &core.Settings{Config: &config.Config{LimitUpload: 1000}}
		began := time.Now()
		for range 2 {
			store := core.Measured(env, s, mem.New())
			if err := store.Put(t.Context(), "a", strings.NewReader(strings.Repeat("x", 5000)), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("10000 bytes took %s", took)
		}
	})
}

func TestStorageOnThisMachine(t *testing.T) {
	env, _, _ := clitest.Env(t)
	dir := t.TempDir()
	s := &core.Settings{Config: &config.Config{RetryFor: time.Minute, CacheSize: 1 << 20, CacheDir: dir + "/cache"}, FromCache: true}
	store, err := openPlace(t.Context(), env, s, dir+"/none", false)
	if !errors.Is(err, storage.ErrUnavailable) || store != nil {
		t.Errorf("got %v, %v", store, err)
	}
	if store, err = openPlace(t.Context(), env, s, dir+"/new", true); err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if !isLocal(store) {
		t.Errorf("%s is not on this machine", store.URL())
	}
}
