package storage

// Preread returns what to read of body for a checksum before it is sent: the same
// bytes, which don't count against a rate limit (storage/limit) then.
func Preread(body Body) Body {
	if b, ok := body.(interface{ Preread() Body }); ok {
		return b.Preread()
	}
	return body
}
