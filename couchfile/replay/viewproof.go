package replay

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// viewProof decodes a stream while it is written. Rows of the older index come from
// the true file, where EncodeView found them to be the same; that they are those which
// DecodeView will get is held against their places in the older index.
type viewProof struct {
	trial
	out *comparer

	sent uint64 // the encoder's place in the older tree
	at   uint64 // the decoder's

	mu   sync.Mutex // guards lent
	lent []segment  // that the decoder has not yet taken
}

func startViewProof(info *ViewInfo, f File) *viewProof {
	p := &viewProof{out: newComparer(f.R, info.Size)}
	tried := *info
	p.start(func(in *wireReader) error { return tried.decode(in, p, p.out) })
	return p
}

// begin begins another tree, for the encoder.
func (p *viewProof) begin() { p.sent = 0 }

// lend is what the decoder will take, and how many rows it passes over before.
func (p *viewProof) lend(list []segment) (skips uint64) {
	skips = list[0].at - p.sent
	last := &list[len(list)-1]
	p.sent = last.at + uint64(len(last.rows))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent = append(p.lent, list...)
	return skips
}

func (p *viewProof) tree(int) error {
	p.at = 0
	return nil
}

func (p *viewProof) next() (couchfile.Entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lent) == 0 {
		return couchfile.Entry{}, errors.New("a row that was not taken")
	}
	s := &p.lent[0]
	if s.at != p.at {
		return couchfile.Entry{}, fmt.Errorf("row %d of the older tree instead of %d", p.at, s.at)
	}
	row := s.rows[0]
	s.rows = s.rows[1:]
	s.at++
	p.at++
	if len(s.rows) == 0 {
		p.lent = p.lent[1:]
	}
	return row, nil
}

func (p *viewProof) skip(n uint64) error {
	p.at += n
	return nil
}

// reductions writes which function each value of a batch's nodes comes from, and the
// values of those that nothing predicts, node by node.
func (e *viewEncoder) reductions(b *viewBatch) {
	nodes := append(append([]*viewNode{}, b.leaves...), b.inner...)
	values := make([][]erlterm.Term, len(nodes)) // nil of a node to which nothing points
	n := -1
	for i, node := range nodes {
		if node.red == nil {
			continue
		}
		if parts, ok := erlterm.Elements(node.red); ok && len(parts) >= 2 {
			values[i], _ = erlterm.Elements(parts[1])
		}
		n = max(n, len(values[i]))
	}
	if n < 0 { // all that is written of it is its root
		e.w.number(0)
		return
	}
	e.functions = findFunctions(nodes, values, e.functions, n)
	e.w.number(uint64(n))
	for _, code := range e.functions {
		e.w.number(uint64(code))
	}
	for i := range nodes {
		for at, code := range e.functions {
			if code != 0 {
				continue
			}
			v := erlterm.Term{erlterm.TagNil}
			if at < len(values[i]) {
				v = values[i][at]
			}
			e.told++
			e.w.str(v)
		}
	}
}

// findFunctions finds which functions of the server make the values of all nodes; 0 is of
// one that isn't found. Those that made the batch before are tried first.
func findFunctions(nodes []*viewNode, values [][]erlterm.Term, before []byte, n int) []byte {
	found := make([]byte, n)
	wrong := make([]bool, n)
	try := func(codes []byte) {
		for i := range wrong {
			wrong[i] = codes[i] == 0
		}
		names := make([]string, n)
		for i, node := range nodes {
			if !slices.Contains(wrong, false) {
				break
			}
			if len(values[i]) != n {
				continue
			}
			for at, code := range codes {
				names[at] = couchwriter.ToldReduce
				if !wrong[at] {
					names[at] = viewFunctions[code]
				}
			}
			node.compare(names, values[i], wrong)
		}
		for i, code := range codes {
			if !wrong[i] {
				found[i] = code
			}
		}
	}
	if len(before) == n {
		try(before)
	}
	for code := len(viewFunctions) - 1; code > 0; code-- {
		for at := range found {
			if found[at] == 0 {
				one := make([]byte, n)
				one[at] = byte(code)
				try(one)
			}
		}
	}
	return found
}

// compare notes which functions give other values than a node has.
func (v *viewNode) compare(names []string, values []erlterm.Term, wrong []bool) {
	r := couchwriter.ViewReduceTold(names, func(i int) (erlterm.Term, error) { return values[i], nil })
	var got []byte
	var err error
	if v.children == nil {
		got, err = r.Reduce(nil, v.rows)
	} else {
		reds := make([]erlterm.Term, len(v.children))
		for i, c := range v.children {
			reds[i] = c.red
		}
		got, err = r.Rereduce(nil, reds)
	}
	var list []erlterm.Term
	if parts, ok := erlterm.Elements(got); err == nil && ok && len(parts) >= 2 {
		list, _ = erlterm.Elements(parts[1])
	}
	for i := range wrong {
		wrong[i] = wrong[i] || names[i] != couchwriter.ToldReduce && (i >= len(list) || !bytes.Equal(list[i], values[i]))
	}
}
