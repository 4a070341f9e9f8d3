package capture

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

// A node remembers a few bytes of each document, of each run of an index's rows, or of each
// large piece, of the generations that it backed up, in the folder known of the instance's
// state. After a compaction they tell, without the older file and without a key, which of
// them the repository has.
const (
	knownFolder = "known"
	// leastKnown is the size of the smallest file of which anything is remembered, in bytes.
	leastKnown = 64 << 10
	// knownDocSize is about how much is remembered of a document, in bytes, and
	// knownShare of how many bytes of a file one may be remembered.
	knownDocSize = 9
	knownShare   = 50
	// knownSteps is the share of documents, or bytes, that must be new for what is known to
	// be written anew: one in so many. Those that a compaction finds new are stored again.
	knownSteps = 100
	// knownGrowth is the share of an index that must have been appended for what is known
	// to be written anew, which reads all of it: one byte in so many.
	knownGrowth = 10
)

// knownFile is what is remembered of a file at one of its headers.
type knownFile struct {
	name   string
	header int64
	size   int64 // to the end of the header
	seq    uint64
	copies bool // pieces are remembered, and not documents
}

// memory is what the node remembers. Each file has a name of its own, which the state
// has: what a run left that didn't end, or one that another parent was built on, may be
// of bytes that no backup has, and nothing in a database file would tell.
type memory struct {
	dir    string
	copies bool // pieces are remembered, and not documents

	mu    sync.Mutex
	names map[string]bool // of what is there; guarded by mu
}

// remembered is an open file of the memory.
type remembered struct {
	file   *os.File
	docs   *replay.Known
	rows   *replay.KnownView // of an index
	pieces *replay.CopyKnown // one of the three is there
}

// ofCopies ends the names of files with pieces.
const ofCopies = "-copies"

// newKnownFile names what will be remembered of a file at its cut.
func (m *memory) newKnownFile(f *manifest.File) knownFile {
	k := knownFile{header: f.Header.Offset, size: f.Size, seq: f.Header.UpdateSeq, copies: m.copies}
	k.name = fmt.Sprintf("%s-%d-%d-%d", rand.Text(), k.header, k.size, k.seq)
	if m.copies {
		k.name += ofCopies
	}
	return k
}

func parseKnownName(name string) (k knownFile, ok bool) {
	numbers, copies := strings.CutSuffix(name, ofCopies)
	f := strings.Split(numbers, "-")
	if len(f) != 4 {
		return k, false
	}
	k = knownFile{name: name, copies: copies}
	var err [3]error
	k.header, err[0] = strconv.ParseInt(f[1], 10, 64)
	k.size, err[1] = strconv.ParseInt(f[2], 10, 64)
	k.seq, err[2] = strconv.ParseUint(f[3], 10, 64)
	return k, errors.Join(err[:]...) == nil && k.header >= 0 && k.header < k.size
}

// openMemory lists what is remembered in the state's directory.
func openMemory(dir string, copies bool) (*memory, error) {
	m := &memory{dir: filepath.Join(dir, knownFolder), copies: copies, names: map[string]bool{}}
	if err := durable.MkdirAll(m.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for what is remembered of documents: %w", err)
	}
	list, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("read what is remembered of documents: %w", err)
	}
	for _, e := range list {
		m.names[e.Name()] = true
	}
	return m, nil
}

// has reports whether something is there of that name.
func (m *memory) has(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names[name]
}

// of returns what the state says is remembered of a file, at its cut or a header before.
func (m *memory) of(l *Local, f *manifest.File) (k knownFile, ok bool) {
	if f.Header == nil || !m.has(l.Known) { // none, or it was lost
		return k, false
	}
	k, ok = parseKnownName(l.Known)
	return k, ok && k.copies == m.copies && k.header <= f.Header.Offset && k.size <= f.Size
}

// open opens what is remembered of a file of a kind. Damage is an error.
func (m *memory) open(k knownFile, kind manifest.Kind) (*remembered, error) {
	f, err := os.Open(filepath.Join(m.dir, k.name))
	if err != nil {
		return nil, err
	}
	r := &remembered{file: f}
	if err := r.read(k, kind); err != nil {
		_ = f.Close()
		return nil, err
	}
	return r, nil
}

func (r *remembered) read(k knownFile, kind manifest.Kind) error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	same := false
	switch {
	case k.copies:
		if r.pieces, err = replay.OpenCopyKnown(r.file, info.Size()); err == nil {
			same = r.pieces.Header() == k.header && r.pieces.Size() == k.size
		}
	case kind == manifest.View:
		if r.rows, err = replay.OpenKnownView(r.file, info.Size()); err == nil {
			same = r.rows.Header() == k.header && r.rows.UpdateSeq() == k.seq
		}
	default:
		if r.docs, err = replay.OpenKnown(r.file, info.Size()); err == nil {
			same = r.docs.Header() == k.header && r.docs.UpdateSeq() == k.seq
		}
	}
	if err == nil && !same {
		err = fmt.Errorf("%w: it is of another header than its name says", couchfile.ErrCorrupt)
	}
	return err
}

// remembers reports whether it is worth the space to remember a file's documents, or an
// index's rows, of which less is remembered the smaller they are. Pieces are too large for
// more than knownShare; those of an index would be of no use.
func (m *memory) remembers(f *manifest.File) bool {
	h := f.Header
	if f.Kind == manifest.View {
		return !m.copies && h != nil && f.Size >= leastKnown
	}
	return f.Kind == manifest.Shard && h != nil && f.Size >= leastKnown && h.Docs+h.DeletedDocs > 0 &&
		(m.copies || int64(h.Docs+h.DeletedDocs)*knownDocSize <= f.Size/knownShare)
}

// unremembered reports whether something is to be remembered of a file, and isn't: replays
// were turned on after it was stored, or it was lost.
func (t *Taker) unremembered(old *Known) bool {
	if t.memory == nil || t.o.RememberLater || !t.memory.remembers(old.File) || old.Damaged {
		return false
	}
	_, ok := t.memory.of(&old.Local, old.File)
	return !ok
}

// rememberIf notes what is needed if the file is compacted until the next time. Of a
// damaged file nothing is remembered.
func (f *taking) rememberIf(ctx context.Context) error {
	if f.memory == nil || len(f.out.Damage) > 0 || !f.memory.remembers(f.file) {
		f.out.Local.Known = ""
		return nil
	}
	if f.o.RememberLater {
		return nil
	}
	err := f.remember(ctx)
	if err != nil && ctx.Err() == nil {
		f.note(fmt.Sprintf("%s: after a compaction it will be stored whole: %v", f.file.Path, err))
		return nil
	}
	return ctx.Err()
}

// Unremembered reports whether Remember is to be called for a file: nothing is remembered of it, or
// so much is new in it since that it should be noted, too.
func (t *Taker) Unremembered(known *Known) bool {
	m := t.memory
	if m == nil || known.Damaged || known.File.Kind != manifest.Shard || !m.remembers(known.File) {
		return false
	}
	k, ok := m.of(&known.Local, known.File)
	return !ok || !m.enough(k, known.File)
}

// Remember notes what a compaction of a database can take from what is stored of it, and returns the name for
// Local.Known. The first time that reads all of the file, and then what is new.
func (t *Taker) Remember(ctx context.Context, e node.Entry, known *Known) (string, error) {
	file := *known.File
	f := &taking{Taker: t, entry: e, name: Name{e.Root, e.Path}, old: known, file: &file, out: &Taken{Local: known.Local}}
	var err error
	if f.src, err = Open(ctx, t.o.Node, e); err != nil {
		return "", err
	}
	defer f.src.Close()
	is := LocalOf(f.src.info)
	if same, err := sameHeader(f.src, &file); err != nil || !same || is.Dev != known.Local.Dev || is.Ino != known.Local.Ino {
		return "", errors.Join(errOther, err)
	}
	err = f.remember(ctx)
	return f.out.Local.Known, err
}

// remember notes what a compaction of a file, which was just taken, can take from what is
// stored. Without it the compacted file is stored whole.
func (f *taking) remember(ctx context.Context) error {
	m, file, local := f.memory, f.file, &f.out.Local
	was, ok := m.of(local, file)
	if ok && m.enough(was, file) {
		return nil
	}
	k := m.newKnownFile(file)
	at := replay.File{R: couchfile.WithContext(ctx, f.src), Size: file.Size, Header: file.Header.Offset}
	err := fs.ErrNotExist
	if ok && file.Kind != manifest.View {
		err = m.extend(was, k, at)
	}
	if err != nil && ctx.Err() == nil { // or what was known is damaged, or not of this file
		local.Known = ""
		if err = f.stillStored(ctx); err == nil {
			err = m.write(k, func(w io.Writer) error { return m.encode(w, file.Kind, at) })
		}
	}
	if err == nil {
		local.Known = k.name
	}
	return err
}

// encode writes what is to be remembered of a file of a kind.
func (m *memory) encode(w io.Writer, kind manifest.Kind, at replay.File) error {
	var key [32]byte
	_, _ = rand.Read(key[:])
	switch {
	case m.copies:
		return replay.WriteCopyKnown(w, key, at)
	case kind == manifest.View:
		return replay.WriteKnownView(w, key, at)
	}
	return replay.WriteKnown(w, key, at)
}

// enough reports whether what is remembered is new enough for a file at its cut.
func (m *memory) enough(was knownFile, f *manifest.File) bool {
	if m.copies {
		return (f.Size-was.size)*knownSteps < f.Size
	}
	if f.Kind == manifest.View {
		return (f.Size-was.size)*knownGrowth < f.Size
	}
	h := f.Header
	return h.UpdateSeq < was.seq || (h.UpdateSeq-was.seq)*knownSteps < h.Docs+h.DeletedDocs
}

// stillStored reads a file whole, if this wasn't done yet: what is remembered of
// it must be of the bytes that are stored, and a disk can give others than it did then.
func (f *taking) stillStored(ctx context.Context) error {
	if f.all {
		return nil
	}
	sum := f.newPrefixHash(0)
	if err := f.hashPrefix(ctx, sum, f.file.Size); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != f.file.SHA256 {
		return errors.New("the disk has other bytes than it had at an earlier backup; a backup with --prove stores them")
	}
	f.out.Local.Proven, f.all = f.o.Now().Unix(), true
	return nil
}

func (m *memory) extend(was, to knownFile, at replay.File) error {
	known, err := m.open(was, manifest.Shard)
	if err != nil {
		return err
	}
	defer known.file.Close()
	return m.write(to, func(w io.Writer) error {
		if m.copies {
			return known.pieces.Extend(w, at)
		}
		return known.docs.Extend(w, at)
	})
}

// write writes a file of the memory. It needn't be on the disk when its name is: a
// damaged one is noticed by its checksum.
func (m *memory) write(k knownFile, write func(io.Writer) error) error {
	err := durable.WriteFile(filepath.Join(m.dir, k.name), 0o600, func(f *os.File) error { return write(f) })
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.names[k.name] = true
	}
	return err
}

// ShareKnown gives what is remembered in one state directory to another one too, as other names of the same files: each
// removes what its own state has no need of.
func ShareKnown(from, to string) error {
	from, to = filepath.Join(from, knownFolder), filepath.Join(to, knownFolder)
	list, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = durable.MkdirAll(to, 0o700)
	}
	for _, e := range list {
		if lerr := os.Link(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); !errors.Is(lerr, fs.ErrExist) && !errors.Is(lerr, fs.ErrNotExist) {
			err = errors.Join(err, lerr)
		}
	}
	return err
}

// Remembers reports whether what is remembered by a name is there.
func (t *Taker) Remembers(name string) bool { return t.memory != nil && t.memory.has(name) }

// Tidy removes what is remembered of other files than those in locals: of all, as their
// state was just written.
func (ts *Takers) Tidy(locals map[Name]Local) error {
	switch {
	case ts.memory != nil:
		return ts.memory.tidy(locals)
	case ts.o.Compaction == Replay: // it couldn't be opened, which is told
		return nil
	}
	return os.RemoveAll(filepath.Join(ts.o.Dir, knownFolder))
}

func (m *memory) tidy(locals map[Name]Local) error {
	keep := map[string]bool{}
	for _, l := range locals {
		keep[l.Known] = true
	}
	list, err := os.ReadDir(m.dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range list {
		if !keep[e.Name()] {
			delete(m.names, e.Name())
			err = errors.Join(err, os.Remove(filepath.Join(m.dir, e.Name())))
		}
	}
	return err
}
