package opaque_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile/erlterm"
	"github.com/slipcover/slipcover/internal/opaque"
)

// fromServer is a bookmark of a CouchDB 3.5.0.
const fromServer = "g1AAAAA0eJzLYWBgYMpgSmHgKy5JLCrJTq2MT8lPzkzJBYmnGINkOGAyULEsAGk2Dec"

func TestRoundTrip(t *testing.T) {
	stored, err := opaque.Decode(fromServer + "==")
	if err != nil || stored.Tag() != erlterm.TagList || len(stored) != 0x34 {
		t.Fatalf("%x, %v", stored, err)
	}
	for _, c := range []struct {
		term    erlterm.Term
		worthIt int
		packed  bool
	}{
		{stored, len(stored) + 1, false},
		{erlterm.PutBinary(nil, ""), 0, false}, // it would be longer
		{erlterm.PutBinary(nil, strings.Repeat("x", 300)), 0, true},
		{erlterm.PutBinary(nil, strings.Repeat("x", 300)), 305, true},
		{erlterm.PutBinary(nil, strings.Repeat("x", 300)), 306, false},
	} {
		text := opaque.Encode(c.term, c.worthIt)
		if got, err := opaque.Decode(text); err != nil || !bytes.Equal(got, c.term) || strings.HasPrefix(text, "g1AAAA") != c.packed {
			t.Errorf("%x, %d: %s, %x, %v", c.term, c.worthIt, text, got, err)
		}
	}
}

func TestRefused(t *testing.T) {
	b, err := base64.RawURLEncoding.DecodeString(fromServer)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int, by byte) string {
		b := bytes.Clone(b)
		b[at] += by
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for name, text := range map[string]string{
		"nothing": "", "no base64": "!", "no term": "AAAA", "cut off": fromServer[:20], "less than it says": changed(5, 1), "more than it says": changed(5, 0xff),
		"too large": changed(3, 0x20), "another sum": changed(len(b)-1, 1), "something behind": opaque.Encode(erlterm.Term("jj"), 0),
	} {
		if got, err := opaque.Decode(text); !errors.Is(err, opaque.ErrText) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
}
