package couchgen

import (
	"errors"
	"fmt"
	"io"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// File is what Reopen needs; *os.File opened for reading and writing is one.
type File interface {
	io.ReaderAt
	io.Writer
	io.Seeker
}

// Reopen continues a file from its newest header, appending at the end, as the
// server does. It reads the headers and terms that this package and CouchDB 3.x
// write, and carries what a later release has in its header through. Seed, UUID, Security, Partitioned and NodeLocal of opts are not used.
func Reopen(f File, opts Options) (*Generator, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	raw, err := couchfile.FindHeader(f, size)
	if err != nil {
		return nil, err
	}
	g := newGenerator(f, size, opts)
	if err := g.readHeader(raw.Term); err != nil {
		return nil, fmt.Errorf("header at %d: %w", raw.Offset, err)
	}
	g.takeOver()
	return g, nil
}

// takeOver notes that another node writes from now on.
func (g *Generator) takeOver() {
	h := &g.head
	if node := g.opts.NodeName; h.epochs[0].node != node {
		if h.epochs[0].seq == h.updateSeq {
			h.epochs = h.epochs[1:]
		}
		h.epochs = append([]epoch{{node, h.updateSeq}}, h.epochs...)
	}
}

func (g *Generator) readHeader(p []byte) (err error) {
	term, err := decodeTerm(p)
	if err != nil {
		return err
	}
	defer guard(&err)
	t := must[Tuple](term)
	if len(t) < 16 || t[0] != Atom("db_header") || t[1] != int64(newestDisk) {
		return errors.New("not a db_header of disk version 8")
	}
	h := &g.head
	h.updateSeq = uint64(must[int64](t[2]))
	states, _ := erlterm.Elements(p[1:])
	for i, t := range []*couchwriter.Tree{g.ids.Tree, g.seqs.Tree, g.locals.Tree, g.purges.Tree, g.purgeSeqs.Tree} {
		t.Reset(states[4+i])
	}
	last, err := g.purgeSeqs.Last()
	if err != nil {
		return err
	}
	if last != nil {
		h.purgeSeq, _, _ = erlterm.Uint(last)
	}
	h.security, h.noSecurity = intOr(t[9])
	h.revsLimit = must[int64](t[10])
	h.uuid = must[string](t[11])
	for _, e := range must[[]any](t[12]) {
		e := must[Tuple](e)
		h.epochs = append(h.epochs, epoch{string(must[Atom](e[0])), uint64(must[int64](e[1]))})
	}
	compacted, none := intOr(t[13])
	h.compactedSeq, h.noCompactedSeq = uint64(compacted), none
	h.purgesLimit = must[int64](t[14])
	h.props, h.noProps = intOr(t[15])
	h.timeSeq, h.more = t[3], t[16:]
	return nil
}

func intOr(term any) (v int64, absent bool) {
	v, ok := term.(int64)
	return v, !ok
}
