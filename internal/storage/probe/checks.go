package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
)

var checks = []Contract{
	{"put and get", putAndGet},
	{"range reads", rangeReads},
	{"objects that are not there", notThere},
	{"errors of readers", readerErrors},
	{"replace", replace},
	{"replace is atomic to readers", replaceAtomic},
	{"put if absent", ifAbsent},
	{"put if absent, concurrently", ifAbsentRace},
	{"list order and prefix", listOrder},
	{"list calls back", listCallsBack},
	{"list beside changes", listBesideChanges},
	{"delete", deleteObjects},
	{"delete many at once", deleteMany},
	{"stat", stat},
	{"valid keys", validKeys},
	{"invalid keys", invalidKeys},
	{"bad bodies", badBodies},
	{"cancelled contexts", cancelled},
	{"cancel in the middle", cancelMiddle},
	{"large object", largeObject},
	{"put and delete, concurrently", putDeleteRace},
	{"mixed load", mixedLoad},
	{"protected objects", protected},
}

func putAndGet(ctx context.Context, e *env) error {
	for _, size := range []int{0, 1, 511, 4096, 65537, 1 << 20} {
		name := fmt.Sprintf("size/%d", size)
		body := pattern(size)
		if err := e.put(ctx, name, body); err != nil {
			return err
		}
		for range 2 {
			if err := e.want(ctx, name, body); err != nil {
				return err
			}
		}
	}
	return nil
}

// pattern returns bytes of which no two ranges are alike by accident.
func pattern(size int) string {
	b := make([]byte, size)
	if _, err := (patternBody{int64(size)}).ReadAt(b, 0); err != nil && err != io.EOF {
		panic(err) // it has no other errors
	}
	return string(b)
}

func rangeReads(ctx context.Context, e *env) error {
	const size = 100_000
	body := pattern(size)
	if err := e.put(ctx, "a", body); err != nil {
		return err
	}
	for _, r := range []struct{ off, n, from, to int64 }{
		{0, size, 0, size},
		{0, -1, 0, size},
		{0, 1, 0, 1},
		{1, 1, 1, 2},
		{4095, 4098, 4095, 8193},
		{99_000, -1, 99_000, size},
		{99_000, -7, 99_000, size},
		{99_999, 1, 99_999, size},
		{99_000, 5000, 99_000, size}, // ends behind the object
		{0, 1 << 62, 0, size},
		{1, 1<<63 - 1, 1, size}, // off+n overflows
		{0, 0, 0, 0},
		{500, 0, 0, 0},
		{size, 0, 0, 0},
		{size, 1, 0, 0}, // begins at the end
		{size, -1, 0, 0},
		{size + 1, 10, 0, 0}, // begins behind the object
		{size + 1, -1, 0, 0},
		{1 << 62, 1 << 62, 0, 0},
	} {
		got, err := e.get(ctx, "a", r.off, r.n)
		if err != nil {
			return fmt.Errorf("get with off %d, n %d: %w", r.off, r.n, err)
		}
		if want := body[r.from:r.to]; got != want {
			return fmt.Errorf("get with off %d, n %d: got %s, want %s", r.off, r.n, short(got), short(want))
		}
	}
	for _, n := range []int64{-1, 0, 1} {
		for _, off := range []int64{-1, -size, math.MinInt64} {
			if got, err := e.get(ctx, "a", off, n); err == nil || got != "" {
				return fmt.Errorf("get with off %d, n %d: got %s, %v, want an error", off, n, short(got), err)
			}
		}
	}
	if err := e.put(ctx, "empty", ""); err != nil {
		return err
	}
	for _, n := range []int64{-1, 0, 1} {
		if got, err := e.get(ctx, "empty", 0, n); err != nil || got != "" {
			return fmt.Errorf("get of an empty object with n %d: got %s, %v", n, short(got), err)
		}
	}
	return nil
}

func notThere(ctx context.Context, e *env) error {
	if err := e.put(ctx, "folder/sub/a", "x"); err != nil {
		return err
	}
	for _, name := range []string{"a", "none/a", "folder", "folder/sub", "folder/sub/b", "folder/sub/a/b", "folder/sub/a/b/c"} {
		if err := e.wantAbsent(ctx, name); err != nil {
			return err
		}
		if _, err := e.get(ctx, name, 5, 0); !errors.Is(err, storage.ErrNotExist) {
			return fmt.Errorf("get 0 bytes of %s, which isn't there: got error %v, want ErrNotExist", name, err)
		}
	}
	return nil
}

var errReader = errors.New("an error of the caller")

func readerErrors(ctx context.Context, e *env) error {
	if err := e.put(ctx, "a", pattern(1<<20)); err != nil {
		return err
	}
	for name, fn := range map[string]func(io.Reader) error{
		"at once": func(io.Reader) error { return errReader },
		"after some bytes": func(r io.Reader) error {
			io.ReadFull(r, make([]byte, 10))
			return errReader
		},
		"after all": func(r io.Reader) error {
			io.Copy(io.Discard, r)
			return errReader
		},
	} {
		// Unchanged means the same value, so == and not errors.Is.
		if err := e.store.Get(ctx, e.key("a"), 0, -1, fn); err != errReader { // see above
			return fmt.Errorf("get whose fn fails %s: got %v, want fn's error itself", name, err)
		}
	}
	// A reader may stop early.
	err := e.store.Get(ctx, e.key("a"), 0, -1, func(r io.Reader) error {
		_, err := io.ReadFull(r, make([]byte, 10))
		return err
	})
	if err != nil {
		return fmt.Errorf("get whose fn reads 10 bytes: %w", err)
	}
	if err := e.store.Get(ctx, e.key("a"), 0, -1, func(io.Reader) error { return nil }); err != nil {
		return fmt.Errorf("get whose fn reads nothing: %w", err)
	}
	return nil
}

func replace(ctx context.Context, e *env) error {
	for _, body := range []string{"first", pattern(70_000), "", "short"} {
		if err := e.put(ctx, "a", body); err != nil {
			return err
		}
		if err := e.want(ctx, "a", body); err != nil {
			return err
		}
	}
	return nil
}

func ifAbsent(ctx context.Context, e *env) error {
	if err := e.putNew(ctx, "sub/a", "first"); err != nil {
		return err
	}
	for range 2 {
		if err := e.putNew(ctx, "sub/a", "second, longer"); !errors.Is(err, storage.ErrExist) {
			return fmt.Errorf("put if absent of what is there: got %v, want ErrExist", err)
		}
		if err := e.want(ctx, "sub/a", "first"); err != nil {
			return err
		}
	}
	if err := e.store.Delete(ctx, e.key("sub/a")); err != nil {
		return err
	}
	if err := e.putNew(ctx, "sub/a", "third"); err != nil {
		return fmt.Errorf("put if absent after delete: %w", err)
	}
	return e.want(ctx, "sub/a", "third")
}

func listOrder(ctx context.Context, e *env) error {
	// "." and "-" sort before "/", digits and letters after it.
	want := []string{
		"a-b", "a-b.c", "a.b", "a.b.c", "a/-", "a/.x", "a/0", "a/b.c", "a/b/c/d", "a/b0", "a/bb", "a/c",
		"a0", "a0-", "a_", "aa", "b/a-/x", "b/a.b/x", "b/a/x", "b/a0/x", "z",
	}
	if !slices.IsSorted(want) {
		panic("the list of wanted keys isn't sorted")
	}
	for i := range want {
		if err := e.put(ctx, want[i*8%len(want)], "x"); err != nil { // 8 and 21 share no divisor
			return err
		}
	}
	for _, prefix := range []string{"", "a/", "a/b/", "a/b/c/", "a.b/", "b/", "b/a/", "b/a./", "none/", "none/none/", "a/c/", "z/"} {
		var part []string
		for _, name := range want {
			if strings.HasPrefix(name, prefix) {
				part = append(part, name)
			}
		}
		got, err := e.list(ctx, prefix)
		if err != nil {
			return fmt.Errorf("list %q: %w", prefix, err)
		}
		if !slices.Equal(got, part) {
			return fmt.Errorf("list %q:\n got %q\nwant %q", prefix, got, part)
		}
	}
	return nil
}

// listEverything is only for stores that hold nothing else.
func listEverything(ctx context.Context, e *env) error {
	want := []storage.Key{"a", "b-c/x", "b.c", "b/x", "b/y/z", "c"}
	for _, key := range want {
		if err := e.store.Put(ctx, key, strings.NewReader("x"), storage.PutOptions{}); err != nil {
			return err
		}
	}
	var got []storage.Key
	err := e.store.List(ctx, "", func(info storage.Info) error {
		got = append(got, info.Key)
		return nil
	})
	if err != nil {
		return err
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("list: got %q, want %q", got, want)
	}
	return nil
}

func listCallsBack(ctx context.Context, e *env) error {
	for i := range 10 {
		if err := e.put(ctx, fmt.Sprintf("d%d/a", i), pattern(i)); err != nil {
			return err
		}
	}
	calls := 0
	err := e.store.List(ctx, e.prefix, func(storage.Info) error {
		calls++
		if calls == 3 {
			return errReader
		}
		return nil
	})
	if err != errReader || calls != 3 { // unchanged means the same value
		return fmt.Errorf("list whose fn fails at call 3: got %d calls and error %v, want fn's error itself", calls, err)
	}
	// fn may use the store, and what it deletes may or may not be shown later.
	err = e.store.List(ctx, e.prefix, func(info storage.Info) error {
		if info.Modified.IsZero() || info.Modified.Location() != time.UTC {
			return fmt.Errorf("list shows %s with the time %v, want one in UTC", info.Key, info.Modified)
		}
		got, err := e.store.Stat(ctx, info.Key)
		if err != nil {
			return err
		}
		if got.Size != info.Size || !got.Modified.Equal(info.Modified) {
			return fmt.Errorf("list shows %+v, stat %+v", info, got)
		}
		return e.store.Delete(ctx, info.Key)
	})
	if err != nil {
		return fmt.Errorf("list whose fn uses the store: %w", err)
	}
	if got, err := e.list(ctx, ""); err != nil || len(got) > 0 {
		return fmt.Errorf("list of what was deleted: got %q, %v", got, err)
	}
	return nil
}

func deleteObjects(ctx context.Context, e *env) error {
	names := []string{"a", "sub/a", "sub/b", "sub/sub/a"}
	for _, name := range names {
		if err := e.put(ctx, name, name); err != nil {
			return err
		}
	}
	for _, name := range []string{"none", "none/none", "sub", "sub/sub", "a/b", "sub/sub/a/b"} {
		if err := e.store.Delete(ctx, e.key(name)); err != nil {
			return fmt.Errorf("delete %s, which isn't there: %w", name, err)
		}
	}
	for i, name := range names {
		for range 2 {
			if err := e.store.Delete(ctx, e.key(name)); err != nil {
				return err
			}
			if err := e.wantAbsent(ctx, name); err != nil {
				return err
			}
		}
		for _, left := range names[i+1:] {
			if err := e.want(ctx, left, left); err != nil {
				return fmt.Errorf("after delete of %s: %w", name, err)
			}
		}
	}
	return e.put(ctx, "sub/sub/a", "again")
}

func stat(ctx context.Context, e *env) error {
	if err := e.put(ctx, "a", "12345"); err != nil {
		return err
	}
	info, err := e.store.Stat(ctx, e.key("a"))
	if err != nil {
		return err
	}
	if info.Key != e.key("a") || info.Size != 5 || info.Modified.IsZero() || info.Modified.Location() != time.UTC {
		return fmt.Errorf("stat: got %+v, want this key, 5 bytes and a time in UTC", info)
	}
	return nil
}

func validKeys(ctx context.Context, e *env) error {
	long := strings.Repeat("k", 255)
	names := []string{".a", "...", "-", "_", "a..b", "A.-_9z", ".tmp-a", long, "sub/" + long}
	// The longest key, of elements that are as long as they may be.
	full := strings.Repeat(long+"/", 5)[:e.opts.LongestKey-len(e.prefix)]
	names = append(names, "x"+strings.TrimSuffix(full, "/")[1:])
	for _, name := range names {
		if !e.key(name).Valid() {
			panic("not a valid key: " + name)
		}
		if err := e.putNew(ctx, name, name); err != nil {
			return fmt.Errorf("put of a valid key: %w", err)
		}
	}
	for _, name := range names {
		if err := e.want(ctx, name, name); err != nil {
			return err
		}
	}
	got, err := e.list(ctx, "")
	if err != nil {
		return err
	}
	slices.Sort(names)
	if !slices.Equal(got, names) {
		return fmt.Errorf("list:\n got %q\nwant %q", got, names)
	}
	return nil
}

func invalidKeys(ctx context.Context, e *env) error {
	for _, key := range []storage.Key{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/.", "a/..", "../a", "a/../b", "./a", "a b", "a\x00", "a\nb", "ä", `a\b`, "a:b", "a~", "a%20",
		storage.Key(strings.Repeat("a", 256)), storage.Key(strings.Repeat("a/", 512) + "a"),
	} {
		if err := e.store.Put(ctx, key, strings.NewReader("x"), storage.PutOptions{}); err == nil {
			return fmt.Errorf("put %q: no error", key)
		}
		if err := e.store.Get(ctx, key, 0, -1, func(io.Reader) error { return nil }); err == nil || errors.Is(err, storage.ErrNotExist) {
			return fmt.Errorf("get %q: got error %v, want one about the key", key, err)
		}
		if _, err := e.store.Stat(ctx, key); err == nil || errors.Is(err, storage.ErrNotExist) {
			return fmt.Errorf("stat %q: got error %v, want one about the key", key, err)
		}
		if err := e.store.Delete(ctx, key); err == nil {
			return fmt.Errorf("delete %q: no error", key)
		}
	}
	for _, prefix := range []string{"/", "a", "//", "../", "a//", "a b/", "/a/", e.prefix + "../", e.prefix + "a", e.prefix + "ä/", e.prefix + strings.Repeat("a", 256) + "/"} {
		err := e.store.List(ctx, prefix, func(storage.Info) error { return errReader })
		if err == nil || errors.Is(err, errReader) {
			return fmt.Errorf("list %q: got error %v, want one about the prefix", prefix, err)
		}
	}
	return nil
}

// body is a Body made of functions.
type body struct {
	size   int64
	readAt func(p []byte, off int64) (int, error)
}

func (b body) Size() int64                             { return b.size }
func (b body) ReadAt(p []byte, off int64) (int, error) { return b.readAt(p, off) }

func badBodies(ctx context.Context, e *env) error {
	const size = 3 << 20
	failing := body{size, func(p []byte, off int64) (int, error) {
		if off+int64(len(p)) > size/2 {
			return 0, errReader
		}
		return len(p), nil
	}}
	short := body{size, bytes.NewReader(make([]byte, size/2)).ReadAt}
	for _, old := range []string{"", "old"} {
		name := "a" + old
		if old != "" {
			if err := e.put(ctx, name, old); err != nil {
				return err
			}
		}
		if err := e.store.Put(ctx, e.key(name), failing, storage.PutOptions{}); !errors.Is(err, errReader) {
			return fmt.Errorf("put of a body that fails: got %v, want its error", err)
		}
		if err := e.store.Put(ctx, e.key(name), short, storage.PutOptions{}); err == nil {
			return errors.New("put of a body that is shorter than its size: no error")
		}
		if old == "" {
			if err := e.wantAbsent(ctx, name); err != nil {
				return err
			}
		} else if err := e.want(ctx, name, old); err != nil {
			return err
		}
	}
	got, err := e.list(ctx, "")
	if err != nil {
		return err
	}
	if want := []string{"aold"}; !slices.Equal(got, want) {
		return fmt.Errorf("list after failed puts: got %q, want %q", got, want)
	}
	return nil
}

func cancelled(ctx context.Context, e *env) error {
	if err := e.put(ctx, "a", "old"); err != nil {
		return err
	}
	dead, cancel := context.WithCancel(ctx)
	cancel()
	calls := 0
	_, statErr := e.store.Stat(dead, e.key("a"))
	for name, err := range map[string]error{
		"put":           e.put(dead, "a", "new"),
		"put if absent": e.putNew(dead, "b", "new"),
		"delete":        e.store.Delete(dead, e.key("a")),
		"stat":          statErr,
		"get":           e.store.Get(dead, e.key("a"), 0, -1, func(io.Reader) error { calls++; return nil }),
		"list":          e.store.List(dead, e.prefix, func(storage.Info) error { calls++; return nil }),
	} {
		if !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s with a cancelled context: got %v, want context.Canceled", name, err)
		}
	}
	if calls > 0 {
		return fmt.Errorf("get and list with a cancelled context: fn was called %d times", calls)
	}
	if err := e.wantAbsent(ctx, "b"); err != nil {
		return err
	}
	if err := e.want(ctx, "a", "old"); err != nil {
		return err
	}
	late, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	defer cancel()
	if _, err := e.store.Stat(late, e.key("a")); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stat after the deadline: got %v, want context.DeadlineExceeded", err)
	}
	return nil
}

func cancelMiddle(ctx context.Context, e *env) error {
	const size = 8 << 20
	if err := e.put(ctx, "old", "old"); err != nil {
		return err
	}
	whole := body{size, patternBody{size}.ReadAt}
	for _, name := range []string{"old", "new"} {
		ctx, cancel := context.WithCancel(ctx)
		b := body{size, func(p []byte, off int64) (int, error) {
			cancel()
			return whole.ReadAt(p, off)
		}}
		if err := e.store.Put(ctx, e.key(name), b, storage.PutOptions{}); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("put that is cancelled in the middle: got %v, want context.Canceled", err)
		}
	}
	// The bytes were never all asked for after the cancel, so neither put can be whole.
	if err := e.want(ctx, "old", "old"); err != nil {
		return err
	}
	if err := e.wantAbsent(ctx, "new"); err != nil {
		return err
	}

	if err := e.store.Put(ctx, e.key("big"), whole, storage.PutOptions{}); err != nil {
		return err
	}
	dead, cancel := context.WithCancel(ctx)
	defer cancel()
	var n int64
	err := e.store.Get(dead, e.key("big"), 0, -1, func(r io.Reader) error {
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			return err
		}
		cancel()
		var err error
		n, err = io.Copy(io.Discard, r)
		return err
	})
	if !errors.Is(err, context.Canceled) || n >= size-1000 {
		return fmt.Errorf("get that is cancelled in the middle: got %d more bytes and error %v, want context.Canceled", n, err)
	}

	dead, cancel = context.WithCancel(ctx)
	defer cancel()
	calls := 0
	err = e.store.List(dead, e.prefix, func(storage.Info) error {
		calls++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || calls != 1 {
		return fmt.Errorf("list that is cancelled at the first object: got %d calls and error %v, want context.Canceled", calls, err)
	}
	return nil
}

func deleteMany(ctx context.Context, e *env) error {
	if err := storage.DeleteAll(ctx, e.store, nil); err != nil {
		return fmt.Errorf("delete none: %w", err)
	}
	var keys []storage.Key
	for i := range 30 {
		name := fmt.Sprintf("d%d/%d", i%3, i)
		keys = append(keys, e.key(name))
		if err := e.put(ctx, name, name); err != nil {
			return err
		}
	}
	dead, cancel := context.WithCancel(ctx)
	cancel()
	if err := storage.DeleteAll(dead, e.store, keys); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("delete of many with a cancelled context: got %v, want context.Canceled", err)
	}
	gone := append(slices.Clone(keys[1:]), e.key("none"), e.key("d0"))
	if _, ok := e.store.(storage.Deleter); ok { // more than fit in a request
		for i := range 1100 {
			gone = append(gone, e.key(fmt.Sprintf("none/%d", i)))
		}
	}
	for _, list := range [][]storage.Key{gone, gone[:len(keys)]} {
		if err := storage.DeleteAll(ctx, e.store, list); err != nil {
			return fmt.Errorf("delete of many, some of which aren't there: %w", err)
		}
		for _, key := range keys[1:] {
			if err := e.wantAbsent(ctx, strings.TrimPrefix(string(key), e.prefix)); err != nil {
				return err
			}
		}
	}
	if err := storage.DeleteAll(ctx, e.store, []storage.Key{"../x"}); err == nil {
		return errors.New("delete of many with a key that isn't valid: no error")
	}
	return e.want(ctx, "d0/0", "d0/0")
}

// protected: RetainUntil either does what it says or is refused.
func protected(ctx context.Context, e *env) error {
	until := time.Now().Add(e.opts.RetainFor)
	err := e.store.Put(ctx, e.key("a"), strings.NewReader("kept"), storage.PutOptions{IfAbsent: true, RetainUntil: until})
	if err != nil {
		if errors.Is(err, storage.ErrUnavailable) {
			return err
		}
		if err := e.wantAbsent(ctx, "a"); err != nil {
			return fmt.Errorf("a put that was refused for its RetainUntil: %w", err)
		}
		return nil
	}
	if r, ok := e.store.(storage.Retainer); ok {
		longer := until.Add(2 * time.Second)
		if err := r.Retain(ctx, e.key("a"), longer); err != nil {
			return fmt.Errorf("prolong the protection: %w", err)
		}
		_ = r.Retain(ctx, e.key("a"), until) // refused or without effect: it never shortens
		until = longer
	}
	if err := e.store.Delete(ctx, e.key("a")); !errors.Is(err, storage.ErrRetained) {
		return fmt.Errorf("delete of an object that is protected: got %v, want ErrRetained", err)
	}
	if err := storage.DeleteAll(ctx, e.store, []storage.Key{e.key("a")}); !errors.Is(err, storage.ErrRetained) {
		return fmt.Errorf("delete of many, one of which is protected: got %v, want ErrRetained", err)
	}
	if err := e.put(ctx, "a", "other"); !errors.Is(err, storage.ErrRetained) {
		return fmt.Errorf("replace of an object that is protected: got %v, want ErrRetained", err)
	}
	if err := e.putNew(ctx, "a", "other"); !errors.Is(err, storage.ErrExist) {
		return fmt.Errorf("put if absent of an object that is protected: got %v, want ErrExist", err)
	}
	if err := e.want(ctx, "a", "kept"); err != nil {
		return fmt.Errorf("after the attempts to change what is protected: %w", err)
	}
	if err := removeProtected(ctx, e.store, e.key("a"), time.Until(until)+10*time.Second); err != nil {
		return fmt.Errorf("delete of an object that isn't protected any more: %w", err)
	}
	return e.wantAbsent(ctx, "a")
}
