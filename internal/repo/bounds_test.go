package repo

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// These are objects that a writer with credentials and a signing key forges to cost
// their reader what he hasn't: few stored bytes that say much.

// within fails the test if fn allocates more than most bytes in all.
func within(t *testing.T, most uint64, what string, fn func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > most {
		t.Errorf("%s: allocated %d bytes, at most %d are right", what, got, most)
	}
}

type forger struct {
	store  storage.Store
	repo   *Repo
	signer ed25519.PrivateKey
	id     *age.X25519Identity // nil without encryption
}

func newForger(t *testing.T, encrypted bool) *forger {
	t.Helper()
	f := &forger{store: mem.New(), signer: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	var opts Options
	var init InitOptions
	if encrypted {
		var err error
		if f.id, err = age.GenerateX25519Identity(); err != nil {
			t.Fatal(err)
		}
		opts.Identities, init.Recipients = []age.Identity{f.id}, []string{f.id.Recipient().String()}
	}
	if _, err := Init(t.Context(), f.store, init); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.repo, err = Open(t.Context(), f.store, opts); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *forger) put(t *testing.T, key storage.Key, b []byte) {
	t.Helper()
	if err := f.store.Put(t.Context(), key, bytes.NewReader(b), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (f *forger) record(t *testing.T) *manifest.Record {
	t.Helper()
	id, err := manifest.NewID()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	return &manifest.Record{Format: 1, Summary: manifest.Summary{ID: id, Instance: "node1", Name: "b", Type: manifest.Full, Status: manifest.Completed, Started: now, Finished: now},
		Segments: map[manifest.BackupID][]manifest.Range{}}
}

// forge stores a backup whose manifest is what write writes.
func (f *forger) forge(t *testing.T, rec *manifest.Record, write func(io.Writer)) int {
	t.Helper()
	var b bytes.Buffer
	out := io.WriteCloser(nopCloser{&b})
	if f.id != nil {
		var err error
		if out, err = age.Encrypt(&b, f.id.Recipient()); err != nil {
			t.Fatal(err)
		}
	}
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	write(z)
	if err := errors.Join(z.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	rec.ManifestSHA256, rec.ManifestSize = hex.EncodeToString(sum[:]), int64(b.Len())
	text, err := signed(rec, f.signer)
	if err != nil {
		t.Fatal(err)
	}
	f.put(t, f.repo.manifestKey(rec.Instance, rec.ID), b.Bytes())
	f.put(t, backupKey(rec.Instance, rec.ID, recordName), text)
	return b.Len()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// writeFiles writes a manifest of n files.
func writeFiles(t *testing.T, w io.Writer, rec *manifest.Record, n int) {
	t.Helper()
	head, err := json.Marshal(struct {
		Format int `json:"format"`
		manifest.Summary
	}{1, rec.Summary})
	if err != nil {
		t.Fatal(err)
	}
	line := `{"root":"data","path":"a","kind":"shard","mode":420,"mtime":0,"size":0,"sha256":"` + strings.Repeat("0", 64) + `","extents":[]}`
	fmt.Fprintf(w, "%s,\"segments\":[],\"files\":[%s", head[:len(head)-1], line)
	some := []byte(strings.Repeat(","+line, 1000))
	for range n / 1000 {
		_, _ = w.Write(some)
	}
	_, _ = io.WriteString(w, "]}\n")
}

// A manifest of a few KB that decompresses to 80 MB, or 16 with -short, costs what its record says that it
// has, and at most some times what is stored.
func TestForgedManifest(t *testing.T) {
	files := 500_000
	if testing.Short() {
		files = 100_000
	}
	for _, encrypted := range []bool{false, true} {
		for _, says := range []int{1, files + 1} {
			t.Run(fmt.Sprintf("encrypted %v, record of %d files", encrypted, says), func(t *testing.T) {
				f := newForger(t, encrypted)
				rec := f.record(t)
				rec.FileCount = says
				stored := f.forge(t, rec, func(w io.Writer) { writeFiles(t, w, rec, files) })
				most := uint64(24 << 20) // the decompressor's window and blocks
				if says > 1 {
					most += 8 * uint64(manifestBound(int64(stored)))
				}
				within(t, most, fmt.Sprintf("%d bytes", stored), func() {
					if _, err := f.repo.Manifest(t.Context(), rec); !errors.Is(err, ErrCorrupt) {
						t.Errorf("got %v, want ErrCorrupt", err)
					}
				})
				rep, err := f.repo.Check(t.Context(), CheckOptions{})
				if err != nil || len(rep.Problems) == 0 {
					t.Errorf("check: %+v, %v", rep, err)
				}
			})
		}
	}
}

// A manifest that is honest reads, whatever it compresses to.
func TestHonestManifests(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{1})
	hash := func() string {
		var b [32]byte
		_, _ = rnd.Read(b[:])
		return hex.EncodeToString(b[:])
	}
	for name, fill := range map[string]func(*manifest.Manifest, int){
		"shards": func(m *manifest.Manifest, i int) {
			m.Files = append(m.Files, &manifest.File{Root: manifest.DataRoot, Path: fmt.Sprintf("shards/00000000-7fffffff/db%06d.1795334390.couch", i), Kind: manifest.Shard, Mode: 0o644, SHA256: hash(),
				Generation: hash()[:32]})
		},
		"alike files": func(m *manifest.Manifest, i int) {
			raw := fmt.Sprintf("local.d/a:%06d.ini", i)
			m.Files = append(m.Files, &manifest.File{Root: manifest.EtcRoot, Path: manifest.EscapePath(raw), RawPath: []byte(raw), Kind: manifest.Config, Mode: 0o644, SHA256: strings.Repeat("0", 64)})
		},
		"left out": func(m *manifest.Manifest, i int) {
			m.LeftOut = append(m.LeftOut, manifest.LeftOut{Root: manifest.DataRoot, Path: fmt.Sprintf("shards/00000000-7fffffff/db%06d.1795334390.couch", i), Reason: "permission denied"})
		},
		"one line": func(m *manifest.Manifest, _ int) {
			m.Notes = append(m.Notes, strings.Repeat("a note that says nothing new ", 10))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := 90_000
			if testing.Short() {
				n = 30_000
			}
			f := newForger(t, false)
			rec := f.record(t)
			m := &manifest.Manifest{Format: 1, Summary: rec.Summary}
			for i := range n {
				fill(m, i)
			}
			lock, err := f.repo.Lock(t.Context(), m.Instance, "backup", m.ID)
			if err != nil {
				t.Fatal(err)
			}
			key, err := f.repo.WriteKey(t.Context(), m.Instance, KeyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if rec, err = f.repo.Commit(t.Context(), lock, m, key, f.signer); err != nil {
				t.Fatal(err)
			}
			var text counted
			text.w = io.Discard
			if err := manifest.Encode(&text, m); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes in %d stored ones: %d to 1", text.n, rec.ManifestSize, text.n/rec.ManifestSize)
			got, err := f.repo.Manifest(t.Context(), rec)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Files) != len(m.Files) || len(got.LeftOut) != len(m.LeftOut) || len(got.Notes) != len(m.Notes) {
				t.Error("it reads differently")
			}
			if err := lock.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// forgedRange is as many segments as a record may name in one range.
const forgedRange = 1 << 30

// A record, and a plan, that name a billion segments cost what is stored.
func TestForgedRanges(t *testing.T) {
	for _, key := range []bool{false, true} {
		f := newForger(t, true)
		rec := f.record(t)
		rec.Segments[rec.ID] = []manifest.Range{{0, forgedRange}}
		rec.SegmentSizes, rec.SegmentHashes = strings.Repeat("0", 64), strings.Repeat("0", 64)
		f.forge(t, rec, func(w io.Writer) { writeFiles(t, w, rec, 0) })
		if !key {
			f.repo.opts.Identities = nil
		}
		to := newForger(t, true)
		within(t, 64<<20, "check, deletion and copy", func() {
			rep, err := f.repo.Check(t.Context(), CheckOptions{ReadData: true})
			if err != nil || len(rep.Problems) == 0 {
				t.Errorf("check: %+v, %v", rep, err)
			}
			if _, err := f.repo.WouldPrune(t.Context(), "node1", PruneOptions{Remove: []manifest.BackupID{rec.ID}, Now: time.Now()}); err != nil {
				t.Errorf("prune: %v", err)
			}
			if !key {
				c := copier{src: f.repo, dst: to.repo, instance: "node1", id: rec.ID, rec: rec}
				if _, err := c.sizes(t.Context()); !errors.Is(err, ErrCorrupt) {
					t.Errorf("copy: got %v, want ErrCorrupt", err)
				}
			}
			if namedBy(rec)(SegmentID{Backup: rec.ID, N: forgedRange + 1}) || !namedBy(rec)(SegmentID{Backup: rec.ID, N: forgedRange}) {
				t.Error("the end of the range is elsewhere")
			}
		})
	}
}

func TestForgedPlan(t *testing.T) {
	f := newForger(t, false)
	rec := f.record(t)
	other := f.record(t)
	gone, stays := f.repo.segmentKey("node1", rec.ID, 7), f.repo.segmentKey("node1", other.ID, 7)
	f.put(t, gone, []byte("x"))
	f.put(t, stays, []byte("x"))
	p := &plan{Segments: map[manifest.BackupID][]manifest.Range{rec.ID: {{0, forgedRange}}}}
	within(t, 16<<20, "plan", func() {
		if _, err := f.repo.carryOut(t.Context(), "node1", p); err != nil {
			t.Error(err)
		}
	})
	if _, err := f.store.Stat(t.Context(), gone); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("what the plan names: got %v, want ErrNotExist", err)
	}
	if _, err := f.store.Stat(t.Context(), stays); err != nil {
		t.Errorf("what it doesn't name: %v", err)
	}
}

// Ranges that overlap would name more segments than can be.
func TestRangesAscend(t *testing.T) {
	for _, ranges := range [][]manifest.Range{{{0, 5}, {5, 6}}, {{3, 4}, {0, 1}}, {{0, 1}, {0, 1}}, {{-1, 1}}, {{2, 1}}, {{0, forgedRange + 1}}} {
		if err := checkRanges(map[manifest.BackupID][]manifest.Range{"a": ranges}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: got %v, want ErrCorrupt", ranges, err)
		}
	}
	if err := checkRanges(map[manifest.BackupID][]manifest.Range{"a": {{0, 0}, {1, 5}, {9, 9}}}); err != nil {
		t.Error(err)
	}
}

// A plan of more segments than go at once is carried out whole.
func TestPlanInParts(t *testing.T) {
	f := newForger(t, false)
	rec := f.record(t)
	p := &plan{Segments: map[manifest.BackupID][]manifest.Range{rec.ID: {{0, deletedAtOnce + 10}}}}
	for n := range deletedAtOnce + 11 {
		f.put(t, f.repo.segmentKey("node1", rec.ID, n), []byte("x"))
	}
	if _, err := f.repo.carryOut(t.Context(), "node1", p); err != nil {
		t.Fatal(err)
	}
	if left, err := f.repo.Segments(t.Context(), "node1"); err != nil || len(left) > 0 {
		t.Errorf("%d segments are left, %v", len(left), err)
	}
}

// zeros is a stored object of any size that ends in foot.
type zeros struct {
	size int64
	foot []byte
}

func (z *zeros) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = 0
		if k := off + int64(i) - (z.size - int64(len(z.foot))); k >= 0 {
			p[i] = z.foot[k]
		}
	}
	return len(p), nil
}

// A seek table of more frames than a segment can have, and a segment of more bytes than
// any has, are refused before memory is made for them.
func TestForgedTrailer(t *testing.T) {
	const size = 1 << 28
	foot := binary.LittleEndian.AppendUint32(nil, size/(sha256.Size+entrySize)-100)
	foot = binary.LittleEndian.AppendUint32(append(foot, 0), seekableMagic)
	within(t, 1<<20, "trailer", func() {
		if _, err := readFrames(&zeros{size, foot}, size, SegmentSize, ""); !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v, want ErrCorrupt", err)
		}
	})
	f := newForger(t, false)
	for _, s := range []manifest.Segment{{Size: 10, Plain: 1 << 50}, {Size: 1 << 50, Plain: 10}} {
		s.Backup = f.record(t).ID
		f.put(t, f.repo.segmentKey("node1", s.Backup, 0), make([]byte, 100))
		_, err := f.repo.ReadSegment(t.Context(), "node1", s)
		_, err2 := f.repo.openSegment(t.Context(), "node1", s)
		_, err3 := f.repo.readPrefix(t.Context(), "node1", s)
		for _, err := range []error{err, err2, err3} {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%d bytes in %d: got %v, want ErrCorrupt", s.Plain, s.Size, err)
			}
		}
	}
}

// Small objects that aren't small are refused, or say nothing, by what they are.
func TestForgedSmallObjects(t *testing.T) {
	f := newForger(t, false)
	rec := f.record(t)
	f.forge(t, rec, func(w io.Writer) { writeFiles(t, w, rec, 0) })
	large := bytes.Repeat([]byte("\n"), 8<<20)
	f.put(t, backupKey("node1", rec.ID, pinName), large)
	f.put(t, lockKey("node1", 1), large)
	within(t, 2<<20, "mark and lock", func() {
		if pin, err := f.repo.Pinned(t.Context(), "node1", rec.ID); err != nil || pin == nil {
			t.Errorf("pin: %v, %v; want one that says nothing", pin, err)
		}
		if _, err := f.repo.readLock(t.Context(), "node1", 1); err != nil {
			t.Errorf("lock: %v", err)
		}
	})
	within(t, 1<<20, "record", func() {
		if _, err := f.repo.verifyRecord(large); !errors.Is(err, ErrCorrupt) {
			t.Errorf("record: got %v, want ErrCorrupt", err)
		}
	})
	f.put(t, configKey, large)
	f.put(t, configCopyKey, large)
	within(t, 16<<20, "configuration", func() {
		if _, err := Open(t.Context(), f.store, Options{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("configuration: got %v, want ErrCorrupt", err)
		}
	})
}
