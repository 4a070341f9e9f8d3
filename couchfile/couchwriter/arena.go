package couchwriter

// arena is memory for many small pieces that live about as long as each other.
type arena struct{ free []byte }

const arenaBlock = 16 << 10

// put copies p.
func (a *arena) put(p []byte) []byte {
	if len(p) > cap(a.free)-len(a.free) {
		a.free = make([]byte, 0, max(arenaBlock, len(p)))
	}
	n := len(a.free)
	a.free = append(a.free, p...)
	return a.free[n:len(a.free):len(a.free)]
}
