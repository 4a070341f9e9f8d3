package restore

import "context"

// Answers tells whether the server of a new instance is up and lists all databases.
func (m *Created) Answers(ctx context.Context) error { return m.answers(ctx) }

// SetInMemory changes the size from which Verify uses a scratch file, and returns
// what undoes that.
func SetInMemory(n int64) (undo func()) {
	old := inMemory
	inMemory = n
	return func() { inMemory = old }
}

// SetTrialAltered sets what a Trial calls between its steps, and returns what undoes that.
func SetTrialAltered(fn func(step, data string)) (undo func()) {
	trialAltered = fn
	return func() { trialAltered = nil }
}

// SetUsualCouchDB hides the CouchDB of this machine, and returns what undoes that.
func SetUsualCouchDB(paths ...string) (undo func()) {
	old := usualCouchDB
	usualCouchDB = paths
	return func() { usualCouchDB = old }
}
