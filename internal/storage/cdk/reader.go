package cdk

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"

	"gocloud.dev/blob"

	"github.com/slipcover/slipcover/internal/storage"
)

// objectReader reads an object, or a part of it. It knows how many bytes there must
// be, and for a whole object their MD5 if the service has one.
type objectReader struct {
	ctx   context.Context
	store *Store
	key   storage.Key
	r     *blob.Reader
	left  int64
	want  []byte // MD5, nil to compare nothing
	hash  hash.Hash
	err   error // of the storage
}

func (r *objectReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.err = r.store.wrap(r.ctx, "get "+string(r.key), r.ctx.Err()); r.err != nil {
		return 0, r.err
	}
	n, err := r.r.Read(p)
	n = int(min(int64(n), r.left)) // the services send no more
	r.left -= int64(n)
	if r.want != nil {
		if r.hash == nil {
			r.hash = md5.New()
		}
		r.hash.Write(p[:n])
	}
	if err == nil {
		return n, nil
	}
	if r.err = r.end(err); r.err != nil {
		return n, r.err
	}
	return n, io.EOF
}

// end says what the end of a body means; nil if it is whole.
func (r *objectReader) end(err error) error {
	what := "get " + string(r.key)
	switch {
	case !errors.Is(err, io.EOF):
		return r.store.wrap(r.ctx, what, err)
	case r.left > 0:
		return fmt.Errorf("%s: %w: the body ended %d bytes early", what, storage.ErrUnavailable, r.left)
	case r.want != nil && (r.hash == nil || !bytes.Equal(r.hash.Sum(nil), r.want)):
		return fmt.Errorf("%s: %w: the bytes that came don't have the MD5 that the object has", what, storage.ErrUnavailable)
	}
	return nil
}

// cutNote notes for one Get that its connection was cut.
type cutNote struct {
	mu  sync.Mutex
	err error // guarded by mu
}

type cutKey struct{} // of the context's value

// onceTransport refuses the request with which an SDK would go on, behind the cut
// connection of a Get.
type onceTransport struct{ base http.RoundTripper }

func (t onceTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	note, ok := req.Context().Value(cutKey{}).(*cutNote)
	if !ok {
		return t.base.RoundTrip(req)
	}
	note.mu.Lock()
	err := note.err
	note.mu.Unlock()
	if err != nil {
		return nil, err
	}
	resp, err := t.base.RoundTrip(req)
	if err == nil {
		resp.Body = &notingBody{resp.Body, note}
	}
	return resp, err
}

// CloseIdleConnections lets http.Client reach the transport below.
func (t onceTransport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

type notingBody struct {
	io.ReadCloser
	note *cutNote
}

func (b *notingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.note.mu.Lock()
		b.note.err = fmt.Errorf("the connection was cut: %w", err)
		b.note.mu.Unlock()
	}
	return n, err
}
