package couchfile

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/zeebo/xxh3"
)

// laterFile is a file as a server of the main branch writes it with Erlang 28: all terms but
// the header are packed, there is a time_seq, the properties hold what nobody knows, and so
// does the header. dead is how many bytes of it nothing refers to.
func laterFile(pack func([]byte) []byte) (b []byte, dead int64) {
	w := padded()
	dead = int64(len(w.b))
	body := pack(stored(object(tuple(bin("greeting"), bin("hello")))))
	summary := stored(tuple(bin(string(body)), bin(string(pack(stored(list()))))))
	h := xxh3.Hash128(summary)
	p := binary.BigEndian.AppendUint32(nil, checksumFlag|uint32(len(summary)))
	p = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(p, h.Hi), h.Lo)
	doc := w.put(append(p, summary...))

	red := tuple(integer(1), integer(0), tuple(atom("size_info"), integer(1), integer(1)))
	node := func(item []byte) (off, size int64) {
		off = w.chunk(pack(kv(item)))
		return off, int64(len(w.b)) - off
	}
	id, idSize := node(record(bin("d"), integer(1), leafRev(doc)))
	seq, seqSize := node(record(integer(1), bin("d"), leafRev(doc)))
	local, localSize := node(tuple(bin("_local/x"), tuple(integer(1), object(tuple(bin("a"), integer(1))))))
	revs := list(tuple(integer(1), bin("0123456789abcdef")))
	purge, purgeSize := node(tuple(bin("uuid-1"), tuple(integer(1), bin("gone"), revs)))
	purgeSeq, purgeSeqSize := node(tuple(integer(1), tuple(bin("uuid-1"), bin("gone"), revs)))

	security := w.chunk(pack(stored(list(tuple(bin("admins"), object(tuple(bin("roles"), list(bin("r")))))))))
	props := w.chunk(pack(stored(list(
		tuple(atom("partitioned"), atom("true")),
		tuple(bin("auto_purge"), object(tuple(bin("deleted_document_ttl"), integer(3600)))),
		tuple(atom("of_its_own"), tuple(atom("not"), atom("json"))),
		tuple(bin("later"), integer(7)),
	))))
	timeSeq := w.chunk(pack(stored([]byte{116, 0, 0, 0, 2, 119, 1, 'v', 97, 1, 119, 4, 'b', 'i', 'n', 's', 106})))

	at := int64(len(w.b))
	w.header(stored(tuple(atom("db_header"), integer(8), integer(1), integer(timeSeq),
		state(id, red, idSize), state(seq, integer(1), seqSize), state(local, list(), localSize),
		state(purge, integer(1), purgeSize), state(purgeSeq, integer(1), purgeSeqSize), integer(security), integer(1000),
		bin("0123456789abcdef0123456789abcdef"), oneEpoch, integer(0), integer(1000), integer(props),
		tuple(atom("what"), integer(1)), bin("nobody knows"))))
	return w.b, dead + (BlockSize-at%BlockSize)%BlockSize
}

// TestLaterFile reads what the main branch writes and 3.5 doesn't know.
func TestLaterFile(t *testing.T) {
	for _, tc := range []struct {
		name string
		pack func([]byte) []byte
	}{
		{"plain", bytes.Clone},
		{"snappy", snappied},
		{"deflate", deflated},
		{"zstd", func(b []byte) []byte { return zstded(b, true) }},
		{"zstd without length", func(b []byte) []byte { return zstded(b, false) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b, dead := laterFile(tc.pack)
			size := int64(len(b))
			rep, err := Verify(t.Context(), bytes.NewReader(b), size, VerifyOptions{AllHeaders: true})
			if err != nil || !rep.OK() {
				t.Fatalf("%v, %+v", err, rep)
			}
			if rep.LiveBytes != size-dead {
				t.Errorf("%d live bytes, want %d: all but %d", rep.LiveBytes, size-dead, dead)
			}
			if rep.Header.More != 2 {
				t.Errorf("%d fields that are not known, want 2", rep.Header.More)
			}
			laterContent(t, b)
		})
	}
}

// laterContent holds what is read of a laterFile against what it was made of.
func laterContent(t *testing.T, b []byte) {
	t.Helper()
	db, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string, got []byte, err error, want string) {
		t.Helper()
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v, want %s", what, got, err, want)
		}
	}
	doc, err := db.Doc("d", DocOptions{})
	same("document", doc, err, `{"_id":"d","_rev":"1-30313233343536373839616263646566","greeting":"hello"}`)
	security, err := db.Security()
	same("security", security, err, `{"admins":{"roles":["r"]}}`)
	props, err := db.Props()
	same("props", props, err, `{"partitioned":true,"auto_purge":{"deleted_document_ttl":3600},"later":7}`)
	if partitioned, err := db.Partitioned(); err != nil || !partitioned {
		t.Errorf("partitioned: %v, %v", partitioned, err)
	}
	l, err := db.LocalDoc("_local/x")
	if err != nil {
		t.Fatal(err)
	}
	local, err := l.JSON()
	same("local document", local, err, `{"_id":"_local/x","_rev":"0-1","a":1}`)
	purges := 0
	for p, err := range db.Purges(0) {
		if err != nil || p.DocID != "gone" || p.UUID != "uuid-1" {
			t.Errorf("purge: %+v, %v", p, err)
		}
		purges++
	}
	if purges != 1 {
		t.Errorf("%d purges, want 1", purges)
	}
}

// TestMovedProps reads a database whose properties changed: each state has its own.
func TestMovedProps(t *testing.T) {
	w := padded()
	dead := int64(len(w.b))
	for i, ttl := range []int64{60, 3600} {
		props := w.chunk(zstded(stored(list(tuple(bin("auto_purge"), object(tuple(bin("deleted_document_ttl"), integer(ttl)))))), true))
		dead += (BlockSize - int64(len(w.b))%BlockSize) % BlockSize
		none := atom("nil")
		w.header(stored(tuple(atom("db_header"), integer(8), integer(int64(i)), atom("undefined"), none, none, none, none, none, none, integer(1000),
			bin("0123456789abcdef0123456789abcdef"), oneEpoch, integer(0), integer(1000), integer(props))))
	}
	r, size := bytes.NewReader(w.b), int64(len(w.b))
	points, err := Points(r, size)
	if err != nil || len(points) != 2 {
		t.Fatalf("%d points, %v, want 2", len(points), err)
	}
	for i, want := range []string{`{"auto_purge":{"deleted_document_ttl":60}}`, `{"auto_purge":{"deleted_document_ttl":3600}}`} {
		db, err := OpenAt(r, size, points[i].Header)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := db.Props(); err != nil || string(got) != want {
			t.Errorf("state %d: %s, %v, want %s", i, got, err, want)
		}
	}
	rep, err := Verify(t.Context(), r, size, VerifyOptions{AllHeaders: true})
	if err != nil || !rep.OK() || rep.LiveBytes != size-dead {
		t.Errorf("%v, %+v, want %d live bytes", err, rep, size-dead)
	}
}

// TestTimeSeqDamage finds a time_seq that is no term, and one that lies elsewhere.
func TestTimeSeqDamage(t *testing.T) {
	good, _ := laterFile(bytes.Clone)
	db, err := Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.Clone(good)
	b[db.Header().TimeSeqPtr+5] = 255 // the tag of the map, behind length and version
	rep, err := Verify(t.Context(), bytes.NewReader(b), int64(len(b)), VerifyOptions{})
	if err != nil || len(rep.Findings) != 1 || rep.Findings[0].Offset != db.Header().TimeSeqPtr {
		t.Errorf("%v, %+v", err, rep)
	}
}
