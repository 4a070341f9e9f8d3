package capture_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/testenv"
)

const shardPath = "shards/00000000-ffffffff/grow.1767225600.couch"

var shardEntry = node.Entry{Root: manifest.DataRoot, Path: shardPath, Kind: manifest.Shard}

// sink keeps all in one segment, as a tick does.
type sink struct{ buf []byte }

func (s *sink) Fill(_ capture.Name, _, n int64, read func([]byte) error) ([]manifest.Extent, error) {
	at, n := len(s.buf), min(n, 10_000)
	s.buf = append(s.buf, make([]byte, n)...)
	if err := read(s.buf[at:]); err != nil {
		return nil, err
	}
	return []manifest.Extent{{Seg: 0, At: int64(at), N: n}}, nil
}

func (s *sink) Append(_ capture.Name, _ int64, b []byte) ([]manifest.Extent, error) {
	at := len(s.buf)
	s.buf = append(s.buf, b...)
	return []manifest.Extent{{Seg: 0, At: int64(at), N: int64(len(b))}}, nil
}

// of returns the bytes in extents.
func (s *sink) of(extents []manifest.Extent) (out []byte) {
	for _, e := range extents {
		out = append(out, s.buf[e.At:e.At+e.N]...)
	}
	return out
}

// env is a node with one shard, which is taken again and again as shipping does it: what is
// known of it has no extents.
type env struct {
	t      testing.TB
	data   string
	path   string
	takers *capture.Takers
	sink   *sink
	old    *capture.Known
}

func newEnv(t testing.TB, edit ...func(*capture.Options)) *env {
	t.Helper()
	data, generations := t.TempDir(), 0
	o := capture.Options{Node: &node.Node{DataDir: data}, Dir: t.TempDir(), Generation: func() string { generations++; return fmt.Sprint("g", generations) }}
	for _, fn := range edit {
		fn(&o)
	}
	takers, note := capture.New(o)
	if note != "" {
		t.Fatal(note)
	}
	e := &env{t: t, data: data, path: filepath.Join(data, shardPath), takers: takers}
	must(t, os.MkdirAll(filepath.Dir(e.path), 0o755))
	return e
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stage puts the shard as it was at a stage of its life in its place: a compacted one as
// another file.
func (e *env) stage(stage string) []byte {
	e.t.Helper()
	b := testenv.GrownFile(e.t, "3.5.0", stage, ".couch")
	if was, err := os.ReadFile(e.path); err == nil && bytes.HasPrefix(b, was) {
		f, err := os.OpenFile(e.path, os.O_WRONLY|os.O_APPEND, 0)
		must(e.t, err)
		_, err = f.Write(b[len(was):])
		must(e.t, err)
		must(e.t, f.Close())
		return b
	}
	must(e.t, os.WriteFile(e.path+".new", b, 0o644))
	must(e.t, os.Rename(e.path+".new", e.path))
	return b
}

func (e *env) take() *capture.Taken {
	e.t.Helper()
	e.sink = &sink{}
	got, err := e.takers.Taker(e.sink).Take(e.t.Context(), shardEntry, e.old)
	must(e.t, err)
	if got.File != nil {
		f := *got.File
		f.Extents, f.Replays = nil, nil
		e.old = &capture.Known{File: &f, Local: got.Local}
	}
	return got
}

// whole wants a file whose bytes from an offset on are those of b, and nothing wrong.
func (e *env) whole(got *capture.Taken, b []byte, from int64) {
	e.t.Helper()
	if got.File == nil || len(got.Notes)+len(got.Damage) > 0 || got.WentBack {
		e.t.Fatalf("left out: %q, notes %q, damage %v, went back: %v", got.LeftOut, got.Notes, got.Damage, got.WentBack)
	}
	sum := sha256.Sum256(b[:got.File.Size])
	if got.File.SHA256 != hex.EncodeToString(sum[:]) || got.From != from {
		e.t.Errorf("%d bytes from %d on, want them from %d on", got.File.Size, got.From, from)
	}
	if len(got.File.Replays) == 0 && !bytes.Equal(e.sink.of(got.File.Extents), b[from:got.File.Size]) {
		e.t.Error("the sink has other bytes")
	}
}

// out is where replays are made.
type out struct{ b []byte }

func (o *out) Write(p []byte) (int, error) { o.b = append(o.b, p...); return len(p), nil }
func (o *out) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(o.b).ReadAt(p, off)
}

// What was stored of a file, and where, needn't be at hand: a compaction is a replay on its
// older generation, a tail one on the bytes before it, and each makes the bytes of the file.
func TestTakeWithoutExtents(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *capture.Options) { o.Compaction, o.Tails = capture.Replay, capture.Replay })
	first := e.stage("2-grown")
	e.whole(e.take(), first, 0)
	was := e.old.File

	compacted := e.stage("3-compacted")
	got := e.take()
	e.whole(got, compacted, 0)
	if len(got.File.Replays) != 1 || got.File.Replays[0].Kind != manifest.CompactionReplay || got.Replayed == 0 {
		t.Fatalf("the compaction is stored as %v", got.File.Extents)
	}
	o := got.File.Replays[0].Older
	if o.Generation != was.Generation || o.Header != was.Header.Offset || o.Size != was.Size || len(o.Extents)+len(o.Replays) > 0 {
		t.Errorf("the replay rests on %+v", o)
	}
	older, err := replay.OpenOlder(replay.File{R: bytes.NewReader(first), Size: o.Size, Header: o.Header})
	must(t, err)
	defer older.Close()
	var made out
	_, err = replay.Decode(bytes.NewReader(e.sink.of(got.File.Replays[0].Stream)), older, &made, nil)
	must(t, err)
	made.b = append(made.b, e.sink.of(got.File.Extents[1:])...)
	if !bytes.Equal(made.b, compacted[:got.File.Size]) {
		t.Error("the replay of the compaction makes other bytes")
	}

	grown := e.stage("4-grown")
	cut := got.File.Size
	got = e.take()
	e.whole(got, grown, cut)
	if len(got.File.Replays) != 1 || got.File.Replays[0].Kind != manifest.TailReplay || got.File.Generation != "g2" {
		t.Fatalf("the tail is stored as %v", got.File.Extents)
	}
	made.b = made.b[:cut]
	_, err = replay.DecodeTail(bytes.NewReader(e.sink.of(got.File.Replays[0].Stream)), &made)
	must(t, err)
	if !bytes.Equal(made.b, grown[:got.File.Size]) {
		t.Error("the replay of the tail makes other bytes")
	}

	// Whoever knows how deep the file is can say that it is deep enough.
	e.old.Whole = true
	last := e.stage("5-compacted-under-writes")
	got = e.take()
	e.whole(got, last, 0)
	if len(got.File.Replays) > 0 && got.File.Replays[0].Kind == manifest.CompactionReplay {
		t.Error("a compaction is stored as a replay though it was to be whole")
	}
}

// slow is a sink that takes no stream until it may.
type slow struct {
	sink
	begun, may chan struct{}
}

func (s *slow) Append(nm capture.Name, off int64, b []byte) ([]manifest.Extent, error) {
	select {
	case <-s.begun:
	default:
		close(s.begun)
	}
	<-s.may
	return s.sink.Append(nm, off, b)
}

// A taker that is apart, as that of a roll-up, makes a replay for as long as it takes, and others don't wait for it.
func TestApart(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *capture.Options) { o.Tails = capture.Replay })
	e.stage("3-compacted")
	e.take()
	e.stage("4-grown")
	s := &slow{begun: make(chan struct{}), may: make(chan struct{})}
	done := make(chan error, 1)
	known := *e.old
	go func() {
		_, err := e.takers.Apart(s).Take(t.Context(), shardEntry, &known)
		done <- err
	}()
	<-s.begun
	taken := make(chan *capture.Taken, 1)
	go func() { taken <- e.take() }()
	select {
	case got := <-taken:
		if got.Replayed == 0 {
			t.Errorf("the tail is stored as %v", got.File.Extents)
		}
	case <-time.After(time.Minute):
		t.Error("a file waits for the replay of another one")
	}
	close(s.may)
	must(t, <-done)
}

// A file in which nothing is new isn't opened; one that only says so by its header costs
// little, without a proof, if that is trusted; and its state is then as new as it is.
func TestNothingNew(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *capture.Options) { o.TrustHeader = true })
	b := e.stage("2-grown")
	first := e.take()
	if got := e.take(); !got.Kept || got.Read > 0 || got.From != first.File.Size {
		t.Errorf("unchanged, it is taken from %d on, having read %d bytes", got.From, got.Read)
	}
	later := time.Now().Add(time.Minute)
	must(t, os.Chtimes(e.path, later, later))
	got := e.take()
	e.whole(got, b, first.File.Size)
	if got.Kept || got.Read > 16<<10 || got.Added > 0 || got.Local.MTime != later.UnixNano() || got.Local.HashAt != first.Local.HashAt {
		t.Errorf("with other times %d bytes were read, %d added, and the state is %+v", got.Read, got.Added, got.Local)
	}
	if got := e.take(); !got.Kept {
		t.Error("the new times are not known")
	}
	f, err := os.OpenFile(e.path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.Write(make([]byte, 5000)) // of a commit without its header yet
	must(t, err)
	must(t, f.Close())
	if got = e.take(); got.From != first.File.Size || got.File.Size != first.File.Size || got.Added > 0 || len(e.sink.buf) > 0 {
		t.Errorf("without a new header %d bytes were taken", got.Added)
	}
}

// As much is read for a proof as the options say, and no more than is new beside it.
func TestProofIsAsLongAsAsked(t *testing.T) {
	t.Parallel()
	for _, tail := range []int64{16 << 10, 128 << 10} {
		e := newEnv(t, func(o *capture.Options) { o.Small, o.ProofTail = 32<<10, tail })
		b := testenv.GrownFile(t, "3.5.0", "4-grown", ".couch")
		must(t, os.WriteFile(e.path, b, 0o644))
		first := e.take()
		if first.Local.HashAt != first.File.Size-tail {
			t.Errorf("the hash is kept at %d of %d", first.Local.HashAt, first.File.Size)
		}
		later := time.Now().Add(time.Minute)
		must(t, os.Chtimes(e.path, later, later))
		got := e.take()
		e.whole(got, b, first.File.Size)
		if got.Read < tail || got.Read > tail+64<<10 {
			t.Errorf("%d bytes were read to prove %d", got.Read, tail)
		}
	}
}

// What doesn't begin with what is known of it is another generation, of which all is taken:
// one with other bytes before the same header, or one whose sequences went back.
func TestWentBack(t *testing.T) {
	t.Parallel()
	for what, edit := range map[string]func(b []byte) []byte{
		"other bytes": func(b []byte) []byte { b[len(b)-20<<10]++; return b },
		"older":       func(b []byte) []byte { return b[:len(b)*9/10] },
	} {
		e := newEnv(t, func(o *capture.Options) { o.Small, o.ProofTail = 16<<10, 64<<10 })
		e.stage("2-grown")
		e.take()
		b, err := os.ReadFile(e.path)
		must(t, err)
		b = edit(b)
		must(t, os.WriteFile(e.path, b, 0o644))
		later := time.Now().Add(time.Minute)
		must(t, os.Chtimes(e.path, later, later))
		got := e.take()
		if !got.WentBack || got.From != 0 || got.File.Generation != "g2" || !bytes.Equal(e.sink.of(got.File.Extents), b[:got.File.Size]) {
			t.Errorf("%s: went back: %v, from %d on, generation %s", what, got.WentBack, got.From, got.File.Generation)
		}
	}
}

// A file that is open is taken up to an earlier header if asked for, and to its end though
// another one is in its place by now.
func TestTakeOpen(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.stage("3-compacted")
	first := e.take()
	grown := e.stage("4-grown")
	src, err := capture.Open(t.Context(), &node.Node{DataDir: e.data}, shardEntry)
	must(t, err)
	defer src.Close()
	must(t, os.Rename(e.path, e.path+".old"))
	e.stage("5-compacted-under-writes")

	take := func(end int64, old *capture.Known) *capture.Taken {
		src.EndAt(end)
		e.sink = &sink{}
		got, err := e.takers.Taker(e.sink).TakeOpen(t.Context(), shardEntry, src, old)
		must(t, err)
		return got
	}
	got := take(first.File.Size+1000, nil)
	e.whole(got, grown, 0)
	if got.File.Size != first.File.Size || got.Read > 2*first.File.Size+64<<10 {
		t.Errorf("%d bytes were taken and %d read, want %d taken", got.File.Size, got.Read, first.File.Size)
	}
	got = take(0, e.old)
	e.whole(got, grown, first.File.Size)
	if int(got.File.Size) < len(grown)-4096 || got.File.Generation != first.File.Generation {
		t.Errorf("of generation %s up to %d of %d", got.File.Generation, got.File.Size, len(grown))
	}
}

func TestVanished(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if got := e.take(); got.File != nil || !strings.Contains(got.LeftOut, "vanished") {
		t.Errorf("left out: %q", got.LeftOut)
	}
}
