// Package probe is the contract of storage.Store as a list of checks, and a
// measurement of how fast a storage is.
//
// Check runs all of them over storage that somebody uses: every key begins with a
// prefix of its own, nothing else is read, listed or changed, and nothing stays.
// storage/storagetest runs the same checks as tests.
//
// What the checks can't see, because it needs a power cut or a full disk, is for
// the tests of each driver.
package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
)

// Result is what came of one check.
type Result struct {
	Name string        // what was checked: "range reads"
	Took time.Duration // wall time
	Err  error         // what is wrong; nil if the check passed
}

// Reach and CleanUp are the first and the last Result of Check.
const (
	Reach   = "reach the storage"
	CleanUp = "clean up"
)

// Options are the options of a check. The zero value works.
type Options struct {
	// Prefix begins all keys: valid as a key, without "/" at its end. Nothing may be
	// there. The default is "slipcover-probe-" and random letters.
	Prefix storage.Key
	// LargeBytes is the size of the large object, and the sum of those that are put
	// and got at once to measure; 0 means 32 MiB.
	LargeBytes int64
	// RetainFor is how long an object is protected where the storage can do that, and
	// so how long that check takes there; 0 means 10 seconds.
	RetainFor time.Duration
	// LongestKey is the length of the longest key that is put, in bytes; 0 means 1024,
	// what a Key may have. The prefix in a storage's URL takes from what its server
	// allows.
	LongestKey int
	// NoSpeed leaves out the measurement.
	NoSpeed bool
	// Each is called with each Result when it is known, if it isn't nil.
	Each func(Result)
}

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = storage.Key("slipcover-probe-" + strings.ToLower(rand.Text()))
	}
	if o.LargeBytes == 0 {
		o.LargeBytes = 32 << 20
	}
	if o.LongestKey == 0 {
		o.LongestKey = 1024
	}
	if o.RetainFor == 0 {
		o.RetainFor = 10 * time.Second
	}
	return o
}

// Report is what Check found.
type Report struct {
	Prefix  storage.Key // what all keys began with
	Results []Result    // in the order in which the checks ran
	Speed   *Speed      // nil if it wasn't measured
}

// Failed returns the results that aren't as they should be.
func (r *Report) Failed() []Result {
	return slices.DeleteFunc(slices.Clone(r.Results), func(r Result) bool { return r.Err == nil })
}

// Check runs all checks over store, one after the other, measures, and removes what
// is left, also after ctx is done. It stops after the first check, Reach, if that
// fails: there the storage can't be reached or written at all. If ctx was done while
// that put something, this is removed as well, within seconds.
func Check(ctx context.Context, store storage.Store, opts Options) *Report {
	opts = opts.withDefaults()
	report := &Report{Prefix: opts.Prefix}
	note := func(name string, do func() error) bool {
		began := time.Now()
		r := Result{Name: name, Err: do()}
		r.Took = time.Since(began)
		report.Results = append(report.Results, r)
		if opts.Each != nil {
			opts.Each(r)
		}
		return r.Err == nil
	}
	notes := remember(store)
	patience := 2 * time.Minute
	if !note(Reach, func() error { return notes.reach(ctx, opts.Prefix) }) {
		if ctx.Err() == nil || !notes.hasPut() {
			return report
		}
		patience = 10 * time.Second
	}
	for i, c := range Checks() {
		if ctx.Err() != nil {
			break
		}
		note(c.Name, func() error { return c.do(ctx, &env{notes.store(), fmt.Sprintf("%s/%02d/", opts.Prefix, i), opts}) })
	}
	if ctx.Err() == nil && !opts.NoSpeed {
		note("measure", func() (err error) {
			report.Speed, err = measure(ctx, notes.store(), string(opts.Prefix)+"/speed/", opts.LargeBytes)
			return err
		})
	}
	note(CleanUp, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		return notes.cleanUp(ctx, string(opts.Prefix)+"/")
	})
	return report
}

// reach asks for an object that isn't there, puts it, and removes it if that failed.
func (m *memory) reach(ctx context.Context, prefix storage.Key) error {
	key := prefix + "/reach"
	_, err := m.Stat(ctx, key)
	if err == nil {
		return fmt.Errorf("an object %s is there already", key)
	}
	if !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if err := m.Put(ctx, key, patternBody{1}, storage.PutOptions{}); err != nil {
		if ctx.Err() != nil { // what is left is removed
			return err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = m.Delete(ctx, key) // it may have taken effect
		return err
	}
	return nil
}

// Contract is one check of the contract.
type Contract struct {
	Name string
	do   func(context.Context, *env) error
}

// Do runs the check over store, below the prefix of opts, where nothing may be.
func (c Contract) Do(ctx context.Context, store storage.Store, opts Options) error {
	opts = opts.withDefaults()
	return c.do(ctx, &env{store, string(opts.Prefix) + "/", opts})
}

// Checks returns the checks in their order. Those of emptiness are not among them.
func Checks() []Contract { return slices.Clone(checks) }

// OfEmpty returns the checks for a store that holds nothing else.
func OfEmpty() []Contract { return []Contract{{"list of everything", listEverything}} }

// env is what a check works with; the methods are the short forms of the Store's.
type env struct {
	store  storage.Store
	prefix string // ends with "/"
	opts   Options
}

func (e *env) key(name string) storage.Key { return storage.Key(e.prefix + name) }

func (e *env) put(ctx context.Context, name, body string) error {
	return e.store.Put(ctx, e.key(name), bytes.NewReader([]byte(body)), storage.PutOptions{})
}

func (e *env) putNew(ctx context.Context, name, body string) error {
	return e.store.Put(ctx, e.key(name), bytes.NewReader([]byte(body)), storage.PutOptions{IfAbsent: true})
}

func (e *env) get(ctx context.Context, name string, off, n int64) (string, error) {
	var got []byte
	err := e.store.Get(ctx, e.key(name), off, n, func(r io.Reader) (err error) {
		got, err = io.ReadAll(r)
		return err
	})
	return string(got), err
}

// want checks that an object is there and what it holds.
func (e *env) want(ctx context.Context, name, want string) error {
	got, err := e.get(ctx, name, 0, -1)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if got != want {
		return fmt.Errorf("get %s: got %s, want %s", name, short(got), short(want))
	}
	info, err := e.store.Stat(ctx, e.key(name))
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if info.Key != e.key(name) || info.Size != int64(len(want)) {
		return fmt.Errorf("stat %s: got key %s and %d bytes, want %d bytes", name, info.Key, info.Size, len(want))
	}
	return nil
}

// wantAbsent checks that an object isn't there.
func (e *env) wantAbsent(ctx context.Context, name string) error {
	called := false
	err := e.store.Get(ctx, e.key(name), 0, -1, func(io.Reader) error {
		called = true
		return nil
	})
	if !errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("get %s, which isn't there: got error %v, want ErrNotExist", name, err)
	}
	if called {
		return fmt.Errorf("get %s, which isn't there: fn was called", name)
	}
	if info, err := e.store.Stat(ctx, e.key(name)); !errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("stat %s, which isn't there: got %+v and error %v, want ErrNotExist", name, info, err)
	}
	return nil
}

// list returns names below the check's prefix and prefix.
func (e *env) list(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	err := e.store.List(ctx, e.prefix+prefix, func(info storage.Info) error {
		name, ok := strings.CutPrefix(string(info.Key), e.prefix)
		if !ok {
			return fmt.Errorf("list %s%s shows %s", e.prefix, prefix, info.Key)
		}
		names = append(names, name)
		return nil
	})
	return names, err
}

func short(s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%d bytes, %q…", len(s), s[:40])
	}
	return fmt.Sprintf("%q", s)
}
