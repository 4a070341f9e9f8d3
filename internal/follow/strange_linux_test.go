package follow_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/slipcover/slipcover/internal/follow"
)

// Events that were lost are made up for by a look, soon after somebody says so, and at
// the floor if nobody does.
func TestLost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		poll time.Duration
		err  error
	}{
		{"overflow", time.Hour, fsnotify.ErrEventOverflow},
		{"unknown error", time.Hour, errors.New("read: something")},
		{"nobody says so", time.Second, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			gone := write(t, dir, "gone/gone.couch")
			db := write(t, dir, "db.couch")
			system := &follow.Strange{}
			f := startWith(t, system.New, follow.Options{Dirs: []string{dir}, Poll: tt.poll})
			system.SetDeaf(true)
			write(t, db)
			remove(t, filepath.Dir(gone))
			made := write(t, dir, "a/b/made.couch")
			if tt.err != nil {
				system.Fail(tt.err)
			}
			await(t, f, db, gone, made)
			// Folders that were made without a word are watched.
			system.SetDeaf(false)
			write(t, made)
			await(t, f, made)
			if s := f.Status(); s.Overflows > 0 != errors.Is(tt.err, fsnotify.ErrEventOverflow) || s.Polling != "" {
				t.Errorf("%+v", s)
			}
		})
	}
}

// The kernel's queue really overflows.
func TestOverflow(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Skip(err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || limit > 100_000 {
		t.Skipf("a queue of %d is too long to fill: %v", limit, err)
	}
	dir := t.TempDir()
	a, b := write(t, dir, "a.couch"), write(t, dir, "b.couch")
	var stuck sync.Mutex
	f := start(t, follow.Options{Dirs: []string{dir}, Poll: time.Hour, Want: func(path string, isDir bool) bool {
		stuck.Lock()
		defer stuck.Unlock()
		return want(path, isDir)
	}})
	stuck.Lock()
	for range limit { // in turns, since the same event twice is kept once
		write(t, a)
		write(t, b)
	}
	late := write(t, dir, "sub/late.couch")
	stuck.Unlock()
	await(t, f, a, b, late)
	write(t, late)
	await(t, f, late)
	if f.Status().Overflows == 0 {
		t.Error("the status says nothing of the overflow")
	}
}

// Without watches all is polled, until there are some again.
func TestLimit(t *testing.T) {
	t.Parallel()
	for _, err := range []error{syscall.ENOSPC, syscall.ENOMEM, errors.New("something else")} {
		for _, on := range []string{"add", "open"} {
			t.Run(fmt.Sprint(err, " ", on), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				db := write(t, dir, "a/b/db.couch")
				system := &follow.Strange{}
				set := system.SetLimit
				if on == "open" {
					set = system.SetOpen
					set(err)
				}
				f := startWith(t, system.New, follow.Options{Dirs: []string{dir}, Poll: 2 * time.Second})
				set(err)
				made := write(t, dir, "c/made.couch")
				await(t, f, made)
				awaitStatus(t, f, "it polls", func(s follow.Status) bool { return s.Polling != "" && s.Watches == 0 })
				write(t, db)
				write(t, made)
				await(t, f, db, made)
				set(nil)
				awaitStatus(t, f, "it watches", func(s follow.Status) bool { return s.Polling == "" && s.Watches == 4 })
				write(t, made)
				await(t, f, made)
			})
		}
	}
}

// On a network file system what this machine does is told, and the rest looked for.
func TestNetwork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	local, remote := mkdir(t, dir, "local"), mkdir(t, dir, "remote")
	a, b := write(t, local, "a.couch"), write(t, remote, "sub/b.couch")
	system := &follow.Strange{}
	f := startWith(t, system.New, follow.Options{Dirs: []string{local, remote}, Poll: time.Hour, Network: func(dir string) bool {
		return strings.HasSuffix(dir, "remote/sub")
	}})
	if s := f.Status(); !strings.Contains(s.Polling, "network") || s.Watches != 3 {
		t.Errorf("%+v", s)
	}
	system.SetDeaf(true)
	write(t, a)
	write(t, b)
	if told := await(t, f, b); told[a] {
		t.Errorf("%s was looked for", a)
	}
}

// A folder is found at its new place before its move is told, in a folder that was moved
// before it.
func TestMovedIntoMoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mkdir(t, dir, "p")
	write(t, dir, "z/sub/db.couch")
	system := &follow.Strange{Gate: make(chan struct{})}
	f := startWith(t, system.New, follow.Options{Dirs: []string{dir}, Poll: time.Hour})
	rename(t, filepath.Join(dir, "p"), filepath.Join(dir, "q"))
	rename(t, filepath.Join(dir, "z"), filepath.Join(dir, "q/z"))
	for range 2 { // p is gone, and q is there
		system.Gate <- struct{}{}
	}
	db := filepath.Join(dir, "q/z/sub/db.couch")
	await(t, f, db)
	close(system.Gate)
	settle(t, f, dir)
	write(t, db)
	await(t, f, db)
	awaitStatus(t, f, "all folders are watched", func(s follow.Status) bool { return s.Watches == 4 })
}

// What is written behind a symbolic link isn't told where the link is.
func TestLinkedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	elsewhere, data := write(t, dir, "disk2/db.couch"), mkdir(t, dir, "data")
	write(t, data, "other.couch")
	f := start(t, follow.Options{Dirs: []string{data}, Poll: time.Hour})
	link := filepath.Join(data, "db.couch")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	await(t, f, link)
	for range 2 {
		write(t, elsewhere)
		await(t, f, link)
	}
	remove(t, link)
	await(t, f, link)
	awaitStatus(t, f, "it need not poll", func(s follow.Status) bool { return s.Polling == "" })
}

// A look finds what kept its size and its time of writing; modes alone are never told.
func TestSameSizeAndTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ini := write(t, dir, "local.ini")
	before, err := os.Stat(ini)
	if err != nil {
		t.Fatal(err)
	}
	told := start(t, follow.Options{Dirs: []string{dir}})
	if err := os.Chmod(ini, 0o600); err != nil {
		t.Fatal(err)
	}
	exactly(t, told, dir)
	f := startPolling(t, follow.Options{Dirs: []string{dir}, Poll: time.Hour})
	text, err := os.ReadFile(ini)
	if err == nil {
		text[0]++
		err = os.WriteFile(ini, text, 0o600)
	}
	if err = firstError(err, os.Chtimes(ini, before.ModTime(), before.ModTime())); err != nil {
		t.Fatal(err)
	}
	exactly(t, f, dir, ini)
}
