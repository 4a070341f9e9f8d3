package repo_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/storage/mem"
)

// A storage that is away says nothing of what it holds, wherever it goes away: no byte
// may be taken for lost.
func TestStorageAwayIsNoDamage(t *testing.T) {
	f := newFixture(t)
	m := mustBackup(t, f.open(t, f.store), f.writer, nil, text(1, 3<<20))
	away := errors.New("the network is down")
	var key storage.Key
	for k := range objects(t, f.store) {
		if strings.HasPrefix(string(k), "segments/") {
			key = k
		}
	}
	bad := get(t, f.store, key)
	bad[len(bad)/2] ^= 1
	put(t, f.store, key, bad)
	for n := 1; ; n++ {
		reads := 0
		ff := faulty.New(f.store, func(op faulty.Op) faulty.Action {
			if op.Kind != faulty.Get || op.Key != key {
				return faulty.Action{}
			}
			if reads++; reads == n {
				return faulty.Fail(away)
			}
			return faulty.Action{}
		})
		r := f.open(t, ff)
		file := m.Files[0]
		rd := r.NewReader(m, []*manifest.File{file})
		lost, err := rd.Salvage(t.Context(), file, true, func(int64, []byte) error { return nil })
		if reads < n {
			if err != nil || lost == 0 || lost > 1<<20 {
				t.Errorf("undisturbed: %d bytes lost, %v", lost, err)
			}
			return
		}
		if err == nil && lost > 1<<20 || err != nil && !errors.Is(err, away) {
			t.Errorf("read %d fails: %d bytes lost, %v", n, lost, err)
		}
	}
}

// What a damaged segment still gives is what was put into it.
func TestSalvage(t *testing.T) {
	for _, cut := range []int{0, 1, 5, 100, 1000, 2000} {
		store := mem.New()
		r, m, plain := oneSegment(t, store)
		var key storage.Key
		for k := range objects(t, store) {
			if strings.HasPrefix(string(k), "segments/") {
				key = k
			}
		}
		b := get(t, store, key)
		put(t, store, key, b[:max(0, len(b)-cut)])
		file := &manifest.File{Size: int64(len(plain)), Extents: []manifest.Extent{{Seg: 0, At: 0, N: int64(len(plain))}}}
		got := make([]byte, len(plain))
		lost, err := r.NewReader(m, []*manifest.File{file}).Salvage(t.Context(), file, true, func(off int64, b []byte) error { copy(got[off:], b); return nil })
		if err != nil || !bytes.Equal(got[:int64(len(plain))-lost], plain[:int64(len(plain))-lost]) {
			t.Errorf("cut by %d: %d bytes lost, %v", cut, lost, err)
		}
		proven, err := r.NewReader(m, nil).Salvage(t.Context(), file, false, func(int64, []byte) error { return nil })
		if err != nil || (proven == 0) != (cut == 0) {
			t.Errorf("cut by %d: %d bytes not proven, %v", cut, proven, err)
		}
		if want := int64(0); cut < 80 && lost != want || cut >= len(b) && lost != int64(len(plain)) {
			t.Errorf("cut by %d of %d: %d bytes lost", cut, len(b), lost)
		}
		if err := store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		lost, err = r.NewReader(m, nil).Salvage(t.Context(), file, true, func(int64, []byte) error { return nil })
		if err != nil || lost != int64(len(plain)) {
			t.Errorf("gone: %d bytes lost, %v", lost, err)
		}
		if err := r.NewReader(m, []*manifest.File{file}).Stream(t.Context(), file, func([]byte) error { return nil }); !repo.Damaged(err) {
			t.Errorf("gone: %v", err)
		}
	}
}
