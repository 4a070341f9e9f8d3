package serve_test

import (
	"bytes"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/cache"
	"github.com/slipcover/slipcover/internal/storage/drivers"
	"github.com/slipcover/slipcover/internal/storage/mem"
	"github.com/slipcover/slipcover/internal/storage/meter"
	"github.com/slipcover/slipcover/internal/testenv"
)

// mostRequests is what the first document of a database takes at most, of a storage behind a network.
const mostRequests = 10

func segmentsOnly(k storage.Key) bool { return strings.HasPrefix(string(k), "segments/") }

// The first document of a database, with nothing in memory, takes few requests: the shard map, the end of its shard's
// file, the nodes on its path, and its body, as far as these lie in different places.
func TestFirstDocumentTakesFewRequests(t *testing.T) {
	for name, open := range map[string]func(*testing.T) storage.Store{
		"mem": func(*testing.T) storage.Store { return mem.New() },
		"s3": func(t *testing.T) storage.Store {
			s := testenv.Versitygw(t)
			// Keys are read of the environment of the process, which the test of a real S3 has for itself.
			t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKey)
			t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretKey)
			return openDriver(t, "s3://bucket/r?endpoint="+s.Endpoint, nil)
		},
		"swift": func(t *testing.T) storage.Store {
			return openDriver(t, "swift://first-document/r", testenv.Swift(t).Vars)
		},
	} {
		size := int64(96 << 20)
		if testing.Short() { // one goroutine computes what is stored, and which storage it is makes no difference to the count
			if name != "mem" {
				continue
			}
			size = 24 << 20
		}
		t.Run(name, func(t *testing.T) {
			driver := open(t)
			s := storeMade(t, driver, size)
			m := &meter.Meter{}
			store, err := cache.New(meter.New(driver, m), cache.Options{Size: 64 << 20, Immutable: segmentsOnly})
			must(t, err)
			r, err := repo.Open(t.Context(), store, repo.Options{Identities: []age.Identity{s.id}, Cached: true})
			must(t, err)
			man, err := r.Manifest(t.Context(), s.rec)
			must(t, err)
			before := m.Snapshot()
			doc, err := readFirst(t.Context(), r, man, s.doc)
			must(t, err)
			after := m.Snapshot()
			n := after.Requests() - before.Requests()
			t.Logf("%d requests, %d KiB", n, (after.Down-before.Down)>>10)
			if n > mostRequests || n == 0 || !bytes.Contains(doc, []byte(s.doc)) {
				t.Errorf("%d requests for %s", n, doc)
			}
		})
	}
}

func openDriver(t *testing.T, url string, env map[string]string) storage.Store {
	t.Helper()
	s, err := drivers.Open(t.Context(), url, drivers.Options{Create: true, Getenv: func(k string) string { return env[k] }})
	must(t, err)
	return s
}
