package couchfile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const fuzzFixtures = "../testdata/couchdb-3.5.0"

// fuzzSeeds are real files of up to max bytes.
func fuzzSeeds(f *testing.F, max int64) [][]byte {
	f.Helper()
	var seeds [][]byte
	for _, dir := range []string{"data", "damaged"} {
		err := filepath.WalkDir(filepath.Join(fuzzFixtures, dir), func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".couch") && !strings.HasSuffix(p, ".view") {
				return err
			}
			if st, err := d.Info(); err != nil || st.Size() > max {
				return err
			}
			b, err := os.ReadFile(p)
			seeds = append(seeds, b)
			return err
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	later, _ := laterFile(func(b []byte) []byte { return zstded(b, true) })
	unsized, _ := laterFile(func(b []byte) []byte { return zstded(b, false) })
	return append(seeds, later, unsized)
}

func memSource(b []byte) *source {
	return newSource(bytes.NewReader(b), int64(len(b)), lookupShift, 4)
}

func FuzzChunk(f *testing.F) {
	for _, b := range fuzzSeeds(f, 30_000) {
		f.Add(b, int64(0))
		f.Add(b, int64(4095))
		f.Add(b, int64(len(b)/2))
	}
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 1}, int64(0))
	f.Fuzz(func(t *testing.T, b []byte, off int64) {
		r := chunkReader{src: memSource(b)}
		c, err := r.read(off, "chunk")
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			return
		}
		if c.end > int64(len(b))+1 || len(c.payload) > len(b) || cap(r.buf) > 2*len(b)+2*firstRead {
			t.Fatalf("chunk at %d of %d bytes ends at %d, payload %d, buffer %d", off, len(b), c.end, len(c.payload), cap(r.buf))
		}
	})
}

func FuzzHeader(f *testing.F) {
	for _, b := range fuzzSeeds(f, 30_000) {
		raw, err := FindHeader(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			f.Add(raw.Term)
		}
	}
	f.Fuzz(func(t *testing.T, term []byte) {
		raw := RawHeader{Term: term, Kind: headerKind(term)}
		if h, err := ParseHeader(raw); err == nil && (h.DiskVersion < minDiskVersion || h.DiskVersion > maxDiskVersion) {
			t.Fatalf("got version %d", h.DiskVersion)
		}
		if _, err := ParseViewHeader(raw); err == nil && raw.Kind != HeaderView {
			t.Fatalf("got a view header of kind %v", raw.Kind)
		}
	})
}

func FuzzNode(f *testing.F) {
	for _, b := range fuzzSeeds(f, 20_000) {
		db, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			continue
		}
		for _, tree := range []*Tree{db.IDTree(), db.SeqTree(), db.LocalTree(), db.PurgeTree(), db.PurgeSeqTree()} {
			r := chunkReader{src: db.src}
			if c, err := r.read(max(tree.Root.Offset, 0), "node"); err == nil && !tree.Root.Empty {
				f.Add(c.payload)
			}
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		r := nodeReader{chunks: chunkReader{src: memSource(payload)}}
		n, err := r.decode(chunk{payload: payload})
		if err != nil {
			return
		}
		if cap(r.at) > len(n.items) {
			t.Fatalf("%d items out of %d bytes", cap(r.at), len(n.items))
		}
		if cap(r.inf.buf) > inflateFree+1024 && cap(r.inf.buf) > 2*inflateRatio*len(payload) {
			t.Fatalf("%d bytes became %d", len(payload), cap(r.inf.buf))
		}
		items, err := r.split(n)
		if err != nil {
			return
		}
		for i := range items.len() {
			e := items.entry(i)
			_, _ = parseIDEntry(e)
			if d, ok := parseSeqEntry(e); ok {
				_, _ = d.info()
			}
			_, _, _, _ = parseLocalEntry(e)
			_, _ = parsePurge(e)
			_, _ = parseRoot(e.Value)
			_, _ = parseIDReduction(e.Value)
			_, _ = parseViewReduction(e.Value)
			_, _ = parseAttachments(e.Value)
		}
	})
}

// FuzzFile does with a file whatever can be done with it. A patch is applied
// to one of the seeds, so that headers stay intact and what they reach does not.
func FuzzFile(f *testing.F) {
	seeds := fuzzSeeds(f, 21_000)
	for i, b := range seeds {
		f.Add(uint(i), uint(len(b)/2), []byte{0xff})
		f.Add(uint(i), uint(4096), []byte{1, 0, 0, 0, 17})
		f.Add(uint(len(seeds)), uint(0), b[:min(len(b), 9000)])
	}
	f.Fuzz(func(t *testing.T, seed, at uint, patch []byte) {
		var b []byte
		if i := seed % uint(len(seeds)+1); i < uint(len(seeds)) {
			b = bytes.Clone(seeds[i])
		}
		if len(b) == 0 {
			b = bytes.Clone(patch)
		} else {
			copy(b[at%uint(len(b)):], patch)
		}
		useAll(t, b)
	})
}

func useAll(t *testing.T, b []byte) {
	r, size := &forgedReader{forgery: &forgery{data: b, size: int64(len(b))}}, int64(len(b))
	s := NewScanner(0)
	_, _ = s.Write(b)
	rep, err := Verify(t.Context(), r, size, VerifyOptions{AllHeaders: true})
	if err == nil && rep.LiveBytes > size {
		t.Fatalf("%d live bytes of %d", rep.LiveBytes, size)
	}
	// Small reads go through frames, which a small file has all in memory.
	if most := 16<<20 + 12*size; r.read > most {
		t.Fatalf("read %d bytes of a file of %d, want at most %d", r.read, size, most)
	}
	if _, err := Points(r, size); err != nil {
		t.Fatalf("Points: %v", err)
	}
	for how := range 3 {
		useParts(bytes.NewReader(b), size, how)
	}
	if v, err := OpenView(r, size); err == nil {
		for _, tree := range append(v.Trees(), v.IDTree()) {
			for range tree.All(nil, true) {
			}
		}
	}
	db, err := Open(r, size)
	if err != nil {
		return
	}
	_, _ = db.Info()
	_, _ = db.Security()
	_, _ = db.Props()
	_, _ = db.CountBefore("m")
	_, _ = db.CountChanges(3)
	for range db.Purges(0) {
	}
	for d, err := range db.LocalDocs("") {
		if err == nil {
			_, _ = d.JSON()
		}
	}
	for info, err := range db.Changes(0, false) {
		if err == nil {
			useDoc(db, info)
		}
	}
	for info, err := range db.Docs(DocsOptions{Descending: true, Start: "d2"}) {
		if err == nil {
			_, _ = db.Doc(info.ID, DocOptions{})
		}
	}
}

func useDoc(db *DB, info *DocInfo) {
	for _, rev := range info.Leaves() {
		_, _ = db.RevisionJSON(info, rev, DocOptions{Revs: true, RevsInfo: true, Conflicts: true, AttEncodingInfo: true})
		atts, err := db.Attachments(info.ID, rev)
		if err != nil {
			continue
		}
		for _, a := range atts {
			if r, err := db.OpenDecoded(a); err == nil {
				_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			}
		}
	}
}
