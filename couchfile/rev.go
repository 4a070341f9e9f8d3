package couchfile

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// Rev names a revision: its position in the history, from 1 on, and its id,
// which usually is 16 raw bytes.
type Rev struct {
	Pos uint64
	ID  string
}

// String is the revision as the server shows it: an id of 16 bytes in hex,
// any other as it is.
//
// Source: CouchDB 3.5, src/couch/src/couch_doc.erl, rev_to_str.
func (r Rev) String() string { return strconv.FormatUint(r.Pos, 10) + "-" + revIDString(r.ID) }

func revIDString(id string) string {
	if len(id) == 16 {
		return hex.EncodeToString([]byte(id))
	}
	return id
}

// ParseRev is the inverse of Rev.String.
//
// Source: CouchDB 3.5, src/couch/src/couch_doc.erl, parse_rev.
func ParseRev(s string) (Rev, error) {
	pos, id, ok := strings.Cut(s, "-")
	n, err := strconv.ParseUint(pos, 10, 64)
	if !ok || err != nil {
		return Rev{}, fmt.Errorf("revision %q: want <number>-<id>", s)
	}
	if len(id) == 32 {
		if b, err := hex.DecodeString(id); err == nil {
			id = string(b)
		}
	}
	return Rev{Pos: n, ID: id}, nil
}

// Revision is a node of a document's revision tree.
type Revision struct {
	Rev
	RevInfo
}

// RevInfo is what is known of a revision beside its name.
type RevInfo struct {
	Parent  int  // index in the tree's slice, -1 for a root
	Leaf    bool // has no children
	Stored  bool // its body is in the file; false for revisions known by name only
	Deleted bool
	Seq     uint64 // update_seq of the write
	Ptr     int64  // offset of the summary chunk; meaningful if Stored
	Sizes   Sizes
	modern  bool // as 2.0 and later write it
}

// rawRev is a Revision whose id still lies in the term.
type rawRev struct {
	pos uint64
	id  []byte
	RevInfo
}

func (r *rawRev) rev() Rev { return Rev{Pos: r.pos, ID: string(r.id)} }

// revParser takes rev trees apart, with reused memory. The tree's depth is
// the length of the document's history, so it uses a stack of its own.
type revParser struct {
	revs  []rawRev
	stack []revFrame
	// atts are the attachments of each of revs, if withAtts is set: a list of {where it is, stored length}, nil in old files.
	atts     []erlterm.Term
	withAtts bool
}

// revisions copies what was parsed last.
func (p *revParser) revisions() []Revision {
	out := make([]Revision, len(p.revs))
	for i := range p.revs {
		out[i] = Revision{Rev: p.revs[i].rev(), RevInfo: p.revs[i].RevInfo}
	}
	return out
}

// revFrame is a list of siblings that is being read.
type revFrame struct {
	left   int    // siblings to come
	parent int    // index of their parent, -1 for roots
	pos    uint64 // their position
}

// parse reads a stored rev tree at the start of b: a list of {start, node}
// with node = {rev id, value, children}. The result is valid until the next
// call; a node comes before its children.
//
// Source: CouchDB 3.5, src/couch/src/couch_key_tree.erl and
// src/couch/src/couch_bt_engine.erl, rev_tree.
func (p *revParser) parse(b []byte) (revs []rawRev, rest []byte, ok bool) {
	p.revs, p.stack, p.atts = p.revs[:0], p.stack[:0], p.atts[:0]
	roots, rest, ok := erlterm.List(b)
	if !ok {
		return nil, nil, false
	}
	for range roots {
		var start uint64
		if rest, ok = erlterm.TupleN(rest, 2); !ok {
			return nil, nil, false
		}
		if start, rest, ok = erlterm.Uint(rest); !ok {
			return nil, nil, false
		}
		if rest, ok = p.tree(rest, start); !ok {
			return nil, nil, false
		}
	}
	if roots > 0 {
		if rest, ok = erlterm.ListEnd(rest); !ok {
			return nil, nil, false
		}
	}
	return p.revs, rest, true
}

// tree reads one root and all below it.
func (p *revParser) tree(b []byte, start uint64) (rest []byte, ok bool) {
	rest = b
	p.stack = append(p.stack[:0], revFrame{left: 1, parent: -1, pos: start})
	for len(p.stack) > 0 {
		top := &p.stack[len(p.stack)-1]
		if top.left == 0 {
			p.stack = p.stack[:len(p.stack)-1]
			if len(p.stack) > 0 { // the virtual list around the root has no end
				if rest, ok = erlterm.ListEnd(rest); !ok {
					return nil, false
				}
			}
			continue
		}
		top.left--
		var children int
		if children, rest, ok = p.node(rest, top.parent, top.pos); !ok {
			return nil, false
		}
		if children > 0 {
			p.stack = append(p.stack, revFrame{left: children, parent: len(p.revs) - 1, pos: top.pos + 1})
		}
	}
	return rest, true
}

// node reads {rev id, value, children} up to the first child.
func (p *revParser) node(b []byte, parent int, pos uint64) (children int, rest []byte, ok bool) {
	if rest, ok = erlterm.TupleN(b, 3); !ok {
		return 0, nil, false
	}
	id, rest, ok := erlterm.Binary(rest)
	if !ok {
		return 0, nil, false
	}
	if len(p.revs) == mostRevs {
		return 0, nil, false
	}
	r := rawRev{pos: pos, id: id, RevInfo: RevInfo{Parent: parent}}
	atts, rest, ok := r.value(rest)
	if !ok {
		return 0, nil, false
	}
	if p.withAtts {
		p.atts = append(p.atts, atts)
	}
	if children, rest, ok = erlterm.List(rest); !ok {
		return 0, nil, false
	}
	r.Leaf = children == 0
	if len(p.revs) == cap(p.revs) { // append would grow by a quarter only
		p.revs = slices.Grow(p.revs, len(p.revs)+8)
	}
	p.revs = append(p.revs, r)
	return children, rest, true
}

// value reads {deleted, pointer, seq, sizes, attachments}, shorter in old
// files, or the empty list of a revision that is known by name only.
func (r *RevInfo) value(b []byte) (atts erlterm.Term, rest []byte, ok bool) {
	if len(b) > 0 && b[0] == erlterm.TagNil {
		return nil, b[1:], true
	}
	n, rest, ok := erlterm.Tuple(b)
	if !ok || n < 3 || n > 5 {
		return nil, nil, false
	}
	deleted, rest, ok := erlterm.Uint(rest)
	if !ok || deleted > 1 {
		return nil, nil, false
	}
	ptr, rest, ok := erlterm.Uint(rest)
	if !ok || ptr > 1<<62 {
		return nil, nil, false
	}
	if r.Seq, rest, ok = erlterm.Uint(rest); !ok {
		return nil, nil, false
	}
	r.Stored, r.Deleted, r.Ptr = true, deleted == 1, int64(ptr)
	if n >= 4 {
		if r.Sizes, rest, ok = parseSizes(rest); !ok {
			return nil, nil, false
		}
	}
	if n == 5 {
		r.modern = true
		atts, rest, ok = erlterm.Next(rest)
	}
	return atts, rest, ok
}

// leaves returns the indexes of the leaves, the winner first.
//
// Source: CouchDB 3.5, src/couch/src/couch_doc.erl, to_doc_info_path.
func leaves(revs []Revision) []int {
	var idx []int
	for i := range revs {
		if revs[i].Leaf {
			idx = append(idx, i)
		}
	}
	slices.SortFunc(idx, func(a, b int) int { return compareLeaves(&revs[b], &revs[a]) })
	return idx
}

// compareLeaves orders leaves by what wins: not deleted, longer, larger id.
func compareLeaves(a, b *Revision) int {
	if a.Deleted != b.Deleted {
		if a.Deleted {
			return -1
		}
		return 1
	}
	if c := cmp.Compare(a.Pos, b.Pos); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}
