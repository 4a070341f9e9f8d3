package replay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// CopyResult is what EncodeCopy made.
type CopyResult struct {
	// Prologue stands in front of the body: the stream is both.
	Prologue []byte
	Copy     *Copy
	Copied   int64 // bytes of payload that the older file has
}

// StreamSize is how many bytes the stream has, prologue and body.
func (r *CopyResult) StreamSize() int64 { return int64(len(r.Prologue)) + r.Copy.literals }

// EncodeCopy writes the body of a stream of copies for a file. known is of the older file;
// of that it uses the first olderSize bytes at most.
//
// The stream is proven when it is done: what it takes from the older file is known, by its
// place and its hash, and the literals are those that were written. The sum is that of the
// bytes that it makes so. It returns ErrNotReplayed if it can't be proven, and ErrMostlyNew
// as soon as more than half of the file is new.
func EncodeCopy(body io.Writer, f File, known *CopyKnown, olderSize int64) (*CopyResult, error) {
	e := &copyEncoder{f: f, body: body, sum: sha256.New(), key: known.key[:], c: &Copy{Size: f.Size, OlderSize: min(olderSize, known.cut)}}
	var err error
	if e.table, err = known.table(payloadLen(e.c.OlderSize)); err != nil {
		return nil, err
	}
	if len(e.table) == 0 {
		return nil, ErrMostlyNew
	}
	if err := e.run(); err != nil {
		return nil, err
	}
	if e.needed > 0 {
		_, e.c.OlderSize = BytesOf(0, e.needed)
	}
	if err := e.prove(); err != nil {
		return nil, err
	}
	return &CopyResult{Prologue: e.c.append(nil), Copy: e.c, Copied: payloadLen(f.Size) - e.c.literals}, nil
}

// ErrMostlyNew says that a copy isn't worth it.
var ErrMostlyNew = errors.New("more than half of the file is new")

type copyEncoder struct {
	f     File
	c     *Copy
	body  io.Writer
	sum   hash.Hash // of the literals
	key   []byte
	table pieceTable

	used []uint32 // pieces of the table that were taken, in the order of the file
	at   int64    // of the payload that is written
	next int64    // where in the older file what was copied last ends

	needed int64 // of the older file's payload
}

// run finds what is known.
func (e *copyEncoder) run() error {
	literals := newPayloadReader(e.f.R, 0, e.f.Size)
	literals.marked = func(m mark) { e.c.markers = append(e.c.markers, m) }
	for p, err := range pieces(e.f.R, 0, e.f.Size) {
		if err != nil {
			return err
		}
		i, ok := e.table.find(hashPiece(e.key, p.b), len(p.b), e.next)
		if !ok {
			continue
		}
		if err := e.literal(literals, p.at); err != nil {
			return err
		}
		e.copied(i)
	}
	if err := e.literal(literals, payloadLen(e.f.Size)); err != nil {
		return err
	}
	if len(e.c.runs) >= maxRuns {
		return notReplayed("it has too many pieces")
	}
	_, err := literals.get(e.at, 1) // so that it has seen all markers
	return err
}

// copied notes that a piece of the older file follows.
func (e *copyEncoder) copied(i int) {
	p := e.table[i]
	if k := len(e.c.runs); k == 0 || e.c.runs[k-1].from < 0 || p.at != e.next {
		e.c.runs = append(e.c.runs, runStart{e.at, p.at})
	}
	e.used = append(e.used, uint32(i))
	e.at += int64(p.n)
	e.next = p.at + int64(p.n)
	e.needed = max(e.needed, e.next)
}

// literal writes the payload up to a place.
func (e *copyEncoder) literal(in *payloadReader, to int64) error {
	if e.at == to {
		return nil
	}
	if e.c.literals+to-e.at > payloadLen(e.f.Size)/2 {
		return ErrMostlyNew
	}
	e.c.runs = append(e.c.runs, runStart{e.at, -1 - e.c.literals})
	for e.at < to {
		b, err := in.get(e.at, int(min(to-e.at, maxPiece)))
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return fmt.Errorf("the file ends at %d: %w", e.at, io.ErrUnexpectedEOF)
		}
		if _, err := e.body.Write(b); err != nil {
			return err
		}
		e.sum.Write(b)
		e.at, e.c.literals = e.at+int64(len(b)), e.c.literals+int64(len(b))
	}
	return nil
}

// prove reads the stream back and makes the file of it, the true one standing in for what
// is known to be the same.
func (e *copyEncoder) prove() error {
	in := newPayloadReader(e.f.R, 0, e.f.Size)
	literals, made := sha256.New(), sha256.New()
	again := &Copy{}
	fields, err := openPrologue(bytes.NewReader(e.c.append(nil)), copyMagic, copyVersion)
	if err == nil {
		err = again.read(fields)
	}
	if err != nil {
		return notReplayed("the prologue does not read back: %w", err)
	}
	w := again.NewFiller(made)
	used := e.used
	at := int64(0)
	err = again.Runs(0, payloadLen(again.Size), func(r Run) error {
		for n := r.N; n > 0; {
			part := min(n, maxPiece)
			var p knownPiece
			if r.Older {
				if len(used) == 0 {
					return notReplayed("bytes are copied that are not known")
				}
				p = e.table[used[0]]
				used = used[1:]
				if part = int64(p.n); p.at != r.At+r.N-n || part > n {
					return notReplayed("bytes are copied from another place than they are known at")
				}
			}
			b, err := in.get(at, int(part))
			switch {
			case err != nil:
				return err
			case int64(len(b)) < part:
				return io.ErrUnexpectedEOF
			case !r.Older:
				literals.Write(b)
			case hashPiece(e.key, b) != p.hash:
				return notReplayed("bytes are copied that are other ones")
			}
			_, _ = w.Write(b)
			at, n = at+part, n-part
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = w.Close()
	if err != nil || !bytes.Equal(literals.Sum(nil), e.sum.Sum(nil)) || len(used) > 0 {
		return notReplayed("%w", errWrong)
	}
	copy(e.c.SHA256[:], made.Sum(nil))
	return nil
}
