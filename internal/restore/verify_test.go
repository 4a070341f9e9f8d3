package restore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

func verify(t *testing.T, o restore.VerifyOptions) *restore.VerifyReport {
	t.Helper()
	rep, err := restore.Verify(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestVerify(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	var p restore.Progress
	rep := verify(t, restore.VerifyOptions{Repo: r, Record: rec, Progress: &p})
	if !rep.OK() || len(rep.Findings) > 0 || int(rep.Files) != rec.FileCount || rep.Bytes != rec.SizeBytes || rep.Docs == 0 {
		t.Errorf("report: %+v", rep)
	}
	if p.BytesDone.Load() != rec.SizeBytes || p.FilesDone.Load() != int64(rec.FileCount) {
		t.Errorf("progress: %d bytes, %d files", p.BytesDone.Load(), p.FilesDone.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := restore.Verify(ctx, restore.VerifyOptions{Repo: r, Record: rec}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := restore.Verify(t.Context(), restore.VerifyOptions{Repo: r, Record: rec, Sample: 5}); !errors.Is(err, restore.ErrOptions) {
		t.Errorf("a sample of 5: %v", err)
	}
}

func TestVerifySample(t *testing.T) {
	t.Parallel()
	r, rec := fixtureBackup(t)
	rep := verify(t, restore.VerifyOptions{Repo: r, Record: rec, Sample: 0.05})
	if !rep.OK() || rep.Skipped == 0 || rep.Files+rep.Skipped != int64(rec.FileCount) {
		t.Errorf("report: %+v", rep)
	}
}

// Damage that the source had is in the backup as it was, and no news.
func TestVerifyKnowsTheSourcesDamage(t *testing.T) {
	t.Parallel()
	data := copyFixture(t)
	for _, name := range []string{"bitflip-doc-body", "bitflip-id-tree-node", "bitflip-attachment", "block-zeroed"} {
		b, err := os.ReadFile(filepath.Join(fixture, "damaged", name+".couch"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, "shards/00000000-7fffffff", strings.ReplaceAll(name, "-", "_")+".1795334000.couch"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := openRepo(t, mem.New())
	rec := take(t, r, data, t.TempDir())
	rep := verify(t, restore.VerifyOptions{Repo: r, Record: rec})
	if rep.Known == 0 {
		t.Errorf("report: %+v", rep)
	}
	for _, x := range rep.Findings {
		if x.Cause != restore.Source {
			t.Errorf("%+v", x)
		}
		// Only document bodies have checksums: the rest is not seen while it passes by.
		if strings.Contains(x.Path, "doc_body") && !x.Known {
			t.Errorf("the backup doesn't record %+v", x)
		}
	}
	dir := filepath.Join(t.TempDir(), "data")
	files(t, restore.Options{Repo: r, Record: rec, To: dir})
	sameFiles(t, hashes(t, dir), wanted(t, r, rec))
}

// A large file takes the way over a scratch file, which is gone afterwards, and
// sampling reads it in place.
func TestVerifyLargeFile(t *testing.T) {
	t.Cleanup(restore.SetInMemory(1 << 20))
	data := filepath.Join(t.TempDir(), "data")
	if _, err := couchgen.DataDir(data, couchgen.OneShard(9<<20)); err != nil {
		t.Fatal(err)
	}
	store := mem.New()
	r := openRepo(t, store)
	rec := take(t, r, data, t.TempDir())
	scratch := t.TempDir()
	rep := verify(t, restore.VerifyOptions{Repo: r, Record: rec, Scratch: scratch})
	if !rep.OK() || rep.Bytes < 8<<20 || rep.Docs == 0 {
		t.Errorf("report: %+v", rep)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("scratch: %v, %v", left, err)
	}
	rep = verify(t, restore.VerifyOptions{Repo: r, Record: rec, Sample: 0.01})
	if !rep.OK() || rep.Docs == 0 {
		t.Errorf("sample: %+v", rep)
	}
	var keys []storage.Key
	if err := store.List(t.Context(), "segments/", func(i storage.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	if err := store.Put(t.Context(), keys[0], bytes.NewReader([]byte("not a segment")), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), keys[1]); err != nil {
		t.Fatal(err)
	}
	for _, sample := range []float64{0, 0.01} {
		rep = verify(t, restore.VerifyOptions{Repo: r, Record: rec, Sample: sample})
		if rep.OK() || rep.Findings[0].Cause != restore.Stored {
			t.Errorf("sample %v of a damaged repository: %+v", sample, rep)
		}
	}
}
