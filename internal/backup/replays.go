package backup

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

// The ways to store what a compaction wrote, and what was appended to a file.
const (
	// Replay stores a stream out of which a restore computes the bytes again, together
	// with what is stored already, if that is less than half of them.
	Replay = "replay"
	// Copy stores, of what a compaction wrote, what isn't stored already, and where the
	// rest is.
	Copy = "copy"
	// Whole stores the bytes.
	Whole = "whole"
)

// How many compactions rest on each other before a file is stored whole: mostMade where a
// restore makes all of their files, one after the other; mostMerged where it makes the last
// one, and of the others reads what was new. That is no more than mostNew times the file.
const (
	mostMade   = 8
	mostMerged = 32
	mostNew    = 2
)

// deep says whether a file rests on so much that the next compaction is to be stored whole.
func (r *run) deep(old *manifest.File) bool {
	most := mostMade
	if old.Kind == manifest.Shard && r.opts.Tails == Replay && manifest.Merges(old.Extents, old.Replays) {
		most = mostMerged
	}
	return manifest.Depth(old.Replays) >= most || manifest.StreamSize(old.Replays) > mostNew*old.Size
}

// replays stores what it can of a file from an offset on as replays, and returns where
// they end.
func (w *worker) replays(ctx context.Context, s *source, old *known, file *manifest.File, from int64, took *taken) (int64, error) {
	if from == 0 {
		n, err := w.compacted(ctx, s, old, file, took)
		if err != nil || n == 0 {
			return 0, err
		}
		from = n
	}
	n, err := w.replayTail(ctx, s, file, from, took)
	return from + n, err
}

// compacted stores the bytes of a file that a compaction wrote as a replay or a copy, and
// returns how many these are: 0 if they are to be stored as they are.
//
// The encoder has decoded the stream when it is done, with what a restore uses, and the
// result was the file: what it takes from the generation before is what is known of it.
func (w *worker) compacted(ctx context.Context, s *source, old *known, file *manifest.File, took *taken) (int64, error) {
	r := w.run
	if r.memory == nil || old == nil || !r.memory.remembers(file) || old.file.Header == nil || !r.segmentsStored(old.file) ||
		old.file.Header.UUID != file.Header.UUID || r.deep(old.file) || r.wasDamaged(s.name) {
		return 0, nil
	}
	k, ok := r.memory.of(&old.local, old.file)
	if !ok {
		return 0, nil
	}
	known, err := r.memory.open(k, file.Kind)
	if err != nil {
		r.note(fmt.Sprintf("%s is stored whole though it was only compacted: what this node remembered of its documents can't be read: %v", file.Path, err))
		return 0, nil
	}
	defer known.file.Close()
	r.encoding.Lock() // it holds some 64 MiB
	defer r.encoding.Unlock()
	if r.memory.copies {
		return w.copyOf(ctx, s, file, old.file, known.pieces, took)
	}
	older := olderOf(old.file, k)
	if older == nil {
		return 0, nil
	}
	if file.Kind == manifest.View {
		return w.encodeView(ctx, s, file, known.rows, older, took)
	}
	return w.encode(ctx, s, file, known.docs, older, took)
}

// olderOf is what a replay rests on: a file of the backup before at the header of which
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
func (w *worker) encode(ctx context.Context, s *source, file *manifest.File, known *replay.Known, older *manifest.Older, took *taken) (int64, error) {
	return w.store(ctx, s, file, 0, took, func(body io.Writer, f replay.File) (*stream, error) {
		sorting, err := durable.NewScratch(w.run.dir)
		if err != nil {
			return nil, err
		}
		defer sorting.Discard()
		res, err := replay.Encode(body, f, known, sorting)
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
func (w *worker) encodeView(ctx context.Context, s *source, file *manifest.File, known *replay.KnownView, older *manifest.Older, took *taken) (int64, error) {
	return w.store(ctx, s, file, 0, took, func(body io.Writer, f replay.File) (*stream, error) {
		res, err := replay.EncodeView(body, f, known)
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

// leastTail is the smallest tail that is stored as a replay, in bytes.
const leastTail = 32 << 10

// afterCompaction says whether a replay makes the beginning of a database's file. Then its
// tails are stored as replays though they are small: the next one goes along all of them.
func afterCompaction(file *manifest.File) bool {
	return len(file.Replays) > 0 && file.Replays[0].Kind == manifest.CompactionReplay
}

// replayTail stores what was appended to a file since the backup before as a replay, and
// returns how many bytes these are: 0 if they are to be stored as they are.
func (w *worker) replayTail(ctx context.Context, s *source, file *manifest.File, from int64, took *taken) (int64, error) {
	r := w.run
	if r.opts.Tails != Replay || file.Kind != manifest.Shard || file.Size == from || r.wasDamaged(s.name) {
		return 0, nil
	}
	if file.Size-from < leastTail && !afterCompaction(file) {
		return 0, nil
	}
	r.encoding.Lock()
	defer r.encoding.Unlock()
	return w.store(ctx, s, file, from, took, func(body io.Writer, f replay.File) (*stream, error) {
		res, err := replay.EncodeTail(body, f, from)
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
func (w *worker) store(ctx context.Context, s *source, file *manifest.File, from int64, took *taken, encode func(io.Writer, replay.File) (*stream, error)) (int64, error) {
	body, err := durable.NewScratch(w.run.dir)
	if err != nil {
		w.run.note(fmt.Sprintf("%s was stored whole: %v", file.Path, err))
		return 0, nil
	}
	defer body.Discard()
	out := bufio.NewWriterSize(body, readSize)
	st, err := encode(out, replay.File{R: couchfile.WithContext(ctx, s), Size: file.Size, Header: file.Header.Offset})
	if err == nil {
		err = out.Flush()
	}
	if errors.Is(err, replay.ErrMostlyNew) || err == nil && st.size > st.most(file) {
		return 0, nil
	}
	if err == nil {
		err = w.takeSame(ctx, s, from, st, took)
	}
	if err != nil {
		w.run.note(fmt.Sprintf("%s was stored as it is, not as a replay: %s", file.Path, strings.TrimPrefix(err.Error(), replay.ErrNotReplayed.Error()+": ")))
		return 0, ctx.Err()
	}
	at := &manifest.File{Root: file.Root, Path: file.Path + ".replay"} // a name of its own in the journal
	if err := w.append(at, 0, st.prologue); err != nil {
		return 0, err
	}
	if err := w.appendFile(at, body.File); err != nil {
		return 0, err
	}
	file.Replays = append(file.Replays[:len(file.Replays):len(file.Replays)], &manifest.Replay{Kind: st.kind, Size: st.n, Stream: at.Extents, Older: st.older})
	file.Extents = append(file.Extents, manifest.Extent{Seg: -len(file.Replays), N: st.n})
	w.run.added.Add(st.size)
	if st.kind != manifest.CopyReplay { // of which nothing is computed
		w.run.replayed.Add(st.n)
	}
	w.run.opts.Progress.BytesDone.Add(st.n)
	return st.n, nil
}

// takeSame takes the bytes that a stream makes from the file, where they must be the same.
func (w *worker) takeSame(ctx context.Context, s *source, from int64, st *stream, took *taken) error {
	before := took.save()
	made := sha256.New()
	err := w.eachPart(ctx, s, from, from+st.n, func(b []byte) {
		_, _ = made.Write(b)
		took.take(b)
	})
	if err == nil && !bytes.Equal(made.Sum(nil), st.sum[:]) {
		err = errors.New("it changed while it was read")
	}
	if err != nil {
		took.back(before)
	}
	return err
}

// appendFile appends all of f to file, which has what is in its extents.
func (w *worker) appendFile(file *manifest.File, f *os.File) error {
	off := int64(0)
	for _, e := range file.Extents {
		off += e.N
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	buf := w.proofBuffer()
	for {
		n, err := f.Read(buf)
		if aerr := w.append(file, off, buf[:n]); aerr != nil {
			return aerr
		}
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
