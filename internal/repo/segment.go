package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// SegmentSize is the most content that a segment holds, in bytes. Large enough
// that 1 TB makes some 100,000 objects, small enough that a few of them in
// memory stay within our bounds.
const SegmentSize = 8 << 20

// frameSize is the content of each zstd frame but the last, in bytes: what must
// be decompressed to read one byte. Readers take it from the seek table; see
// docs/decisions/0003-frames-of-512-kib.md.
const frameSize = 512 << 10

// maxFrame is the largest content of a frame that readers take.
const maxFrame = 1 << 20

// leastFrame is the least content, in bytes and on average, of all frames but the last
// that readers take.
const leastFrame = 4 << 10

// A segment ends with its trailer of two skippable frames: the SHA-256 of each
// compressed frame, and the seek table of zstd's contrib/seekable_format, with
// compressed and decompressed size of each frame, little-endian. The manifest has
// the trailer's hash, so that what is read by range is what was written: encryption
// doesn't tell that, since everybody may encrypt to a recipient.
const (
	hashesMagic    = 0x184D2A5D
	skippableMagic = 0x184D2A5E
	headerSize     = 8 // of a skippable frame
	seekableMagic  = 0x8F92EAB1
	footerSize     = 9
	entrySize      = 8
)

// Sealed is a segment ready to be stored.
type Sealed struct {
	Segment manifest.Segment
	bytes   bytes.Buffer
}

// Seal compresses plain, 1 to SegmentSize bytes, and encrypts it to key, as segment
// n of the backup id, into s, whose memory it uses again.
func (r *Repo) Seal(s *Sealed, key *WriteKey, id manifest.BackupID, n int, plain []byte) error {
	if len(plain) == 0 || len(plain) > SegmentSize {
		return fmt.Errorf("seal a segment of %d bytes", len(plain))
	}
	s.bytes.Reset()
	s.bytes.Grow(len(plain)/2 + 4096)
	trailer, err := r.seal(&s.bytes, key, plain)
	if err != nil {
		return fmt.Errorf("seal segment %s/%d: %w", id, n, err)
	}
	sum := sha256.Sum256(s.bytes.Bytes())
	s.Segment = manifest.Segment{Backup: id, N: n, Size: int64(s.bytes.Len()), Plain: int64(len(plain)), SHA256: hex.EncodeToString(sum[:]), TrailerSHA256: trailer}
	return nil
}

// seal writes age(zstd(plain)) to w, or zstd(plain) without encryption, and returns
// the hash of the zstd bytes' trailer.
func (r *Repo) seal(w io.Writer, key *WriteKey, plain []byte) (trailer string, err error) {
	e, err := r.encrypt(w, key)
	if err != nil {
		return "", err
	}
	if trailer, err = r.compress(e, plain); err != nil {
		return "", err
	}
	return trailer, e.Close()
}

// compress writes plain as independent frames and their trailer, and returns the
// trailer's SHA-256 in hex.
func (r *Repo) compress(w io.Writer, plain []byte) (string, error) {
	n := (len(plain) + frameSize - 1) / frameSize
	hashes := skippable(hashesMagic, n*sha256.Size)
	table := skippable(skippableMagic, n*entrySize+footerSize)
	buf := make([]byte, 0, frameSize+1024)
	for len(plain) > 0 {
		part := plain[:min(frameSize, len(plain))]
		plain = plain[len(part):]
		buf = r.encoder.EncodeAll(part, buf[:0])
		if _, err := w.Write(buf); err != nil {
			return "", err
		}
		sum := sha256.Sum256(buf)
		hashes = append(hashes, sum[:]...)
		table = binary.LittleEndian.AppendUint32(table, uint32(len(buf)))
		table = binary.LittleEndian.AppendUint32(table, uint32(len(part)))
	}
	table = binary.LittleEndian.AppendUint32(table, uint32(n))
	table = append(table, 0) // descriptor: no checksums in the table
	table = binary.LittleEndian.AppendUint32(table, seekableMagic)
	trailer := append(hashes, table...)
	sum := sha256.Sum256(trailer)
	_, err := w.Write(trailer)
	return hex.EncodeToString(sum[:]), err
}

// skippable begins a skippable frame of n bytes.
func skippable(magic uint32, n int) []byte {
	b := make([]byte, headerSize, headerSize+n)
	binary.LittleEndian.PutUint32(b, magic)
	binary.LittleEndian.PutUint32(b[4:], uint32(n))
	return b
}

// PutSegment stores s for the instance.
func (r *Repo) PutSegment(ctx context.Context, instance string, s *Sealed) error {
	key := r.segmentKey(instance, s.Segment.Backup, s.Segment.N)
	if err := r.store.Put(ctx, key, bytes.NewReader(s.bytes.Bytes()), storage.PutOptions{IfAbsent: true, RetainUntil: r.opts.RetainUntil}); err != nil {
		return fmt.Errorf("store segment: %w", err)
	}
	return nil
}

func (r *Repo) segmentKey(instance string, id manifest.BackupID, n int) storage.Key {
	return storage.Key(fmt.Sprintf("segments/%s/%s/%06d%s", instance, id, n, r.ending()))
}

// spares are pieces of memory of one size that were used and are used again, at most as many
// as there may be in use for long. The collector would take a sync.Pool's at each run, and with
// little memory it runs for every segment: new memory must be cleared and mapped, which cost 8 %
// of a verification.
type spares struct {
	size int         // of each
	free chan []byte // as many as fit are kept
}

func newSpares(size, most int) *spares { return &spares{size: size, free: make(chan []byte, most)} }

// get returns empty memory of the size.
func (s *spares) get() []byte {
	select {
	case b := <-s.free:
		return b[:0]
	default:
		return make([]byte, 0, s.size)
	}
}

// put takes memory back that get gave, and nothing else.
func (s *spares) put(b []byte) {
	if cap(b) != s.size {
		return
	}
	select {
	case s.free <- b:
	default:
	}
}

// decoderSpare is how much more memory than content lets the decoder take its faster way.
const decoderSpare = 64

// newContent returns memory for n bytes of content, which contents.put takes back.
func (r *Repo) newContent(n int64) []byte {
	if n < SegmentSize/2 {
		return make([]byte, 0, n+decoderSpare)
	}
	return r.contents.get()
}

// ReadSegment reads segment s of the instance whole, checks its hash, and returns
// its content. No more than maxFetches are under way at once, and no more are opened
// than there are CPUs, which bounds the memory. It returns ErrCorrupt, ErrNoKey, ErrWrongKey, or the storage's error.
func (r *Repo) ReadSegment(ctx context.Context, instance string, s manifest.Segment) ([]byte, error) {
	key := r.segmentOf(instance, s)
	if err := checkSizes(s); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if err := enter(ctx, r.fetches); err != nil {
		return nil, err
	}
	defer leave(r.fetches)
	mem := r.sealed.get()
	defer r.sealed.put(mem)
	stored := bytes.NewBuffer(mem)
	if err := readInto(ctx, stored, r.store, key, s.Size); err != nil {
		return nil, err
	}
	if err := enter(ctx, r.opens); err != nil { // storage may be slow, so only now
		return nil, err
	}
	defer leave(r.opens)
	if s.Key == "" || s.SHA256 != "" { // else the files that are made of it have their hashes
		if err := sameHash(stored.Bytes(), key, s.Size, s.SHA256); err != nil {
			return nil, err
		}
	}
	plain, err := r.unseal(ctx, instance, stored.Bytes(), s.Plain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return plain, nil
}

// checkSizes refuses a segment of sizes that none has, before memory is made for it.
func checkSizes(s manifest.Segment) error {
	if s.Size <= 0 || s.Size > 2*SegmentSize || s.Plain <= 0 || s.Plain > SegmentSize {
		return fmt.Errorf("%w: a segment of %d bytes in %d stored ones", ErrCorrupt, s.Plain, s.Size)
	}
	return nil
}

// enter waits for a place in a channel that bounds how many do something at once.
func enter(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func leave(places chan struct{}) { <-places }

// readHashed reads an object and checks its size and SHA-256.
func (r *Repo) readHashed(ctx context.Context, key storage.Key, size int64, sum string) ([]byte, error) {
	b, err := readObject(ctx, r.store, key, size)
	if err != nil {
		return nil, err
	}
	return b, sameHash(b, key, size, sum)
}

func sameHash(b []byte, key storage.Key, size int64, sum string) error {
	got := sha256.Sum256(b)
	if int64(len(b)) != size || hex.EncodeToString(got[:]) != sum {
		return fmt.Errorf("%s: %w: its %d bytes don't have the recorded hash", key, ErrCorrupt, len(b))
	}
	return nil
}

// unseal undoes seal; the content must have just that many bytes. It decrypts b in place.
func (r *Repo) unseal(ctx context.Context, instance string, b []byte, plain int64) ([]byte, error) {
	if plain <= 0 || plain > SegmentSize {
		return nil, fmt.Errorf("%w: a segment of %d bytes", ErrCorrupt, plain)
	}
	if r.config.Encrypted() {
		var err error
		if b, err = r.decryptInPlace(ctx, instance, b); err != nil {
			return nil, err
		}
	}
	content := r.newContent(plain)
	out, err := r.decoder.DecodeAll(b, content)
	if err != nil || int64(len(out)) != plain {
		r.contents.put(content)
		return nil, errors.Join(ErrCorrupt, fmt.Errorf("decompressed to %d bytes, not %d", len(out), plain), err)
	}
	return out, nil
}

// seekSegment reads frames of a stored segment by range.
type seekSegment struct {
	repo   *Repo
	src    io.ReaderAt // the zstd bytes
	object *spans      // the stored bytes, nil if src is all there is
	shift  int64       // of the stored bytes against whole chunks of zstd bytes; -1 if they aren't encrypted
	frames []frame
}

// ageChunk is what age encrypts at once, in bytes, and ageMore by how much that grows.
const (
	ageChunk = 64 << 10
	ageMore  = 16
)

// ahead reads the stored bytes of some zstd bytes at once, instead of chunk by chunk. done is called when they were read.
func (s *seekSegment) ahead(at, n int64) (done func(), err error) {
	if s.object == nil {
		return func() {}, nil
	}
	if s.shift >= 0 {
		first, last := at/ageChunk, (at+n-1)/ageChunk
		at, n = s.shift+first*(ageChunk+ageMore), (last-first+1)*(ageChunk+ageMore)
	}
	return s.object.ahead(at, n)
}

// spans reads an object, out of what was read of it ahead if that has it.
type spans struct {
	src  io.ReaderAt
	size int64

	mu   sync.RWMutex
	list []*span // guarded by mu
}

type span struct {
	at int64
	b  []byte
}

func (s *spans) ahead(at, n int64) (done func(), err error) {
	x := &span{at, make([]byte, max(0, min(n, s.size-at)))}
	if err := readAll(s.src, x.b, at); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, x)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.list = slices.DeleteFunc(s.list, func(y *span) bool { return y == x })
	}, nil
}

func (s *spans) ReadAt(p []byte, off int64) (int, error) {
	s.mu.RLock()
	for _, x := range s.list {
		if off >= x.at && off+int64(len(p)) <= x.at+int64(len(x.b)) {
			defer s.mu.RUnlock()
			return copy(p, x.b[off-x.at:]), nil
		}
	}
	s.mu.RUnlock()
	return s.src.ReadAt(p, off)
}

// wholeAhead is up to which stored size, in bytes, a segment is read whole when it is opened of a storage behind a cache: what
// comes of it then costs no more requests.
const wholeAhead = 3 << 20

type frame struct {
	at, size   int64 // of the compressed frame
	from, upTo int64 // of its content, in that of the segment
	sum        [sha256.Size]byte
}

// openSegment returns a reader of single frames of s; ctx serves its reads too.
func (r *Repo) openSegment(ctx context.Context, instance string, s manifest.Segment) (*seekSegment, error) {
	key := r.segmentOf(instance, s)
	if err := checkSizes(s); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	object := &spans{src: &objectReader{ctx: ctx, store: r.store, key: key}, size: s.Size}
	if r.opts.Cached && s.Size <= wholeAhead {
		done, err := object.ahead(0, s.Size)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		defer done()
	}
	var src io.ReaderAt = object
	size, shift := s.Size, int64(-1)
	if r.config.Encrypted() {
		stored := src
		err := r.withIdentities(ctx, instance, func(ids ...age.Identity) (err error) {
			src, size, err = age.DecryptReaderAt(stored, s.Size, ids...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, ofStorage(err))
		}
		shift = s.Size - size - max(1, (size+ageChunk-1)/ageChunk)*ageMore
	}
	frames, err := readFrames(src, size, s.Plain, s.TrailerSHA256)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return &seekSegment{repo: r, src: src, object: object, shift: shift, frames: frames}, nil
}

// readTrailer reads the trailer at the end of size zstd bytes with plain bytes of
// content, and how many frames it tells of.
func readTrailer(src io.ReaderAt, size, plain int64) (trailer []byte, n int64, err error) {
	bad := fmt.Errorf("%w: its seek table is not there", ErrCorrupt)
	if size < 2*headerSize+footerSize {
		return nil, 0, bad
	}
	foot := make([]byte, footerSize)
	if err := readAll(src, foot, size-footerSize); err != nil {
		return nil, 0, err
	}
	n = int64(binary.LittleEndian.Uint32(foot))
	length := n*(sha256.Size+entrySize) + 2*headerSize + footerSize
	if binary.LittleEndian.Uint32(foot[5:]) != seekableMagic || foot[4] != 0 || n == 0 || n > plain/leastFrame+1 || length > size {
		return nil, 0, bad
	}
	trailer = make([]byte, length)
	return trailer, n, readAll(src, trailer, size-length)
}

// readFrames reads the trailer at the end of size zstd bytes with plain bytes of
// content, which must have the SHA-256 that the manifest gives, in hex.
func readFrames(src io.ReaderAt, size, plain int64, sum string) ([]frame, error) {
	if plain <= 0 || plain > SegmentSize {
		return nil, fmt.Errorf("%w: a segment of %d bytes", ErrCorrupt, plain)
	}
	trailer, n, err := readTrailer(src, size, plain)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(trailer); hex.EncodeToString(got[:]) != sum {
		return nil, fmt.Errorf("%w: its seek table doesn't have the recorded hash", ErrCorrupt)
	}
	le := binary.LittleEndian
	hashes, table := trailer[:headerSize+n*sha256.Size], trailer[headerSize+n*sha256.Size:]
	if le.Uint32(hashes) != hashesMagic || int64(le.Uint32(hashes[4:])) != n*sha256.Size ||
		le.Uint32(table) != skippableMagic || int64(le.Uint32(table[4:])) != n*entrySize+footerSize {
		return nil, fmt.Errorf("%w: its seek table is not there", ErrCorrupt)
	}
	return parseFrames(hashes[headerSize:], table[headerSize:], n, size-int64(len(trailer)), plain)
}

// readAll fills b from offset off. What ends before is damaged, or can't be decrypted;
// any other error is the storage's.
func readAll(src io.ReaderAt, b []byte, off int64) error {
	n, err := src.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err != nil && !errors.Is(err, io.EOF):
		if of := (*storageError)(nil); errors.As(err, &of) {
			return of.err
		}
		return errors.Join(ErrCorrupt, err)
	}
	return fmt.Errorf("%w: %d bytes at %d, not %d", ErrCorrupt, n, off, len(b))
}

// parseFrames parses n entries, of frames that are size bytes and hold plain.
func parseFrames(hashes, entries []byte, n, size, plain int64) ([]frame, error) {
	frames := make([]frame, 0, n)
	var at, from int64
	for i := range n {
		e := entries[i*entrySize:]
		c, d := int64(binary.LittleEndian.Uint32(e)), int64(binary.LittleEndian.Uint32(e[4:]))
		if d == 0 || d > maxFrame || c == 0 || c > 2*maxFrame {
			return nil, fmt.Errorf("%w: seek table: frame size", ErrCorrupt)
		}
		frames = append(frames, frame{at: at, size: c, from: from, upTo: from + d, sum: [sha256.Size]byte(hashes[i*sha256.Size:])})
		at, from = at+c, from+d
	}
	if from != plain || at != size {
		return nil, fmt.Errorf("%w: seek table: sizes don't add up", ErrCorrupt)
	}
	return frames, nil
}

// find returns the number of the frame that holds offset off.
func (s *seekSegment) find(off int64) (int, error) {
	i := sort.Search(len(s.frames), func(i int) bool { return s.frames[i].upTo > off })
	if off < 0 || i == len(s.frames) {
		return 0, fmt.Errorf("%w: no frame holds offset %d", ErrCorrupt, off)
	}
	return i, nil
}

// read returns the content of frame i.
func (s *seekSegment) read(i int) ([]byte, error) {
	f := s.frames[i]
	b := make([]byte, f.size)
	done, err := s.ahead(f.at, f.size)
	if err != nil {
		return nil, fmt.Errorf("read frame %d: %w", i, err)
	}
	defer done()
	if err := readAll(s.src, b, f.at); err != nil {
		return nil, fmt.Errorf("read frame %d: %w", i, err)
	}
	if sha256.Sum256(b) != f.sum {
		return nil, fmt.Errorf("%w: frame %d doesn't have the recorded hash", ErrCorrupt, i)
	}
	out, err := s.repo.decoder.DecodeAll(b, make([]byte, 0, f.upTo-f.from))
	if err != nil || int64(len(out)) != f.upTo-f.from {
		return nil, errors.Join(ErrCorrupt, fmt.Errorf("frame %d doesn't decompress", i), err)
	}
	return out, nil
}

// objectReader reads ranges of an object.
type objectReader struct {
	ctx   context.Context // io.ReaderAt has none; lives as long as the reader that was opened with it
	store storage.Store
	key   storage.Key
}

func (o *objectReader) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	err := o.store.Get(o.ctx, o.key, off, int64(len(p)), func(rd io.Reader) error {
		var err error
		n, err = io.ReadFull(rd, p)
		return err
	})
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = io.EOF
	case err != nil && !errors.Is(err, io.EOF):
		err = &storageError{err}
	}
	return n, err
}

// storageError is an error of the storage on its way through a decryption, whose own
// errors say that the bytes are damaged.
type storageError struct{ err error }

func (e *storageError) Error() string { return e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }
