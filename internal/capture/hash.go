package capture

import (
	"crypto/sha256"
	"encoding"
	"hash"
)

// prefixHash is the SHA-256 of a file up to its cut, whose state is kept at a mark on
// the way there.
type prefixHash struct {
	hash.Hash
	n     int64 // bytes hashed
	mark  int64 // 0 is none
	state []byte
}

// newPrefixHash returns the hash of a file of size bytes up to its cut.
func (t *Taker) newPrefixHash(size int64) *prefixHash {
	p := &prefixHash{Hash: sha256.New()}
	if size > t.o.Small {
		p.mark = size - t.o.ProofTail
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

// resume goes on at the mark of the last time and reports whether there was one.
func (p *prefixHash) resume(l *Local) bool {
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
