package capture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"

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

// maxHeaderProof bounds the header that is compared before more is read, in bytes.
const maxHeaderProof = 32 << 10

// prove decides whether the file is the one that is known, grown. It returns the length
// of the prefix that is stored, with its hash in f.sum, or 0 if all must be taken.
func (f *taking) prove(ctx context.Context) (int64, error) {
	old, local := f.old, &f.out.Local
	if old.File.Header == nil || f.file.Header == nil || old.Lost {
		return 0, nil
	}
	same := grown(old.File, f.file)
	if same {
		var err error
		if same, err = sameHeader(f.src, old.File); err != nil {
			return 0, err
		}
	}
	if !same {
		f.out.WentBack = otherTimeline(old, local, f.file)
		return 0, nil
	}
	why := ""
	if old.Local.Ino != 0 { // otherwise nothing is known but what is stored
		why = f.doubt(f.name, &old.Local, local)
	}
	whole := why != "" || !f.sum.resume(&old.Local)
	if err := f.hashPrefix(ctx, f.sum, old.File.Size); err != nil {
		return 0, err
	}
	if hex.EncodeToString(f.sum.Sum(nil)) != old.File.SHA256 {
		f.sum.reset()
		f.out.WentBack = true
		return 0, nil
	}
	local.Proven = old.Local.Proven
	if whole {
		local.Proven, f.all = f.o.Now().Unix(), true
		f.out.Doubt = why
	}
	return old.File.Size, nil
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
func otherTimeline(old *Known, is *Local, file *manifest.File) bool {
	was, now := old.File.Header, file.Header
	switch {
	case was.UUID == "" || was.UUID != now.UUID:
		return false
	case now.UpdateSeq < was.UpdateSeq || now.CompactedSeq < was.CompactedSeq:
		return true
	}
	return now.CompactedSeq == was.CompactedSeq && old.Local.Dev == is.Dev && old.Local.Ino == is.Ino
}

// sameHeader compares the raw bytes where old had its newest header; it takes a very
// large one for the same.
func sameHeader(s *Source, old *manifest.File) (bool, error) {
	n := old.Size - old.Header.Offset
	if n > maxHeaderProof {
		return true, nil
	}
	b := make([]byte, n)
	if err := s.readFull(b, old.Header.Offset); err != nil {
		return false, err
	}
	sum := sha256.Sum256(b)
	want, err := hex.DecodeString(old.Header.SHA256)
	return err == nil && bytes.Equal(sum[:], want), nil
}

// hashPrefix hashes what sum doesn't have yet of the first n bytes of the source.
func (f *taking) hashPrefix(ctx context.Context, sum *prefixHash, n int64) error {
	return f.eachPart(ctx, sum.n, n, func(b []byte) { _, _ = sum.Write(b) })
}
