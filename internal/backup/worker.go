package backup

import (
	"context"

	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
)

// worker takes files, one after the other, into segments. It is the sink of its taker.
type worker struct {
	run   *run
	taker *capture.Taker
	cur   *filling // nil if none is begun
	buf   []byte   // for bytes that may be stored already
}

func (r *run) newWorker() *worker {
	w := &worker{run: r}
	w.taker = r.takers.Taker(w)
	return w
}

// copyFile takes one file into the backup. It returns errors that end the run;
// what is wrong with the file alone it records.
func (w *worker) copyFile(ctx context.Context, e node.Entry) error {
	nm := capture.Name{Root: e.Root, Path: e.Path}
	on, t, err := w.takeFile(ctx, e, w.run.known(nm))
	if err != nil {
		return err
	}
	w.run.record(nm, on, t)
	return nil
}

// Fill implements capture.Sink: bytes that an earlier run stored are taken up.
func (w *worker) Fill(nm capture.Name, off, n int64, read func([]byte) error) ([]manifest.Extent, error) {
	if p, ok := w.run.journaled.at(nm, off); ok && p.n <= n {
		return w.takeUp(nm, off, p, read)
	}
	if err := w.room(); err != nil {
		return nil, err
	}
	at := len(w.cur.buf)
	n = min(n, capture.ReadSize, int64(cap(w.cur.buf)-at))
	n = w.run.journaled.upToNext(nm, off, n)
	b := w.cur.buf[at : at+int(n)]
	w.run.opts.Progress.held.Add(n)
	if err := read(b); err != nil {
		w.run.opts.Progress.held.Add(-n)
		return nil, err
	}
	w.cur.buf = w.cur.buf[:at+int(n)]
	return w.filled(nil, nm, off, at, len(b))
}

// takeUp takes bytes that an earlier run may have stored. If they are the same
// the file refers to that segment.
func (w *worker) takeUp(nm capture.Name, off int64, p stored, read func([]byte) error) ([]manifest.Extent, error) {
	if int64(cap(w.buf)) < p.n {
		w.buf = make([]byte, repo.SegmentSize)
	}
	b := w.buf[:p.n]
	if err := read(b); err != nil {
		return nil, err
	}
	if xxh3.Hash128(b) != p.hash {
		return w.Append(nm, off, b)
	}
	w.run.resumed.Add(p.n)
	return []manifest.Extent{{Seg: w.run.segments.use(p.segment), At: p.at, N: p.n}}, nil
}

// Append implements capture.Sink.
func (w *worker) Append(nm capture.Name, off int64, b []byte) (extents []manifest.Extent, err error) {
	for len(b) > 0 {
		if err := w.room(); err != nil {
			return nil, err
		}
		at := len(w.cur.buf)
		n := min(len(b), cap(w.cur.buf)-at)
		w.cur.buf = append(w.cur.buf, b[:n]...)
		w.run.opts.Progress.held.Add(int64(n))
		if extents, err = w.filled(extents, nm, off, at, n); err != nil {
			return nil, err
		}
		b, off = b[n:], off+int64(n)
	}
	return extents, nil
}

// room makes sure that there is a segment to fill.
func (w *worker) room() (err error) {
	if w.cur == nil {
		w.cur, err = w.run.segments.begin()
	}
	return err
}

// filled adds to extents the n bytes of a file that the segment being filled now holds, and
// hands the segment over if no more bytes fit in.
func (w *worker) filled(extents []manifest.Extent, nm capture.Name, off int64, at, n int) ([]manifest.Extent, error) {
	if k := len(w.cur.parts); k > 0 && w.cur.parts[k-1].name == nm && w.cur.parts[k-1].off+w.cur.parts[k-1].n == off {
		w.cur.parts[k-1].n += int64(n)
	} else {
		w.cur.parts = append(w.cur.parts, part{nm, off, int64(at), int64(n)})
	}
	extents = append(extents, manifest.Extent{Seg: w.cur.index, At: int64(at), N: int64(n)})
	if len(w.cur.buf) < cap(w.cur.buf) {
		return extents, nil
	}
	return extents, w.flush()
}

// flush hands over the segment that is being filled, if there is one.
func (w *worker) flush() error {
	if w.cur == nil {
		return nil
	}
	f := w.cur
	w.cur = nil
	return w.run.segments.send(f)
}
