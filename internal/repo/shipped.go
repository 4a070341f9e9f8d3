package repo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// What is shipped between backups stands below ship/<instance>/: objects of chains, each of
// them a segment whose content ends with the index of a tick or roll-up:
//
//	…          content of files
//	…          two lines as those of a record: the index, and its signature
//	4          length of the two lines, little-endian
//	4          "SLTK"
//
// See docs/decisions/0011-shipping.md.

const (
	shipPrefix = "ship/"
	tickMagic  = "SLTK"
	tickFooter = 8
	// maxIndex bounds an index, in bytes.
	maxIndex = SegmentSize / 2
	// shipTime is how times stand in keys: whole seconds, UTC.
	shipTime = "20060102T150405Z"
)

// MaxTickIndex is how large the index of a roll-up may get before it should cover less, in
// bytes.
const MaxTickIndex = maxIndex

// ErrShipped says that the next object of a chain is there already: another one ships it.
var ErrShipped = errors.New("another shipper has stored the next tick of this chain")

// ShipName names an object of a chain below ship/<instance>/, without the ending.
type ShipName struct {
	Chain       manifest.BackupID
	First, Last int64     // the same of a tick
	From, To    time.Time // of a roll-up: when its ticks were, to the second, outwards
	Part        int       // 0 is the object with the index; others come before it
}

// String returns the name as it stands in keys and manifests.
func (n ShipName) String() string {
	s := fmt.Sprintf("%s/%010d", n.Chain, n.First)
	if !n.To.IsZero() {
		s = fmt.Sprintf("%s/%010d-%010d.%s-%s", n.Chain, n.First, n.Last, n.From.UTC().Format(shipTime), n.To.UTC().Format(shipTime))
	}
	if n.Part > 0 {
		s += fmt.Sprintf(".%d", n.Part)
	}
	return s
}

// RollUp reports whether the object covers ticks that had objects of their own.
func (n ShipName) RollUp() bool { return !n.To.IsZero() }

var (
	tickName   = regexp.MustCompile(`^([0-9]{10,18})(?:\.([1-9][0-9]{0,8}))?$`)
	rollUpName = regexp.MustCompile(`^([0-9]{10,18})-([0-9]{10,18})\.([0-9TZ]{16})-([0-9TZ]{16})(?:\.([1-9][0-9]{0,8}))?$`)
)

// ParseShipName undoes String.
func ParseShipName(s string) (n ShipName, ok bool) {
	chain, rest, _ := strings.Cut(s, "/")
	n.Chain = manifest.BackupID(chain)
	part := ""
	if m := tickName.FindStringSubmatch(rest); m != nil {
		n.First, _ = strconv.ParseInt(m[1], 10, 64)
		n.Last, part = n.First, m[2]
	} else if m := rollUpName.FindStringSubmatch(rest); m != nil {
		n.First, _ = strconv.ParseInt(m[1], 10, 64)
		n.Last, _ = strconv.ParseInt(m[2], 10, 64)
		n.From, _ = time.Parse(shipTime, m[3])
		n.To, _ = time.Parse(shipTime, m[4])
		part = m[5]
	}
	n.Part, _ = strconv.Atoi(part)
	return n, n.Chain.Valid() && n.First > 0 && n.First <= n.Last && n.String() == s
}

// segmentOf returns the key of a segment, of a backup or of a chain.
func (r *Repo) segmentOf(instance string, s manifest.Segment) storage.Key {
	if s.Key != "" {
		return r.shipKey(instance, s.Key)
	}
	return r.segmentKey(instance, s.Backup, s.N)
}

func (r *Repo) shipKey(instance, name string) storage.Key {
	return storage.Key(shipPrefix + instance + "/" + name + r.ending())
}

// Shipped is an object of a chain that a listing showed.
type Shipped struct {
	ShipName
	Size     int64     // bytes as stored
	Modified time.Time // by the storage's clock
}

// Shipped lists what is shipped of an instance, in the order of keys: by chain, and within
// one by first tick.
func (r *Repo) Shipped(ctx context.Context, instance string) ([]Shipped, error) {
	var out []Shipped
	prefix := shipPrefix + instance + "/"
	err := r.store.List(ctx, prefix, func(i storage.Info) error {
		name, ok := strings.CutSuffix(strings.TrimPrefix(string(i.Key), prefix), r.ending())
		if !ok {
			return nil
		}
		if n, ok := ParseShipName(name); ok {
			out = append(out, Shipped{n, i.Size, i.Modified})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list what was shipped: %w", err)
	}
	return out, nil
}

// SealTick makes the object of a tick or roll-up into s: data, followed by its index, which
// gets the hash of data, signed. It must fit: len(data) is at most SegmentSize less the
// index, for which MaxTickIndex is always enough.
func (r *Repo) SealTick(s *Sealed, key *WriteKey, signer ed25519.PrivateKey, name ShipName, t *manifest.Tick, data []byte) error {
	sum := sha256.Sum256(data)
	t.Format, t.DataSize, t.DataSHA256 = manifest.TickFormat, int64(len(data)), hex.EncodeToString(sum[:])
	if err := t.Check(); err != nil {
		return fmt.Errorf("tick %s: %w", name, err)
	}
	text, err := signed(t, signer)
	if err != nil {
		return err
	}
	data = append(data, text...)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(text)))
	return r.SealPart(s, key, name, append(data, tickMagic...))
}

// SealPart makes an object of a chain that holds data alone into s.
func (r *Repo) SealPart(s *Sealed, key *WriteKey, name ShipName, data []byte) error {
	if err := r.Seal(s, key, name.Chain, 0, data); err != nil {
		return err
	}
	s.Segment.Key = name.String()
	return nil
}

// PutShipped stores an object of a chain, durably, if there is none of its name. Else it
// returns ErrShipped, unless the one that is there is this very object, as after an
// attempt of which the answer was lost.
func (r *Repo) PutShipped(ctx context.Context, instance string, s *Sealed) error {
	key := r.shipKey(instance, s.Segment.Key)
	err := r.store.Put(ctx, key, bytes.NewReader(s.bytes.Bytes()), storage.PutOptions{IfAbsent: true})
	if errors.Is(err, storage.ErrExist) {
		var same bool
		if same, err = r.IsShipped(ctx, instance, s.Segment); err == nil && !same {
			err = fmt.Errorf("%s: %w", key, ErrShipped)
		}
	}
	if err != nil {
		return fmt.Errorf("store what is shipped: %w", err)
	}
	return nil
}

// IsShipped reports whether an object of a chain is stored with the size and hash of s. It
// is an ErrShipped if another one is there.
func (r *Repo) IsShipped(ctx context.Context, instance string, s manifest.Segment) (bool, error) {
	key := r.shipKey(instance, s.Key)
	b, err := readObject(ctx, r.store, key, 2*SegmentSize)
	if errors.Is(err, storage.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if sameHash(b, key, s.Size, s.SHA256) != nil {
		return false, fmt.Errorf("%s: %w", key, ErrShipped)
	}
	return true, nil
}

// DropRolledUp deletes objects of a chain whose ticks a roll-up covers, once that is stored. The roll-up
// is the plan: it was stored before, durably, and says by its name what goes, so whoever is
// stopped in between leaves nothing but objects of which nobody has need. keys are those of the objects, below
// ship/<instance>/.
func (r *Repo) DropRolledUp(ctx context.Context, instance string, by ShipName, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	if _, err := r.store.Stat(ctx, r.shipKey(instance, by.String())); err != nil {
		return fmt.Errorf("delete what was rolled up: look for %s: %w", by, err)
	}
	list := make([]storage.Key, 0, len(keys))
	for _, k := range keys {
		n, ok := ParseShipName(k)
		if !ok || !by.RollUp() || by.Part > 0 || n.Chain != by.Chain || n.First < by.First || n.Last > by.Last || n.First == by.First && n.Last == by.Last && n.RollUp() {
			return fmt.Errorf("delete what was rolled up: %s doesn't cover %s", by, k)
		}
		list = append(list, r.shipKey(instance, k))
	}
	if _, err := r.deleteAll(ctx, list); err != nil {
		return fmt.Errorf("delete what was rolled up: %w", err)
	}
	return nil
}

// DropUnfinished deletes objects of a chain that its shipper stored and never made use of, as it was stopped: it
// knows, by its journal, all that the chain consists of.
func (r *Repo) DropUnfinished(ctx context.Context, instance string, list []Shipped) error {
	keys := make([]storage.Key, len(list))
	for i, o := range list {
		keys[i] = r.shipKey(instance, o.String())
	}
	if _, err := r.deleteAll(ctx, keys); err != nil {
		return fmt.Errorf("delete what was not finished: %w", err)
	}
	return nil
}

// ReadTick reads the index of a tick or roll-up, and the segment that its object is. The
// index is signed, by a trusted writer if those are configured, and what it refers to in the object has the
// hash that it gives. It returns storage.ErrNotExist if the object was rolled up and
// deleted, ErrCorrupt, ErrSignature, ErrNoKey.
func (r *Repo) ReadTick(ctx context.Context, instance string, o Shipped) (*manifest.Tick, manifest.Segment, error) {
	key := r.shipKey(instance, o.String())
	t, s, err := r.readTick(ctx, instance, key, o)
	if err != nil {
		return nil, s, fmt.Errorf("%s: %w", key, err)
	}
	return t, s, nil
}

func (r *Repo) readTick(ctx context.Context, instance string, key storage.Key, o Shipped) (*manifest.Tick, manifest.Segment, error) {
	s := manifest.Segment{Backup: o.Chain, Key: o.String()}
	if err := enter(ctx, r.fetches); err != nil {
		return nil, s, err
	}
	defer leave(r.fetches)
	b, err := readObject(ctx, r.store, key, 2*SegmentSize)
	if err != nil {
		return nil, s, err
	}
	content, _, s, err := r.openShipped(ctx, instance, b, o)
	if err != nil {
		return nil, s, err
	}
	defer r.contents.put(content)
	t, err := r.tickOf(content, instance, o)
	return t, s, err
}

// tickOf reads the index at the end of content, which must have the hash that it gives.
func (r *Repo) tickOf(content []byte, instance string, o Shipped) (*manifest.Tick, error) {
	if len(content) < tickFooter || string(content[len(content)-4:]) != tickMagic {
		return nil, fmt.Errorf("%w: it doesn't end with an index", ErrCorrupt)
	}
	n := int64(binary.LittleEndian.Uint32(content[len(content)-tickFooter:]))
	at := int64(len(content)) - tickFooter - n
	if at < 0 {
		return nil, fmt.Errorf("%w: an index of %d bytes", ErrCorrupt, n)
	}
	t, err := r.decodeIndex(content[at:at+n], instance, o)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content[:at])
	if t.DataSize != at || t.DataSHA256 != hex.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("%w: its content is not that of its index", ErrCorrupt)
	}
	return t, nil
}

// openShipped opens the bytes of an object of a chain whose content no manifest tells, and decrypts them in place. It
// returns its content, which the caller gives back to r.contents, the zstd bytes, and what the object is.
func (r *Repo) openShipped(ctx context.Context, instance string, b []byte, o Shipped) (content, compressed []byte, s manifest.Segment, err error) {
	sum := sha256.Sum256(b)
	s = manifest.Segment{Backup: o.Chain, Key: o.String(), Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
	if err := enter(ctx, r.opens); err != nil {
		return nil, nil, s, err
	}
	defer leave(r.opens)
	if r.config.Encrypted() {
		if b, err = r.decryptInPlace(ctx, instance, b); err != nil {
			return nil, nil, s, err
		}
	}
	if s.Plain, s.TrailerSHA256, err = contentSize(bytes.NewReader(b), int64(len(b))); err != nil {
		return nil, nil, s, err
	}
	content = r.newContent(s.Plain)
	out, err := r.decoder.DecodeAll(b, content)
	if err != nil || int64(len(out)) != s.Plain {
		r.contents.put(content)
		return nil, nil, s, errors.Join(ErrCorrupt, fmt.Errorf("decompressed to %d bytes, not %d", len(out), s.Plain), err)
	}
	return out, b, s, nil
}

// proveTick is ReadTick for the bytes of an object, which it decrypts in place, and holds each of its frames against its
// hash too.
func (r *Repo) proveTick(ctx context.Context, instance string, b []byte, o Shipped) (*manifest.Tick, manifest.Segment, error) {
	content, compressed, s, err := r.openShipped(ctx, instance, b, o)
	if err != nil {
		return nil, s, err
	}
	defer r.contents.put(content)
	frames, err := readFrames(bytes.NewReader(compressed), int64(len(compressed)), s.Plain, s.TrailerSHA256)
	if err != nil {
		return nil, s, err
	}
	for i, f := range frames {
		if sha256.Sum256(compressed[f.at:f.at+f.size]) != f.sum {
			return nil, s, fmt.Errorf("%w: frame %d doesn't have the recorded hash", ErrCorrupt, i)
		}
	}
	t, err := r.tickOf(content, instance, o)
	return t, s, err
}

// contentSize returns how many bytes of content size zstd bytes of a segment have, as their
// trailer says, and the trailer's SHA-256 in hex.
func contentSize(src io.ReaderAt, size int64) (plain int64, sum string, err error) {
	trailer, n, err := readTrailer(src, size, SegmentSize)
	if err != nil {
		return 0, "", err
	}
	entries := trailer[int64(len(trailer))-footerSize-n*entrySize:]
	for i := range n {
		plain += int64(binary.LittleEndian.Uint32(entries[i*entrySize+4:]))
	}
	if plain <= 0 || plain > SegmentSize {
		return 0, "", fmt.Errorf("%w: a segment of %d bytes", ErrCorrupt, plain)
	}
	h := sha256.Sum256(trailer)
	return plain, hex.EncodeToString(h[:]), nil
}
