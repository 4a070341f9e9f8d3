package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ErrNotLines says that a manifest isn't laid out as Encode does it: Decode reads it.
var ErrNotLines = fmt.Errorf("%w: not a segment and a file a line", ErrFormat)

// Part says what DecodePart reads of a manifest.
type Part struct {
	// Line tells of the JSON of a file, without decoding it, whether it can be one of those that are wanted.
	Line func([]byte) bool
	// Wanted tells whether it is.
	Wanted func(*File) bool
	// Stored says that files are read with where their bytes are, and the segments that these are in. All others are
	// there with nothing in them, so that the numbers are right.
	Stored bool
}

// DecodePart is Decode for some of the files, at a fraction of the cost: it looks at the text of the others, and doesn't
// take it apart. Of what Decode checks it checks what is of those. It returns ErrNotLines if the text is none that Encode
// wrote.
func DecodePart(r io.Reader, most Counts, p Part) (*Manifest, error) {
	in := &lineReader{r: bufio.NewReaderSize(r, 1<<16)}
	head, ok := bytes.CutSuffix(in.line(), []byte(","))
	if !ok {
		return nil, errors.Join(in.err, ErrNotLines)
	}
	m := &Manifest{}
	d := json.NewDecoder(bytes.NewReader(append(bytes.Clone(head), '}')))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	var segments [][]byte
	err := in.list("segments", "],", most.Segments, func(line []byte) error {
		if p.Stored {
			segments = append(segments, bytes.Clone(line))
		}
		return nil
	})
	if err == nil {
		err = in.list("files", "]}", int64(most.Files), func(line []byte) error { return m.addFile(line, p) })
	}
	if err != nil {
		return nil, err
	}
	if _, err := in.r.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, ErrNotLines)
	}
	if p.Stored {
		if err := m.fillSegments(segments); err != nil {
			return nil, err
		}
		return m, m.Check()
	}
	files := m.Files
	m.Files = nil // whose extents weren't read
	err = m.Check()
	m.Files = files
	return m, err
}

// fileHead is a File without what says where its bytes are.
type fileHead struct {
	Root       Root    `json:"root"`
	Path       string  `json:"path"`
	Kind       Kind    `json:"kind"`
	Size       int64   `json:"size"`
	Generation string  `json:"generation"`
	Header     *Header `json:"header"`
}

func (m *Manifest) addFile(line []byte, p Part) error {
	if !p.Line(line) {
		return nil
	}
	var h fileHead
	if err := json.Unmarshal(line, &h); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	f := &File{Root: h.Root, Path: h.Path, Kind: h.Kind, Size: h.Size, Generation: h.Generation, Header: h.Header}
	if err := f.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if !p.Wanted(f) {
		return nil
	}
	if p.Stored {
		f = nil
		if err := json.Unmarshal(line, &f); err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
	}
	m.Files = append(m.Files, f)
	return nil
}

// fillSegments reads those segments that the files are in.
func (m *Manifest) fillSegments(lines [][]byte) error {
	m.Segments = make([]Segment, len(lines))
	used := make([]bool, len(lines))
	for _, f := range m.Files {
		for e := range f.Stored() {
			if e.Seg < len(lines) {
				used[e.Seg] = true
			}
		}
	}
	for i, line := range lines {
		if !used[i] {
			m.Segments[i] = Segment{Backup: m.ID, Size: 1, Plain: 1, SHA256: noSum}
			continue
		}
		if err := json.Unmarshal(line, &m.Segments[i]); err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
	}
	return nil
}

// noSum stands in the place of the hash of a segment that wasn't read.
const noSum = "0000000000000000000000000000000000000000000000000000000000000000"

// lineReader reads what Encode writes.
type lineReader struct {
	r    *bufio.Reader
	long []byte
	err  error
}

// line returns the next line without its end, nil if there is none. It is valid until the next call.
func (l *lineReader) line() []byte {
	b, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		l.long = append(l.long[:0], b...)
		for errors.Is(err, bufio.ErrBufferFull) {
			b, err = l.r.ReadSlice('\n')
			l.long = append(l.long, b...)
		}
		b = l.long
	}
	if err != nil {
		l.err = err
		return nil
	}
	return b[:len(b)-1]
}

// list calls fn with the JSON of each entry of a list that ends with end.
func (l *lineReader) list(key, end string, most int64, fn func([]byte) error) error {
	begin := fmt.Sprintf("%q:[", key)
	line := l.line()
	if string(line) == begin+end {
		return nil
	}
	if string(line) != begin {
		return errors.Join(l.err, ErrNotLines)
	}
	for n := int64(1); ; n++ {
		line := l.line()
		if n > most {
			return fmt.Errorf("%w: %q: more than the %d entries that the record tells", ErrFormat, key, most)
		}
		entry, last := bytes.CutSuffix(line, []byte(end))
		if !last {
			var more bool
			if entry, more = bytes.CutSuffix(line, []byte(",")); !more {
				return errors.Join(l.err, ErrNotLines)
			}
		}
		if !bytes.HasSuffix(entry, []byte("}")) {
			return errors.Join(l.err, ErrNotLines)
		}
		if err := fn(entry); err != nil || last {
			return err
		}
	}
}
