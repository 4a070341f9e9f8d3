package replay

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"sync"

	"github.com/slipcover/slipcover/couchfile/couchwriter"
)

// cursor goes over what is known, in step with the documents of a file.
type cursor struct {
	known *Known
	next  func() (knownDoc, error, bool)
	stop  func()
	at    knownDoc
	ended bool
	begun bool
}

func openCursor(k *Known) *cursor {
	c := &cursor{known: k, ended: k == nil}
	if k != nil {
		c.next, c.stop = iter.Pull2(k.all())
	}
	return c
}

func (c *cursor) close() {
	if c.stop != nil {
		c.stop()
	}
}

func (c *cursor) step() (err error) {
	var ok bool
	if c.at, err, ok = c.next(); !ok {
		c.ended = true
	}
	return err
}

// find returns what is known of the document of a sequence, larger than those
// before, and how many known documents it passed over since the one before.
func (c *cursor) find(seq uint64) (hash docHash, known bool, skips uint64, err error) {
	if !c.begun && !c.ended {
		c.begun = true
		err = c.step()
	}
	for err == nil && !c.ended && c.at.seq < seq {
		skips++
		err = c.step()
	}
	if err != nil || c.ended || c.at.seq != seq {
		return hash, false, skips, err
	}
	hash = c.at.hash
	return hash, true, skips, c.step()
}

func (c *cursor) skip(n uint64) error {
	for range n {
		if !c.begun {
			c.begun = true
			if err := c.step(); err != nil {
				return err
			}
		}
		if c.ended {
			return damaged("fewer documents are known than are passed over")
		}
		if err := c.step(); err != nil {
			return err
		}
	}
	return nil
}

// proof decodes a stream while it is written. Documents of the older file come
// from the true file, where Encode found them to be the same; that they are
// those which Decode will get is held against what is known.
type proof struct {
	trial
	out *comparer

	updateSeq uint64
	known     *cursor

	mu   sync.Mutex // guards lent
	lent []doc      // that the decoder has not yet taken
}

var errProofEnded = errors.New("decoding what was written ended")

func startProof(info *Info, f File, known *Known, scratch couchwriter.Scratch) *proof {
	p := &proof{out: newComparer(f.R, info.Size), known: openCursor(known)}
	tried := *info
	if known != nil {
		tried.OlderDocs, p.updateSeq = known.docs, known.updateSeq
	}
	p.start(func(in *wireReader) error {
		defer p.known.close()
		return tried.decode(in, p, p.out, scratch)
	})
	return p
}

// trial runs a decoder beside the encoder, which writes to pipe.
type trial struct {
	pipe *io.PipeWriter
	done chan struct{}
	err  error
}

func (t *trial) start(decode func(in *wireReader) error) {
	r, w := io.Pipe()
	t.pipe, t.done = w, make(chan struct{})
	go func() {
		defer close(t.done)
		in := newWireReader(r, math.MaxUint64)
		t.err = decode(in)
		if t.err == nil {
			if _, err := in.r.ReadByte(); !errors.Is(err, io.EOF) {
				t.err = damaged("more in the stream than is needed")
			}
		}
		r.CloseWithError(errors.Join(errProofEnded, t.err))
	}()
}

// end waits for the decoder. err is what the encoder ended with.
func (t *trial) end(err error) error {
	t.pipe.CloseWithError(err)
	<-t.done
	return t.err
}

// lend is what the decoder will take.
func (p *proof) lend(run []doc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent = append(p.lent, run...)
}

// UpdateSeq is that of the older file.
func (p *proof) UpdateSeq() uint64 { return p.updateSeq }

// Next is the next document that both files have.
func (p *proof) Next() (couchwriter.SourceDoc, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lent) == 0 {
		return couchwriter.SourceDoc{}, errors.New("a document that was not taken")
	}
	d := p.lent[0]
	p.lent = p.lent[1:]
	_, known, skips, err := p.known.find(d.seq)
	if err == nil && (!known || skips > 0) {
		err = fmt.Errorf("document of update_seq %d instead of %d", p.known.at.seq, d.seq)
	}
	return d.SourceDoc, err
}

// Skip passes over known documents.
func (p *proof) Skip(n uint64) error { return p.known.skip(n) }
