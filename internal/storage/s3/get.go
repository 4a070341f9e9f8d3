package s3

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/slipcover/slipcover/internal/storage"
)

// Get makes one request.
func (s *Store) Get(ctx context.Context, key storage.Key, off, n int64, fn func(io.Reader) error) error {
	op := "get " + string(key)
	name, err := s.begin(ctx, "get", key)
	if err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("%s: offset %d", op, off)
	}
	if n == 0 {
		if _, err := s.stat(ctx, op, key, name); err != nil {
			return err
		}
		return fn(strings.NewReader(""))
	}
	var opts minio.GetObjectOptions
	ranged := off > 0 || n > 0
	if ranged {
		opts.Set("Range", rangeOf(off, n))
	}
	ctx, reply := watch(ctx)
	body, info, _, err := s.client.GetObject(ctx, s.settings.bucket, name, opts)
	if reply.status() == http.StatusRequestedRangeNotSatisfiable {
		return fn(strings.NewReader("")) // the range begins behind the object
	}
	if err != nil {
		return s.missed(ctx, op, name, s.wrap(ctx, op, reply, err))
	}
	defer body.Close()
	want, whole, err := extent(off, n, reply.get("Content-Range"), info.Size)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r := &reader{ctx: ctx, op: op, body: body, left: want}
	if whole && isPlainMD5(info.ETag, reply.headers()) {
		r.sum, r.etag = md5.New(), info.ETag
	}
	err = fn(r)
	if r.err != nil {
		return r.err
	}
	return err
}

// missed doubts Swift, which says of an object that it isn't there while a put
// replaces it.
func (s *Store) missed(ctx context.Context, op, name string, err error) error {
	if !s.transport.swift.Load() || !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if _, headErr := s.head(ctx, op, name); headErr == nil {
		return fmt.Errorf("%s: %w: it was replaced at this moment", op, storage.ErrUnavailable)
	}
	return err
}

func rangeOf(off, n int64) string {
	if n < 0 || off > math.MaxInt64-n {
		return fmt.Sprintf("bytes=%d-", off)
	}
	return fmt.Sprintf("bytes=%d-%d", off, off+n-1)
}

// extent returns how many bytes the answer to a Get must have, and whether they are
// the whole object.
func extent(off, n int64, contentRange string, size int64) (want int64, whole bool, err error) {
	if contentRange == "" {
		if off > 0 || n > 0 && size > n {
			return 0, false, errors.New("the server sends the whole object instead of a range of it")
		}
		if size < 0 {
			return 0, false, errors.New("the server doesn't say how large the object is")
		}
		return size, true, nil
	}
	// bytes FIRST-LAST/SIZE
	span, total, ok := strings.Cut(strings.TrimPrefix(contentRange, "bytes "), "/")
	first, last, ok2 := strings.Cut(span, "-")
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	all, err3 := strconv.ParseInt(total, 10, 64)
	wrong := fmt.Errorf("the server sends another range (%s) than %s", oneLine(contentRange), rangeOf(off, n))
	if !ok || !ok2 || errors.Join(err1, err2, err3) != nil || from != off {
		return 0, false, wrong
	}
	want = all - off
	if n > 0 {
		want = min(want, n)
	}
	if to-from+1 != want {
		return 0, false, wrong
	}
	return want, want == all, nil
}

// reader reads an answer and fails if it is shorter than it must be, or if it is a
// whole object with another checksum.
type reader struct {
	ctx  context.Context
	op   string
	body io.Reader
	left int64     // bytes still to come
	sum  hash.Hash // nil if there is nothing to compare with
	etag string
	err  error // why it failed; not io.EOF
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	// The connection ends some time after ctx, and until then there may be all the rest.
	if err := r.ctx.Err(); err != nil {
		r.err = fmt.Errorf("%s: %w", r.op, err)
		return 0, r.err
	}
	if r.left == 0 {
		return 0, r.end()
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if r.sum != nil {
		r.sum.Write(p[:n])
	}
	if err == nil || r.left == 0 {
		return n, nil
	}
	if ctxErr := r.ctx.Err(); ctxErr != nil {
		r.err = fmt.Errorf("%s: %w", r.op, ctxErr)
	} else {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		r.err = fmt.Errorf("%s: %w: the connection ended %d bytes early: %w", r.op, storage.ErrUnavailable, r.left, err)
	}
	return n, r.err
}

// end is what follows the last byte.
func (r *reader) end() error {
	if r.sum == nil {
		return io.EOF
	}
	sum := hex.EncodeToString(r.sum.Sum(nil))
	if sum != r.etag {
		r.err = fmt.Errorf("%s: %w: the bytes that came (MD5 %s) aren't those that the server has (%s)", r.op, storage.ErrUnavailable, sum, r.etag)
		return r.err
	}
	return io.EOF
}
