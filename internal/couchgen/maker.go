package couchgen

import (
	"fmt"
	"iter"
	"sync"
)

// maker makes the documents of one shard.
type maker struct {
	o      DirOptions
	shard  *Shard
	parted bool
	seed   uint64
	words  *corpus
	ids    ids
	n      int // made so far
	data   []byte
}

func newMaker(s *Shard, parted bool, o DirOptions, seed uint64) maker {
	m := maker{o: o, shard: s, parted: parted, seed: seed, words: newCorpus(seed)}
	m.ids.rnd = &m.words.rnd
	return m
}

// other returns a maker of other documents of the same shard.
func (m *maker) other() *maker {
	o := newMaker(m.shard, m.parted, m.o, m.seed+1)
	return &o
}

// next makes a document, which is valid until the next one.
func (m *maker) next() Doc {
	m.n++
	doc := Doc{ID: m.newID(), Body: m.words.doc(m.size())}
	if e := m.o.AttachmentEvery; e > 0 && m.n%e == 0 {
		doc.Attachments = []Attachment{m.attachment(m.n/e%2 == 0)}
	}
	return doc
}

// size is between half and one and a half times DocBytes.
func (m *maker) size() int { return m.o.DocBytes/2 + m.words.rnd.below(m.o.DocBytes+1) }

func (m *maker) newID() string {
	for {
		id := m.ids.next()
		if m.parted {
			id = fmt.Sprintf("part-%03d:%s", m.words.rnd.below(500), id)
		}
		if m.shard.holds(id, m.parted) {
			return id
		}
	}
}

func (m *maker) attachment(text bool) Attachment {
	if text {
		return Attachment{Name: "notes.txt", Type: "text/plain", Gzip: true, Data: m.words.prose(m.o.AttachmentBytes)}
	}
	m.data = grow(m.data[:0], m.o.AttachmentBytes)[:m.o.AttachmentBytes]
	m.words.rnd.fill(m.data)
	return Attachment{Name: "photo.jpg", Type: "image/jpeg", Data: m.data}
}

// all makes documents without end.
func (m *maker) all() iter.Seq[Doc] {
	return func(yield func(Doc) bool) {
		for yield(m.next()) {
		}
	}
}

// ahead is all in a goroutine of its own, which also compresses the bodies: half
// of the work for a file.
func (m *maker) ahead(c Compression) iter.Seq[Doc] {
	return func(yield func(Doc) bool) {
		full, free := make(chan *batch, 4), make(chan *batch, 4)
		stop := make(chan struct{})
		for range cap(free) {
			free <- &batch{}
		}
		var wait sync.WaitGroup
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				case b := <-free:
					b.fill(m, c)
					full <- b // never waits: there are no more batches than places
				}
			}
		})
		defer wait.Wait()
		defer close(stop)
		for {
			b := <-full
			for _, doc := range b.docs {
				if !yield(doc) {
					return
				}
			}
			free <- b
		}
	}
}

// batch is documents with what they point to.
type batch struct {
	docs  []Doc
	arena []byte
	packer
}

func (b *batch) fill(m *maker, c Compression) {
	b.docs, b.arena = b.docs[:0], b.arena[:0]
	for len(b.docs) < 64 && len(b.arena) < 1<<20 {
		doc := m.next()
		p, err := b.pack(c, doc.Body, b.arena[len(b.arena):])
		if err != nil {
			panic(err) // our own term
		}
		doc.Body = p
		b.keep(p.bytes)
		for i := range doc.Attachments {
			a := &doc.Attachments[i]
			a.Data = append(b.arena[len(b.arena):], a.Data...)
			b.keep(a.Data)
		}
		b.docs = append(b.docs, doc)
	}
}

// keep takes p, which was appended behind the arena, into the arena. If it did not
// fit it is in an array of its own, and so is the arena from now on.
func (b *batch) keep(p []byte) {
	if len(p) <= cap(b.arena)-len(b.arena) {
		b.arena = b.arena[:len(b.arena)+len(p)]
		return
	}
	b.arena = make([]byte, 0, max(1<<16, 2*cap(b.arena), 2*len(p)))
}
