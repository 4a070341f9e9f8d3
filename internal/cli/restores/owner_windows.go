package restores

// ownerOf says that files belong to whoever makes them.
func ownerOf(string) (owner string, ok bool) { return "", true }
