package couchfile_test

import (
	"sync"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
)

// One DB serves many goroutines, which get what one alone gets.
func TestConcurrentReaders(t *testing.T) {
	db := openFixture(t, batches)
	want := map[string]string{}
	for _, id := range ids(t, db, couchfile.DocsOptions{}) {
		b, err := db.Doc(id, couchfile.DocOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want[id] = string(b)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for id, text := range want { // in a random order
				if b, err := db.Doc(id, couchfile.DocOptions{}); err != nil || string(b) != text {
					t.Errorf("%s: got %s, %v, want %s", id, b, err, text)
					return
				}
			}
		})
	}
	wg.Wait()
}
