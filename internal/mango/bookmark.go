package mango

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"io"
	"strings"

	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/ejson"
)

// A bookmark is [{startkey_docid,Id},{startkey,Key}] as Erlang's term_to_binary writes it with "compressed", in base64url without padding. Both are the
// id of the last document.

// tagCompressed begins a compressed term: its size in four bytes and a zlib stream follow.
const tagCompressed = 80

// largestBookmark bounds what a bookmark unpacks to.
const largestBookmark = 1 << 20

func encodeBookmark(id string) string {
	t := erlterm.PutListHead(nil, 2)
	for _, name := range []string{"startkey_docid", "startkey"} {
		t = erlterm.PutBinary(erlterm.PutAtom(erlterm.PutTuple(t, 2), name), id)
	}
	t = append(t, erlterm.TagNil)
	var packed bytes.Buffer
	packed.Write([]byte{erlterm.Version, tagCompressed})
	packed.Write(binary.BigEndian.AppendUint32(nil, uint32(len(t))))
	w := zlib.NewWriter(&packed)
	_, _ = w.Write(t) // a buffer takes all
	_ = w.Close()
	out := packed.Bytes()
	if len(out) > len(t) {
		out = append([]byte{erlterm.Version}, t...)
	}
	return base64.RawURLEncoding.EncodeToString(out)
}

// decodeBookmark returns the key at which a bookmark begins.
func decodeBookmark(s string) (ejson.Value, error) {
	invalid := bad("invalid_bookmark", "Invalid bookmark value: %s", ejson.String(s))
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, invalid
	}
	if len(b) > 6 && b[0] == erlterm.Version && b[1] == tagCompressed {
		size := binary.BigEndian.Uint32(b[2:])
		r, err := zlib.NewReader(bytes.NewReader(b[6:]))
		if err != nil || size > largestBookmark {
			return nil, invalid
		}
		t, err := io.ReadAll(io.LimitReader(r, int64(size)+1))
		if err != nil || len(t) != int(size) {
			return nil, invalid
		}
		b = append([]byte{erlterm.Version}, t...)
	}
	t, err := erlterm.Parse(b)
	if err != nil {
		return nil, invalid
	}
	key, okKey := inList(t, "startkey")
	_, okID := inList(t, "startkey_docid")
	if !okKey || !okID {
		return nil, invalid
	}
	text, err := erlterm.AppendJSON(nil, key)
	if err != nil {
		return nil, invalid
	}
	v, err := ejson.Parse(text)
	if err != nil {
		return nil, invalid
	}
	return v, nil
}

// inList looks up a name in a list of pairs.
func inList(list erlterm.Term, name string) (erlterm.Term, bool) {
	n, _, ok := erlterm.List(list)
	if !ok || n == 0 {
		return nil, false
	}
	items, ok := erlterm.Elements(list)
	if !ok {
		return nil, false
	}
	for _, t := range items {
		if pair, ok := erlterm.Elements(t); ok && t.Tag() == erlterm.TagSmallTuple && len(pair) == 2 && erlterm.IsAtom(pair[0], name) {
			return pair[1], true
		}
	}
	return nil, false
}
