// Package opaque writes and reads the texts that CouchDB gives clients to be given back, such as sequences and bookmarks: a term in
// Erlang's external format, compressed where that is shorter, in base64 for URLs without padding.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_util.erl, encodeBase64Url; Erlang/OTP, term_to_binary with compressed.
package opaque

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/adler32"
	"io"
	"strings"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zlib"

	"github.com/slipcover/slipcover/couchfile/erlterm"
)

// ErrText says that a text is none of these.
var ErrText = errors.New("not a term in base64")

const (
	// compressed begins a term that is: its size in four bytes follows, and a zlib stream.
	compressed = 80
	// largest is how large a compressed term may be, in bytes: a sequence has 100 or so for each shard.
	largest = 1 << 20
)

// Encode returns the text of a term. One of fewer bytes than worthIt isn't compressed.
func Encode(t erlterm.Term, worthIt int) string {
	out := append([]byte{erlterm.Version}, t...)
	if len(t) >= worthIt {
		if packed := deflated(t); len(packed) < len(out) {
			out = packed
		}
	}
	return base64.RawURLEncoding.EncodeToString(out)
}

// deflated is a term in Erlang's compressed form. A feed has a sequence in each row, so it is made without any state, which
// is thirty times as fast as by compress/zlib.
func deflated(t erlterm.Term) []byte {
	var packed bytes.Buffer
	packed.Write([]byte{erlterm.Version, compressed})
	packed.Write(binary.BigEndian.AppendUint32(nil, uint32(len(t))))
	packed.Write([]byte{0x78, 0x9c}) // the header of zlib
	_ = flate.StatelessDeflate(&packed, t, true, nil)
	return binary.BigEndian.AppendUint32(packed.Bytes(), adler32.Checksum(t))
}

// Decode returns the term of a text, which may have padding. It returns ErrText.
func Decode(text string) (erlterm.Term, error) {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil, ErrText
	}
	if len(b) > 6 && b[0] == erlterm.Version && b[1] == compressed {
		z, err := zlib.NewReader(bytes.NewReader(b[6:]))
		size := int64(binary.BigEndian.Uint32(b[2:]))
		if err != nil || size > largest {
			return nil, ErrText
		}
		t, err := io.ReadAll(io.LimitReader(z, size+1))
		if err != nil || int64(len(t)) != size {
			return nil, ErrText
		}
		b = append([]byte{erlterm.Version}, t...)
	}
	t, err := erlterm.Parse(b)
	if err != nil {
		return nil, ErrText
	}
	return t, nil
}
