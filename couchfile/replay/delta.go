package replay

import (
	"encoding/binary"
	"sync"
)

// A delta is what bytes have that others, the base, have not: their length
// (number), and then in turn bytes (string), a length (number) of a copy out of
// the base, and how far its start is from the end of the copy before, or from
// the base's beginning (signed number). It ends with the length, be it behind
// bytes or behind a copy.

// appendDelta appends the delta that makes target of base.
func appendDelta(dst, base, target []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(target)))
	d := deltaWriter{out: dst, base: base, target: target}
	head := commonPrefix(base, target)
	tail := commonSuffix(base[head:], target[head:])
	if head < leastCopy {
		head = 0
	}
	if tail < leastTail {
		tail = 0
	}
	d.copy(0, 0, head)
	if to, from := len(target)-tail, len(base)-tail; to-head >= deltaWindow && from-head >= deltaWindow {
		d.search(head, to, head, from)
	}
	d.copy(len(base)-tail, len(target)-tail, tail)
	return d.end()
}

const (
	leastCopy   = 8 // bytes that are worth a copy
	leastTail   = 2 // which ends most trees of revisions
	deltaWindow = 16
	deltaTable  = 1 << 14
	leastTable  = 1 << 6
)

// deltaWriter writes a delta from the target's beginning on.
type deltaWriter struct {
	out          []byte
	base, target []byte
	done         int // bytes of the target that are written
	end0         int // of the copy before, in the base
}

// copy writes what is before at, and n bytes at from in the base.
func (d *deltaWriter) copy(from, at, n int) {
	if n == 0 {
		return
	}
	d.literal(at)
	d.out = binary.AppendUvarint(d.out, uint64(n))
	d.out = binary.AppendVarint(d.out, int64(from-d.end0))
	d.done, d.end0 = at+n, from+n
}

func (d *deltaWriter) literal(to int) {
	d.out = binary.AppendUvarint(d.out, uint64(to-d.done))
	d.out = append(d.out, d.target[d.done:to]...)
	d.done = to
}

func (d *deltaWriter) end() []byte {
	if d.done < len(d.target) {
		d.literal(len(d.target))
	}
	return d.out
}

var deltaTables = sync.Pool{New: func() any { return new([deltaTable]int32) }}

// search finds copies for target[at:to] in base[from:end]: every place of the
// target is held against those of the base that are multiples of 8.
func (d *deltaWriter) search(at, to, from, end int) {
	all := deltaTables.Get().(*[deltaTable]int32)
	defer deltaTables.Put(all)
	size := leastTable
	for size < deltaTable && size < (end-from)/4 {
		size *= 2
	}
	table := all[:size]
	clear(table)
	for i := from; i+8 <= end; i += 8 {
		table[deltaHash(d.base[i:], size)] = int32(i + 1)
	}
	for at+8 <= to {
		i := int(table[deltaHash(d.target[at:], size)]) - 1
		if i < 0 {
			at++
			continue
		}
		n := commonPrefix(d.base[i:end], d.target[at:to])
		back := commonSuffix(d.base[from:i], d.target[d.done:at])
		if n+back < deltaWindow {
			at++
			continue
		}
		d.copy(i-back, at-back, n+back)
		at += n
	}
}

// deltaHash is of 8 bytes, below size.
func deltaHash(p []byte, size int) int {
	return int(binary.LittleEndian.Uint64(p)*0x9e3779b97f4a7c15>>48) & (size - 1)
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func commonSuffix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[len(a)-1-i] != b[len(b)-1-i] {
			return i
		}
	}
	return n
}

// delta reads a delta and makes the target of it, of at most most bytes.
func (r *wireReader) delta(what string, base []byte, most int) ([]byte, error) {
	size, err := r.small(what, uint64(most))
	if err != nil {
		return nil, err
	}
	n := int(size)
	if n == 0 {
		return nil, nil
	}
	var out []byte
	for end := 0; ; {
		if out, err = r.appendStr(what, out, n-len(out)); err != nil || len(out) == n {
			return out, err
		}
		k, err := r.small(what, uint64(n-len(out)))
		if err != nil {
			return nil, err
		}
		by, err := r.signed(what)
		if err != nil {
			return nil, err
		}
		from := int64(end) + by
		if k == 0 || from < 0 || from > int64(len(base)) || uint64(len(base))-uint64(from) < k {
			return nil, damaged(what + " is a copy of nothing")
		}
		end = int(from) + int(k)
		if out = append(out, base[from:end]...); len(out) == n {
			return out, nil
		}
	}
}

// appendStr reads a string of at most most bytes.
func (r *wireReader) appendStr(what string, dst []byte, most int) ([]byte, error) {
	n, err := r.small(what, uint64(most))
	if err != nil || n == 0 {
		return dst, err
	}
	p, err := r.bytes(what, n)
	return append(dst, p...), err
}

func (r *wireReader) signed(what string) (int64, error) {
	u, err := r.number(what)
	return int64(u>>1) ^ -int64(u&1), err
}
