package backup_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/storage/faulty"
)

// watched makes a backup in a storage that takes a moment for each segment, and fails the test if progress is all done
// while one is to be stored, if its share ever falls, or if it doesn't end whole. It returns how many segments were stored.
func (e *env) watched(what string, edit ...func(*backup.Options)) (segments int64, of int64) {
	e.t.Helper()
	p := &backup.Progress{}
	var stored atomic.Int64
	s := faulty.New(e.store, func(op faulty.Op) faulty.Action {
		switch {
		case op.Kind != faulty.Put:
			return faulty.Action{}
		case !strings.HasPrefix(string(op.Key), "segments/"): // the first of what is put once all segments are there
			if of, done := p.Bytes(); stored.Load() > 0 && done != of {
				e.t.Errorf("%s: %d of %d bytes are done, and all segments are stored", what, done, of)
			}
			return faulty.Action{}
		}
		stored.Add(1)
		return faulty.Action{Wait: func(context.Context) error {
			time.Sleep(50 * time.Millisecond) // reading goes on meanwhile
			if of, done := p.Bytes(); done >= of {
				e.t.Errorf("%s: %d of %d bytes are done, and a segment is to be stored", what, done, of)
			}
			return nil
		}}
	})
	opts := e.options(s)
	opts.Progress = p
	for _, f := range edit {
		f(&opts)
	}
	ctx, stop := context.WithCancel(e.t.Context())
	var watch sync.WaitGroup
	watch.Go(func() {
		was, wasOf := int64(0), int64(0)
		for ctx.Err() == nil {
			of, done := p.Bytes()
			if done > of || done < was || wasOf > 0 && float64(done)/float64(of) < float64(was)/float64(wasOf) {
				e.t.Errorf("%s: %d of %d bytes are done after %d of %d", what, done, of, was, wasOf)
				return
			}
			if done > 0 {
				was, wasOf = done, of
			}
			time.Sleep(time.Millisecond)
		}
	})
	_, err := backup.Run(e.t.Context(), opts)
	stop()
	watch.Wait()
	must(e.t, err)
	of, done := p.Bytes()
	if done != of || p.FilesDone.Load() != p.Files.Load() {
		e.t.Errorf("%s: at its end %d of %d bytes are done, %d of %d files", what, done, of, p.FilesDone.Load(), p.Files.Load())
	}
	return stored.Load(), of
}

// What is read is done once it is stored: who waits for a slow upload is not told before that there is nothing left.
func TestProgressOfSlowStorage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	big, err := os.ReadFile(filepath.Join(e.data, batches))
	must(t, err)
	for i := range 24<<20/len(big) + 1 { // so that it is several segments
		must(t, os.WriteFile(filepath.Join(e.data, fmt.Sprintf("shards/00000000-7fffffff/more%d.1795334390.couch", i)), big, 0o600))
	}
	_, rest := e.cutBack(batches, 3)
	etc := t.TempDir()
	ini := filepath.Join(etc, "local.ini")
	text := "[couchdb]\ndatabase_dir = " + e.data + "\n[admins]\nadmin = hunter2\n"
	must(t, os.WriteFile(ini, []byte(text), 0o600))
	withConfig := func(o *backup.Options) {
		n, err := node.Locate(t.Context(), node.Options{ConfigDir: etc})
		must(t, err)
		o.Node = n
	}
	if n, of := e.watched("full", withConfig); n < 3 || of < 24<<20 {
		t.Errorf("a full backup of %d bytes is %d segments", of, n)
	}
	if n, of := e.watched("unchanged", withConfig); n != 0 || of != 0 {
		t.Errorf("nothing is new, and there are %d bytes and %d segments", of, n)
	}
	e.grow(batches, rest)
	if n, of := e.watched("grown", withConfig); n == 0 || of != int64(len(rest)) {
		t.Errorf("what grew by %d bytes is %d bytes, %d segments", len(rest), of, n)
	}
	must(t, os.WriteFile(ini, []byte(strings.ReplaceAll(text, "hunter2", "hunter3")), 0o600))
	if n, of := e.watched("another password", withConfig); n == 0 || of != int64(len(text)) {
		t.Errorf("a file of %d bytes has others, and there are %d bytes, %d segments", len(text), of, n)
	}
	e.grow(batches, []byte("no header"))
	if n, of := e.watched("grown by no commit", withConfig); n != 0 || of != 0 {
		t.Errorf("there is no new commit, and there are %d bytes, %d segments", of, n)
	}
	e.interrupt(func(o *backup.Options) { o.Full = true })
	if n, of := e.watched("taken up", func(o *backup.Options) { o.Full = true }); n != 0 || of < 24<<20 {
		t.Errorf("all is stored by a run that was interrupted, and there are %d bytes, %d segments", of, n)
	}
}

// A replay is stored in fewer bytes than it makes.
func TestProgressOfReplays(t *testing.T) {
	t.Parallel()
	e := newReplayEnv(t)
	for _, stage := range []string{"2-grown", "3-compacted", "4-grown", "5-compacted-under-writes"} {
		e.stage("3.5.0", stage)
		if n, of := e.watched(stage, replayingAll); n == 0 || of == 0 {
			t.Errorf("%s: %d bytes, %d segments", stage, of, n)
		}
	}
}
