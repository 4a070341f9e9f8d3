package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// The journal is a file of lines, one for each segment, written before the segment
// is stored: the SHA-256 of the rest of the line in hex, a blank, and a JSON object.
// After a crash it says which bytes of which files a stored segment holds; the next
// run reads those files again, which is cheap, and where the bytes have the journal's
// hash it refers to the segment instead of storing them again. The reference itself
// (which segment, its hash, where in it) can't be proven without the key, so a line
// is believed only with its checksum. One that is torn, changed, or that a power cut
// lost, costs a segment; so do those of versions that wrote no checksum.

// part is a run of bytes of one file in a segment.
type part struct {
	name capture.Name
	off  int64 // in the file
	at   int64 // in the segment's content
	n    int64
}

type journalLine struct {
	Segment manifest.Segment `json:"segment"`
	Parts   []journalPart    `json:"parts"`
}

type journalPart struct {
	Root manifest.Root `json:"root"`
	Path string        `json:"path"`
	Off  int64         `json:"off"`
	At   int64         `json:"at"`
	N    int64         `json:"n"`
	Hash string        `json:"xxh3"` // XXH3-128 of the bytes
}

// stored is a part that a segment in the repository holds.
type stored struct {
	segment *storedSegment
	at, n   int64
	hash    xxh3.Uint128
}

type storedSegment struct {
	segment manifest.Segment
	index   int // in the run's table; -1 until the run uses it
}

// storedParts are the parts that earlier runs stored, by file.
type storedParts map[capture.Name]*fileParts

type fileParts struct {
	at      map[int64]stored // by offset in the file
	offsets []int64          // sorted
}

// at returns the part that begins at offset off of a file.
func (m storedParts) at(nm capture.Name, off int64) (stored, bool) {
	if m[nm] == nil {
		return stored{}, false
	}
	p, ok := m[nm].at[off]
	return p, ok
}

// upToNext returns how many of the n bytes from off on come before the next part.
func (m storedParts) upToNext(nm capture.Name, off, n int64) int64 {
	if m[nm] == nil {
		return n
	}
	offsets := m[nm].offsets
	if i, _ := slices.BinarySearch(offsets, off+1); i < len(offsets) {
		n = min(n, offsets[i]-off)
	}
	return n
}

func (m storedParts) add(nm capture.Name, off int64, p stored) {
	if m[nm] == nil {
		m[nm] = &fileParts{at: map[int64]stored{}}
	}
	m[nm].at[off] = p
}

// sort makes the parts ready for upToNext.
func (m storedParts) sort() {
	for _, f := range m {
		f.offsets = slices.Sorted(maps.Keys(f.at))
	}
}

func journalPath(dir string) string { return filepath.Join(dir, "journal.jsonl") }

// readJournal returns the parts that earlier, unfinished runs stored. segments lists
// those in the repository; it is called only if there is a journal.
func readJournal(dir string, segments func() (map[repo.SegmentID]int64, error)) (storedParts, error) {
	f, err := os.Open(journalPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	defer f.Close()
	present, err := segments()
	if err != nil {
		return nil, err
	}
	out := storedParts{}
	for r := bufio.NewReaderSize(f, 1<<16); ; {
		text, err := r.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read journal: %w", err)
		}
		if line, ok := parseJournalLine(text); ok && present[repo.SegmentID{Backup: line.Segment.Backup, N: line.Segment.N}] == line.Segment.Size {
			out.addLine(line)
		}
		if err != nil {
			out.sort()
			return out, nil
		}
	}
}

// parseJournalLine returns what a line says, if it has its checksum.
func parseJournalLine(text []byte) (line journalLine, ok bool) {
	text, whole := bytes.CutSuffix(text, []byte{'\n'})
	sum, text, _ := bytes.Cut(text, []byte{' '})
	if !whole || string(sum) != hexSum(text) || json.Unmarshal(text, &line) != nil {
		return journalLine{}, false
	}
	s := &line.Segment
	return line, s.Backup.Valid() && s.N >= 0 && s.Size > 0 && s.Plain > 0 && s.Plain <= repo.SegmentSize
}

// hexSum is the checksum of what is kept in the state directory.
func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// addLine adds the parts of a segment that is stored.
func (m storedParts) addLine(line journalLine) {
	seg := &storedSegment{segment: line.Segment, index: -1}
	for _, p := range line.Parts {
		b, err := hex.DecodeString(p.Hash)
		if err != nil || len(b) != 16 || p.Off < 0 || p.N <= 0 || p.At < 0 || p.N > line.Segment.Plain || p.At > line.Segment.Plain-p.N {
			continue
		}
		m.add(capture.Name{Root: p.Root, Path: p.Path}, p.Off, stored{seg, p.At, p.N, hashOf(b)})
	}
}

func hashOf(b []byte) (u xxh3.Uint128) {
	for i := range 8 {
		u.Hi = u.Hi<<8 | uint64(b[i])
		u.Lo = u.Lo<<8 | uint64(b[8+i])
	}
	return u
}

// journal is open for appending while a run lasts.
type journal struct {
	dir string
	mu  sync.Mutex
	f   *os.File // guarded by mu
}

// openJournal opens the journal for appending. After a crash the new lines go
// behind the old ones, which stay of use until a run ends well.
func openJournal(dir string) (*journal, error) {
	f, err := durable.Open(journalPath(dir), os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := cutTornLine(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return &journal{dir: dir, f: f}, nil
}

// cutTornLine removes what a crash left behind the last whole line, which would
// hide the lines that follow it.
func cutTornLine(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := info.Size()
	var b [4096]byte
	for end > 0 {
		from := max(0, end-int64(len(b)))
		if _, err := f.ReadAt(b[:end-from], from); err != nil {
			return err
		}
		for i := end - from - 1; i >= 0; i-- {
			if b[i] == '\n' {
				return f.Truncate(from + i + 1)
			}
		}
		end = from
	}
	return f.Truncate(0)
}

// add notes that segment is about to be stored, with the content plain.
func (j *journal) add(segment manifest.Segment, plain []byte, parts []part) error {
	line := journalLine{Segment: segment, Parts: make([]journalPart, len(parts))}
	for i, p := range parts {
		sum := xxh3.Hash128(plain[p.at : p.at+p.n]).Bytes()
		line.Parts[i] = journalPart{p.name.Root, p.name.Path, p.off, p.at, p.n, hex.EncodeToString(sum[:])}
	}
	b, err := json.Marshal(line)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := fmt.Fprintf(j.f, "%s %s\n", hexSum(b), b); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

func (j *journal) close() error { return j.f.Close() }

// remove forgets the journal of runs that ended.
func (j *journal) remove() error {
	if err := os.Remove(journalPath(j.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove journal: %w", err)
	}
	return nil
}
