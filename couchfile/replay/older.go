package replay

import (
	"iter"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Older is the documents of the older file in the order of their sequences.
type Older interface {
	// UpdateSeq is that of the header at which the older file is read.
	UpdateSeq() uint64
	// Next is the next document. It must stay valid.
	Next() (couchwriter.SourceDoc, error)
	// Skip passes over the next n documents.
	Skip(n uint64) error
}

// OpenOlder opens the older file for Decode. Close must be called.
func OpenOlder(f File) (*OlderFile, error) {
	src, err := openSource(f)
	if err != nil {
		return nil, err
	}
	head, ok := erlterm.Elements(src.Header)
	if !ok {
		return nil, damaged("header of the older file")
	}
	o := &OlderFile{}
	o.updateSeq, _, _ = erlterm.Uint(head[couchwriter.AtUpdateSeq])
	o.next, o.stop = iter.Pull2(src.Docs(0))
	return o, nil
}

// OlderFile is a file that has older documents.
type OlderFile struct {
	updateSeq uint64

	next func() (couchwriter.SourceDoc, error, bool)
	stop func()
}

// UpdateSeq is that of the header.
func (o *OlderFile) UpdateSeq() uint64 { return o.updateSeq }

// Close ends the iteration.
func (o *OlderFile) Close() { o.stop() }

// Next is the next document.
func (o *OlderFile) Next() (couchwriter.SourceDoc, error) {
	d, err, ok := o.next()
	if !ok {
		err = damaged("the older file has fewer documents than the stream needs")
	}
	return d, err
}

// Skip passes over documents.
func (o *OlderFile) Skip(n uint64) error {
	for range n {
		if _, err := o.Next(); err != nil {
			return err
		}
	}
	return nil
}

func openSource(f File) (*couchwriter.Source, error) {
	h, err := couchfile.ReadHeader(f.R, f.Size, f.Header)
	if err != nil {
		return nil, err
	}
	return couchwriter.OpenSource(f.R, f.Size, h)
}
