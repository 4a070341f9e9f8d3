package diverge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/diverge"
	"github.com/slipcover/slipcover/internal/testenv"
)

// rich writes n documents, local documents and purges; missing is left out.
func rich(t *testing.T, seed uint64, n int, missing string) []byte {
	return file(t, seed, couchgen.Options{Compression: couchgen.None}, func(g *couchgen.Generator) {
		for i := range n {
			if id := fmt.Sprintf("doc-%05d", i); id != missing {
				put(t, g, doc{ID: id, RevID: "a"})
			}
			if err := g.PutLocal(fmt.Sprintf("_local/l-%05d", i), map[string]any{"i": i}); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Commit(); err != nil {
			t.Fatal(err)
		}
		for i := range n / 10 {
			id := fmt.Sprintf("doc-%05d", i*10)
			if err := g.Purge(id); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Whatever node of a copy is damaged, it is told as that, and nothing of what it held as a difference.
func TestDamage(t *testing.T) {
	const n, missing = 300, "doc-00151"
	sound := rich(t, 1, n, "")
	less := rich(t, 1, n, missing)
	parts := map[string]int{}
	found := 0
	for _, kind := range []string{"kv_node", "kp_node"} {
		for at := 0; ; at++ {
			i := bytes.Index(less[at:], []byte(kind))
			if i < 0 {
				break
			}
			at += i
			b := bytes.Clone(less)
			b[at+3] ^= 4
			r, each := compare(t, b, sound, sound)
			told := fmt.Sprintf("flip at %d", at)
			for _, d := range each {
				if d.ID != missing || d.Copies[0].State != diverge.Missing || d.Copies[1].State != diverge.Complete {
					t.Fatalf("%s: told %+v", told, d)
				}
				found++
			}
			if r.SameState || len(r.Settings) > 0 {
				t.Fatalf("%s: %+v", told, r)
			}
			if r.Documents != n-n/10 || r.Local.Documents != n || r.Copies[1].Damaged+r.Copies[2].Damaged != 0 {
				t.Fatalf("%s: %d and %d documents, %+v", told, r.Documents, r.Local.Documents, r.Copies[1:])
			}
			bad := r.Copies[0]
			if len(each) == 0 && bad.Unread == 0 || bad.Unread != r.Unread+r.Local.Unread || (bad.Unread > 0) != (r.Unread+r.Local.Unread > 0) {
				t.Fatalf("%s: %d of it unread, %d, %d local ones", told, bad.Unread, r.Unread, r.Local.Unread)
			}
			if bad.Damaged > 0 {
				parts[bad.Damage[0].Part]++
			}
			if bad.Damaged > 0 && (r.Agrees() || !r.Damaged() || bad.Damage[0].Error == "") {
				t.Fatalf("%s: agrees %v, damaged %v, %+v", told, r.Agrees(), r.Damaged(), bad.Damage)
			}
		}
	}
	for _, p := range []string{diverge.PartDocuments, diverge.PartLocal, diverge.PartPurges} {
		if parts[p] == 0 {
			t.Errorf("no flip hurt the %s: %v", p, parts)
		}
	}
	if found == 0 {
		t.Error("the difference was never told")
	}
}

// badReader fails to read some places, as a storage does.
type badReader struct {
	io.ReaderAt
	from, to int64
	reads    int
}

var errStorage = errors.New("the storage is away")

func (r *badReader) ReadAt(p []byte, off int64) (int, error) {
	if off < r.to && off+int64(len(p)) > r.from {
		r.reads++
		return 0, errStorage
	}
	return r.ReaderAt.ReadAt(p, off)
}

func (r *badReader) Keeps() bool { return true }

// A storage that fails for long is not asked for every node, and what it would have told is no difference.
func TestStorageFails(t *testing.T) {
	sound := rich(t, 1, 8000, "")
	other := rich(t, 2, 8000, "")
	bad := &badReader{ReaderAt: bytes.NewReader(other)}
	db, err := couchfile.Open(bad, int64(len(other)))
	if err != nil {
		t.Fatal(err)
	}
	whole := db.Header().IDTree.Size
	bad.from, bad.to = db.Header().IDTree.Offset-whole, db.Header().IDTree.Offset-whole/2 // leaves
	all := append(copies(t, sound), diverge.Copy{Node: "bad", DB: db})
	r, each := compareCopies(t, all)
	if len(each) > 0 || r.Unread == 0 || r.Copies[1].Damaged == 0 {
		t.Errorf("told %d differences, %+v", len(each), r)
	}
	if d := r.Copies[1].Damage[0]; !strings.Contains(d.Error, errStorage.Error()) {
		t.Errorf("told %q", d.Error)
	}
	if bad.reads > 100 {
		t.Errorf("the storage was asked %d times", bad.reads)
	}
	most := r.Copies[1].Unread

	r, err = diverge.Compare(t.Context(), all, diverge.Options{Gone: func(err error) bool { return errors.Is(err, errStorage) }})
	if err != nil {
		t.Fatal(err)
	}
	if u := r.Copies[1].Unread; r.Different > 0 || u == 0 || u >= most || r.Copies[1].Damaged <= 20 {
		t.Errorf("of bytes that are gone for good: %d unread, before %d, %d damaged parts", u, most, r.Copies[1].Damaged)
	}
}

// A comparison ends with its context, and tells what it found before.
func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	all := copies(t, rich(t, 1, 3000, ""), file(t, 2, couchgen.Options{}, docs(t)))
	seen, last := 0, ""
	r, err := diverge.Compare(ctx, all, diverge.Options{Each: func(d diverge.Difference) error {
		last = d.ID
		if seen++; seen == 100 {
			cancel()
		}
		return nil
	}})
	if !errors.Is(err, context.Canceled) || seen > 2900 {
		t.Errorf("got %v after %d", err, seen)
	}
	if r.Reached == nil || *r.Reached != (diverge.Reached{Part: diverge.PartDocuments, After: last}) || r.Different != uint64(seen) || r.Documents < r.Different || r.Damaged() || r.Agrees() {
		t.Errorf("after %d, at %s: %+v", seen, last, r)
	}

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if r, err := diverge.Compare(ctx, all, diverge.Options{}); !errors.Is(err, context.Canceled) || r.Damaged() || r.Reached == nil || r.Documents > 0 {
		t.Errorf("before it begins: %v, %+v", err, r)
	}
}

// Whatever byte of a copy is another one, a comparison comes to its end, and what it counts adds up.
func TestFlips(t *testing.T) {
	sound := rich(t, 1, 60, "")
	step := max(1, len(sound)/testenv.Computed(1500, 200))
	differ := 0
	for at := int(testenv.Seed(t) % uint64(step)); at < len(sound); at += step {
		b := bytes.Clone(sound)
		b[at] ^= 1 << (at % 8)
		db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			continue
		}
		r, each := compareCopies(t, append(copies(t, sound), diverge.Copy{Node: "b", DB: db}))
		if r.Copies[0].Damaged > 0 {
			t.Fatalf("flip at %d: %+v", at, r.Copies[0])
		}
		for _, d := range each {
			if !d.Local {
				checkDifference(t, d)
			}
		}
		if !r.Agrees() {
			differ++
		}
	}
	if differ == 0 {
		t.Error("no flip was noticed")
	}
}

// A local document that can't be taken apart is told as what can't be read, alone.
func TestDamagedLocal(t *testing.T) {
	write := func(seed uint64) []byte {
		return file(t, seed, couchgen.Options{Compression: couchgen.None}, func(g *couchgen.Generator) {
			for _, id := range []string{"_local/a", "_local/b", "_local/c"} {
				for range 300 {
					if err := g.PutLocal(id, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
	bad := write(2)
	rev := []byte{98, 0, 0, 1, 44} // 300
	at := bytes.LastIndex(bad, append([]byte("_local/b\x68\x02"), rev...))
	if at < 0 {
		t.Fatal("the record is not there")
	}
	bad[at+len("_local/b\x68\x02")+1] = 0x80 // which makes it negative
	r, each := compare(t, write(1), bad)
	if len(each) != 0 || r.Local != (diverge.Local{Documents: 3, Equal: 2, Unread: 1}) {
		t.Errorf("told %d differences, %+v", len(each), r.Local)
	}
	if d := r.Copies[1].Damage; len(d) != 1 || d[0].Part != diverge.PartLocal || d[0].After != "_local/a" || d[0].Last != "_local/b" {
		t.Errorf("damage: %+v", d)
	}
}
