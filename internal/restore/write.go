package restore

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

const (
	folderMode = 0o750
	// writeSize is the least that is written at once, in bytes, but for a file's end.
	writeSize = 256 << 10
	// hashSize is how much of a file is read at once to hash it, and between two
	// looks at the context.
	hashSize = 512 << 10
)

// writer restores files, one after the other.
type writer struct {
	run *run
	out *bufio.Writer
	buf []byte // for reading what is there
}

func newWriter(r *run) *writer { return &writer{run: r, out: bufio.NewWriterSize(nil, writeSize)} }

// restore gives one file its bytes and its name, or keeps it if they are there.
// before is called with the whole file while it doesn't have its name yet.
func (w *writer) restore(ctx context.Context, it item, sync bool, before func(*os.File) error) error {
	path := w.run.targets.path(it)
	p := w.run.opts.Progress
	if w.run.reuse && before == nil {
		kept, err := w.keep(ctx, it, path, sync, nil)
		if err != nil {
			return fmt.Errorf("restore %s: %w", it.path, err)
		}
		if kept {
			p.FilesDone.Add(1)
			p.FilesKept.Add(1)
			p.BytesKept.Add(it.f.Size)
			return nil
		}
	}
	err := w.write(ctx, it, path, sync, before)
	if unreadable(err) {
		var took bool
		if took, err = w.another(ctx, it, path, sync, before, err); took && err == nil {
			return nil
		}
	}
	if unreadable(err) {
		if err = w.lose(ctx, it, path, err); err == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", it.path, explain(err))
	}
	p.FilesDone.Add(1)
	return nil
}

// explain adds what to do to an error of the repository.
func explain(err error) error {
	if errors.Is(err, repo.ErrCorrupt) {
		return fmt.Errorf("%w: run `slipcover check` to see what else is damaged, or restore another backup", err)
	}
	return err
}

// keep reports whether the file is there with the bytes of the backup, and gives
// it the right owner and mode. before is called with it then.
func (w *writer) keep(ctx context.Context, it item, path string, sync bool, before func(*os.File) error) (bool, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case info.IsDir():
		// A guard of another restore; a folder with something in it is not ours.
		return false, os.Remove(path)
	case !info.Mode().IsRegular() || info.Size() != it.f.Size && (info.Size() < it.f.Size || !w.run.begins(it)):
		return false, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		return false, nil // it will be replaced
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	same, err := w.same(ctx, f, it.f)
	if err != nil || !same {
		return false, err
	}
	w.run.opts.Progress.BytesDone.Add(it.f.Size)
	if w.run.begins(it) {
		return true, w.keepShard(ctx, f, it, path, sync)
	}
	if err := w.finish(f, it); err != nil {
		return false, err
	}
	if before != nil {
		if err := before(f); err != nil {
			return false, err
		}
	}
	if sync {
		err = f.Sync()
	}
	return true, err
}

// same reports whether what is there begins with the bytes of the backup.
func (w *writer) same(ctx context.Context, f *os.File, want *manifest.File) (bool, error) {
	if w.buf == nil {
		w.buf = make([]byte, hashSize)
	}
	sum := sha256.New()
	var n int64
	rest := io.NewSectionReader(f, 0, want.Size)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		k, err := rest.Read(w.buf)
		_, _ = sum.Write(w.buf[:k])
		n += int64(k)
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, err
		}
	}
	return n == want.Size && hex.EncodeToString(sum.Sum(nil)) == want.SHA256, nil
}

// write writes the file beside its place and renames it.
func (w *writer) write(ctx context.Context, it item, path string, sync bool, before func(*os.File) error) error {
	return w.beside(ctx, it, path, sync, before, func(f *os.File) error {
		err := w.fill(ctx, f, it.f)
		if unreadable(err) {
			err = w.refill(ctx, f, it.f, err)
		}
		return err
	})
}

// beside makes a file beside its place, which fill gives its bytes, and renames it.
func (w *writer) beside(ctx context.Context, it item, path string, sync bool, before, fill func(*os.File) error) (err error) {
	temp := durable.TempPath(path)
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()       // may be closed already
			_ = os.Remove(temp) // garbage by its name if it stays
		}
	}()
	if err := preallocate(f, it.f.Size); err != nil {
		return err
	}
	if err := fill(f); err != nil {
		return err
	}
	if err := w.finish(f, it); err != nil {
		return err
	}
	if err := w.begin(ctx, f, it); err != nil {
		return err
	}
	if before != nil {
		if err := before(f); err != nil {
			return err
		}
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// fill writes the file's bytes and holds them against the manifest.
func (w *writer) fill(ctx context.Context, f *os.File, want *manifest.File) error {
	w.out.Reset(f)
	sum, n := sha256.New(), int64(0)
	err := w.run.readers[want].StreamBack(ctx, want, written{w.out, f}, func(b []byte) error {
		for len(b) > 0 { // parts, so that a cancel is seen soon
			if err := ctx.Err(); err != nil {
				return err
			}
			part := b[:min(len(b), 1<<20)]
			b = b[len(part):]
			_, _ = sum.Write(part)
			n += int64(len(part))
			w.run.opts.Progress.BytesDone.Add(int64(len(part)))
			if _, err := w.out.Write(part); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.run.opts.Progress.BytesDone.Add(-n)
		return err
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	if err := sameSum(sum, n, want); err != nil {
		w.run.opts.Progress.BytesDone.Add(-n)
		return err
	}
	return nil
}

// written reads back what was written to a file.
type written struct {
	out *bufio.Writer // holds the last of it
	f   *os.File
}

func (w written) ReadAt(p []byte, off int64) (int, error) {
	if err := w.out.Flush(); err != nil {
		return 0, err
	}
	return w.f.ReadAt(p, off)
}

// sameSum holds what was read against the manifest. A file of a moment may have no hash of its
// own: the Reader proves it.
func sameSum(sum hash.Hash, n int64, want *manifest.File) error {
	if want.Longer != nil && n == want.Size {
		return nil
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != want.Size || got != want.SHA256 {
		return fmt.Errorf("%w (%d bytes with SHA-256 %s, not %d with %s)", ErrMismatch, n, got, want.Size, want.SHA256)
	}
	return nil
}

// finish sets owner and mode and reads the file as CouchDB will.
func (w *writer) finish(f *os.File, it item) error {
	// CouchDB must be able to read and append; some systems can't change a mode.
	if err := f.Chmod(fs.FileMode(it.f.Mode&0o777) | 0o600); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := w.run.owner.file(f); err != nil {
		return err
	}
	if it.f.Header == nil {
		return nil
	}
	if err := checkHeader(f, it.f); err != nil {
		w.run.res.problem("%s has the bytes that were backed up, but %v", it.path, err)
	}
	return nil
}

// checkHeader opens a file at its newest header and holds what it says against
// the manifest.
func checkHeader(r io.ReaderAt, want *manifest.File) error {
	raw, err := couchfile.FindHeader(r, want.Size)
	if err != nil {
		return fmt.Errorf("its header can't be read: %w", err)
	}
	sum := sha256.Sum256(raw.Raw)
	if raw.Offset != want.Header.Offset || raw.End != want.Size || want.Longer == nil && hex.EncodeToString(sum[:]) != want.Header.SHA256 {
		return fmt.Errorf("its newest header is at %d to %d, not at %d to %d as the backup says", raw.Offset, raw.End, want.Header.Offset, want.Size)
	}
	if want.Kind == manifest.View {
		return checkView(raw, want.Header)
	}
	return checkDatabase(r, raw, want.Header)
}

func checkView(raw couchfile.RawHeader, want *manifest.Header) error {
	v, err := couchfile.ParseViewHeader(raw)
	if err != nil {
		return err
	}
	if v.Signature != want.Signature || v.UpdateSeq != want.UpdateSeq || v.PurgeSeq != want.PurgeSeq {
		return fmt.Errorf("its header says update_seq %d and purge_seq %d, not %d and %d as the backup does", v.UpdateSeq, v.PurgeSeq, want.UpdateSeq, want.PurgeSeq)
	}
	return nil
}

func checkDatabase(r io.ReaderAt, raw couchfile.RawHeader, want *manifest.Header) error {
	h, err := couchfile.ParseHeader(raw)
	if err != nil {
		return err
	}
	if h.UUID != want.UUID || h.UpdateSeq != want.UpdateSeq || h.CompactedSeq != want.CompactedSeq {
		return fmt.Errorf("its header says uuid %s and update_seq %d, not %s and %d as the backup does", h.UUID, h.UpdateSeq, want.UUID, want.UpdateSeq)
	}
	db, err := couchfile.OpenAt(r, raw.End, h)
	if err != nil {
		return err
	}
	info, err := db.Info()
	if err != nil {
		if errors.Is(err, couchfile.ErrCorrupt) && want.Docs == 0 && want.DeletedDocs == 0 {
			return nil // so it was when it was backed up, and the manifest's damage says it
		}
		return fmt.Errorf("its counts can't be read: %w", err)
	}
	if info.DocCount != want.Docs || info.DeletedCount != want.DeletedDocs || info.PurgeSeq != want.PurgeSeq {
		return fmt.Errorf("it holds %d documents and %d deleted ones, not %d and %d as the backup says", info.DocCount, info.DeletedCount, want.Docs, want.DeletedDocs)
	}
	return nil
}
