package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/storage"
)

const (
	// maxParts is how many parts S3 lets an object have.
	maxParts = 10_000
	// partsAtOnce is how many parts of one body go up at a time.
	partsAtOnce = 4
	// copyBytes is what is read of a body at a time.
	copyBytes = 256 << 10
	// abortTimeout bounds the request that removes the parts of a failed put.
	abortTimeout = 30 * time.Second
)

// put is one Put under way.
type put struct {
	store *Store
	op    string // for errors
	name  string
	body  storage.Body
	opts  minio.PutObjectOptions // without IfAbsent
}

// errNotConditional is the answer where puts can't exclude each other.
var errNotConditional = errors.New("this server can't put an object only if it isn't there (If-None-Match): " +
	"add if_absent=check to the URL, and see to it that only one process at a time writes to the repository")

// Put sends the body in one request, or in parts if it is larger than part_size.
func (s *Store) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	op := "put " + string(key)
	name, err := s.begin(ctx, "put", key)
	if err != nil {
		return err
	}
	if body.Size() < 0 {
		return fmt.Errorf("%s: %w", op, &storage.BodyError{Err: fmt.Errorf("its size is %d", body.Size())})
	}
	p := put{store: s, op: op, name: name, body: body}
	p.opts.ServerSideEncryption = s.settings.encryption
	p.opts.StorageClass = s.settings.storageClass
	p.opts.DisableContentSha256 = true // no chunks with signatures: not all servers take them
	if !opts.RetainUntil.IsZero() {
		if err := s.needLock(ctx, op); err != nil {
			return err
		}
		p.opts.Mode, p.opts.RetainUntilDate = s.settings.lockMode, wholeSeconds(opts.RetainUntil)
	}
	switch {
	case !opts.IfAbsent && s.versioned:
		return p.replaceVersion(ctx)
	case !opts.IfAbsent:
		_, err := p.send(ctx, false)
		return err
	case s.settings.checkOnly:
		return p.checked(ctx)
	case s.conditional.Load():
		return p.ifAbsent(ctx)
	}
	return p.learn(ctx)
}

// ifAbsent trusts the server to heed If-None-Match. A server may refuse at the first
// bytes of a large body and close the connection, and then the answer gets lost: so
// without one the object is looked at.
func (p *put) ifAbsent(ctx context.Context) error {
	_, err := p.send(ctx, true)
	var lost *lostAnswer
	if !errors.As(err, &lost) {
		return err
	}
	info, headErr := p.store.head(ctx, p.op, p.name)
	switch {
	case headErr != nil:
		return err
	case info.Size != p.body.Size():
		return fmt.Errorf("%s: %w", p.op, storage.ErrExist)
	case !isPlainMD5(info.ETag, info.Metadata):
		return err
	case info.ETag != lost.sum:
		return fmt.Errorf("%s: %w", p.op, storage.ErrExist)
	}
	return nil // these bytes: the put went well, and its answer got lost
}

// lostAnswer is the error of a put with IfAbsent that got no answer.
type lostAnswer struct {
	error
	sum string // MD5 of the body
}

func (e *lostAnswer) Unwrap() error { return e.error }

// learn finds out whether the server heeds If-None-Match, see the package comment.
func (p *put) learn(ctx context.Context) error {
	s := p.store
	s.learning.Lock()
	if s.conditional.Load() { // another put has
		s.learning.Unlock()
		return p.ifAbsent(ctx)
	}
	defer s.learning.Unlock()
	if err := p.absent(ctx); err != nil {
		return err
	}
	if err := p.ifAbsent(ctx); err != nil {
		return err
	}
	_, err := p.send(ctx, true)
	switch {
	case err == nil:
		return fmt.Errorf("%s: %w", p.op, errNotConditional)
	case errors.Is(err, storage.ErrExist):
		s.conditional.Store(true)
		return nil
	case errors.Is(err, storage.ErrUnavailable):
		return nil // it is put; the next one will find out
	}
	return err
}

// checked is IfAbsent without the server's help.
func (p *put) checked(ctx context.Context) error {
	defer p.store.writing.lock(p.name)()
	if err := p.absent(ctx); err != nil {
		return err
	}
	etag, err := p.send(ctx, false)
	if err != nil {
		return err
	}
	info, err := p.store.head(ctx, p.op, p.name)
	if err == nil && info.ETag != etag {
		return fmt.Errorf("%s: %w: another process put it just now", p.op, storage.ErrExist)
	}
	if errors.Is(err, storage.ErrNotExist) {
		return nil // deleted since
	}
	return err
}

// absent returns ErrExist if the object is there.
func (p *put) absent(ctx context.Context) error {
	_, err := p.store.head(ctx, p.op, p.name)
	if err == nil {
		return fmt.Errorf("%s: %w", p.op, storage.ErrExist)
	}
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}

// replaceVersion is a put in a bucket with versions.
func (p *put) replaceVersion(ctx context.Context) error {
	s := p.store
	old, err := s.head(ctx, p.op, p.name)
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if err == nil && isRetained(old) {
		return fmt.Errorf("%s: %w", p.op, storage.ErrRetained)
	}
	if _, err := p.send(ctx, false); err != nil || old.VersionID == "" || old.VersionID == "null" {
		return err
	}
	// The put is done. A version that stays, for want of rights or because the
	// request fails, costs room until Delete removes all versions.
	watched, _ := watch(ctx)
	_ = s.client.RemoveObject(watched, s.settings.bucket, p.name, minio.RemoveObjectOptions{VersionID: old.VersionID})
	return nil
}

// send puts the object and returns its ETag.
func (p *put) send(ctx context.Context, ifAbsent bool) (etag string, err error) {
	if p.body.Size() <= p.store.settings.partSize {
		return p.sendWhole(ctx, ifAbsent)
	}
	if ifAbsent {
		if err := p.absent(ctx); err != nil {
			return "", err
		}
	}
	return p.sendParts(ctx, ifAbsent)
}

func (p *put) sendWhole(ctx context.Context, ifAbsent bool) (string, error) {
	s := p.store
	piece, err := p.piece(ctx, 0, p.body.Size())
	if err != nil {
		return "", err
	}
	opts := p.opts
	if ifAbsent {
		opts.SetMatchETagExcept("*")
	}
	ctx, reply := watch(ctx)
	reply.body = piece.open
	info, err := s.client.PutObject(ctx, s.settings.bucket, p.name, piece.open(), piece.size, piece.md5Base64(), piece.sha256Hex(), opts)
	if err != nil {
		err = p.failed(ctx, reply, err, ifAbsent)
		if ifAbsent && reply.failure() != nil && errors.Is(err, storage.ErrUnavailable) {
			err = &lostAnswer{err, hex.EncodeToString(piece.md5)}
		}
		return "", err
	}
	return info.ETag, p.compare(info.ETag, hex.EncodeToString(piece.md5), reply.headers())
}

// failed adds to wrap what only a put with a condition can be answered.
func (p *put) failed(ctx context.Context, r *reply, err error, ifAbsent bool) error {
	switch {
	case !ifAbsent || ctx.Err() != nil:
	case r.status() == http.StatusNotImplemented:
		return fmt.Errorf("%s: %w", p.op, errNotConditional)
	case r.status() == http.StatusConflict: // another put is under way, or was
		if err := p.absent(ctx); err != nil {
			return err
		}
	}
	return p.store.wrap(ctx, p.op, r, err)
}

// compare checks what the server says it has.
func (p *put) compare(etag, sum string, h http.Header) error {
	if isPlainMD5(etag, h) && etag != sum {
		return fmt.Errorf("%s: %w: the server has other bytes (MD5 %s) than were sent (%s)", p.op, storage.ErrUnavailable, etag, sum)
	}
	return nil
}

// sendParts puts the object in parts, and removes them if that fails.
func (p *put) sendParts(ctx context.Context, ifAbsent bool) (etag string, err error) {
	s := p.store
	watched, reply := watch(ctx)
	id, err := s.client.NewMultipartUpload(watched, s.settings.bucket, p.name, p.opts)
	if err != nil {
		return "", s.wrap(ctx, p.op, reply, err)
	}
	defer func() {
		if err != nil {
			err = p.abort(ctx, id, err)
		}
	}()
	parts, err := p.uploadAll(ctx, id)
	if err != nil {
		return "", err
	}
	if ifAbsent {
		if err := p.absent(ctx); err != nil {
			return "", err
		}
	}
	return p.complete(ctx, id, parts, ifAbsent)
}

// abort removes the parts, also after a cancel. Parts that stay are unseen, and the
// first error matters more.
func (p *put) abort(ctx context.Context, id string, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	watched, _ := watch(ctx)
	_ = p.store.client.AbortMultipartUpload(watched, p.store.settings.bucket, p.name, id)
	return cause
}

func (p *put) uploadAll(ctx context.Context, id string) ([]minio.CompletePart, error) {
	size := p.body.Size()
	partSize := partSizeFor(size, p.store.settings.partSize)
	parts := make([]minio.CompletePart, (size+partSize-1)/partSize)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	for i := range parts {
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return fmt.Errorf("%s: %w", p.op, err)
			}
			off := int64(i) * partSize
			etag, err := p.uploadPart(gctx, id, i+1, off, min(partSize, size-off))
			parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: etag}
			return err
		})
	}
	return parts, g.Wait()
}

// partSizeFor enlarges the size of parts, by whole MiB, until there are few enough.
func partSizeFor(size, partSize int64) int64 {
	least := (size + maxParts - 1) / maxParts
	if least <= partSize {
		return partSize
	}
	return (least + 1<<20 - 1) >> 20 << 20
}

func (p *put) uploadPart(ctx context.Context, id string, n int, off, size int64) (string, error) {
	piece, err := p.piece(ctx, off, size)
	if err != nil {
		return "", err
	}
	ctx, reply := watch(ctx)
	reply.body = piece.open
	part, err := p.store.client.PutObjectPart(ctx, p.store.settings.bucket, p.name, id, n, piece.open(), size, minio.PutObjectPartOptions{
		Md5Base64: piece.md5Base64(), Sha256Hex: piece.sha256Hex(), DisableContentSha256: true,
	})
	if err != nil {
		return "", p.store.wrap(ctx, p.op, reply, err)
	}
	return part.ETag, p.compare(part.ETag, hex.EncodeToString(piece.md5), reply.headers())
}

func (p *put) complete(ctx context.Context, id string, parts []minio.CompletePart, ifAbsent bool) (string, error) {
	var opts minio.PutObjectOptions
	if ifAbsent {
		opts.SetMatchETagExcept("*")
	}
	ctx, reply := watch(ctx)
	info, err := p.store.client.CompleteMultipartUpload(ctx, p.store.settings.bucket, p.name, id, parts, opts)
	if err != nil {
		return "", p.failed(ctx, reply, err, ifAbsent)
	}
	return info.ETag, nil
}

// piece is a section of a body with its checksums.
type piece struct {
	body      storage.Body
	off, size int64
	md5       []byte
	sha256    []byte // nil over HTTPS
}

// piece reads a section of the body once, for its checksums.
func (p *put) piece(ctx context.Context, off, size int64) (*piece, error) {
	s := &piece{body: p.body, off: off, size: size}
	sums := []hash.Hash{md5.New()}
	if p.store.settings.endpoint.Scheme == "http" {
		sums = append(sums, sha256.New())
	}
	r := (&piece{body: storage.Preread(p.body), off: off, size: size}).open()
	buf := make([]byte, min(size, copyBytes))
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", p.op, err)
		}
		n, err := r.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.op, err)
		}
		for _, h := range sums {
			h.Write(buf[:n])
		}
		left -= int64(n)
	}
	s.md5 = sums[0].Sum(nil)
	if len(sums) > 1 {
		s.sha256 = sums[1].Sum(nil)
	}
	return s, nil
}

func (s *piece) md5Base64() string { return base64.StdEncoding.EncodeToString(s.md5) }
func (s *piece) sha256Hex() string { return hex.EncodeToString(s.sha256) }

// open returns the bytes. A reader of no bytes has a type that the client knows.
func (s *piece) open() io.ReadCloser {
	if s.size == 0 {
		return io.NopCloser(bytes.NewReader(nil))
	}
	return &pieceReader{s: s}
}

// pieceReader reads a piece. Its errors are *storage.BodyError; it isn't a Seeker, which the
// client would rewind.
type pieceReader struct {
	s   *piece
	pos int64
}

func (r *pieceReader) Read(b []byte) (int, error) {
	if r.pos == r.s.size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), r.s.size-r.pos)]
	if err := storage.ReadBody(r.s.body, b, r.s.off+r.pos); err != nil {
		return 0, err
	}
	r.pos += int64(len(b))
	return len(b), nil
}

func (r *pieceReader) Close() error { return nil }

// keyLocks let one put at a time work on a name. Two names may share a lock.
type keyLocks [256]sync.Mutex

func (l *keyLocks) lock(name string) (unlock func()) {
	h := fnv.New32a()
	h.Write([]byte(name))
	m := &l[h.Sum32()%uint32(len(l))]
	m.Lock()
	return m.Unlock
}
