package repo

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"filippo.io/age"
	"golang.org/x/crypto/chacha20poly1305"
)

// Sizes of an age payload, in bytes.
//
// Source: the age format, https://age-encryption.org/v1, "Payload".
const (
	ageNonce = 16
	ageChunk = 64 << 10 // of content; the last one may be shorter
)

// decryptInPlace is decrypt for a segment, into the memory of b: age.Decrypt makes new
// memory for each chunk, and copies it twice.
func (r *Repo) decryptInPlace(ctx context.Context, instance string, b []byte) ([]byte, error) {
	var header, fileKey []byte
	err := r.withIdentities(ctx, instance, func(ids ...age.Identity) (err error) {
		if header, err = age.ExtractHeader(bytes.NewReader(b)); err == nil {
			fileKey, err = age.DecryptHeader(header, ids...)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	payload, ok := bytes.CutPrefix(b, header)
	if !ok || len(payload) < ageNonce {
		return nil, ErrCorrupt
	}
	key, err := hkdf.Key(sha256.New, fileKey, payload[:ageNonce], "payload", chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, err
	}
	return openChunks(aead, payload[ageNonce:])
}

// openChunks decrypts the chunks of an age payload, and moves what they held together.
func openChunks(aead cipher.AEAD, rest []byte) ([]byte, error) {
	out := rest[:0]
	var nonce [chacha20poly1305.NonceSize]byte // a counter of 11 bytes, and whether it is the last chunk
	for i := uint64(0); ; i++ {
		chunk := rest[:min(len(rest), ageChunk+aead.Overhead())]
		rest = rest[len(chunk):]
		last := len(rest) == 0
		if last {
			nonce[len(nonce)-1] = 1
		}
		binary.BigEndian.PutUint64(nonce[3:11], i)
		content, err := aead.Open(chunk[:0], nonce[:], chunk, nil)
		if err != nil || last && i > 0 && len(content) == 0 {
			return nil, errors.Join(ErrCorrupt, err)
		}
		if out = append(out, content...); last {
			return out, nil
		}
	}
}
