package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// ErrFormat says that a document isn't what format 1 says it must be, or is of a
// newer format.
var ErrFormat = errors.New("not a document of repository format 1")

// NewID returns an id that sorts after all made before it on this machine.
func NewID() (BackupID, error) {
	u, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make a backup id: %w", err)
	}
	return BackupID(u.String()), nil
}

// NewIDAt is NewID by another clock.
func NewIDAt(t time.Time) (BackupID, error) {
	u, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make a backup id: %w", err)
	}
	ms := max(0, t.UnixMilli())
	for i := 5; i >= 0; i-- {
		u[i] = byte(ms)
		ms >>= 8
	}
	return BackupID(u.String()), nil
}

// Valid reports whether id has the form of a backup id.
func (id BackupID) Valid() bool {
	u, err := uuid.Parse(string(id))
	return err == nil && u.String() == string(id)
}

// Time returns when id was made, by the clock of the node that made it.
func (id BackupID) Time() time.Time {
	u, err := uuid.Parse(string(id))
	if err != nil {
		return time.Time{}
	}
	return time.Unix(u.Time().UnixTime()).UTC()
}

// ValidInstance reports whether name can name an instance: 1 to 63 characters of
// A-Z a-z 0-9 . _ -, the first a letter or digit.
func ValidInstance(name string) bool {
	if len(name) == 0 || len(name) > 63 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

// MarshalJSON writes [seg, at, n].
func (e Extent) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 64), '[')
	b = append(strconv.AppendInt(b, int64(e.Seg), 10), ',')
	b = append(strconv.AppendInt(b, e.At, 10), ',')
	return append(strconv.AppendInt(b, e.N, 10), ']'), nil
}

// UnmarshalJSON reads [seg, at, n] and nothing else.
func (e *Extent) UnmarshalJSON(b []byte) error {
	a, ok := threeNumbers(b)
	if !ok { // not as MarshalJSON writes it, but it may be the same
		var list []int64
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		if len(list) != 3 {
			return fmt.Errorf("extent %s: %w", b, ErrFormat)
		}
		a = [3]int64(list)
	}
	if a[1] < 0 || a[2] <= 0 || a[0] < 0 && a[1] != 0 {
		return fmt.Errorf("extent %s: %w", b, ErrFormat)
	}
	e.Seg, e.At, e.N = int(a[0]), a[1], a[2]
	return nil
}

// threeNumbers reads what MarshalJSON writes, of numbers with up to 18 digits.
func threeNumbers(b []byte) (a [3]int64, ok bool) {
	for i := range a {
		if len(b) == 0 || b[0] != "[,,"[i] {
			return a, false
		}
		b = b[1:]
		n := 0
		for ; n < len(b) && '0' <= b[n] && b[n] <= '9'; n++ {
			a[i] = 10*a[i] + int64(b[n]-'0')
		}
		if n == 0 || n > 18 || n > 1 && b[0] == '0' {
			return a, false
		}
		b = b[n:]
	}
	return a, string(b) == "]"
}

// Encode writes m as JSON, one segment and one file a line, so that neither
// writer nor reader holds the text of a large manifest in memory.
func Encode(w io.Writer, m *Manifest) error {
	bw := bufio.NewWriterSize(w, 1<<16)
	head, err := json.Marshal(struct {
		Format int `json:"format"`
		Summary
		LeftOut []LeftOut `json:"left_out"`
		Damage  []Damage  `json:"damage"`
		Notes   []string  `json:"notes"`
	}{m.Format, m.Summary, nonNil(m.LeftOut), nonNil(m.Damage), nonNil(m.Notes)})
	if err != nil {
		return err
	}
	_, _ = bw.Write(head[:len(head)-1])
	if err := encodeLines(bw, "segments", m.Segments); err != nil {
		return err
	}
	if err := encodeLines(bw, "files", m.Files); err != nil {
		return err
	}
	_, _ = bw.WriteString("}\n")
	return bw.Flush()
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func encodeLines[T any](w *bufio.Writer, key string, list []T) error {
	fmt.Fprintf(w, ",\n%q:[", key)
	for i := range list {
		b, err := json.Marshal(list[i])
		if err != nil {
			return err
		}
		if i > 0 {
			_ = w.WriteByte(',')
		}
		_ = w.WriteByte('\n')
		_, _ = w.Write(b)
	}
	_, err := w.WriteString("]")
	return err
}

// Counts are how many entries the lists of a manifest have.
type Counts struct {
	Segments               int64
	Files, LeftOut, Damage int
}

// Counts returns how many entries the lists of rec's manifest have.
func (rec *Record) Counts() Counts {
	return Counts{CountRefs(rec.Segments) + int64(len(rec.Shipped)), rec.FileCount, rec.LeftOutCount, rec.DamageCount}
}

// CountRefs returns how many segments refs name, whose ranges don't overlap.
func CountRefs(refs map[BackupID][]Range) int64 {
	n := int64(0)
	for _, ranges := range refs {
		for _, g := range ranges {
			n += int64(g[1]) - int64(g[0]) + 1
		}
	}
	return n
}

// headKeys is more than how many keys a manifest has beside its lists.
const headKeys = 64

// Decode reads what Encode wrote and checks it (see Manifest.Check). Keys that
// format 1 doesn't know are refused: they would change what a backup means. An entry
// that says nothing, and lists longer than most tells, are refused where they are
// met, so that little text can't become much memory.
func Decode(r io.Reader, most Counts) (*Manifest, error) {
	m := &Manifest{}
	head := map[string]json.RawMessage{}
	d := json.NewDecoder(bufio.NewReaderSize(r, 1<<16))
	if err := expect(d, json.Delim('{')); err != nil {
		return nil, err
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		key, _ := t.(string)
		switch key {
		case "segments":
			err = decodeLines(d, &m.Segments, most.Segments, Segment.check)
		case "files":
			err = decodeLines(d, &m.Files, int64(most.Files), (*File).check)
		case "left_out":
			err = decodeLines(d, &m.LeftOut, int64(most.LeftOut), notZero[LeftOut])
		case "damage":
			err = decodeLines(d, &m.Damage, int64(most.Damage), notZero[Damage])
		default:
			if len(head) == headKeys {
				return nil, fmt.Errorf("%w: more than %d keys", ErrFormat, headKeys)
			}
			var v json.RawMessage
			err = d.Decode(&v)
			head[key] = v
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrFormat, key, err)
		}
	}
	if err := expect(d, json.Delim('}')); err != nil {
		return nil, err
	}
	if err := m.decodeHead(head); err != nil {
		return nil, err
	}
	return m, m.Check()
}

func (m *Manifest) decodeHead(head map[string]json.RawMessage) error {
	b, err := json.Marshal(head)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}

func expect(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err != nil || t != want {
		return fmt.Errorf("%w: %v is missing", ErrFormat, want)
	}
	return nil
}

// decodeLines reads a list onto the end of list, which may have most entries.
func decodeLines[T any](d *json.Decoder, list *[]T, most int64, check func(T) error) error {
	if err := expect(d, json.Delim('[')); err != nil {
		return err
	}
	if *list == nil {
		*list = []T{}
	}
	for d.More() {
		var v T
		if int64(len(*list)) >= most {
			return fmt.Errorf("it has more than the %d entries that the record tells", most)
		}
		if err := d.Decode(&v); err != nil {
			return err
		}
		if err := check(v); err != nil {
			return err
		}
		*list = append(*list, v)
	}
	return expect(d, json.Delim(']'))
}

// notZero refuses an entry that says nothing.
func notZero[T comparable](v T) error {
	if v == *new(T) {
		return errors.New("an empty entry")
	}
	return nil
}

// Check reports the first thing in m that no reader could use: a wrong format
// version, labels or a cluster out of form, an unsafe path, extents that aren't in their segment or don't add up
// to the file.
func (m *Manifest) Check() error {
	if m.Format > ShippedFormat {
		return fmt.Errorf("%w, but of format %d: a later version of Slipcover wrote it, and reads it", ErrFormat, m.Format)
	}
	if m.Format < Format {
		return fmt.Errorf("%w: format %d", ErrFormat, m.Format)
	}
	if !m.ID.Valid() || !ValidInstance(m.Instance) {
		return fmt.Errorf("%w: backup %q of instance %q", ErrFormat, m.ID, m.Instance)
	}
	if err := errors.Join(CheckLabels(m.Labels), CheckCluster(m.Cluster, m.Nodes)); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	for _, s := range m.Segments {
		err := s.check()
		if err == nil && s.Key != "" && m.Format < ShippedFormat {
			err = fmt.Errorf("an object of a chain in a manifest of format %d", m.Format)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
	}
	for _, f := range m.Files {
		err := f.check()
		if err == nil {
			err = m.checkExtents(f)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
	}
	return nil
}

func (s Segment) check() error {
	if !s.Backup.Valid() || s.N < 0 || s.Size <= 0 || s.Plain <= 0 || len(s.SHA256) != 64 {
		return fmt.Errorf("segment %s/%d", s.Backup, s.N)
	}
	return nil
}

// check checks what can be told of a file without the segments.
func (f *File) check() error {
	if f == nil {
		return errors.New("null file")
	}
	if !SafePath(f.Path) || len(f.RawPath) > 0 && (f.Kind != Config || EscapePath(string(f.RawPath)) != f.Path || !localPath(string(f.RawPath))) {
		return fmt.Errorf("%s %q: unsafe path", f.Root, f.Path)
	}
	if f.Root != DataRoot && f.Root != IndexRoot && f.Root != EtcRoot {
		return fmt.Errorf("%s %q: unknown root", f.Root, f.Path)
	}
	return nil
}

func (m *Manifest) checkExtents(f *File) error {
	if len(f.Replays) > 0 && m.Format < ReplayFormat {
		return fmt.Errorf("%s %q: a replay in a manifest of format %d", f.Root, f.Path, m.Format)
	}
	if err := m.checkStored(f.Size, f.Extents, f.Replays, 0); err != nil {
		return fmt.Errorf("%s %q: %w", f.Root, f.Path, err)
	}
	if f.Header != nil && (f.Header.Offset < 0 || f.Header.Offset >= f.Size) {
		return fmt.Errorf("%s %q: a header at %d of %d bytes", f.Root, f.Path, f.Header.Offset, f.Size)
	}
	return nil
}

// checkStored checks where the size bytes of a file are, and what its replays rest on.
func (m *Manifest) checkStored(size int64, extents []Extent, replays []*Replay, depth int) error {
	return m.checkList(size, extents, replays, func(r *Replay, i int, at int64) error {
		if (r.Kind != TailReplay) != (i == 0) {
			return fmt.Errorf("a replay of a %s at %d", r.Kind, at)
		}
		return m.checkReplay(r, depth+1)
	})
}

// checkList checks where size bytes are. Each replay, which check is called for with the number of its extent and the
// offset, makes the bytes of one extent, in their order.
func (m *Manifest) checkList(size int64, extents []Extent, replays []*Replay, check func(r *Replay, i int, at int64) error) error {
	var sum int64
	used := 0
	for i, e := range extents {
		var err error
		switch {
		case e.Seg >= 0:
			err = m.checkExtent(e)
		case -1-e.Seg != used || used >= len(replays) || replays[used] == nil || replays[used].Size != e.N:
			err = fmt.Errorf("extent %v is of no replay", e)
		default:
			err = check(replays[used], i, sum)
			used++
		}
		if err != nil {
			return err
		}
		sum += e.N
	}
	if sum != size || used != len(replays) {
		return fmt.Errorf("%d bytes of extents for %d bytes of file, %d replays of %d", sum, size, used, len(replays))
	}
	return nil
}

// checkEach checks extents that are all in segments.
func (m *Manifest) checkEach(extents []Extent) error {
	for _, e := range extents {
		if err := m.checkExtent(e); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manifest) checkReplay(r *Replay, depth int) error {
	if r.Kind != CompactionReplay && r.Kind != ViewReplay && r.Kind != TailReplay && r.Kind != CopyReplay {
		return fmt.Errorf("a replay of kind %q, which a later version of Slipcover reads", r.Kind)
	}
	if depth > MaxReplays {
		return fmt.Errorf("more than %d replays that rest on each other", MaxReplays)
	}
	if err := m.checkEach(r.Stream); err != nil {
		return err
	}
	if len(r.Stream) == 0 {
		return errors.New("a replay without a stream")
	}
	o := r.Older
	if r.Kind == CopyReplay && (o == nil || !OnlyCopies(o.Replays)) {
		return errors.New("a copy that rests on no stored bytes")
	}
	if o == nil {
		return nil
	}
	if r.Kind == TailReplay {
		return errors.New("a tail that rests on another file")
	}
	if o.Header < 0 || o.Header >= o.Size {
		return fmt.Errorf("a replay that rests on a header at %d of %d bytes", o.Header, o.Size)
	}
	return m.checkStored(o.Size, o.Extents, o.Replays, depth)
}

// OnlyCopies reports whether replays are copies, of which bytes anywhere can be read.
func OnlyCopies(replays []*Replay) bool {
	return !slices.ContainsFunc(replays, func(r *Replay) bool { return r == nil || r.Kind != CopyReplay })
}

func (m *Manifest) checkExtent(e Extent) error {
	if e.Seg < 0 || e.Seg >= len(m.Segments) || e.At > m.Segments[e.Seg].Plain || e.N > m.Segments[e.Seg].Plain-e.At {
		return fmt.Errorf("extent %v is not in its segment", e)
	}
	return nil
}

// SafePath reports whether p is a relative path, with "/" between its elements,
// that stays below the directory it is joined to on every system we run on.
func SafePath(p string) bool {
	return localPath(p) && !strings.ContainsAny(p, "\\:")
}

// localPath reports whether p is a clean path that stays below a directory of a Unix.
func localPath(p string) bool {
	return p != "" && p == path.Clean(p) && p[0] != '/' && p != "." && p != ".." && !strings.HasPrefix(p, "../") && !strings.Contains(p, "\x00")
}

// EscapePath returns p if it is a SafePath in UTF-8 without "%", and else one that is,
// and that no other path becomes: its bytes that can't be, and each "%", are a "%" and
// two hexadecimal digits.
func EscapePath(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); {
		r, n := utf8.DecodeRuneInString(p[i:])
		if r == utf8.RuneError && n == 1 || r < ' ' || strings.ContainsRune("%\\:", r) {
			fmt.Fprintf(&b, "%%%02X", p[i])
			n = 1
		} else {
			b.WriteString(p[i : i+n])
		}
		i += n
	}
	return b.String()
}

// Refs returns the segments that m refers to as a record lists them: those of backups, and the
// objects of chains.
func (m *Manifest) Refs() (segments map[BackupID][]Range, shipped []string) {
	numbers := map[BackupID][]int{}
	for _, s := range m.Segments {
		if s.Key != "" {
			shipped = append(shipped, s.Key)
			continue
		}
		numbers[s.Backup] = append(numbers[s.Backup], s.N)
	}
	slices.Sort(shipped)
	refs := make(map[BackupID][]Range, len(numbers))
	for id, ns := range numbers {
		slices.Sort(ns)
		refs[id] = ranges(slices.Compact(ns))
	}
	return refs, slices.Compact(shipped)
}

func ranges(sorted []int) []Range {
	var out []Range
	for _, n := range sorted {
		if k := len(out); k > 0 && out[k-1][1] == n-1 {
			out[k-1][1] = n
			continue
		}
		out = append(out, Range{n, n})
	}
	return out
}
