package couchwriter_test

import (
	"fmt"
	"sync/atomic"

	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

// underWrites compacts a database while documents are written, deleted and purged, and compares
// what all passes made, up to the swap.
func (l *liveTest) underWrites(name string) {
	l.fill(name, 3000)
	older := l.file(name)
	var done atomic.Bool
	written := make(chan error, 1)
	go func() {
		var err error
		for i := 0; !done.Load() && err == nil && i < 300; i++ {
			err = l.writeMeanwhile(name, i)
		}
		written <- err
	}()
	err := l.couch.Compact(name)
	done.Store(true)
	if err := <-written; err != nil {
		l.Fatal(err)
	}
	if err != nil {
		l.Fatal(err)
	}
	want := l.file(name)
	passes, swap := compactionOf(l, want)
	known, reused := docsOf(l, openSource(l, older, rawHeaders(l, older)[len(rawHeaders(l, older))-1])), 0
	out := &memory{}
	f := couchwriter.NewFile(out, out, 0, swap.Checksum)
	c := couchwriter.NewCompaction(f, nil, couchwriter.CompactionOptions{Release: couchwriter.Release30, DefaultSecurity: firstSecurity(l, older)})
	states := sorting(l, want)
	for _, h := range passes {
		src := openSource(l, want, h)
		src.Sorting = states
		src.Docs = overlay(known, src.Docs, &reused)
		if err := c.Pass(src, 0); err != nil {
			l.Fatal(err)
		}
	}
	if err := c.Swap(openSource(l, want, swap)); err != nil {
		l.Fatal(err)
	}
	l.Logf("%d passes, %d bytes of %d; %d documents of the older file", len(passes), len(out.b), len(want), reused)
	sameBytes(l, out.b, want[:swap.End])
}

// writeMeanwhile writes some documents, and purges some that were there before: an earlier pass
// may have copied them.
func (l *liveTest) writeMeanwhile(name string, round int) error {
	var docs []map[string]any
	for i := range 10 {
		docs = append(docs, map[string]any{"_id": fmt.Sprintf("while-%d-%d", round, i), "n": round})
	}
	var answers []struct{ ID, Rev string }
	if err := l.couch.Do(l.Context(), "POST", "/"+name+"/_bulk_docs", map[string]any{"docs": docs}, &answers); err != nil {
		return err
	}
	l.revs = append(l.revs, answers[0].Rev)
	if round < 5 {
		return nil
	}
	purges := map[string]any{fmt.Sprintf("while-%d-0", round-5): []string{l.revs[round-5]}}
	return l.couch.Do(l.Context(), "POST", "/"+name+"/_purge", purges, nil)
}
