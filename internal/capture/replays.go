package capture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

// How many compactions rest on each other before a file is stored whole: mostMade where a
// restore makes all of their files, one after the other; mostMerged where it makes the last
// one, and of the others reads what was new. That is no more than mostNew times the file.
const (
	mostMade   = 8
	mostMerged = 32
	mostNew    = 2
)

// deep says whether what is known rests on so much that the next compaction is to be stored whole.
func (f *taking) deep() bool {
	old, most := f.old.File, mostMade
	if f.old.Whole {
		return true
	}
	if old.Kind == manifest.Shard && f.o.Tails == Replay && manifest.Merges(old.Extents, old.Replays) {
		most = mostMerged
	}
	return manifest.Depth(old.Replays) >= most || manifest.StreamSize(old.Replays) > mostNew*old.Size
}

// replays stores what it can of a file from an offset on as replays, and returns where
// they end.
func (f *taking) replays(ctx context.Context, from int64) (int64, error) {
	if from == 0 {
		n, err := f.compacted(ctx)
		if err != nil || n == 0 {
			return 0, err
		}
		from = n
	}
	n, err := f.replayTail(ctx, from)
	return from + n, err
}

// compacted stores the bytes of a file that a compaction wrote as a replay or a copy, and
// returns how many these are: 0 if they are to be stored as they are.
//
// The encoder has decoded the stream when it is done, with what a restore uses, and the
// result was the file: what it takes from the generation before is what is known of it.
func (f *taking) compacted(ctx context.Context) (int64, error) {
	m, old := f.memory, f.old
	if m == nil || old.File == nil || !m.remembers(f.file) || old.File.Header == nil || old.Lost ||
		old.File.Header.UUID != f.file.Header.UUID || f.deep() || old.Damaged {
		return 0, nil
	}
	k, ok := m.of(&old.Local, old.File)
	if !ok {
		return 0, nil
	}
	known, err := m.open(k, f.file.Kind)
	if err != nil {
		f.note(fmt.Sprintf("%s is stored whole though it was only compacted: what this node remembered of its documents can't be read: %v", f.file.Path, err))
		return 0, nil
	}
	defer known.file.Close()
	f.encoding.Lock() // it holds some 64 MiB
	defer f.encoding.Unlock()
	if m.copies {
		return f.copyOf(ctx, known.pieces)
	}
	older := olderOf(old.File, k)
	if older == nil {
		return 0, nil
	}
	if f.file.Kind == manifest.View {
		return f.encodeView(ctx, known.rows, older)
	}
	return f.encode(ctx, known.docs, older)
}

// olderOf is what a replay rests on: the file that is stored, at the header of which
// something is known, and of its replays those before that; nil if that is within what
// another replay makes.
func olderOf(f *manifest.File, k knownFile) *manifest.Older {
	o := &manifest.Older{Generation: f.Generation, Header: k.header, Size: k.size}
	left, replays := k.size, 0
	for _, e := range f.Extents {
		if left == 0 {
			break
		}
		if e.Seg < 0 {
			if e.N > left {
				return nil
			}
			replays++
		}
		e.N = min(e.N, left)
		o.Extents = append(o.Extents, e)
		left -= e.N
	}
	o.Replays = f.Replays[:replays:replays]
	return o
}

// encode is replay with what is known.
func (f *taking) encode(ctx context.Context, known *replay.Known, older *manifest.Older) (int64, error) {
	return f.store(ctx, 0, func(body io.Writer, at replay.File) (*stream, error) {
		sorting, err := durable.NewScratch(f.o.Dir)
		if err != nil {
			return nil, err
		}
		defer sorting.Discard()
		res, err := replay.Encode(body, at, known, sorting)
		if err != nil {
			return nil, err
		}
		st := &stream{kind: manifest.CompactionReplay, prologue: res.Prologue, sum: res.Info.SHA256, n: res.Info.Size, size: res.StreamSize(), older: older}
		if res.Taken == 0 {
			st.size = st.n
		}
		return st, nil
	})
}

// encodeView is encode for an index.
func (f *taking) encodeView(ctx context.Context, known *replay.KnownView, older *manifest.Older) (int64, error) {
	return f.store(ctx, 0, func(body io.Writer, at replay.File) (*stream, error) {
		res, err := replay.EncodeView(body, at, known)
		if err != nil {
			return nil, err
		}
		st := &stream{kind: manifest.ViewReplay, prologue: res.Prologue, sum: res.Info.SHA256, n: res.Info.Size, size: res.StreamSize(), older: older}
		if res.Info.Taken == 0 {
			st.size = st.n
		}
		return st, nil
	})
}

// afterCompaction says whether a replay makes the beginning of a database's file. Then its
// tails are stored as replays though they are small: the next one goes along all of them.
func afterCompaction(file *manifest.File) bool {
	return len(file.Replays) > 0 && file.Replays[0].Kind == manifest.CompactionReplay
}

// replayTail stores what was appended to a file as a replay, and returns how many bytes
// these are: 0 if they are to be stored as they are.
func (f *taking) replayTail(ctx context.Context, from int64) (int64, error) {
	file := f.file
	if f.o.Tails != Replay || file.Kind != manifest.Shard || file.Size == from || f.old.Damaged {
		return 0, nil
	}
	if file.Size-from < f.o.LeastTail && !afterCompaction(file) {
		return 0, nil
	}
	f.encoding.Lock()
	defer f.encoding.Unlock()
	return f.store(ctx, from, func(body io.Writer, at replay.File) (*stream, error) {
		res, err := replay.EncodeTail(body, at, from)
		if err != nil {
			return nil, err
		}
		return &stream{kind: manifest.TailReplay, prologue: res.Prologue, sum: res.Info.SHA256, n: res.Info.Size, size: res.StreamSize()}, nil
	})
}

// stream is what an encoder made.
type stream struct {
	kind     manifest.ReplayKind
	prologue []byte
	sum      [32]byte // SHA-256 of the bytes that it makes
	n        int64    // how many these are
	size     int64    // of the stream
	older    *manifest.Older
}

// most is how large a stream may be: half of what it makes, but for tails behind a replay.
func (st *stream) most(file *manifest.File) int64 {
	if st.kind == manifest.TailReplay && afterCompaction(file) {
		return st.n
	}
	return st.n / 2
}

// store stores the bytes of a file from an offset on as a stream, if that is small enough,
// and returns how many it makes. Whatever is wrong with the prediction, or with the
// room for it, the file is stored as it is: that says itself what is wrong with the file.
func (f *taking) store(ctx context.Context, from int64, encode func(io.Writer, replay.File) (*stream, error)) (int64, error) {
	file := f.file
	if f.body == nil {
		f.body = make([]byte, 0, inMemory)
	}
	body := &spill{dir: f.o.Dir, mem: f.body[:0]}
	defer body.discard()
	st, err := encode(body, replay.File{R: couchfile.WithContext(ctx, f.src), Size: file.Size, Header: file.Header.Offset})
	if errors.Is(err, replay.ErrMostlyNew) || err == nil && st.size > st.most(file) {
		return 0, nil
	}
	if err == nil {
		err = f.takeSame(ctx, from, st)
	}
	if err != nil {
		f.note(fmt.Sprintf("%s was stored as it is, not as a replay: %s", file.Path, strings.TrimPrefix(err.Error(), replay.ErrNotReplayed.Error()+": ")))
		return 0, ctx.Err()
	}
	extents, err := f.stream(st.prologue, body)
	if err != nil {
		return 0, err
	}
	file.Replays = append(file.Replays[:len(file.Replays):len(file.Replays)], &manifest.Replay{Kind: st.kind, Size: st.n, Stream: extents, Older: st.older})
	file.Extents = append(file.Extents, manifest.Extent{Seg: -len(file.Replays), N: st.n})
	f.out.Added += st.size
	if st.kind != manifest.CopyReplay { // of which nothing is computed
		f.out.Replayed += st.n
	}
	f.o.Done.Add(st.n)
	return st.n, nil
}

// takeSame takes the bytes that a stream makes from the file, where they must be the same.
func (f *taking) takeSame(ctx context.Context, from int64, st *stream) error {
	back := f.save()
	made := sha256.New()
	err := f.eachPart(ctx, from, from+st.n, func(b []byte) {
		_, _ = made.Write(b)
		f.see(b)
	})
	if err == nil && !bytes.Equal(made.Sum(nil), st.sum[:]) {
		err = errors.New("it changed while it was read")
	}
	if err != nil {
		back()
	}
	return err
}
