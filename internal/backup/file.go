package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
)

const (
	// readSize is how much is read at once, and between two looks at the context.
	readSize = 512 << 10
	// readOnce is the size up to which a file is read into memory with one call, in bytes.
	// Its header, its root nodes and its proof would take some six.
	readOnce = 256 << 10
	// maxConfig bounds an ini file that is taken, in bytes.
	maxConfig = 4 << 20
)

// Waits for a file that is being swapped by a compaction (its path is missing for
// a moment) or created (it has no header yet).
const (
	settleTries = 20
	settleWait  = 50 * time.Millisecond
)

// worker copies files, one after the other, into segments.
type worker struct {
	run *run
	cur *filling // nil if none is begun
	buf []byte   // for bytes that may be stored already

	proof []byte // for bytes that are read to be hashed alone
	whole []byte // for a small file
}

// source is an open file of the node; it counts what is read.
type source struct {
	entry node.Entry
	name  name
	f     *os.File
	info  fs.FileInfo
	local local
	run   *run
	whole []byte // all bytes, of a small file; nil if they are to be read

	allRead bool // this run has read all that is stored of it
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if off >= 0 && off+int64(len(p)) <= int64(len(s.whole)) {
		return copy(p, s.whole[off:]), nil
	}
	n, err := s.f.ReadAt(p, off)
	s.run.read.Add(int64(n))
	return n, err
}

// readWhole reads a small file into buf.
func (s *source) readWhole(buf []byte) error {
	b := buf[:s.info.Size()]
	if err := readFull(s, b, 0); err != nil {
		return err
	}
	s.whole = b
	return nil
}

// NextData lets couchfile skip the holes of the file.
func (s *source) NextData(off int64) (from, to int64, ok bool) { return couchfile.FileData(s.f, off) }

// copyFile takes one file into the backup. It returns errors that end the run;
// what is wrong with the file alone it records.
func (w *worker) copyFile(ctx context.Context, e node.Entry) error {
	nm := name{e.Root, e.Path}
	path := w.run.opts.Node.Path(&e)
	old := w.run.known(nm)
	if old != nil && w.run.unchanged(path, nm, old) {
		w.run.keep(nm, old)
		return nil
	}
	s, err := w.open(ctx, e, path)
	if err != nil {
		return w.unreadable(nm, path, err)
	}
	if s == nil {
		return nil
	}
	defer s.f.Close()
	if e.Kind == manifest.Config {
		err = w.copyConfig(ctx, s, old)
	} else {
		err = w.copyCouch(ctx, s, old)
	}
	var perr *fs.PathError
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, ErrShrunk) && e.Kind == manifest.View:
		w.run.leaveOut(nm, "CouchDB reset the index during the backup and builds it anew")
		return nil
	case errors.As(err, &perr) && perr.Path == path:
		return w.unreadable(nm, path, err)
	}
	return err
}

// unreadable decides what a file that can't be read means.
func (w *worker) unreadable(nm name, path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		w.run.leaveOut(nm, "it vanished during the backup: its database or index was deleted")
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s: run as the user that CouchDB runs as, or as root", ErrPermission, path)
	case errors.Is(err, syscall.EIO):
		w.run.damaged(nm, manifest.Damage{What: "file", Error: err.Error()})
		w.run.leaveOut(nm, "it can't be read: "+err.Error())
		return nil
	}
	return fmt.Errorf("read %s: %w", path, err)
}

// open opens a file, waiting out the moment in which a compaction swaps it. It
// returns nil for what isn't a file.
func (w *worker) open(ctx context.Context, e node.Entry, path string) (*source, error) {
	var f *os.File
	err := settle(ctx, func() (again bool, err error) {
		f, err = os.Open(path)
		if e.Source != "" && e.Kind != manifest.Config && errors.Is(err, fs.ErrNotExist) {
			// The compaction's rename has happened since the file was listed.
			e.Source = ""
			path = w.run.opts.Node.Path(&e)
			f, err = os.Open(path)
		}
		// Only a shard's or index's path may come back, and only if its folder is there.
		return errors.Is(err, fs.ErrNotExist) && e.Kind != manifest.Config && swapping(path), err
	})
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = f.Close()
		w.run.leaveOut(name{e.Root, e.Path}, "it is not a regular file")
		return nil, err
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &source{entry: e, name: name{e.Root, e.Path}, f: f, info: info, local: localOf(info), run: w.run}, nil
}

// settle calls fn until it says that trying again is of no use.
func settle(ctx context.Context, fn func() (again bool, err error)) error {
	for i := 0; ; i++ {
		again, err := fn()
		if !again || i == settleTries {
			return err
		}
		select {
		case <-time.After(settleWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// copyConfig takes an ini file, or vm.args, whole, unless the backup before has
// it. Without encryption its secrets are left out.
func (w *worker) copyConfig(ctx context.Context, s *source, old *known) error {
	b, err := node.ReadConfig(ctx, s.f.Name())
	if err != nil {
		return err
	}
	w.run.read.Add(int64(len(b)))
	if len(b) > maxConfig {
		w.run.leaveOut(s.name, fmt.Sprintf("a configuration file of more than %d bytes", maxConfig))
		return nil
	}
	if !w.run.opts.Repo.Config().Encrypted() {
		clean, removed := node.Redact(s.entry.Path, b)
		b = clean
		w.run.redacted(s.name, removed)
	}
	sum := sha256.Sum256(b)
	file := w.file(s)
	file.Size, file.SHA256 = int64(len(b)), hex.EncodeToString(sum[:])
	if old != nil && old.file.SHA256 == file.SHA256 && w.run.segmentsStored(old.file) {
		file.Extents = old.file.Extents
	} else if err := w.append(file, 0, b); err != nil {
		return err
	} else {
		w.run.added.Add(file.Size)
	}
	w.run.add(s.name, file, s.local)
	return nil
}

func (w *worker) file(s *source) *manifest.File {
	owner, group := w.run.owners.names(s.info)
	return &manifest.File{Root: s.name.root, Path: s.name.path, RawPath: []byte(s.entry.RawPath), Kind: s.entry.Kind, Mode: uint32(s.info.Mode().Perm()),
		Owner: owner, Group: group, MTime: s.info.ModTime().UnixNano()}
}

// copyCouch takes a .couch or .view file up to its newest header.
func (w *worker) copyCouch(ctx context.Context, s *source, old *known) error {
	raw, err := w.cut(ctx, s)
	if errors.Is(err, couchfile.ErrNoHeader) {
		return w.copyHeaderless(ctx, s)
	}
	if err != nil {
		return err
	}
	file := w.file(s)
	file.Size = raw.End
	if file.Header, err = headerOf(ctx, s, raw); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return w.copyForeign(ctx, s, raw, err)
	}
	sum := newPrefixHash(file.Size)
	var from int64
	if old != nil {
		w.run.checkUUID(s.name, file, old.file)
		from, err = w.prove(ctx, s, old, file, sum)
		if err != nil {
			return err
		}
	}
	if from > 0 {
		file.Generation = old.file.Generation
		file.Extents = append(make([]manifest.Extent, 0, len(old.file.Extents)+1), old.file.Extents...)
		file.Replays = old.file.Replays
		s.local.Known = old.local.Known
	} else {
		file.Generation = w.run.generation()
	}
	took := &taken{sum, couchfile.NewScanner(from)}
	if from, err = w.replays(ctx, s, old, file, from, took); err != nil {
		return err
	}
	if err := w.copyRange(ctx, s, file, from, took); err != nil {
		return err
	}
	look := len(took.scan.Anomalies()) > 0 || w.run.wasDamaged(s.name) || w.run.opts.Strict
	return w.finish(ctx, s, file, sum, look)
}

// rememberIf notes what the next backup needs if the file is compacted until then. Of a
// damaged file nothing is remembered.
func (w *worker) rememberIf(ctx context.Context, s *source, file *manifest.File) error {
	if w.run.memory == nil || w.run.isDamaged(s.name) || !w.run.memory.remembers(file) {
		s.local.Known = ""
		return nil
	}
	err := w.remember(ctx, s, file)
	if err != nil && ctx.Err() == nil {
		w.run.note(fmt.Sprintf("%s: after a compaction it will be stored whole: %v", file.Path, err))
		return nil
	}
	return ctx.Err()
}

// finish records a file that was copied, after a closer look if the scan of its
// chunks, or the backup before, found something.
func (w *worker) finish(ctx context.Context, s *source, file *manifest.File, sum *prefixHash, look bool) error {
	s.whole = nil // what follows is about the file as it is now
	if look {
		sound, err := w.run.examine(ctx, s, file.Size)
		if err != nil || !sound && file.Kind == manifest.View {
			return err
		}
	}
	if file.Kind == manifest.View { // the one kind of file that CouchDB may reset in place
		if same, err := sameHeader(s, file); err != nil || !same {
			return errors.Join(ErrShrunk, err)
		}
	}
	file.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if s.local.Proven == 0 { // not by prove: all of it was copied
		s.local.Proven, s.allRead = w.run.started.Unix(), true
	}
	if sum.state != nil {
		s.local.Hash, s.local.HashAt = sum.state, sum.mark
	}
	if file.Path == "_dbs.couch" && file.Root == manifest.DataRoot && file.Header != nil {
		if err := w.run.readMap(ctx, s, file.Size); err != nil {
			return err
		}
	}
	if err := w.rememberIf(ctx, s, file); err != nil {
		return err
	}
	w.run.add(s.name, file, s.local)
	return nil
}

// cut finds the newest header. A file that was just created gets a moment to
// write its first one.
func (w *worker) cut(ctx context.Context, s *source) (couchfile.RawHeader, error) {
	var raw couchfile.RawHeader
	err := settle(ctx, func() (again bool, err error) {
		if s.info, err = s.f.Stat(); err != nil {
			return false, err
		}
		s.local, s.whole = localOf(s.info), nil
		if s.info.Size() <= readOnce {
			if w.whole == nil {
				w.whole = make([]byte, readOnce)
			}
			if err := s.readWhole(w.whole); err != nil {
				return false, err
			}
		}
		raw, err = couchfile.FindHeader(couchfile.WithContext(ctx, s), s.info.Size())
		fresh := time.Since(s.info.ModTime()) < 10*time.Second
		return errors.Is(err, couchfile.ErrNoHeader) && fresh, err
	})
	return raw, err
}

// copyHeaderless deals with a file that has no valid header. CouchDB would serve
// it as an empty database, silently; so it is damage, and all its bytes are taken
// as they are. An index is left out, since CouchDB builds it anew.
func (w *worker) copyHeaderless(ctx context.Context, s *source) error {
	if s.entry.Kind == manifest.View {
		w.run.leaveOut(s.name, "an index without a valid header; CouchDB builds it anew")
		return nil
	}
	w.run.damaged(s.name, manifest.Damage{What: "no valid header", Error: "CouchDB would serve this file as an empty database"})
	return w.copyWhole(ctx, s)
}

// copyForeign deals with a file whose newest header is not one of its kind.
func (w *worker) copyForeign(ctx context.Context, s *source, raw couchfile.RawHeader, cause error) error {
	if s.entry.Kind == manifest.View {
		w.run.leaveOut(s.name, fmt.Sprintf("an index that CouchDB builds anew: %v", cause))
		return nil
	}
	w.run.damaged(s.name, manifest.Damage{Offset: raw.Offset, What: "header", Error: cause.Error()})
	return w.copyWhole(ctx, s)
}

// copyWhole takes all bytes of a file, without a header.
func (w *worker) copyWhole(ctx context.Context, s *source) error {
	file := w.file(s)
	file.Size = s.info.Size()
	file.Generation = w.run.generation()
	sum := newPrefixHash(0) // without a header it is never taken for grown
	if err := w.copyRange(ctx, s, file, 0, &taken{sum, nil}); err != nil {
		return err
	}
	return w.finish(ctx, s, file, sum, false)
}

// headerOf says what the newest header of a file holds.
func headerOf(ctx context.Context, s *source, raw couchfile.RawHeader) (*manifest.Header, error) {
	sum := sha256.Sum256(raw.Raw)
	h := &manifest.Header{Offset: raw.Offset, SHA256: hex.EncodeToString(sum[:])}
	if s.entry.Kind == manifest.View {
		v, err := couchfile.ParseViewHeader(raw)
		if err != nil {
			return nil, err
		}
		h.Signature, h.UpdateSeq, h.PurgeSeq = v.Signature, v.UpdateSeq, v.PurgeSeq
		return h, nil
	}
	d, err := couchfile.ParseHeader(raw)
	if err != nil {
		return nil, err
	}
	h.UUID, h.UpdateSeq, h.CompactedSeq = d.UUID, d.UpdateSeq, d.CompactedSeq
	s.run.sawEpochs(d.Epochs)
	db, err := couchfile.OpenAt(couchfile.WithContext(ctx, s), raw.End, d)
	if err != nil {
		return nil, err
	}
	// Counts stand in the roots, which can be damaged while the header is not: that
	// is for the examination to say.
	if info, err := db.Info(); err == nil {
		h.PurgeSeq, h.Docs, h.DeletedDocs = info.PurgeSeq, info.DocCount, info.DeletedCount
	} else if !errors.Is(err, couchfile.ErrCorrupt) {
		return nil, err
	}
	return h, nil
}

// taken is what is gathered of a file's bytes as they are read.
type taken struct {
	sum  *prefixHash
	scan *couchfile.Scanner // nil if chunks are of no interest
}

func (t *taken) take(b []byte) {
	_, _ = t.sum.Write(b)
	if t.scan != nil {
		_, _ = t.scan.Write(b)
	}
}

// save returns what back takes to forget what is taken from now on. What was taken
// before ended with a header.
func (t *taken) save() taken {
	return taken{t.sum.clone(), couchfile.NewScanner(t.scan.Offset())}
}

func (t *taken) back(to taken) { *t.sum, t.scan = *to.sum, to.scan }

// copyRange appends the bytes [from, file.Size) of s to file.
func (w *worker) copyRange(ctx context.Context, s *source, file *manifest.File, from int64, took *taken) error {
	take := func(b []byte) {
		took.take(b)
		w.run.opts.Progress.BytesDone.Add(int64(len(b)))
		w.run.added.Add(int64(len(b)))
	}
	for off := from; off < file.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p, ok := w.run.journaled.at(s.name, off); ok && p.n <= file.Size-off {
			if err := w.takeUp(s, file, off, p, take); err != nil {
				return err
			}
			off += p.n
			continue
		}
		n, err := w.fill(s, file, off, take)
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

// takeUp takes bytes that an earlier run may have stored. If they are the same
// the file refers to that segment.
func (w *worker) takeUp(s *source, file *manifest.File, off int64, p stored, take func([]byte)) error {
	if int64(cap(w.buf)) < p.n {
		w.buf = make([]byte, repo.SegmentSize)
	}
	b := w.buf[:p.n]
	if err := readFull(s, b, off); err != nil {
		return err
	}
	take(b)
	if xxh3.Hash128(b) != p.hash {
		return w.append(file, off, b)
	}
	addExtent(file, manifest.Extent{Seg: w.run.segments.use(p.segment), At: p.at, N: p.n})
	w.run.resumed.Add(p.n)
	return nil
}

// fill reads the next bytes of s at off straight into the segment being filled,
// and returns how many.
func (w *worker) fill(s *source, file *manifest.File, off int64, take func([]byte)) (int64, error) {
	if err := w.room(); err != nil {
		return 0, err
	}
	at := len(w.cur.buf)
	n := int(min(readSize, int64(cap(w.cur.buf)-at), file.Size-off))
	n = int(w.run.journaled.upToNext(s.name, off, int64(n)))
	b := w.cur.buf[at : at+n]
	if err := readFull(s, b, off); err != nil {
		return 0, err
	}
	w.cur.buf = w.cur.buf[:at+n]
	take(b)
	w.note(file, off, at, n)
	return int64(n), w.sendFull()
}

// append adds bytes, which end file at offset off so far, to it and to segments.
func (w *worker) append(file *manifest.File, off int64, b []byte) error {
	for len(b) > 0 {
		if err := w.room(); err != nil {
			return err
		}
		at := len(w.cur.buf)
		n := min(len(b), cap(w.cur.buf)-at)
		w.cur.buf = append(w.cur.buf, b[:n]...)
		w.note(file, off, at, n)
		b, off = b[n:], off+int64(n)
		if err := w.sendFull(); err != nil {
			return err
		}
	}
	return nil
}

// room makes sure that there is a segment to fill.
func (w *worker) room() (err error) {
	if w.cur == nil {
		w.cur, err = w.run.segments.begin()
	}
	return err
}

// note records that the segment being filled holds n bytes of file.
func (w *worker) note(file *manifest.File, off int64, at, n int) {
	nm := name{file.Root, file.Path}
	if k := len(w.cur.parts); k > 0 && w.cur.parts[k-1].name == nm && w.cur.parts[k-1].off+w.cur.parts[k-1].n == off {
		w.cur.parts[k-1].n += int64(n)
	} else {
		w.cur.parts = append(w.cur.parts, part{nm, off, int64(at), int64(n)})
	}
	addExtent(file, manifest.Extent{Seg: w.cur.index, At: int64(at), N: int64(n)})
}

// sendFull hands the segment over if no more bytes fit in.
func (w *worker) sendFull() error {
	if len(w.cur.buf) < cap(w.cur.buf) {
		return nil
	}
	return w.flush()
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

// addExtent appends e, or makes the last extent longer when e follows it.
func addExtent(file *manifest.File, e manifest.Extent) {
	if k := len(file.Extents); k > 0 {
		if last := &file.Extents[k-1]; last.Seg == e.Seg && last.At+last.N == e.At {
			last.N += e.N
			return
		}
	}
	file.Extents = append(file.Extents, e)
}

// readFull fills p from offset off. A file that ends before that was cut short
// under us, which CouchDB doesn't do.
func readFull(s *source, p []byte, off int64) error {
	n, err := s.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %s has no byte at %d any more", ErrShrunk, s.f.Name(), off+int64(n))
	}
	return err
}
