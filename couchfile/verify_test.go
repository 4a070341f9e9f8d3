package couchfile_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

func TestVerifySoundFiles(t *testing.T) {
	for _, path := range fixtureFiles(t) {
		r, size := load(t, path)
		for _, opts := range []couchfile.VerifyOptions{{}, {AllHeaders: true}, {Sample: 0.3, SkipAttachments: true}} {
			rep, err := couchfile.Verify(t.Context(), r, size, opts)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if !rep.OK() {
				t.Errorf("%s with %+v: got %v", path, opts, rep.Findings)
			}
			if rep.Kind == couchfile.HeaderDB {
				checkCounts(t, path, rep)
			}
		}
	}
}

func checkCounts(t *testing.T, path string, rep *couchfile.Report) {
	t.Helper()
	db, err := couchfile.Open(load(t, path))
	if err != nil {
		t.Fatal(err)
	}
	info, err := db.Info()
	if err != nil {
		t.Fatal(err)
	}
	if rep.Docs != info.DocCount || rep.DeletedDocs != info.DeletedCount || rep.Header.UUID != info.UUID {
		t.Errorf("%s: got %d and %d documents of %s, want %+v", path, rep.Docs, rep.DeletedDocs, rep.Header.UUID, info)
	}
	if rep.LiveBytes <= 0 || rep.LiveBytes > info.FileSize {
		t.Errorf("%s: got %d live bytes of %d", path, rep.LiveBytes, info.FileSize)
	}
}

// What a verifier has to see of each planted damage: the offset of the first
// finding, and words of it.
func TestVerifyDamage(t *testing.T) {
	for _, tc := range []struct {
		file   string
		all    bool // needs AllHeaders
		offset int64
		what   string
		docs   []string
		err    error
	}{
		{file: "torn-tail", offset: 0, what: "behind the newest header"},
		{file: "torn-in-header", offset: 49152, what: "torn header"},
		{file: "garbage-appended", what: "behind the newest header"},
		{file: "fake-header-markers", what: "behind the newest header"},
		{file: "zeros-appended", offset: 49357, what: "zeros where a header was expected"},
		{file: "last-header-checksum", offset: 49152, what: "header: checksum mismatch"},
		{file: "last-header-body", offset: 49152, what: "header: checksum mismatch"},
		{file: "bitflip-doc-body", offset: 12255, what: "checksum mismatch", docs: []string{"d034"}},
		{file: "bitflip-dead-bytes", all: true, what: "older state at update_seq 53: seq tree: reduction"},
		{file: "bitflip-id-tree-node", offset: 46110, what: "id tree"},
		{file: "bitflip-seq-tree-node", offset: 47054, what: "seq tree"},
		{file: "block-zeroed", what: "doc summary", docs: []string{
			"d004", "d005", "d008", "d011", "d014", "d020", "d025", "d029", "d031", "d034"}},
		{file: "wrong-generation-tail", what: ""},
		{file: "bitflip-attachment", offset: 12481, what: "attachment digest mismatch", docs: []string{"bin"}},
		{file: "no-headers", err: couchfile.ErrNoHeader},
		{file: "zero-length", err: couchfile.ErrNoHeader},
		{file: "all-zeros", err: couchfile.ErrNoHeader},
		{file: "first-100-bytes", err: couchfile.ErrNoHeader},
	} {
		t.Run(tc.file, func(t *testing.T) {
			r, size := load(t, filepath.Join(fixtures, "damaged", tc.file+".couch"))
			rep, err := couchfile.Verify(t.Context(), r, size, couchfile.VerifyOptions{AllHeaders: tc.all})
			if !errors.Is(err, tc.err) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			if err != nil {
				return
			}
			if rep.OK() {
				t.Fatal("got no findings")
			}
			f := rep.Findings[0]
			if tc.offset != 0 && f.Offset != tc.offset || !strings.Contains(f.String(), tc.what) {
				t.Errorf("got %v, want %q at %d", f, tc.what, tc.offset)
			}
			docs := hurtLeaves(t, filepath.Join(fixtures, "damaged", tc.file+".couch"), rep)
			if tc.docs != nil && !slices.Equal(docs, tc.docs) {
				t.Errorf("got documents %v, want %v: %v", docs, tc.docs, rep.Findings)
			}
		})
	}
}

// hurtLeaves returns the documents of which a leaf revision has a finding.
func hurtLeaves(t *testing.T, path string, rep *couchfile.Report) []string {
	t.Helper()
	db, err := couchfile.Open(load(t, path))
	if err != nil {
		t.Fatal(err)
	}
	var docs []string
	for _, f := range rep.Findings {
		if f.Doc == "" {
			continue
		}
		info, err := db.DocInfo(f.Doc)
		if err != nil {
			continue // a damaged tree
		}
		for _, l := range info.Leaves() {
			if l.String() == f.Rev {
				docs = append(docs, f.Doc)
			}
		}
	}
	slices.Sort(docs)
	return slices.Compact(docs)
}

func TestVerifyStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, size := load(t, filepath.Join(fixtures, "damaged", "torn-tail.couch"))
	if _, err := couchfile.Verify(ctx, r, size, couchfile.VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
