package restore

// SetInMemory changes the size from which Verify uses a scratch file, and returns
// what undoes that.
func SetInMemory(n int64) (undo func()) {
	old := inMemory
	inMemory = n
	return func() { inMemory = old }
}
