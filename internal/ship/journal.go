package ship

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
	"os"
	"path/filepath"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

// The journal is a file of lines, each the SHA-256 of the rest of the line in hex, a blank,
// and a JSON object. The first one says which chain it is of; one for each tick stands there, durably,
// before its object is stored. What is behind the first line that isn't whole was being written when
// the machine stopped, and is of no tick that was stored.

const (
	shipDir       = "ship"
	journalName   = "journal.jsonl"
	journalFormat = 1
)

// headLine is the first line of a journal.
type headLine struct {
	Format int    `json:"format"`
	Chain  chain  `json:"chain"` // as it was when the journal was written
	Boot   string `json:"boot"`  // the start of the machine
	// Base is the backup's state that Files differ from.
	Base  stamp `json:"base"`
	Files int   `json:"files"` // how many lines of files follow

	Long   []string   `json:"long,omitempty"`   // names of roll-ups that only a backup takes over from
	Pinned []string   `json:"pinned,omitempty"` // keys that those refer to
	Old    []dropLine `json:"old,omitempty"`    // what is to be deleted
}

// fileLine is a file that differs from what the backup's state says of it.
type fileLine struct {
	Root  manifest.Root  `json:"root"`
	Path  string         `json:"path"`
	File  *manifest.File `json:"file,omitempty"` // nil if it isn't there
	Local capture.Local  `json:"local,omitzero"`
	Whole bool           `json:"whole,omitempty"`
}

// lineOf is the line of a tick or roll-up.
func lineOf(l *link) *tickLine { return &tickLine{l.tick, l.segment, l.locals} }

// tickLine is a tick that is stored, or was about to be; or a roll-up that was stored.
type tickLine struct {
	Tick    *manifest.Tick   `json:"tick"`
	Segment manifest.Segment `json:"segment"`
	Locals  []capture.Local  `json:"locals"` // of Tick.Files
}

// stamp tells a state of a backup from another one.
type stamp struct {
	Backup manifest.BackupID `json:"backup"`
	Size   int64             `json:"size"`
	MTime  int64             `json:"mtime"`
}

type journal struct {
	path    string
	f       *os.File // nil until it is written to
	written int64    // size when it was written anew
	size    int64
}

// mayGrow is how much a journal may grow before it is written anew, beside its size then.
const mayGrow = 16 << 20

// grown reports whether the journal has more that is of no use any more than is.
func (j *journal) grown() bool { return j.size > 2*j.written+mayGrow }

func openJournal(dir string) *journal {
	return &journal{path: filepath.Join(dir, shipDir, journalName)}
}

func (j *journal) close() error {
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

// add appends a line, durably.
func (j *journal) add(v any) error {
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

// rewrite replaces the journal.
func (j *journal) rewrite(lines func(add func(v any) error) error) error {
	if err := j.close(); err != nil {
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

// read calls fn with the text of each whole line, and removes what is behind them.
func (j *journal) read(fn func(n int, text []byte) error) error {
	f, err := os.OpenFile(j.path, os.O_RDWR, 0)
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
	if info, err := f.Stat(); err != nil || info.Size() == at {
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
