package replay_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/couchwriter"
	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// madeTail appends commits to a file as a server would that is told something.
type madeTail struct {
	testing.TB
	out   *memory
	f     *couchwriter.File
	db    *couchwriter.Database
	opts  couchwriter.DatabaseOptions
	seq   uint64
	nodes int
	from  int64
}

// makeTail begins behind the newest header of a grown file. every is after how many nodes somebody
// uploads a chunk; 0 for never.
func makeTail(t testing.TB, opts couchwriter.DatabaseOptions, every int) *madeTail {
	t.Helper()
	file := bytes.Clone(grown(t, "3.5.0", "4-grown"))
	h, err := couchfile.FindHeader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := couchfile.ParseHeader(h)
	if err != nil {
		t.Fatal(err)
	}
	m := &madeTail{TB: t, out: &memory{file[:h.End]}, opts: opts, seq: parsed.UpdateSeq, from: h.End}
	m.f = couchwriter.NewFile(m.out, m.out, h.End, couchfile.XXH3)
	m.opts.Node = func(p []byte) ([]byte, error) {
		if m.nodes++; every > 0 && m.nodes%every == 0 {
			for i := range m.nodes/every%3 + 1 {
				m.f.Chunk(bytes.Repeat([]byte{byte(m.nodes), byte(i)}, 900*i+1))
			}
		}
		return p, nil
	}
	m.open(h.Term)
	return m
}

func (m *madeTail) open(header []byte) {
	m.Helper()
	db, err := couchwriter.OpenDatabase(m.f, m.f, header, m.opts)
	if err != nil {
		m.Fatal(err)
	}
	m.db = db
}

// commit writes new documents. Each has a body that belongs to nobody in front of its own.
func (m *madeTail) commit(n int) {
	m.Helper()
	var u couchwriter.Update
	for range n {
		m.seq++
		m.body("lost")
		off, size := m.body("kept")
		seq := erlterm.PutUint(nil, m.seq)
		body := append(erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(nil, 5), 0), off), seq...)
		body = append(erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(body, 2), size), 17), erlterm.TagNil)
		rev := append(erlterm.PutBinary(erlterm.PutTuple(nil, 3), fmt.Sprintf("%016d", m.seq)), body...)
		rev = append(rev, erlterm.TagNil)
		root := append(erlterm.PutInt(erlterm.PutTuple(erlterm.PutListHead(nil, 1), 2), 1), rev...)
		value := erlterm.PutInt(erlterm.PutBinary(erlterm.PutTuple(nil, 4), fmt.Sprintf("%x-made", m.seq*2654435761%1000)), 0)
		value = erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(value, 2), size), 17)
		value = append(append(value, root...), erlterm.TagNil)
		u.Docs = append(u.Docs, couchfile.Entry{Key: seq, Value: value})
	}
	if err := m.db.Update(u); err != nil {
		m.Fatal(err)
	}
	m.header()
}

// madeDoc is a document, its revisions as they are in its record, and its next body.
type madeDoc struct {
	id   string
	revs [][]byte
	text string
}

// edit writes one more revision of each document, below all that it has, of which as many are kept.
func (m *madeTail) edit(kept int, docs ...*madeDoc) {
	m.Helper()
	slices.SortFunc(docs, func(a, b *madeDoc) int { return strings.Compare(a.id, b.id) })
	var u couchwriter.Update
	for _, d := range docs {
		m.seq++
		u.Docs = append(u.Docs, couchfile.Entry{Key: erlterm.PutUint(nil, m.seq), Value: m.revision(d, kept)})
	}
	if err := m.db.Update(u); err != nil {
		m.Fatal(err)
	}
	m.header()
}

func (m *madeTail) revision(d *madeDoc, kept int) []byte {
	const external = 1234
	off, size := m.body(d.text)
	body := append(erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(nil, 5), 0), off), erlterm.PutUint(nil, m.seq)...)
	body = append(erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(body, 2), size), external), erlterm.TagNil)
	hash := sha256.Sum256(body)
	d.revs = append(d.revs, append(erlterm.PutBinary(erlterm.PutTuple(nil, 3), hash[:16]), body...))
	d.revs = d.revs[max(0, len(d.revs)-kept):]
	value := erlterm.PutInt(erlterm.PutBinary(erlterm.PutTuple(nil, 4), d.id), 0)
	value = erlterm.PutInt(erlterm.PutInt(erlterm.PutTuple(value, 2), size), external)
	value = erlterm.PutInt(erlterm.PutTuple(erlterm.PutListHead(value, 1), 2), 1)
	for i, r := range d.revs {
		if value = append(value, r...); i < len(d.revs)-1 {
			value = erlterm.PutListHead(value, 1)
		}
	}
	return append(value, bytes.Repeat([]byte{erlterm.TagNil}, len(d.revs)+1)...)
}

// editTwice writes two revisions of a document in one commit, each of them with its own update_seq, as
// servers do that delay commits. So where the first one's body is follows from nothing.
func (m *madeTail) editTwice(d *madeDoc) {
	m.Helper()
	m.seq++
	m.revision(d, 50)
	d.text += " again"
	m.edit(50, d)
}

// makeEdits edits a document again and again.
func makeEdits(t testing.TB, n int) *madeTail {
	t.Helper()
	m := makeTail(t, couchwriter.DatabaseOptions{}, 0)
	text := make([]byte, 3000)
	for i := range text {
		text[i] = byte('a' + (i*i/7+i)%23)
	}
	d := &madeDoc{id: "edited"}
	for i := range n {
		text[(i*577)%len(text)] = byte('A' + i%26)
		d.text = string(text)
		m.edit(50, d)
	}
	return m
}

// TestTailEdits edits a document again and again, beyond the limit of revisions. What an edit
// costs is what it changes, not the history of the document and not its body.
func TestTailEdits(t *testing.T) {
	t.Parallel()
	const edits = 120
	m := makeEdits(t, edits)
	stream, r := tailTrip(t, m.out.b, m.from)
	t.Logf("%d bytes in %d", r.Info.Size, len(stream))
	if most := 4000 + 150*edits; r.Predicted != edits || len(stream) > most {
		t.Errorf("%d bytes of stream, want %d at most; %d of %d edits predicted", len(stream), most, r.Predicted, edits)
	}
}

func (m *madeTail) body(text string) (off, size int64) {
	term := erlterm.PutBinary([]byte{erlterm.Version}, fmt.Sprint(text, " body of ", m.seq, " ", m.seq*7919))
	p := erlterm.PutBinary(erlterm.PutTuple([]byte{erlterm.Version}, 2), m.opts.Compression.Append(nil, term))
	none := m.opts.Compression.Append(nil, []byte{erlterm.Version, erlterm.TagNil})
	return m.f.Checked(erlterm.PutBinary(p, none))
}

func (m *madeTail) header() {
	m.Helper()
	if _, err := m.f.Header(m.db.Header()); err != nil {
		m.Fatal(err)
	}
}

// TestTailAmongNodes writes chunks of attachments among nodes, before and behind them, bodies that
// no document has, and changes how terms are compressed and what checksums are of.
func TestTailAmongNodes(t *testing.T) {
	t.Parallel()
	for _, every := range []int{0, 1, 3, 7} {
		m := makeTail(t, couchwriter.DatabaseOptions{}, every)
		for n := range 15 {
			m.f.Chunk([]byte("before"))
			m.commit(1 + n)
			m.f.Chunk([]byte("behind the header"))
			switch n {
			case 4:
				m.opts.Compression = couchwriter.None
				m.open(m.db.Header())
			case 8:
				m.f.Checksum = couchfile.MD5
			case 11:
				m.opts.Compression = couchwriter.Snappy
				m.open(m.db.Header())
			}
		}
		stream, r := tailTrip(t, m.out.b, m.from)
		t.Logf("every %d: %d bytes in %d, %d chunks among nodes", every, r.Info.Size, len(stream), r.Between)
		if r.Predicted != 15 || r.Others > 0 || r.Raw > 0 || (r.Between > 20) != (every > 0) {
			t.Errorf("every %d nodes: %d of 15 commits predicted, %d chunks among nodes, %d other nodes, %d raw", every,
				r.Predicted, r.Between, r.Others, r.Raw)
		}
	}
}

// TestTailUnpredicted writes commits of a server whose compression is not known. Each costs itself.
func TestTailUnpredicted(t *testing.T) {
	t.Parallel()
	m := makeTail(t, couchwriter.DatabaseOptions{}, 0)
	for n := range 9 {
		m.opts.Compression = couchwriter.Snappy
		if n == 4 || n == 5 {
			m.opts.Compression = couchwriter.Zstd
		}
		m.open(m.db.Header())
		m.commit(10)
	}
	stream, r := tailTrip(t, m.out.b, m.from)
	t.Logf("%d bytes in %d, %d of %d predicted, %d other nodes, %d raw", r.Info.Size, len(stream), r.Predicted, r.Commits, r.Others, r.Raw)
	if r.Predicted < 7 || r.Raw > 0 {
		t.Errorf("%d of 9 commits predicted, %d raw", r.Predicted, r.Raw)
	}
}

// makeCut writes commits with one btree_chunk_size after the other.
func makeCut(t testing.TB, sizes ...int) *madeTail {
	t.Helper()
	m := makeTail(t, couchwriter.DatabaseOptions{}, 0)
	for _, size := range sizes {
		m.opts.ChunkSize = size
		m.open(m.db.Header())
		for n := range 20 {
			m.commit(1 + n*n%50)
		}
	}
	return m
}

// TestTailChunkSize writes commits with another btree_chunk_size than the default. It is found
// within a few, and they are told in not much more than those of the default.
func TestTailChunkSize(t *testing.T) {
	t.Parallel()
	for _, sizes := range [][]int{{300}, {700}, {1000}, {1234}, {2000}, {4096}, {10000}, {65536}, {1279, 4096, 1279}, {2500, 600}} {
		m := makeCut(t, sizes...)
		stream, r := tailTrip(t, m.out.b, m.from)
		t.Logf("%v: %d bytes in %d, %d of %d predicted, %d other nodes, %d raw", sizes, r.Info.Size, len(stream), r.Predicted, r.Commits, r.Others, r.Raw)
		if r.Predicted < r.Commits || r.Others > 5 || r.Raw > 0 {
			t.Errorf("%v: %d of %d commits predicted, %d other nodes, %d raw", sizes, r.Predicted, r.Commits, r.Others, r.Raw)
		}
	}
}

// TestTailOfNewBodies writes bodies that have nothing in common with the older ones, and then some
// that have much: these are told by what differs again.
func TestTailOfNewBodies(t *testing.T) {
	t.Parallel()
	const docs, size = 100, 1000
	m := makeTail(t, couchwriter.DatabaseOptions{}, 0)
	rnd := rand.New(rand.NewPCG(1, 1))
	list := make([]*madeDoc, docs)
	for i := range list {
		list[i] = &madeDoc{id: fmt.Sprint(i)}
	}
	text := func() string {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte('a' + rnd.IntN(26))
		}
		return string(b)
	}
	for range 2 {
		for _, d := range list {
			d.text = text()
		}
		m.edit(50, list...)
	}
	before, _ := tailTrip(t, m.out.b, m.from)
	for range 3 {
		m.edit(50, list...)
	}
	stream, _ := tailTrip(t, m.out.b, m.from)
	if is, most := len(stream)-len(before), docs*size; is > most {
		t.Errorf("%d bytes of stream for %d small changes of bodies of %d bytes, want %d at most", is, 3*docs, size, most)
	}
}

// TestTornTail puts bytes into a tail that a crash left, and headers that are none.
func TestTornTail(t *testing.T) {
	t.Parallel()
	for _, torn := range [][]byte{{0}, {0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte{255}, 100), bytes.Repeat([]byte{1}, 9000), make([]byte, 3*4096),
		append(make([]byte, 4096), 7, 7, 7), {0, 1, 0, 0}, {0, 0, 16, 0, 1, 131}} {
		m := makeTail(t, couchwriter.DatabaseOptions{}, 0)
		for n := range 6 {
			if n == 3 {
				m.f.Raw(torn)
			}
			m.commit(5)
		}
		stream, r := tailTrip(t, m.out.b, m.from)
		if r.Predicted < 5 || len(stream) > 40<<10+len(torn) {
			t.Errorf("%d bytes %x: %d of %d commits predicted, %d raw, %d bytes of stream", len(torn), torn[:1], r.Predicted, r.Commits, r.Raw, len(stream))
		}
	}
}
