package couchgen

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"sync"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// corpus makes documents that look like a shop's: mixed fields, ids, numbers,
// and English-like text, so that they compress about as real data does.
type corpus struct {
	rnd   rng
	words *[wordSlots]word // common ones are repeated, so that a random pick is Zipf-like
	buf   []byte
	text  []byte
}

// rng is a small fast generator (splitmix64).
type rng uint64

func (r *rng) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (r *rng) below(n int) int { return int(r.next() >> 33 % uint64(n)) }

func (r *rng) fill(p []byte) {
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, r.next())
		p = p[8:]
	}
	for i := range p {
		p[i] = byte(r.next())
	}
}

func (r *rng) hex(n int) string {
	p := make([]byte, n/2)
	r.fill(p)
	return hex.EncodeToString(p)
}

const wordSlots = 1 << 14

// word is up to 15 letters and a space. Copying always 16 bytes is several times
// faster than copying as many as there are.
type word struct {
	text [16]byte
	n    int
}

func newCorpus(seed uint64) *corpus { return &corpus{rnd: rng(seed), words: vocabulary()} }

// vocabulary is the same for all seeds, as a language is.
var vocabulary = sync.OnceValue(func() *[wordSlots]word {
	var words [6000]word
	rnd := rng(1)
	const consonants, vowels = "tnshrdlcmwfgypbvk", "eaoiu"
	for i := range words {
		var w []byte
		for range 1 + rnd.below(2+i/2000) + i/2000 {
			w = append(w, consonants[rnd.below(len(consonants))], vowels[rnd.below(len(vowels))])
			if rnd.below(2) == 0 {
				w = append(w, consonants[rnd.below(len(consonants))])
			}
		}
		w = append(w[:min(len(w), 15)], ' ')
		words[i].n = copy(words[i].text[:], w)
	}
	// The k-th word gets a share of about 1/(k+30) of the slots.
	var slots [wordSlots]word
	slot := 0
	for k := 0; slot < wordSlots; k = (k + 1) % len(words) {
		for range max(1, 2400/(k+30)) {
			if slot < wordSlots {
				slots[slot] = words[k]
				slot++
			}
		}
	}
	return &slots
})

// prose returns about n bytes of sentences; valid until the next call.
func (c *corpus) prose(n int) []byte {
	const most = 4*16 + 1 // of one round
	b := grow(c.text[:0], n+most)[:n+most]
	at := 0
	for at < n {
		x := c.rnd.next()
		for range 4 {
			w := &c.words[x&(wordSlots-1)]
			*(*[16]byte)(b[at:]) = w.text
			at += w.n
			x >>= 14
		}
		if x&1 == 0 {
			b[at-1], b[at] = '.', ' '
			at++
		}
	}
	c.text = b
	return b[:n]
}

// member starts one member of an object; its value follows.
func (c *corpus) member(key string) {
	c.buf = erlterm.PutBinary(erlterm.PutTuple(c.buf, 2), key)
}

func (c *corpus) str(key, v string) int64 {
	c.member(key)
	c.buf = erlterm.PutBinary(c.buf, v)
	return int64(len(key)+len(v)) + 6
}

// hex writes n random hex digits; n is a multiple of 16.
func (c *corpus) hex(key string, n int) int64 {
	c.member(key)
	n &^= 15
	c.buf = append(c.buf, erlterm.TagBinary)
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(n))
	for range n / 16 {
		for x, i := c.rnd.next(), 0; i < 16; i++ {
			c.buf = append(c.buf, "0123456789abcdef"[x&15])
			x >>= 4
		}
	}
	return int64(len(key)+n) + 6
}

func (c *corpus) int(key string, v int64) int64 {
	c.member(key)
	c.buf = erlterm.PutInt(c.buf, v)
	return int64(len(key)) + 4 + intSize(v)
}

func (c *corpus) float(key string, v float64) int64 {
	c.member(key)
	c.buf = erlterm.PutFloat(c.buf, v)
	return int64(len(key)) + 4 + floatSize(v)
}

// doc returns a body of about size bytes of JSON. The term is valid until the
// next call.
func (c *corpus) doc(size int) Encoded {
	r := &c.rnd
	c.buf = erlterm.PutListHead(erlterm.PutTuple(c.buf[:0], 1), 10)
	json := int64(1)
	json += c.str("type", types[r.below(len(types))])
	json += c.str("created_at", c.timestamp())
	json += c.str("status", states[r.below(len(states))])
	json += c.hex("reference", 32)
	json += c.str("customer", "c-"+strconv.Itoa(r.below(1_000_000)))
	json += c.int("quantity", int64(r.below(500)))
	json += c.float("price", float64(r.below(10_000_000))/100)
	json += c.lines(1 + r.below(4))
	json += c.hex("token", 2*max(8, size/16))
	text := c.prose(max(8, size-int(json)-10))
	c.member("notes")
	c.buf = erlterm.PutBinary(c.buf, text)
	json += int64(len(text)) + 11
	c.buf = append(c.buf, erlterm.TagNil)
	return Encoded{c.buf, json}
}

var (
	types  = []string{"order", "invoice", "customer", "shipment", "ticket", "event"}
	states = []string{"new", "open", "paid", "sent", "closed", "cancelled"}
)

func (c *corpus) lines(n int) int64 {
	c.member("lines")
	c.buf = erlterm.PutListHead(c.buf, n)
	json := int64(len("lines") + 4 + 1)
	for range n {
		c.buf = erlterm.PutListHead(erlterm.PutTuple(c.buf, 1), 3)
		json += 2
		json += c.str("sku", "sku-"+strconv.Itoa(100_000+c.rnd.below(900_000)))
		json += c.int("count", int64(1+c.rnd.below(20)))
		json += c.float("weight", float64(c.rnd.below(100_000))/1000)
		c.buf = append(c.buf, erlterm.TagNil)
	}
	c.buf = append(c.buf, erlterm.TagNil)
	return json
}

func (c *corpus) timestamp() string {
	b := []byte("2026-00-00T00:00:00.000Z")
	two := func(at, v int) { b[at], b[at+1] = byte('0'+v/10), byte('0'+v%10) }
	two(5, 1+c.rnd.below(12))
	two(8, 1+c.rnd.below(28))
	two(11, c.rnd.below(24))
	two(14, c.rnd.below(60))
	two(17, c.rnd.below(60))
	two(20, c.rnd.below(100))
	return string(b)
}

// ids makes document ids as the server's "sequential" algorithm does: 26 random
// hex digits, then 6 that grow.
type ids struct {
	rnd    *rng
	prefix string
	n      int
}

func (g *ids) next() string {
	if g.prefix == "" || g.n >= 0xfff000 {
		g.prefix, g.n = g.rnd.hex(26), 0
	}
	g.n += 1 + g.rnd.below(0xffe)
	s := strconv.FormatInt(int64(g.n), 16)
	return g.prefix + "000000"[len(s):] + s
}
