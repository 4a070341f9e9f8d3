package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/slipcover/slipcover/internal/manifest"
)

// Is a file that was backed up before still the same one, grown? Its header doesn't
// tell: a header holds offsets, counts and sizes, so after a power cut, a rollback of
// the disk, or an older copy put back, another commit can stand at the same place
// with the same header. What tells is what lies before it: the tree nodes of the last
// commits, which hold revision ids.
//
// So each run keeps the state of the SHA-256 as it was some way before the cut. The
// next one reads from there on and must come to the hash in the manifest. A small
// file is read from its beginning, and so is one about which there is doubt.
const (
	smallFile = 1 << 20   // files up to that size, in bytes, are always proven whole
	proofTail = 256 << 10 // of larger ones, so much before the cut is read
	// settled is how long after its last write a file is on the disk for sure. Linux
	// writes what is 30 seconds old; the rest is for slow disks.
	settled = time.Hour
	// maxHeaderProof bounds the header that is compared before more is read, in bytes.
	maxHeaderProof = 32 << 10
)

// doubt is why a file is read whole, as the notes of the backup say it.
type doubt string

const (
	noDoubt doubt = ""
	asked   doubt = "as --prove says"
	oldest  doubt = "since the state in this node was written by a version that proved less"
	moved   doubt = "since they are on another device or inode than before"
	times   doubt = "since their times went back, or stood still though their sizes changed"
	booted  doubt = "since the machine was started anew after the backup before"
	touched doubt = "since their times changed and their sizes did not, which is not CouchDB's doing"
	due     doubt = "since prove_interval is over for them"
)

// doubts in the order of their notes. That somebody asked is no news.
var doubts = []doubt{oldest, moved, times, touched, booted, due}

// bootFile holds an id that is another one after each start of the machine.
// Source: Linux, random(4).
var bootFile = "/proc/sys/kernel/random/boot_id"

// bootID returns the id of this start of the machine, "" where it can't be known.
func bootID() string {
	b, err := os.ReadFile(bootFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// proofs decides which files are read whole, and gathers what came of it.
type proofs struct {
	all      doubt         // why every file is; noDoubt if it isn't so
	booted   bool          // or it can't be known
	since    time.Time     // when the backup before was started
	now      time.Time     // when this one was
	interval time.Duration // after which a file is proven again; 0 is never

	mu       sync.Mutex
	proven   map[doubt]*proven // guarded by mu, like what follows
	wentBack []string
}

type proven struct{ files, bytes int64 }

func newProofs(o *Options, parent *state, started time.Time) *proofs {
	p := &proofs{booted: parent.boot == "" || parent.boot != bootID(), since: parent.summary.Started, now: started, interval: o.ProveInterval, proven: map[doubt]*proven{}}
	switch {
	case o.Prove:
		p.all = asked
	case parent.unproven:
		p.all = oldest
	}
	return p
}

// doubt says why a file must be read whole although the backup before knows it.
//
// A file is kept unread if device, inode, size and both times are equal, for the
// kernel sets the time of change at each write and nobody can set it back. Equal
// ones can hold other bytes after a power cut, if they were written shortly before
// it, and where a disk loses what it acknowledged, which prove_interval finds.
func (p *proofs) doubt(nm name, was, is *local) doubt {
	equal := was.Size == is.Size && was.MTime == is.MTime && was.CTime == is.CTime
	written := time.Unix(0, max(was.MTime, was.CTime))
	switch {
	case p.all != noDoubt:
		return p.all
	case was.Dev != is.Dev || was.Ino != is.Ino:
		return moved
	case is.MTime < was.MTime || is.CTime < was.CTime || is.MTime == was.MTime && is.Size != was.Size:
		return times
	case !equal && is.Size == was.Size:
		return touched
	case p.booted && (!equal || !written.Before(p.since.Add(-settled))):
		return booted
	case p.due(nm, was.Proven):
		return due
	}
	return noDoubt
}

// due reports whether a file is to be proven again, having been at a time in Unix
// seconds. That is after half to all of the interval, as chance has it, so that files
// of one day don't stay files of one day. A time to come is a clock's error.
func (p *proofs) due(nm name, at int64) bool {
	age := p.now.Sub(time.Unix(at, 0))
	part := time.Duration(xxh3.HashStringSeed(nm.path, uint64(at)) % 1024)
	return p.interval > 0 && (age < -time.Hour || age >= p.interval/2+p.interval/2048*part)
}

func (p *proofs) found(d doubt, size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proven[d] == nil {
		p.proven[d] = &proven{}
	}
	p.proven[d].files++
	p.proven[d].bytes += size
}

func (p *proofs) foundBack(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wentBack = append(p.wentBack, path)
}

// notes says what was read whole and what came of it.
func (p *proofs) notes() (out []string) {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.wentBack) > 0 {
		slices.Sort(p.wentBack)
		out = append(out, "went back in time: files don't begin any more with what the backup before holds of them, as after a power cut, a rollback of the disk, or an older copy put back; read and stored whole: "+joinShort(p.wentBack))
	}
	for _, d := range doubts {
		if f := p.proven[d]; f != nil {
			out = append(out, fmt.Sprintf("read whole, %s, and found as the backup before holds them: files: %d, bytes: %d", d, f.files, f.bytes))
		}
	}
	return out
}

// prove decides whether the file that s has open is old's file grown. It returns
// the length of the prefix that the backup before holds, with its hash in sum, or
// 0 if all must be copied.
func (w *worker) prove(ctx context.Context, s *source, old *known, file *manifest.File, sum *prefixHash) (int64, error) {
	r := w.run
	if old.file.Header == nil || file.Header == nil || !r.segmentsStored(old.file) {
		return 0, nil
	}
	same := grown(old.file, file)
	if same {
		var err error
		if same, err = sameHeader(s, old.file); err != nil {
			return 0, err
		}
	}
	if !same {
		if otherTimeline(old, s.local, file) {
			r.proofs.foundBack(file.Path)
		}
		return 0, nil
	}
	why := noDoubt
	if old.local.Ino != 0 { // otherwise the parent was read from the repository, and nothing is known
		why = r.proofs.doubt(s.name, &old.local, &s.local)
	}
	whole := why != noDoubt || !sum.resume(&old.local)
	if err := w.hashPrefix(ctx, s, sum, old.file.Size); err != nil {
		return 0, err
	}
	if hex.EncodeToString(sum.Sum(nil)) != old.file.SHA256 {
		sum.reset()
		r.proofs.foundBack(file.Path)
		return 0, nil
	}
	s.local.Proven = old.local.Proven
	if whole {
		s.local.Proven, s.allRead = r.started.Unix(), true
		r.proofs.found(why, old.file.Size)
	}
	return old.file.Size, nil
}

// grown is the part of the proof that reads nothing. A compaction may say compacted_seq,
// which is then the update_seq that the new file began with, in the header of the first
// write after it.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, finish_compaction_int.
func grown(old, file *manifest.File) bool {
	was, is := old.Header, file.Header
	return old.Size <= file.Size && was.UUID == is.UUID && was.Signature == is.Signature &&
		(was.CompactedSeq == is.CompactedSeq || is.CompactedSeq == was.UpdateSeq)
}

// otherTimeline reports whether a file that isn't old's grown was it once: its
// sequences went back, or it is the same file and neither compacted nor, being an index,
// reset. A compaction puts another file in its place, and doesn't show in compacted_seq
// until something is written.
//
// Source: CouchDB 3.5, src/couch/src/couch_bt_engine.erl, finish_compaction_int.
func otherTimeline(old *known, is local, file *manifest.File) bool {
	was, now := old.file.Header, file.Header
	switch {
	case was.UUID == "" || was.UUID != now.UUID:
		return false
	case now.UpdateSeq < was.UpdateSeq || now.CompactedSeq < was.CompactedSeq:
		return true
	}
	return now.CompactedSeq == was.CompactedSeq && old.local.Dev == is.Dev && old.local.Ino == is.Ino
}

// sameHeader compares the raw bytes where old had its newest header; it takes a very
// large one for the same.
func sameHeader(s *source, old *manifest.File) (bool, error) {
	n := old.Size - old.Header.Offset
	if n > maxHeaderProof {
		return true, nil
	}
	b := make([]byte, n)
	if err := readFull(s, b, old.Header.Offset); err != nil {
		return false, err
	}
	sum := sha256.Sum256(b)
	want, err := hex.DecodeString(old.Header.SHA256)
	return err == nil && bytes.Equal(sum[:], want), nil
}

// prefixHash is the SHA-256 of a file up to its cut, whose state is kept at a mark on
// the way there.
type prefixHash struct {
	hash.Hash
	n     int64 // bytes hashed
	mark  int64 // 0 is none
	state []byte
}

// newPrefixHash returns the hash of a file of size bytes up to its cut.
func newPrefixHash(size int64) *prefixHash {
	p := &prefixHash{Hash: sha256.New()}
	if size > smallFile {
		p.mark = size - proofTail
	}
	return p
}

func (p *prefixHash) Write(b []byte) (int, error) {
	n := len(b)
	if at := p.mark - p.n; p.mark > 0 && at >= 0 && at <= int64(n) {
		_, _ = p.Hash.Write(b[:at])
		p.state, _ = p.Hash.(encoding.BinaryMarshaler).MarshalBinary() // without it the next proof is of the whole
		b = b[at:]
	}
	_, _ = p.Hash.Write(b)
	p.n += int64(n)
	return n, nil
}

// resume goes on at the mark of the backup before and reports whether there was one.
func (p *prefixHash) resume(l *local) bool {
	if l.HashAt <= 0 || p.Hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(l.Hash) != nil {
		p.reset()
		return false
	}
	p.n = l.HashAt
	return true
}

// clone returns a copy that goes on by itself.
func (p *prefixHash) clone() *prefixHash {
	c := *p
	c.Hash = sha256.New()
	b, err := p.Hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err == nil {
		err = c.Hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(b)
	}
	if err != nil {
		panic(err) // SHA-256 can
	}
	return &c
}

func (p *prefixHash) reset() {
	p.Reset()
	p.n, p.state = 0, nil
}

// hashPrefix hashes what sum doesn't have yet of the first n bytes of s.
func (w *worker) hashPrefix(ctx context.Context, s *source, sum *prefixHash, n int64) error {
	return w.eachPart(ctx, s, sum.n, n, func(b []byte) { _, _ = sum.Write(b) })
}

// eachPart calls fn with the bytes of s between two offsets, part by part.
func (w *worker) eachPart(ctx context.Context, s *source, from, to int64, fn func([]byte)) error {
	buf := w.proofBuffer()
	for off := from; off < to; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(readSize, to-off)]
		if err := readFull(s, b, off); err != nil {
			return err
		}
		fn(b)
		off += int64(len(b))
	}
	return nil
}

// proofBuffer returns readSize bytes for what is read and not kept.
func (w *worker) proofBuffer() []byte {
	if w.proof == nil {
		w.proof = make([]byte, readSize)
	}
	return w.proof
}
