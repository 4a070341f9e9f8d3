package viewindex

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// How CouchDB counts distinct keys: by HyperLogLog, with 2^11 registers of six bits.
const (
	hyperBits     = 11
	registers     = 1 << hyperBits
	registerBits  = 6
	linearMost    = 1800          // up to there empty registers tell the count
	unbiasedLeast = 5 * registers // and from there on the estimate has no bias that is known
)

type hyper [registers]uint8

// approxRows counts the keys of rows.
//
// Source: CouchDB 3.5, src/couch/src/couch_query_servers.erl, approx_count_distinct, and couch_hyper.erl, insert.
func approxRows(rows []reduceRow) (erlterm.Term, error) {
	var h hyper
	for _, r := range rows {
		sum := sha1.Sum(append([]byte{erlterm.Version}, r.key...))
		hash := binary.BigEndian.Uint64(sum[:])
		rest := hash << hyperBits
		zeros := min(bits.LeadingZeros64(rest), 64-hyperBits)
		i := hash >> (64 - hyperBits)
		h[i] = max(h[i], uint8(zeros+1))
	}
	return h.put(), nil
}

// put is the term of all registers.
func (h *hyper) put() erlterm.Term {
	packed := make([]byte, registers*registerBits/8)
	for i, v := range h {
		for b := range registerBits {
			if v>>(registerBits-1-b)&1 != 0 {
				at := i*registerBits + b
				packed[at/8] |= 0x80 >> (at % 8)
			}
		}
	}
	t := erlterm.PutInt(erlterm.PutAtom(erlterm.PutTuple(nil, 3), "hyper"), hyperBits)
	t = erlterm.PutAtom(erlterm.PutTuple(t, 2), "hyper_binary")
	t = erlterm.PutBinary(erlterm.PutAtom(erlterm.PutTuple(t, 5), "dense"), packed)
	t = append(t, erlterm.TagNil)
	return erlterm.PutInt(erlterm.PutInt(t, 0), registers/20)
}

// add takes what a reduction counted: all registers, and single ones behind them.
func (h *hyper) add(t erlterm.Term) error {
	parts, ok := erlterm.Elements(t)
	if !ok || len(parts) != 3 || !erlterm.IsAtom(parts[0], "hyper") {
		return errReduction
	}
	if n, _, ok := erlterm.Uint(parts[1]); !ok || n != hyperBits {
		return fmt.Errorf("precision of %w", errReduction)
	}
	backend, ok := erlterm.Elements(parts[2])
	if !ok || len(backend) != 2 || !erlterm.IsAtom(backend[0], "hyper_binary") {
		return errReduction
	}
	record, ok := erlterm.Elements(backend[1])
	if !ok || len(record) != 5 {
		return errReduction
	}
	list := record[1]
	if erlterm.IsAtom(record[0], "dense") {
		packed, _, ok := erlterm.Binary(record[1])
		if !ok || len(packed) != registers*registerBits/8 {
			return errReduction
		}
		for i := range h {
			v := uint8(0)
			for b := range registerBits {
				at := i*registerBits + b
				v = v<<1 | packed[at/8]>>(7-at%8)&1
			}
			h[i] = max(h[i], v)
		}
		list = record[2]
	} else if !erlterm.IsAtom(record[0], "buffer") {
		return errReduction
	}
	pairs, ok := erlterm.Elements(list)
	if !ok {
		return errReduction
	}
	for _, p := range pairs {
		pair, ok := erlterm.Elements(p)
		if !ok || len(pair) != 2 {
			return errReduction
		}
		i, _, ok1 := erlterm.Uint(pair[0])
		v, _, ok2 := erlterm.Uint(pair[1])
		if !ok1 || !ok2 || i >= registers || v >= 1<<registerBits {
			return errReduction
		}
		h[i] = max(h[i], uint8(v))
	}
	return nil
}

func approxUnion(values []erlterm.Term) (erlterm.Term, error) {
	var h hyper
	for _, t := range values {
		if err := h.add(t); err != nil {
			return nil, err
		}
	}
	return h.put(), nil
}

// appendApprox is the count. Where CouchDB corrects the estimate by tables that aren't here it is an *Unable.
//
// Source: CouchDB 3.5, src/couch/src/couch_hyper.erl, card.
func appendApprox(dst []byte, t erlterm.Term) ([]byte, error) {
	var h hyper
	if err := h.add(t); err != nil {
		return nil, err
	}
	sum, empty := 0.0, 0
	for _, v := range h {
		sum += math.Ldexp(1, -int(v))
		if v == 0 {
			empty++
		}
	}
	const m = float64(registers)
	if empty > 0 {
		if n := m * math.Log(m/float64(empty)); n <= linearMost {
			return fmt.Appendf(dst, "%d", int64(math.Round(n))), nil
		}
	}
	estimate := 0.7213 / (1 + 1.079/m) * m * m / sum
	if estimate <= unbiasedLeast {
		return nil, unable("there are about %.0f distinct keys, more than can be counted exactly as CouchDB does and fewer than it takes", estimate)
	}
	return fmt.Appendf(dst, "%d", int64(math.Round(estimate))), nil
}
