package repo

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/storage/mem"
)

// What age opens is opened in place too, to the same bytes, and nothing else is.
func TestDecryptInPlace(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	store := mem.New()
	if _, err := Init(t.Context(), store, InitOptions{Recipients: []string{id.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), store, Options{Identities: []age.Identity{id}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, b []byte) {
		var want []byte
		rd, wantErr := age.Decrypt(bytes.NewReader(b), id)
		if wantErr == nil {
			want, wantErr = io.ReadAll(rd)
		}
		got, err := r.decryptInPlace(t.Context(), "node1", bytes.Clone(b))
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; age has %d, %v", what, len(got), err, len(want), wantErr)
		}
	}
	const ageChunk = 64 << 10 // of content
	for _, n := range []int{0, 1, ageChunk - 1, ageChunk, ageChunk + 1, 2 * ageChunk, 2*ageChunk + 7} {
		var b bytes.Buffer
		w, err := age.Encrypt(&b, id.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if _, err := w.Write([]byte{byte(i % 251)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		whole := b.Bytes()
		check(fmt.Sprint(n), whole)
		check(fmt.Sprint(n, " and one more"), append(bytes.Clone(whole), 0))
		for _, cut := range []int{1, 16, 17, ageChunk, ageChunk + 16, len(whole) - 10} {
			if cut < len(whole) {
				check(fmt.Sprint(n, " less ", cut), whole[:len(whole)-cut])
			}
		}
		for _, at := range []int{0, 30, len(whole) / 2, len(whole) - 1} {
			bad := bytes.Clone(whole)
			bad[at] ^= 1
			check(fmt.Sprint(n, " changed at ", at), bad)
		}
	}
}
