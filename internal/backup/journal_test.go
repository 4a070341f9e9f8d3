package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/faulty"
	"github.com/slipcover/slipcover/internal/testenv"
)

const deletions = "shards/00000000-7fffffff/deletions.1795334388.couch"

// newSmallEnv is newEnv with two files, for tests that make hundreds of backups.
func newSmallEnv(t *testing.T) *env {
	t.Helper()
	e := newEnv(t)
	keep := map[string]bool{"_nodes.couch": true, deletions: true}
	for _, f := range e.couchFiles() {
		if !keep[f] {
			must(t, os.Remove(filepath.Join(e.data, f)))
		}
	}
	return e
}

// stateFile returns the path of a file in the state of node1.
func (e *env) stateFile(name string) string {
	e.t.Helper()
	return filepath.Join(e.state, e.repo(e.store).Config().ID, "node1", name)
}

// interrupt makes a backup that stores its segments, and no manifest.
func (e *env) interrupt(edit ...func(*backup.Options)) {
	e.t.Helper()
	s := faulty.New(e.store, func(op faulty.Op) faulty.Action {
		if op.Kind == faulty.Put && strings.HasPrefix(string(op.Key), "backups/") {
			return faulty.Action{Before: func() error { return storage.ErrFull }}
		}
		return faulty.Action{}
	})
	opts := e.options(s)
	for _, fn := range edit {
		fn(&opts)
	}
	if _, err := backup.Run(e.t.Context(), opts); err == nil {
		e.t.Fatal("the manifest was stored all the same")
	}
}

// altered returns b with another byte at i: digits become other digits, letters
// other letters, so that what parsed may well parse again.
func altered(b []byte, i int) []byte {
	b = bytes.Clone(b)
	switch c := b[i]; {
	case c >= '0' && c < '9' || c >= 'a' && c < 'z' || c >= 'A' && c < 'Z':
		b[i]++
	case c == '9' || c == 'z' || c == 'Z':
		b[i]--
	default:
		b[i] ^= 1
	}
	return b
}

// Whatever byte of the journal changes, what is taken up from it restores. In a soak it is
// each byte.
func TestJournalOfAnotherByte(t *testing.T) {
	t.Parallel()
	e := newSmallEnv(t)
	e.interrupt()
	path := e.stateFile("journal.jsonl")
	journal, err := os.ReadFile(path)
	must(t, err)
	if res := e.run(); res.Resumed == 0 {
		t.Fatal("nothing is taken up from the journal as it is")
	}
	step := 7
	if testenv.Soak() {
		step = 1
	}
	for i := 0; i < len(journal); i += step {
		must(t, os.WriteFile(path, altered(journal, i), 0o600))
		res := e.run(func(o *backup.Options) { o.Full = true })
		if e.check(res.Record); t.Failed() {
			t.Fatalf("byte %d of the journal, in %q", i, journal[max(0, i-20):min(len(journal), i+20)])
		}
	}
}

// The journal of a version that wrote no checksums isn't believed, and neither is
// one whose lines are short of their end.
func TestJournalWithoutChecksum(t *testing.T) {
	t.Parallel()
	e := newSmallEnv(t)
	e.interrupt()
	path := e.stateFile("journal.jsonl")
	journal, err := os.ReadFile(path)
	must(t, err)
	journal, _, _ = bytes.Cut(journal, []byte{'\n'}) // of the first line: there may be more by then
	journal = append(journal, '\n')
	_, bare, _ := bytes.Cut(journal, []byte{' '})
	for name, text := range map[string][]byte{"no checksum": bare, "torn": journal[:len(journal)-1], "empty": nil, "empty line": []byte("\n")} {
		must(t, os.WriteFile(path, text, 0o600))
		res := e.run(func(o *backup.Options) { o.Full = true })
		if res.Resumed != 0 {
			t.Errorf("%s: %d bytes were taken up", name, res.Resumed)
		}
		e.check(res.Record)
	}
}
