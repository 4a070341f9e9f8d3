package backups_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A backup that ends in the middle, because the storage goes away or by SIGKILL, is
// taken up by the next one: no segment that was stored is sent again.
func TestResumeSendsNothingTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("stores 20 segments some times")
	}
	k, s := startSwift(t), newSource(t, 1<<20)
	big := *s
	big.data = t.TempDir()
	if _, err := couchgen.DataDir(big.data, couchgen.DirOptions{Seed: 2, Databases: 2, Q: 2, BytesPerDB: 80 << 20}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		stored int
		kill   bool
	}{{4, false}, {9, true}, {4, true}, {9, false}, {15, false}, {15, true}}
	if !testenv.Soak() {
		tests = tests[:2]
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d stored, kill %t", tt.stored, tt.kill), func(t *testing.T) {
			tr := newTrial(t, k, &big, s.empty)
			first := tr.interrupted(t, tt.stored, tt.kill)
			tr.front.Set(nil)
			tr.process = false
			var made struct {
				ResumedBytes int64 `json:"resumed_bytes"`
			}
			if err := json.Unmarshal([]byte(tr.must(t, "backup", "create", "--json")), &made); err != nil {
				t.Fatal(err)
			}
			second := storedSegments(tr.front.Seen())
			if made.ResumedBytes == 0 {
				t.Error("nothing was taken up")
			}
			for key, n := range second {
				if n > 1 || first[key] > 0 {
					t.Errorf("%s was sent again", key)
				}
			}
			tr.restored(t, hashes(t, big.data, true))
			// What was stored twice under two names would be left over. Of the puts that
			// were under way at the kill, some may be stored though nobody was told.
			needed, most := tr.clean(t, 1), 0
			if tt.kill {
				most = underWay
			}
			if untold := needed - len(first) - len(second); untold < 0 || untold > most {
				t.Errorf("%d segments were stored, then %d; the backup has %d", len(first), len(second), needed)
			}
			t.Logf("%d segments, then %d, of %d", len(first), len(second), needed)
		})
	}
}

// underWay is how many puts there may be at once beside the one that is counted.
const underWay = 3

// interrupted makes a backup that ends once that many segments are stored, and
// returns how often each was.
func (tr *trial) interrupted(t *testing.T, stored int, kill bool) map[string]int {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tr.process = kill
	n := 0
	tr.front.Set(func(_ int, r *http.Request) testenv.Fault {
		if !segmentUpload(r) {
			return nil
		}
		if n++; n <= stored {
			return nil
		}
		if kill {
			cancel()
		}
		return testenv.CutUpload(far)
	})
	out := tr.run(ctx, "backup", "create")
	if want := map[bool]int{false: 10, true: -1}[kill]; out.code != want {
		t.Fatalf("code %d, want %d: %s", out.code, want, out.stderr)
	}
	first := storedSegments(tr.front.Seen())
	if len(first) > stored || len(first) < stored-underWay || len(first) < stored && !kill {
		t.Errorf("%d segments are stored, want %d", len(first), stored)
	}
	return first
}

// storedSegments counts the puts of each segment that went well.
func storedSegments(seen []testenv.Seen) map[string]int {
	out := map[string]int{}
	for _, r := range seen {
		if r.Method == http.MethodPut && strings.Contains(r.Path, "/segments/") && r.Status/100 == 2 {
			out[r.Path]++
		}
	}
	return out
}

// Thousands of small files need few requests.
func TestRequestsOfSmallFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("makes thousands of files")
	}
	k, s := startSwift(t), newSource(t, 1<<20)
	small := *s
	small.data = t.TempDir()
	files := 2_000
	if testenv.Soak() {
		files = 10_000
	}
	d, err := couchgen.DataDir(small.data, couchgen.PerUser(files))
	if err != nil {
		t.Fatal(err)
	}
	tr := newTrial(t, k, &small, s.empty)
	for _, tt := range []struct {
		name string
		args []string
		most int
	}{
		{"full backup", []string{"backup", "create"}, 200},
		{"incremental with nothing new", []string{"backup", "create"}, 60},
		{"restore", []string{"restore", "latest", "--to", t.TempDir() + "/to"}, 200},
	} {
		tr.front.Set(nil)
		tr.must(t, tt.args...)
		n := len(tr.front.Seen())
		if n >= tt.most {
			t.Errorf("%s: %d requests, want less than %d", tt.name, n, tt.most)
		}
		t.Logf("%s of %d files, %d bytes: %d requests", tt.name, d.Files, d.Bytes, n)
	}
}
