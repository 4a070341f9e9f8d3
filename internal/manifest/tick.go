package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// TickFormat is the version of the index of a tick or roll-up.
const TickFormat = 1

// Tick is the index of an object of a chain: of one tick, or of a roll-up of several. It
// says which commits of a node's files were seen when, and where the bytes are that were
// appended until then (docs/repository-format.md, Shipping).
type Tick struct {
	Format   int      `json:"format"`
	Instance string   `json:"instance"`
	Chain    BackupID `json:"chain"`
	First    int64    `json:"first"` // number of the first tick in it, from 1
	Last     int64    `json:"last"`  // and of the last one
	// Prev is the SHA-256 of the stored object of tick First-1, in hex, "" where the chain
	// begins; End that of tick Last, of a roll-up.
	Prev string `json:"prev,omitempty"`
	End  string `json:"end,omitempty"`
	// Long is true of a roll-up that no larger one takes over from: only a backup does.
	Long bool `json:"long,omitempty"`
	// Base is the backup that the chain was begun on, "" in indexes of versions that didn't say it.
	Base BackupID `json:"base,omitempty"`
	// Since is the backup whose cuts the chain went on from last, when tick Last was made.
	Since BackupID `json:"since"`
	// Times are when each tick was taken, by the node's clock.
	Times Times `json:"times"`

	Identity       Identity `json:"identity,omitzero"`
	NodeName       string   `json:"node_name,omitempty"`
	CouchDBVersion string   `json:"couchdb_version,omitempty"`
	Tool           string   `json:"tool"`

	// DataSize and DataSHA256 are of the content in front of the index.
	DataSize   int64  `json:"data_size"`
	DataSHA256 string `json:"data_sha256"`
	// Parts are other objects that extents refer to: Seg 0 of an extent is the object with
	// this index, Seg i is Parts[i-1].
	Parts []Segment   `json:"parts,omitempty"`
	Files []*TickFile `json:"files"`
	// Gone are files that were found to be gone, in the order of ticks.
	Gone  []Gone   `json:"gone,omitempty"`
	Notes []string `json:"notes,omitempty"`

	// Writer is the public key that signed it, base64; it stands in the signature's line.
	Writer string `json:"-"`
}

// TickFile is what was appended to a generation. File is the file at the last cut, but its
// extents are those of the bytes from From to Size.
type TickFile struct {
	File
	From int64 `json:"from"` // bytes; 0 where the generation begins
	Cuts Cuts  `json:"cuts"` // ascending, at least one; the last is at Size
}

// Cut is the end of a header that was seen. In JSON it is an array of what differs from the
// cut before: see Cuts.
type Cut struct {
	Tick      int64  // in which it was the file's newest
	Size      int64  // bytes of the file up to the end of the header
	Header    int64  // length of the header, in bytes
	Seq       uint64 // update_seq
	Purge     uint64 // purge_seq
	Compacted uint64 // compacted_seq
	Docs      uint64
	Deleted   uint64
	Ago       int64 // milliseconds before the tick's time at which it was seen, below 0 after
}

// Cuts is a list of cuts; in JSON a list of arrays of nine integers, the fields of Cut, each
// but Header and Ago less that of the cut before.
type Cuts []Cut

// MarshalJSON writes the differences.
func (c Cuts) MarshalJSON() ([]byte, error) {
	list := make([][9]int64, len(c))
	var was Cut
	for i, x := range c {
		list[i] = [9]int64{x.Tick - was.Tick, x.Size - was.Size, x.Header, int64(x.Seq - was.Seq), int64(x.Purge - was.Purge),
			int64(x.Compacted - was.Compacted), int64(x.Docs - was.Docs), int64(x.Deleted - was.Deleted), x.Ago}
		was = x
	}
	return json.Marshal(list)
}

// UnmarshalJSON adds the differences up.
func (c *Cuts) UnmarshalJSON(b []byte) error {
	var list [][]int64
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*c = make(Cuts, len(list))
	var was Cut
	for i, d := range list {
		if len(d) != 9 {
			return fmt.Errorf("%w: a cut of %d numbers", ErrFormat, len(d))
		}
		was = Cut{Tick: was.Tick + d[0], Size: was.Size + d[1], Header: d[2], Seq: was.Seq + uint64(d[3]), Purge: was.Purge + uint64(d[4]),
			Compacted: was.Compacted + uint64(d[5]), Docs: was.Docs + uint64(d[6]), Deleted: was.Deleted + uint64(d[7]), Ago: d[8]}
		(*c)[i] = was
	}
	return nil
}

// Time is when a tick was taken.
type Time struct {
	At int64 // Unix milliseconds: what a server had acknowledged before is in it
	// Quiet is for how many milliseconds before At the state may have been another one than that of
	// the tick before: at At-Quiet it was known to be the same.
	Quiet int64
}

// Times is a list of times; in JSON a list of arrays [at less that before, quiet].
type Times []Time

// MarshalJSON writes the differences.
func (t Times) MarshalJSON() ([]byte, error) {
	list := make([][2]int64, len(t))
	was := int64(0)
	for i, x := range t {
		list[i] = [2]int64{x.At - was, x.Quiet}
		was = x.At
	}
	return json.Marshal(list)
}

// UnmarshalJSON adds the differences up.
func (t *Times) UnmarshalJSON(b []byte) error {
	var list [][]int64
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*t = make(Times, len(list))
	was := int64(0)
	for i, d := range list {
		if len(d) != 2 {
			return fmt.Errorf("%w: a time of %d numbers", ErrFormat, len(d))
		}
		was += d[0]
		(*t)[i] = Time{was, d[1]}
	}
	return nil
}

// Gone is a file that was there in the tick before and isn't any more.
type Gone struct {
	Root Root   `json:"root"`
	Path string `json:"path"`
	Tick int64  `json:"tick"`
}

// DecodeTick reads the index of a tick and checks it. Keys that it doesn't know are refused.
func DecodeTick(b []byte) (*Tick, error) {
	var format struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &format); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if format.Format > TickFormat {
		return nil, fmt.Errorf("%w, but a tick of format %d: a later version of Slipcover wrote it, and reads it", ErrFormat, format.Format)
	}
	t := &Tick{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return t, t.Check()
}

// Check reports the first thing in t that no reader could use.
func (t *Tick) Check() error {
	switch {
	case t.Format != TickFormat:
		return fmt.Errorf("%w: a tick of format %d", ErrFormat, t.Format)
	case !t.Chain.Valid() || !t.Since.Valid() || !ValidInstance(t.Instance):
		return fmt.Errorf("%w: a tick of chain %q of instance %q since %q", ErrFormat, t.Chain, t.Instance, t.Since)
	case t.First < 1 || t.Last < t.First || t.Last-t.First >= 1<<24 || int64(len(t.Times)) != t.Last-t.First+1:
		return fmt.Errorf("%w: ticks %d to %d with %d times", ErrFormat, t.First, t.Last, len(t.Times))
	case t.DataSize < 0 || len(t.DataSHA256) != 64:
		return fmt.Errorf("%w: %d bytes of content", ErrFormat, t.DataSize)
	}
	for _, s := range t.Parts {
		if s.Key == "" || s.check() != nil {
			return fmt.Errorf("%w: a part of a tick", ErrFormat)
		}
	}
	m := &Manifest{Format: ReplayFormat, Segments: t.segments()}
	for _, f := range t.Files {
		if f == nil {
			return fmt.Errorf("%w: null file", ErrFormat)
		}
		if err := t.checkFile(m, f); err != nil {
			return fmt.Errorf("%w: %s %q: %w", ErrFormat, f.Root, f.Path, err)
		}
	}
	for _, g := range t.Gone {
		if !SafePath(g.Path) || g.Tick < t.First || g.Tick > t.Last {
			return fmt.Errorf("%w: %q gone in tick %d", ErrFormat, g.Path, g.Tick)
		}
	}
	return nil
}

// segments are those that extents refer to.
func (t *Tick) segments() []Segment {
	return append([]Segment{{Plain: t.DataSize}}, t.Parts...)
}

func (t *Tick) checkFile(m *Manifest, f *TickFile) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.From < 0 || f.From > f.Size || len(f.Cuts) == 0 || len(f.SHA256) != 64 {
		return fmt.Errorf("bytes from %d to %d with %d cuts", f.From, f.Size, len(f.Cuts))
	}
	// A cut at From is what was there before: a file that was touched, or is known by another name now.
	tick, size := t.First, f.From
	for _, c := range f.Cuts {
		if c.Tick < tick || c.Tick > t.Last || c.Size < size || c.Size > f.Size || c.Header < 0 || c.Header > c.Size {
			return fmt.Errorf("a cut at %d in tick %d", c.Size, c.Tick)
		}
		tick, size = c.Tick, c.Size
	}
	if size != f.Size {
		return fmt.Errorf("the last cut at %d of %d bytes", size, f.Size)
	}
	if f.Header != nil && (f.Header.Offset < 0 || f.Header.Offset >= f.Size) {
		return fmt.Errorf("a header at %d of %d bytes", f.Header.Offset, f.Size)
	}
	return m.checkRange(f)
}

// checkRange checks extents and replays of a tick's file. What a compaction's replay rests on is
// named by generation, header and size alone: its extents are those that other objects have.
func (m *Manifest) checkRange(f *TickFile) error {
	return m.checkList(f.Size-f.From, f.Extents, f.Replays, func(r *Replay, i int, at int64) error {
		if (r.Kind != TailReplay) != (i == 0 && f.From == 0) {
			return fmt.Errorf("a replay of a %s at %d", r.Kind, f.From+at)
		}
		if r.Kind != TailReplay && r.Kind != CompactionReplay || r.Kind == TailReplay && r.Older != nil || len(r.Stream) == 0 {
			return fmt.Errorf("a replay of kind %q, which a later version of Slipcover reads", r.Kind)
		}
		if o := r.Older; o != nil && (o.Generation == "" || o.Header < 0 || o.Header >= o.Size || len(o.Extents)+len(o.Replays) > 0) {
			return fmt.Errorf("a replay that rests on a header at %d of %d bytes", o.Header, o.Size)
		}
		return m.checkEach(r.Stream)
	})
}

// CutOf returns the cut at a header of a file.
func CutOf(tick, size int64, h *Header, ago int64) Cut {
	return Cut{Tick: tick, Size: size, Header: size - h.Offset, Seq: h.UpdateSeq, Purge: h.PurgeSeq, Compacted: h.CompactedSeq, Docs: h.Docs, Deleted: h.DeletedDocs, Ago: ago}
}

// HeaderAt returns what is known of the header at a cut of the file: all but its hash, if
// it isn't the last.
func (f *TickFile) HeaderAt(c Cut) *Header {
	if f.Header == nil || c.Size == f.Size {
		return f.Header
	}
	h := *f.Header
	h.Offset, h.SHA256, h.UpdateSeq, h.PurgeSeq = c.Size-c.Header, "", c.Seq, c.Purge
	h.CompactedSeq, h.Docs, h.DeletedDocs = c.Compacted, c.Docs, c.Deleted
	return &h
}

// At returns the newest cut of a file up to a tick, ok if there is one.
func (f *TickFile) At(tick int64) (c Cut, ok bool) {
	i, found := slices.BinarySearchFunc(f.Cuts, tick, func(c Cut, t int64) int { return int(c.Tick - t) })
	if found {
		for i+1 < len(f.Cuts) && f.Cuts[i+1].Tick == tick {
			i++
		}
		return f.Cuts[i], true
	}
	if i == 0 {
		return Cut{}, false
	}
	return f.Cuts[i-1], true
}
