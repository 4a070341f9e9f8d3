package shard

import (
	"crypto/sha256"
	"encoding/hex"
)

// A restore gives a shard another uuid, so that whoever follows it starts over; CouchDB keeps that when it compacts the
// file. 8 of its 16 bytes are the same for all that come of one uuid, so that the next backup knows the shard again,
// however often it was restored. CouchDB makes uuids at random.
const (
	saltDigits = 12     // at the beginning, where sequences name the uuid by
	newHistory = "5c0e" // marks a uuid of this kind
)

// NewHistory returns a uuid for a shard that begins a new history, in hex: the same for the same text and uuid.
func NewHistory(uuid, text string) string {
	return hashed(text + " " + uuid)[:saltDigits] + newHistory + originOf(uuid)
}

// SameOrigin reports whether two uuids are of one shard, whatever histories it began.
func SameOrigin(a, b string) bool { return a == b || originOf(a) == originOf(b) }

// originOf is what is the same of all uuids of a shard, as hex.
func originOf(uuid string) string {
	const marked = saltDigits + len(newHistory)
	if len(uuid) == 32 && uuid[saltDigits:marked] == newHistory {
		return uuid[marked:]
	}
	return hashed("origin " + uuid)[:32-marked]
}

func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
