package state

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// The journal is a file of lines, each the SHA-256 of the rest of the line in hex, a blank,
// and a JSON object. The first one says which chain it is of; one for each tick stands there, durably,
// before its object is stored. What is behind the first line that isn't whole was being written when
// the machine stopped, and is of no tick that was stored.

const (
	ShipDir       = "ship" // folder of shipping, in that of the instance
	journalName   = "journal.jsonl"
	JournalFormat = 1
)

// JournalHead is the first line of a journal.
type JournalHead struct {
	Format int    `json:"format"`
	Chain  Chain  `json:"chain"` // as it was when the journal was written
	Boot   string `json:"boot"`  // the start of the machine
	// Base is the backup's state that Files differ from.
	Base  Stamp `json:"base"`
	Files int   `json:"files"` // how many lines of files follow

	Long   []string `json:"long,omitempty"`   // names of roll-ups that only a backup takes over from
	Pinned []string `json:"pinned,omitempty"` // keys that those refer to
	Old    []Drop   `json:"old,omitempty"`    // what is to be deleted
	Kept   []Kept   `json:"kept,omitempty"`   // what the next backup may refer to
	// Attempts are ticks of the next number whose put failed and that were not there when it was asked: such a put
	// may still take effect.
	Attempts []JournalTick `json:"attempts,omitempty"`
}

// JournalFile is a file that differs from what the backup's state says of it.
type JournalFile struct {
	Root  manifest.Root  `json:"root"`
	Path  string         `json:"path"`
	File  *manifest.File `json:"file,omitempty"` // nil if it isn't there
	Local capture.Local  `json:"local,omitzero"`
	Whole bool           `json:"whole,omitempty"`
}

// JournalTick is a tick that is stored, or was about to be; or a roll-up that was stored.
type JournalTick struct {
	Tick    *manifest.Tick   `json:"tick"`
	Segment manifest.Segment `json:"segment"`
	Locals  []capture.Local  `json:"locals"` // of Tick.Files
}

// Stamp tells a state of a backup from another one.
type Stamp struct {
	Backup manifest.BackupID `json:"backup"`
	Size   int64             `json:"size"`
	MTime  int64             `json:"mtime"`
}

// Journal is the journal of what is shipped of an instance.
type Journal struct {
	path    string
	f       *os.File // nil until it is written to
	written int64    // size when it was written anew
	size    int64
}

// mayGrow is how much a journal may grow before it is written anew, beside its size then.
const mayGrow = 16 << 20

// Grown reports whether the journal has more that is of no use any more than is.
func (j *Journal) Grown() bool { return j.size > 2*j.written+mayGrow }

// OpenJournal returns the journal in the folder of an instance.
func OpenJournal(dir string) *Journal {
	return &Journal{path: filepath.Join(dir, ShipDir, journalName)}
}

// Close closes its file.
func (j *Journal) Close() error {
	if j.f == nil {
		return nil
	}
	err := j.f.Close()
	j.f = nil
	return err
}

func encodeLine(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return fmt.Appendf(nil, "%x %s\n", sum, text), nil
}

// Add appends a line, durably.
func (j *Journal) Add(v any) error {
	b, err := encodeLine(v)
	if err != nil {
		return err
	}
	if j.f == nil {
		if j.f, err = os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
			return fmt.Errorf("open the journal: %w", err)
		}
	}
	at, err := j.f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = j.f.Write(b)
	}
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil { // half a line must not stand before the next one
		return fmt.Errorf("write the journal: %w", errors.Join(err, j.f.Truncate(at)))
	}
	j.size = at + int64(len(b))
	return nil
}

// Rewrite replaces the journal.
func (j *Journal) Rewrite(lines func(add func(v any) error) error) error {
	if err := j.Close(); err != nil {
		return err
	}
	j.size = 0
	defer func() { j.written = j.size }()
	return durable.WriteFile(j.path, 0o600, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 1<<16)
		err := lines(func(v any) error {
			b, err := encodeLine(v)
			if err == nil {
				_, err = w.Write(b)
			}
			j.size += int64(len(b))
			return err
		})
		if err != nil {
			return err
		}
		return w.Flush()
	})
}

// read calls fn with the text of each whole line. What is behind them it removes, if mend is set: only who writes
// the journal may do that.
func (j *Journal) read(mend bool, fn func(n int, text []byte) error) error {
	flags := os.O_RDONLY
	if mend {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(j.path, flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	at := int64(0)
	for n := 0; ; n++ {
		line, err := r.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read the journal: %w", err)
		}
		text, ok := decodeLine(line)
		if !ok {
			break
		}
		if err := fn(n, text); err != nil {
			return err
		}
		at += int64(len(line))
	}
	if info, err := f.Stat(); err != nil || info.Size() == at || !mend {
		return err
	}
	return errors.Join(f.Truncate(at), f.Sync())
}

// decodeLine returns the text of a line, ok if it is whole.
func decodeLine(line []byte) (text []byte, ok bool) {
	sum, text, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !ok || !bytes.HasSuffix(line, []byte("\n")) {
		return nil, false
	}
	got := sha256.Sum256(text)
	return text, string(sum) == hex.EncodeToString(got[:])
}

// Chain is where a shipper is.
type Chain struct {
	ID    manifest.BackupID `json:"id"`
	Base  manifest.BackupID `json:"base,omitempty"` // the backup that it was begun on
	Since manifest.BackupID `json:"since"`          // the backup whose cuts it went on from last
	Tick  int64             `json:"tick"`           // number of the last tick that is stored, 0 if none is
	End   string            `json:"end"`            // SHA-256 of its object, in hex
	Seen  int64             `json:"seen"`           // up to when it tells the state, Unix milliseconds
}

// Drop is what can be deleted since a roll-up was stored.
type Drop struct {
	By   string   `json:"by"`   // its name
	Keys []string `json:"keys"` // names of objects, some of which may still be referred to
}

// Kept is a range of a database that is in objects which no roll-up deletes: it is in one of the long level, or that
// refers to them.
type Kept struct {
	// Was is the file where the range begins; nil if that is the beginning of its generation.
	Was *manifest.File `json:"was,omitempty"`
	// File is the file where the range ends; its extents and replays make the range alone, out of Parts.
	File  *manifest.File     `json:"file"`
	Local capture.Local      `json:"local"`
	Parts []manifest.Segment `json:"parts"`
}

// From is where the range begins, in bytes.
func (k *Kept) From() int64 {
	if k.Was == nil {
		return 0
	}
	return k.Was.Size
}

// Lines are what a journal says.
type Lines struct {
	Head  JournalHead
	Files []JournalFile
	Ticks []JournalTick
}

// Read returns what the journal says, nil if there is none. mend is for who writes it.
func (j *Journal) Read(mend bool) (*Lines, error) {
	var lines *Lines
	err := j.read(mend, func(n int, text []byte) error {
		switch {
		case n == 0:
			lines = &Lines{}
			if err := json.Unmarshal(text, &lines.Head); err != nil || lines.Head.Format != JournalFormat || !lines.Head.Chain.ID.Valid() {
				return fmt.Errorf("the journal of shipping is of format %d, which a later version of Slipcover reads", lines.Head.Format)
			}
			return nil
		case n <= lines.Head.Files:
			var f JournalFile
			if err := json.Unmarshal(text, &f); err != nil {
				return err
			}
			lines.Files = append(lines.Files, f)
			return nil
		}
		var t JournalTick
		if err := json.Unmarshal(text, &t); err != nil {
			return err
		}
		if t.Tick == nil || len(t.Locals) != len(t.Tick.Files) {
			return fmt.Errorf("the journal of shipping says nothing of a tick")
		}
		lines.Ticks = append(lines.Ticks, t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if lines != nil && len(lines.Files) < lines.Head.Files {
		return nil, nil // it was written whole, so the disk has lost some of it
	}
	return lines, nil
}

// Unproven takes the last tick off, of which it isn't known whether it was stored; nil if there is none.
func (l *Lines) Unproven() *JournalTick {
	n := len(l.Ticks)
	if n == 0 {
		return nil
	}
	last := l.Ticks[n-1]
	if name, ok := repo.ParseShipName(last.Segment.Key); ok && name.RollUp() {
		return nil // a roll-up is stored before its line
	}
	l.Ticks = l.Ticks[:n-1]
	return &last
}

// Shipped is what shipping knows of databases.
type Shipped struct {
	Files map[capture.Name]*capture.Known // how they were stored last
	Kept  map[capture.Name][]Kept         // of the generation of Files, by where they begin
}

// ReadShipped returns what shipping knows of databases, by the journal in the folder of an instance. It may be nothing.
// stored is the number of a tick that is known to be stored; of the last one in the journal that isn't known otherwise.
func ReadShipped(dir string, stored int64) (Shipped, error) {
	out := Shipped{Files: map[capture.Name]*capture.Known{}, Kept: map[capture.Name][]Kept{}}
	lines, err := OpenJournal(dir).Read(false)
	if err != nil || lines == nil {
		return out, err
	}
	if last := lines.Unproven(); last != nil && last.Tick.Last <= stored {
		lines.Ticks = append(lines.Ticks, *last)
	}
	for _, f := range lines.Files {
		if f.File != nil {
			out.Files[capture.Name{Root: f.Root, Path: f.Path}] = &capture.Known{File: f.File, Local: f.Local}
		}
	}
	for _, t := range lines.Ticks {
		for i, f := range t.Tick.Files {
			out.Files[capture.Name{Root: f.Root, Path: f.Path}] = &capture.Known{File: &f.File, Local: t.Locals[i]}
		}
	}
	for _, k := range lines.Head.Kept {
		nm := capture.Name{Root: k.File.Root, Path: k.File.Path}
		if is := out.Files[nm]; is != nil && is.File.Generation == k.File.Generation {
			out.Kept[nm] = append(out.Kept[nm], k)
		}
	}
	for _, list := range out.Kept {
		slices.SortFunc(list, func(a, b Kept) int { return cmp.Compare(a.From(), b.From()) })
	}
	return out, nil
}
