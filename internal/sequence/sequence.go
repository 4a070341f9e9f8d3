// Package sequence reads and writes the sequences that CouchDB shows of a database: for each shard the number of its last
// change in one of its copies, with the beginning of that copy's uuid. It does no I/O.
//
// A sequence is the sum of the numbers, a dash, and a list of {Node, [Begin, End], {N, UUID, Node}}, in Erlang's external
// format, as package opaque writes it. Of a purge sequence the last element is N alone.
//
// Source: CouchDB 3.5.0, src/fabric/src/fabric_view_changes.erl, pack_seqs and unpack_seq_decode_term.
package sequence

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/opaque"
	"github.com/slipcover/slipcover/internal/shard"
)

// ErrSequence says that a text is no sequence of CouchDB's.
var ErrSequence = errors.New("not a sequence of a CouchDB 2 or 3")

// Shard is where a sequence is in one shard.
type Shard struct {
	Node  string // Erlang name of the node whose copy it is
	Range shard.Range
	Seq   uint64
	UUID  string // the first seven characters of the copy's uuid; "" in purge sequences
	// Owner is the node that wrote the sequence, if it isn't Node: one that held the file before.
	Owner string
}

const (
	// uuidDigits is how much of a uuid stands in a sequence.
	uuidDigits = 7
	// worthIt is from how many bytes on a term is compressed: those of one or two shards gain little.
	worthIt = 200
)

// Pack makes the sequence of a database out of those of its shards.
func Pack(list []Shard) string {
	items := make([][]byte, len(list))
	sum := uint64(0)
	for i, s := range list {
		sum += s.Seq
		item := erlterm.PutTuple(nil, 3)
		item = erlterm.PutAtom(item, s.Node)
		item = erlterm.PutList(item, [][]byte{erlterm.PutUint(nil, uint64(s.Range.Begin)), erlterm.PutUint(nil, uint64(s.Range.End))})
		if s.UUID == "" {
			item = erlterm.PutUint(item, s.Seq)
		} else {
			item = erlterm.PutTuple(item, 3)
			item = erlterm.PutUint(item, s.Seq)
			item = erlterm.PutBinary(item, s.UUID[:min(uuidDigits, len(s.UUID))])
			item = erlterm.PutAtom(item, cmp.Or(s.Owner, s.Node))
		}
		items[i] = item
	}
	return fmt.Sprintf("%d-%s", sum, opaque.Encode(erlterm.PutList(nil, items), worthIt))
}

// Unpack reads a sequence, which may have quotes around it and lack the sum. It returns ErrSequence.
func Unpack(text string) ([]Shard, error) {
	text = strings.Trim(text, `"`)
	if sum, rest, ok := strings.Cut(text, "-"); ok {
		if _, err := strconv.ParseUint(sum, 10, 64); err == nil {
			text = rest
		}
	}
	t, err := opaque.Decode(text)
	if err != nil {
		return nil, ErrSequence
	}
	list, ok := erlterm.Elements(t)
	if !ok || len(list) == 0 {
		return nil, ErrSequence
	}
	out := make([]Shard, 0, len(list))
	for _, x := range list {
		s, ok := parse(x)
		if !ok {
			return nil, ErrSequence
		}
		out = append(out, s)
	}
	return out, nil
}

// parse reads {Node, [Begin, End], Seq}, where Seq is a number, {N, UUID} or {N, UUID, Node}.
func parse(t erlterm.Term) (s Shard, ok bool) {
	parts, ok := tuple(t)
	if !ok || len(parts) != 3 {
		return s, false
	}
	ends, ok := erlterm.Elements(parts[1])
	if !ok || len(ends) != 2 {
		return s, false
	}
	begin, _, ok1 := erlterm.Uint(ends[0])
	end, _, ok2 := erlterm.Uint(ends[1])
	if !ok1 || !ok2 || begin > end || end > 1<<32-1 {
		return s, false
	}
	s.Range = shard.Range{Begin: uint32(begin), End: uint32(end)}
	node, _, ok := erlterm.Atom(parts[0])
	if !ok {
		return s, false
	}
	s.Node = string(node)
	if s.Seq, _, ok = erlterm.Uint(parts[2]); ok {
		return s, true
	}
	seq, ok := tuple(parts[2])
	if !ok || len(seq) < 2 {
		return s, false
	}
	uuid, _, ok2 := erlterm.Binary(seq[1])
	s.Seq, _, ok1 = erlterm.Uint(seq[0])
	s.UUID = string(uuid)
	if len(seq) > 2 {
		owner, _, ok := erlterm.Atom(seq[2])
		if !ok {
			return s, false
		}
		if string(owner) != s.Node {
			s.Owner = string(owner)
		}
	}
	return s, ok1 && ok2
}

// tuple returns the elements of a tuple.
func tuple(t erlterm.Term) ([]erlterm.Term, bool) {
	n, rest, ok := erlterm.Tuple(t)
	if !ok {
		return nil, false
	}
	out := make([]erlterm.Term, 0, min(n, 8))
	for range n {
		var x erlterm.Term
		if x, rest, ok = erlterm.Next(rest); !ok {
			return nil, false
		}
		out = append(out, x)
	}
	return out, true
}
