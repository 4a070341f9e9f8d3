package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// disk keeps each block as a file DIR/ab/cdef…: the SHA-256 of its name and its
// bytes, then the bytes. The name is the SHA-256 of the storage's URL, the key and
// the block's number, the first byte of it as a folder. A file that was torn by a
// crash, changed or moved has another hash and counts as not there, so nothing is
// synced. The time of a file is that of its last use.
type disk struct {
	dir, url string
	size     int64

	mu    sync.Mutex
	since int64 // bytes written since the last tidy; guarded by mu
}

const (
	tempName = "new-"
	// tempAge is how old a file that was being written must be to count as left by a
	// crash.
	tempAge = time.Hour
)

func newDisk(dir, url string, size int64) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the cache: %w", err)
	}
	d := &disk{dir: dir, url: url, size: size}
	d.tidy()
	return d, nil
}

func (d *disk) name(id block) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d", d.url, id.key, id.n))
	return hex.EncodeToString(sum[:])
}

func (d *disk) path(name string) string { return filepath.Join(d.dir, name[:2], name[2:]) }

func sumOf(name string, b []byte) []byte {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write(b)
	return h.Sum(nil)
}

func (d *disk) get(id block) []byte {
	name := d.name(id)
	b, err := os.ReadFile(d.path(name))
	if err != nil || len(b) <= sha256.Size {
		return nil
	}
	sum, b := b[:sha256.Size], b[sha256.Size:]
	if !bytes.Equal(sum, sumOf(name, b)) {
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(d.path(name), now, now) // or it goes earlier than it should
	return b
}

func (d *disk) has(id block) int {
	info, err := os.Stat(d.path(d.name(id)))
	if err != nil {
		return 0
	}
	return int(max(0, info.Size()-sha256.Size))
}

// put does without the block if it can't be written.
func (d *disk) put(id block, b []byte) {
	name := d.name(id)
	if d.write(d.path(name), sumOf(name, b), b) != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.since += int64(sha256.Size + len(b)); d.since > d.size/8 {
		d.since = 0
		d.tidy()
	}
}

func (d *disk) write(path string, parts ...[]byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), tempName)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err == nil {
			_, err = f.Write(p)
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// tidy removes the files whose last use is longest ago until there is room for what
// is written before the next time, and what a crash has left.
func (d *disk) tidy() {
	type file struct {
		path string
		size int64
		used time.Time
	}
	var files []file
	var total int64
	folders, _ := filepath.Glob(filepath.Join(d.dir, "[0-9a-f][0-9a-f]"))
	for _, folder := range folders {
		_ = filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return nil // others remove too
			}
			info, err := e.Info()
			if err != nil {
				return nil
			}
			switch _, err := hex.DecodeString(e.Name()); {
			case err == nil && len(e.Name()) == 2*sha256.Size-2:
				files = append(files, file{path, info.Size(), info.ModTime()})
				total += info.Size()
			case strings.HasPrefix(e.Name(), tempName) && time.Since(info.ModTime()) > tempAge:
				os.Remove(path)
			}
			return nil
		})
	}
	slices.SortFunc(files, func(a, b file) int { return a.used.Compare(b.used) })
	for _, f := range files {
		if total <= d.size-d.size/8 {
			return
		}
		if os.Remove(f.path) == nil {
			total -= f.size
		}
	}
}
