package backup

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
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
)

// A node remembers a few bytes of each document of the generations that it backed up, in
// the folder known of the instance's state. After a compaction they tell, without the
// older file and without a key, which documents the repository has.
const (
	knownFolder = "known"
	// leastKnown is the size of the smallest file of which anything is remembered, in bytes.
	leastKnown = 64 << 10
	// knownDocSize is about how much is remembered of a document, in bytes, and
	// knownShare of how many bytes of a file one may be remembered.
	knownDocSize = 9
	knownShare   = 50
	// knownSteps is the share of documents that must be new for what is known to be
	// written anew: one in so many. Those that a compaction finds new are stored again.
	knownSteps = 100
)

// knownFile is what is remembered of a generation at one of its headers.
type knownFile struct {
	name       string
	generation string // as it stands in the name
	header     int64
	size       int64 // to the end of the header
	seq        uint64
}

// memory is what the node remembers. It is empty if nothing is to be replayed.
type memory struct {
	dir string

	mu    sync.Mutex
	files map[string][]knownFile // by generation, guarded by mu
}

// generationName is a generation in a file's name: what comes out of a repository isn't
// used as one.
func generationName(generation string) string {
	sum := sha256.Sum256([]byte(generation))
	return hex.EncodeToString(sum[:16])
}

func (k *knownFile) setName() {
	k.name = fmt.Sprintf("%s-%d-%d-%d", k.generation, k.header, k.size, k.seq)
}

func parseKnownName(name string) (k knownFile, ok bool) {
	f := strings.Split(name, "-")
	if len(f) != 4 || len(f[0]) != 32 {
		return k, false
	}
	k = knownFile{name: name, generation: f[0]}
	var err [3]error
	k.header, err[0] = strconv.ParseInt(f[1], 10, 64)
	k.size, err[1] = strconv.ParseInt(f[2], 10, 64)
	k.seq, err[2] = strconv.ParseUint(f[3], 10, 64)
	return k, errors.Join(err[:]...) == nil && k.header >= 0 && k.header < k.size
}

// openMemory lists what is remembered in the state's directory. What can't be listed was
// lost, which costs a file that is stored whole.
func openMemory(dir string) (*memory, error) {
	m := &memory{dir: filepath.Join(dir, knownFolder), files: map[string][]knownFile{}}
	if err := durable.MkdirAll(m.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for what is remembered of documents: %w", err)
	}
	list, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("read what is remembered of documents: %w", err)
	}
	for _, e := range list {
		if k, ok := parseKnownName(e.Name()); ok {
			m.files[k.generation] = append(m.files[k.generation], k)
		}
	}
	return m, nil
}

// of returns what is remembered of a file at its cut, or else at the latest header before.
func (m *memory) of(f *manifest.File) (best knownFile, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.files[generationName(f.Generation)] {
		if k.header <= f.Header.Offset && k.size <= f.Size && (!ok || k.header > best.header) {
			best, ok = k, true
		}
	}
	return best, ok
}

// open opens what is remembered. Damage is an error.
func (m *memory) open(k knownFile) (*replay.Known, io.Closer, error) {
	f, err := os.Open(filepath.Join(m.dir, k.name))
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	var known *replay.Known
	if err == nil {
		known, err = replay.OpenKnown(f, info.Size())
	}
	if err == nil && (known.Header() != k.header || known.UpdateSeq() != k.seq) {
		err = fmt.Errorf("%w: it is of another header than its name says", couchfile.ErrCorrupt)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return known, f, nil
}

// remembers reports whether it is worth the space to remember a file's documents.
func remembers(f *manifest.File) bool {
	h := f.Header
	return f.Kind == manifest.Shard && h != nil && f.Size >= leastKnown && h.Docs+h.DeletedDocs > 0 &&
		int64(h.Docs+h.DeletedDocs)*knownDocSize <= f.Size/knownShare
}

// remember notes what a compaction of a file, which was just copied, can take from this
// backup. Without it the compacted file is stored whole.
func (m *memory) remember(ctx context.Context, s *source, f *manifest.File) error {
	h := f.Header
	was, ok := m.of(f)
	if ok && (h.UpdateSeq < was.seq || (h.UpdateSeq-was.seq)*knownSteps < h.Docs+h.DeletedDocs) {
		return nil
	}
	k := knownFile{generation: generationName(f.Generation), header: h.Offset, size: f.Size, seq: h.UpdateSeq}
	k.setName()
	at := replay.File{R: couchfile.WithContext(ctx, s), Size: f.Size, Header: h.Offset}
	path := filepath.Join(m.dir, k.name)
	err := fs.ErrNotExist
	if ok {
		err = m.extend(was, path, at)
	}
	if err != nil && ctx.Err() == nil { // or what was known is damaged, or not of this file
		err = writeKnown(path, func(w io.Writer) error {
			var key [32]byte
			_, _ = rand.Read(key[:])
			return replay.WriteKnown(w, key, at)
		})
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[k.generation] = append(m.files[k.generation], k)
	return nil
}

func (m *memory) extend(was knownFile, path string, at replay.File) error {
	known, file, err := m.open(was)
	if err != nil {
		return err
	}
	defer file.Close()
	return writeKnown(path, func(w io.Writer) error { return known.Extend(w, at) })
}

// writeKnown writes a file of the memory. It needn't be on the disk when its name is: a
// damaged one is noticed by its checksum.
func writeKnown(path string, write func(io.Writer) error) error {
	return durable.WriteFile(path, 0o600, func(f *os.File) error { return write(f) })
}

// tidy removes what no file of the backup, which was committed, needs.
func (m *memory) tidy(files []*manifest.File) error {
	keep := map[string]bool{}
	for _, f := range files {
		if !remembers(f) {
			continue
		}
		if k, ok := m.of(f); ok {
			keep[k.name] = true
		}
	}
	list, err := os.ReadDir(m.dir)
	for _, e := range list {
		if !keep[e.Name()] {
			err = errors.Join(err, os.Remove(filepath.Join(m.dir, e.Name())))
		}
	}
	return err
}

// forget removes what the next backup won't need of what is remembered.
func forget(dir string, mem *memory, m *manifest.Manifest) error {
	if mem == nil {
		return os.RemoveAll(filepath.Join(dir, knownFolder))
	}
	return mem.tidy(m.Files)
}
