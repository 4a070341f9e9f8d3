package backup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/couchfile/replay"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

// The ways to store what a compaction wrote.
const (
	// Replay stores a stream out of which a restore computes the file again, together
	// with the generation before, if that is less than half of it.
	Replay = "replay"
	// Whole stores the bytes of the file.
	Whole = "whole"
)

// maxReplays is how many replays rest on each other before a file is stored whole. A
// restore makes the files of all of them, one after the other.
const maxReplays = 8

// replay stores the bytes of a file that a compaction wrote as a replay, and returns how
// many these are, with their hash in sum: 0 if they are to be stored as they are.
//
// The encoder has decoded the stream when it is done, with what a restore uses, and the
// result was the file: what it takes from the generation before is what is known of it.
func (w *worker) replay(ctx context.Context, s *source, old *known, file *manifest.File, sum *prefixHash) (int64, error) {
	r := w.run
	if r.memory == nil || old == nil || !remembers(file) || old.file.Header == nil || !r.segmentsStored(old.file) ||
		old.file.Header.UUID != file.Header.UUID || manifest.Depth(old.file.Replays) >= maxReplays || r.wasDamaged(s.name) {
		return 0, nil
	}
	k, ok := r.memory.of(old.file)
	if !ok {
		return 0, nil
	}
	older := olderOf(old.file, k)
	if older == nil {
		return 0, nil
	}
	known, closer, err := r.memory.open(k)
	if err != nil {
		r.note(fmt.Sprintf("%s is stored whole though it was only compacted: what this node remembered of its documents can't be read: %v", file.Path, err))
		return 0, nil
	}
	defer closer.Close()
	r.encoding.Lock() // it holds some 64 MiB
	defer r.encoding.Unlock()
	return w.encode(ctx, s, file, known, older, sum)
}

// olderOf is what a replay rests on: a file of the backup before at the header of which
// something is known; nil if that is within what another replay makes.
func olderOf(f *manifest.File, k knownFile) *manifest.Older {
	o := &manifest.Older{Generation: f.Generation, Header: k.header, Size: k.size, Replays: f.Replays}
	left := k.size
	for _, e := range f.Extents {
		if e.Seg < 0 && e.N > left {
			return nil
		}
		if e.N = min(e.N, left); e.N == 0 {
			break
		}
		o.Extents = append(o.Extents, e)
		left -= e.N
	}
	return o
}

// encode is replay with what is known. Whatever is wrong with the prediction, or with the
// room for it, the file is stored whole: that says itself what is wrong with the file.
func (w *worker) encode(ctx context.Context, s *source, file *manifest.File, known *replay.Known, older *manifest.Older, sum *prefixHash) (int64, error) {
	body, err := durable.NewScratch(w.run.memory.dir)
	if err != nil {
		return 0, err
	}
	defer body.Discard()
	res, err := w.predict(ctx, s, file, known, body.File)
	if err == nil && (res.Taken == 0 || res.Size() > res.Info.Size/2) {
		return 0, nil
	}
	if err == nil {
		err = w.hashPrefix(ctx, s, sum, res.Info.Size)
	}
	if err == nil && !bytes.Equal(sum.Sum(nil), res.Info.SHA256[:]) {
		err = errors.New("it changed while it was read")
	}
	if err != nil {
		sum.reset()
		w.run.note(fmt.Sprintf("%s was stored whole: %v", file.Path, err))
		return 0, ctx.Err()
	}
	stream := &manifest.File{Root: file.Root, Path: file.Path + ".replay"} // a name of its own in the journal
	if err := w.append(stream, 0, res.Prologue); err != nil {
		return 0, err
	}
	if err := w.appendFile(ctx, stream, body.File); err != nil {
		return 0, err
	}
	file.Replays = []*manifest.Replay{{Kind: manifest.CompactionReplay, Size: res.Info.Size, Stream: stream.Extents, Older: older}}
	file.Extents = []manifest.Extent{{Seg: -1, N: res.Info.Size}}
	w.run.added.Add(res.Size())
	w.run.replayed.Add(res.Info.Size)
	w.run.opts.Progress.BytesDone.Add(res.Info.Size)
	return res.Info.Size, nil
}

// predict writes the body of the stream.
func (w *worker) predict(ctx context.Context, s *source, file *manifest.File, known *replay.Known, body *os.File) (*replay.Result, error) {
	sorting, err := durable.NewScratch(w.run.memory.dir)
	if err != nil {
		return nil, err
	}
	defer sorting.Discard()
	out := bufio.NewWriterSize(body, readSize)
	res, err := replay.Encode(out, replay.File{R: couchfile.WithContext(ctx, s), Size: file.Size, Header: file.Header.Offset}, known, sorting)
	if err != nil {
		return nil, err
	}
	return res, out.Flush()
}

// appendFile appends all of f to file, which has what is in its extents.
func (w *worker) appendFile(ctx context.Context, file *manifest.File, f *os.File) error {
	off := int64(0)
	for _, e := range file.Extents {
		off += e.N
	}
	buf := make([]byte, readSize)
	for at := int64(0); ; {
		n, err := f.ReadAt(buf, at)
		if n > 0 {
			if err := w.append(file, off+at, buf[:n]); err != nil {
				return err
			}
			at += int64(n)
		}
		if errors.Is(err, io.EOF) || err == nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}
