package capture

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

// The ways to store what a compaction wrote, and what was appended to a file.
const (
	// Replay stores a stream out of which a restore computes the bytes again, together
	// with what is stored already, if that is less than half of them.
	Replay = "replay"
	// Copy stores, of what a compaction wrote, what isn't stored already, and where the
	// rest is.
	Copy = "copy"
	// Whole stores the bytes.
	Whole = "whole"
)

// What the options of that name are if they are 0.
const (
	leastTail = 32 << 10
	small     = 1 << 20
	proofTail = 256 << 10
)

// Options are what all files of a backup, or of a tick, have in common.
type Options struct {
	Node *node.Node
	Dir  string // state directory of the instance: scratch files, and what is remembered (folder known)
	// Encrypted says that what is stored is encrypted. Ini files are then taken with their secrets.
	Encrypted bool

	// Compaction is how a file that was compacted is stored: Replay, Copy, or Whole; "" is Whole.
	Compaction string
	// Tails is how what was appended to a database is stored: Replay, or Whole; "" is Whole.
	Tails string
	// LeastTail is the smallest tail that is stored as a replay, in bytes; 0 is 32 KiB.
	LeastTail int64

	// RememberLater leaves it to the caller to have things remembered for replays, by Remember.
	RememberLater bool

	// ProofTail is how much before the cut is read to prove a large file, in bytes; 0 is
	// 256 KiB. Small is up to which size a file is proven whole; 0 is 1 MiB.
	ProofTail, Small int64
	// TrustHeader lets a file whose newest header is the one stored have nothing new. Without
	// it the bytes before are proven too, as when it has grown.
	TrustHeader bool
	// Doubt says why a file must be read whole to be proven, "" if it needn't be; may be nil.
	Doubt func(nm Name, was, is *Local) string

	// Examine lets a file in which the scan of its bytes, or its last Take, found damage be
	// read as CouchDB would, to record all of it; Strict lets every file be that is new or has grown.
	Examine, Strict bool
	// Scan lets the bytes that are taken be looked at as with Examine, and no more: Local.Unsound tells.
	Scan bool
	// Judge says what is wrong with a file as its header tells it, beside that of the file
	// before; may be nil.
	Judge func(f, old *manifest.File) []manifest.Damage
	// Look is called with each database or index that was taken, while it is open, and
	// returns what is wrong with it; may be nil. Its error ends Take.
	Look func(ctx context.Context, src *Source, f *manifest.File) ([]manifest.Damage, error)

	Generation func() string // makes a name for a physical file; goroutines call it
	// Named returns what somebody else knows of a file, nil if nothing: if the file is that one grown, as is proven, it
	// gets the name from there instead of a new one. It may be nil.
	Named func(nm Name) *Known
	Now   func() time.Time // for Local.Proven; nil is time.Now
	Done  *atomic.Int64    // counts the bytes taken while they are; may be nil
}

// Name is a file of a node.
type Name struct {
	Root manifest.Root
	Path string
}

// Local is what the node knows of a file beyond the manifest.
type Local struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`  // of the file, not of the cut
	MTime int64  `json:"mtime"` // Unix nanoseconds
	CTime int64  `json:"ctime"`

	// Hash is the state of the SHA-256 over the first HashAt bytes; the file's whole
	// one is in the manifest. Small files have none.
	Hash   []byte `json:"hash,omitempty"`
	HashAt int64  `json:"hash_at,omitempty"`
	Proven int64  `json:"proven"` // Unix seconds of when all of it was last read

	// Known is the name of what is remembered of the file's documents, if anything is.
	Known string `json:"known,omitempty"`

	Unsound bool `json:"unsound,omitempty"` // the scan of its bytes found damage
}

// Known is what is known of a file from the last time it was taken.
type Known struct {
	// File is the file as it is stored; nil if nothing is. It needs no Extents and Replays:
	// then what Take returns has only new ones, and what replays rest on has none.
	File  *manifest.File
	Local Local // without an inode if nothing is known

	Lost    bool // what is stored isn't all there any more, so all is new
	Damaged bool // something was wrong with it
	// Whole says that the file rests on so much already that the next compaction of it is to be
	// stored whole; where the extents are at hand, Take sees it itself.
	Whole bool
}

// Taken is what Take found.
type Taken struct {
	File  *manifest.File // nil if it was left out
	Local Local
	// From is where the new bytes begin: 0 if all of them are, as of another generation.
	From int64
	// Kept says that the file is unchanged by its inode, size and times. It was not opened;
	// File is that of Known, and what was wrong with it then still is.
	Kept bool

	LeftOut  string            // why, if File is nil
	Damage   []manifest.Damage // what was wrong with it
	Notes    []string          // how it was stored otherwise than asked for
	Redacted []string          // settings that were left out of an ini file
	Epochs   []couchfile.Epoch // which nodes wrote to it, the newest first

	// WentBack says that the file doesn't begin any more with what is known of it, though it
	// should: after a power cut, a rollback of the disk, or when an older copy was put back.
	WentBack bool
	// Doubt is what Options.Doubt said, of a file that was then read whole and found to be
	// the same.
	Doubt string

	Read     int64 // bytes
	Added    int64 // bytes, or those of their streams, given to the sink
	Replayed int64 // bytes that are stored as replays
}

// Sink is where what is taken goes. A taker calls it from one goroutine.
type Sink interface {
	// Fill has read fill a buffer with the next bytes of a file, those from offset off on: n,
	// which is all that is left of it, or fewer, so as not to hold too much at once. It
	// returns where they are stored, in their order.
	Fill(nm Name, off, n int64, read func(b []byte) error) ([]manifest.Extent, error)
	// Append stores b, all of it, as the bytes of a file, or of a stream, from offset off on.
	// A stream has a name of its own.
	Append(nm Name, off int64, b []byte) ([]manifest.Extent, error)
}

// Takers makes takers that share what is remembered, and the room for replays.
type Takers struct{ shared }

type shared struct {
	o        Options
	owners   owners
	memory   *memory // nil if nothing is replayed
	encoding sync.Mutex
}

// New returns takers, and what can't be done as the options say it, if anything.
func New(o Options) (ts *Takers, note string) {
	o.LeastTail = cmp.Or(o.LeastTail, leastTail)
	o.ProofTail = cmp.Or(o.ProofTail, proofTail)
	o.Small = cmp.Or(o.Small, small)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Done == nil {
		o.Done = &atomic.Int64{}
	}
	ts = &Takers{shared{o: o}}
	if o.Compaction == Replay || o.Compaction == Copy {
		var err error
		if ts.memory, err = openMemory(o.Dir, o.Compaction == Copy); err != nil { // then all is stored whole, as without the setting
			note = "databases that were compacted are stored whole: " + err.Error()
		}
	}
	return ts, note
}

// Taker returns one that stores in sink. Of all these one makes a replay at a time, as that holds some 64 MiB.
func (ts *Takers) Taker(sink Sink) *Taker {
	return &Taker{shared: &ts.shared, sink: sink, encoding: &ts.encoding}
}

// Apart is Taker for one that the others don't wait for while it makes a replay.
func (ts *Takers) Apart(sink Sink) *Taker {
	return &Taker{shared: &ts.shared, sink: sink, encoding: &sync.Mutex{}}
}

// Taker takes files, one after the other.
type Taker struct {
	*shared
	sink     Sink
	encoding *sync.Mutex

	proof []byte // for bytes that are read to be hashed alone
	body  []byte // for streams
	whole []byte // for a small file
}
