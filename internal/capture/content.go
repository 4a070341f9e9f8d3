package capture

import (
	"context"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
)

// ReadSize is how much is read at once, and between two looks at the context, in bytes. A
// sink does well not to take more of a file at once.
const ReadSize = 512 << 10

// see takes in the bytes of the file that follow.
func (f *taking) see(b []byte) {
	_, _ = f.sum.Write(b)
	if f.scan != nil {
		_, _ = f.scan.Write(b)
	}
}

// save returns what forgets what is seen from now on. What was seen before ended
// with a header.
func (f *taking) save() (back func()) {
	sum, scan := f.sum.clone(), f.scan
	if scan != nil {
		scan = couchfile.NewScanner(scan.Offset())
	}
	return func() { *f.sum, f.scan = *sum, scan }
}

// takeRange appends the bytes of the source from an offset on to the file, up to the cut.
func (f *taking) takeRange(ctx context.Context, from int64) error {
	for off := from; off < f.file.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		extents, err := f.sink.Fill(f.name, off, f.file.Size-off, func(b []byte) error {
			if err := f.src.readFull(b, off); err != nil {
				return err
			}
			f.see(b)
			f.o.Done.Add(int64(len(b)))
			return nil
		})
		if err != nil {
			return err
		}
		n := addExtents(&f.file.Extents, extents)
		f.out.Added += n
		off += n
	}
	return nil
}

// stream gives the sink a stream, which begins with a prologue and goes on with what is
// in body, and returns where it is.
func (f *taking) stream(prologue []byte, body *spill) (out []manifest.Extent, err error) {
	nm := Name{f.name.Root, f.name.Path + ".replay"}
	off := int64(0)
	add := func(b []byte) error {
		extents, err := f.sink.Append(nm, off, b)
		off += addExtents(&out, extents)
		return err
	}
	if err := add(prologue); err != nil {
		return nil, err
	}
	r, err := body.reader()
	if err != nil {
		return nil, err
	}
	return out, readAll(r, f.proofBuffer(), add)
}

// addExtents appends extents to list, where one that follows another makes it longer, and
// returns how many bytes they are.
func addExtents(list *[]manifest.Extent, extents []manifest.Extent) (n int64) {
	for _, e := range extents {
		n += e.N
		if k := len(*list); k > 0 {
			if last := &(*list)[k-1]; last.Seg == e.Seg && last.At+last.N == e.At {
				last.N += e.N
				continue
			}
		}
		*list = append(*list, e)
	}
	return n
}

// eachPart calls fn with the bytes of the source between two offsets, part by part.
func (f *taking) eachPart(ctx context.Context, from, to int64, fn func([]byte)) error {
	buf := f.proofBuffer()
	for off := from; off < to; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(ReadSize, to-off)]
		if err := f.src.readFull(b, off); err != nil {
			return err
		}
		fn(b)
		off += int64(len(b))
	}
	return nil
}

// proofBuffer returns ReadSize bytes for what is read and not kept.
func (t *Taker) proofBuffer() []byte {
	if t.proof == nil {
		t.proof = make([]byte, ReadSize)
	}
	return t.proof
}
