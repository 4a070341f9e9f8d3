package mango

import (
	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/opaque"
)

// A bookmark is [{startkey_docid,Id},{startkey,Key}] as package opaque writes it. Both are the id of the last document.

func encodeBookmark(id string) string {
	t := erlterm.PutListHead(nil, 2)
	for _, name := range []string{"startkey_docid", "startkey"} {
		t = erlterm.PutBinary(erlterm.PutAtom(erlterm.PutTuple(t, 2), name), id)
	}
	return opaque.Encode(append(t, erlterm.TagNil), 0)
}

// decodeBookmark returns the key at which a bookmark begins.
func decodeBookmark(s string) (ejson.Value, error) {
	invalid := bad("invalid_bookmark", "Invalid bookmark value: %s", ejson.String(s))
	t, err := opaque.Decode(s)
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
