// Package s3 keeps objects in a bucket of Amazon S3 or of a server that speaks its
// API. The key a/b is the object PREFIX/a/b. docs/s3.md is the operator's side.
//
// # Put if absent
//
// A put with IfAbsent sends If-None-Match: *, and of several processes one wins,
// if the server does as it is told. Some servers refuse that header and some
// ignore it. So the first such put of a Store looks whether the object is there,
// puts it, and puts it once more, which must be refused. A server that fails this
// is not used: Put returns an error that names the parameter if_absent=check. With
// that, Put looks, puts without the header, and looks who has written. This keeps
// the promise among the callers of one Store, not between processes.
//
// A put in parts (see below) looks twice besides, before the first part and before
// the last step, because some servers heed the header in a simple put alone.
//
// # Large objects
//
// A body of more than part_size goes up in parts, several at a time, each read from
// its own section of the body, so memory doesn't grow with it. It is there when the
// last step, which names all parts, was done. A put that fails removes its parts; a
// process that dies leaves them, unseen, for a lifecycle rule of the bucket.
//
// # Checksums
//
// Each request that carries bytes has their MD5 (Content-MD5), which the server
// must compare, and over plain HTTP a signed SHA-256. When the answer's ETag is an
// MD5 it is compared again, and so is that of a whole Get. An ETag is no MD5 if the
// object came in parts or is encrypted with a key of a key service.
//
// # Versions and Object Lock
//
// In a bucket that keeps versions a plain delete hides an object and frees nothing.
// There, Delete removes all versions of the object, the newest last, and a Put that
// replaces removes the version it replaced, if it may. Object Lock protects
// versions, not names: a Put over a protected object would succeed and hide it. So
// on such buckets Put and Delete ask first and return ErrRetained.
//
// # Listings
//
// List shows what the server shows: on S3 itself every object whose Put returned,
// on servers that keep listings apart (Swift) perhaps later.
package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/slipcover/slipcover/internal/storage"
)

// Options are the options of Open. The zero value opens a bucket that is there.
type Options struct {
	// Create makes the bucket if it isn't there.
	Create bool
}

// Store keeps objects in a bucket.
type Store struct {
	client    *minio.Core
	transport *transport
	settings  settings
	versioned bool // the bucket keeps versions, or did

	// conditional is true once the server is known to heed If-None-Match.
	conditional atomic.Bool
	learning    sync.Mutex  // held by the put that finds that out
	locked      atomic.Bool // the bucket is known to have Object Lock
	writing     keyLocks    // for if_absent=check
}

var (
	_ storage.Store    = (*Store)(nil)
	_ storage.Deleter  = (*Store)(nil)
	_ storage.Retainer = (*Store)(nil)
)

// Form is how a URL of this driver is written.
const Form = "s3://bucket/prefix"

// Open opens the storage that a URL names (docs/s3.md lists its parameters). It
// makes one request, or two if the region has to be found out. A bucket that isn't
// there is ErrUnavailable unless opts says to make it.
func Open(ctx context.Context, rawURL string, opts Options) (*Store, error) {
	set, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	s := &Store{settings: set}
	if s.transport, err = newTransport(set.timeout); err != nil {
		return nil, fmt.Errorf("open %s: %w", s.URL(), err)
	}
	if err := s.open(ctx, opts); err != nil {
		s.transport.CloseIdleConnections()
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, opts Options) error {
	creds, err := findCredentials(ctx, s.transport)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.URL(), err)
	}
	ctx, reply := watch(ctx)
	if err := s.connect(creds, s.settings.region); err != nil {
		return err
	}
	err = s.look(ctx)
	if region := minio.ToErrorResponse(err).Region; err != nil && region != "" && !s.settings.regionGiven {
		if err := s.connect(creds, region); err != nil {
			return err
		}
		err = s.look(ctx)
	}
	if opts.Create && minio.ToErrorResponse(err).Code == minio.NoSuchBucket {
		err = s.client.MakeBucket(ctx, s.settings.bucket, minio.MakeBucketOptions{Region: s.settings.region})
		if err == nil || minio.ToErrorResponse(err).Code == minio.BucketAlreadyOwnedByYou {
			err = s.look(ctx)
		}
	}
	if err != nil && reply.status() == http.StatusOK && notXML(err) {
		err = &storage.UnfitError{Why: s.settings.endpoint.Host + " answers, but not as S3 does: check the address and the port"}
	}
	if err != nil {
		return s.wrap(ctx, "open "+s.URL(), reply, err)
	}
	return nil
}

// notXML says of an error that a whole answer of the server could not be read.
func notXML(err error) bool {
	syntax, other := (*xml.SyntaxError)(nil), xml.UnmarshalError("")
	return errors.Is(err, io.EOF) || errors.As(err, &syntax) || errors.As(err, &other)
}

// connect makes the client; an empty region means that the client asks AWS.
func (s *Store) connect(creds *credentials.Credentials, region string) error {
	lookup := map[string]minio.BucketLookupType{
		"auto": minio.BucketLookupAuto, "true": minio.BucketLookupPath, "false": minio.BucketLookupDNS,
	}
	var err error
	s.client, err = minio.NewCore(s.settings.endpoint.Host, &minio.Options{
		Creds:        creds,
		Secure:       s.settings.endpoint.Scheme == "https",
		Transport:    s.transport,
		Region:       region,
		BucketLookup: lookup[s.settings.pathStyle],
		MaxRetries:   1, // storage/retry decides
	})
	if err != nil {
		return fmt.Errorf("open %s: %w", s.URL(), err)
	}
	s.conditional.Store(s3utils.IsAmazonEndpoint(*s.client.EndpointURL()))
	return nil
}

// look asks for the bucket's versioning, whose answer also says whether the bucket
// is there and the keys are right. Its error is the client's.
func (s *Store) look(ctx context.Context) error {
	config, err := s.client.GetBucketVersioning(ctx, s.settings.bucket)
	if code := minio.ToErrorResponse(err).Code; code == minio.NotImplemented || code == codeVersioningNotConfigured {
		return nil // a server without versions
	}
	s.versioned = config.Enabled() || config.Suspended()
	return err
}

// URL returns the URL that the Store was opened with, which has no secrets.
func (s *Store) URL() string { return s.settings.url }

// Close closes idle connections.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// begin is what all methods with a key do first; it returns the object's name.
func (s *Store) begin(ctx context.Context, op string, key storage.Key) (string, error) {
	if !key.Valid() {
		return "", fmt.Errorf("%s %q: not a valid key", op, key)
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("%s %s: %w", op, key, err)
	}
	return s.settings.prefix + string(key), nil
}

// Stat asks for the head of an object. The answer that it isn't there doesn't say
// whether the bucket is, so that is asked then.
func (s *Store) Stat(ctx context.Context, key storage.Key) (storage.Info, error) {
	name, err := s.begin(ctx, "stat", key)
	if err != nil {
		return storage.Info{}, err
	}
	return s.stat(ctx, "stat "+string(key), key, name)
}

func (s *Store) stat(ctx context.Context, op string, key storage.Key, name string) (storage.Info, error) {
	info, err := s.head(ctx, op, name)
	if errors.Is(err, storage.ErrNotExist) {
		watched, _ := watch(ctx)
		if exists, err := s.client.BucketExists(watched, s.settings.bucket); err == nil && !exists {
			return storage.Info{}, fmt.Errorf("%s: %w", op, s.noBucket())
		}
	}
	if err != nil {
		return storage.Info{}, err
	}
	return storage.Info{Key: key, Size: info.Size, Modified: info.LastModified.UTC()}, nil
}

func (s *Store) head(ctx context.Context, op, name string) (minio.ObjectInfo, error) {
	ctx, reply := watch(ctx)
	info, err := s.client.StatObject(ctx, s.settings.bucket, name, minio.StatObjectOptions{})
	if err != nil {
		return info, s.wrap(ctx, op, reply, err)
	}
	if info.Size < 0 {
		return info, fmt.Errorf("%s: the server doesn't say how large the object is", op)
	}
	return info, nil
}

// List asks for pages of at most 1000 objects.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if p, ok := strings.CutSuffix(prefix, "/"); prefix != "" && (!ok || !storage.Key(p).Valid()) {
		return fmt.Errorf("list %q: not a valid prefix", prefix)
	}
	op := "list " + prefix
	no := false
	opts := minio.ListObjectsOptions{Prefix: s.settings.prefix + prefix, Recursive: true, FetchOwner: &no}
	ctx, reply := watch(ctx)
	for object := range s.client.ListObjectsIter(ctx, s.settings.bucket, opts) {
		if object.Err != nil {
			return s.wrap(ctx, op, reply, object.Err)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		key := storage.Key(strings.TrimPrefix(object.Key, s.settings.prefix))
		if !key.Valid() {
			continue // not ours: a folder's own object, or somebody's file
		}
		// Answers to GET and HEAD have whole seconds.
		modified := object.LastModified.UTC().Truncate(time.Second)
		if err := fn(storage.Info{Key: key, Size: object.Size, Modified: modified}); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// isPlainMD5 says whether an ETag is the MD5 of the object's bytes, going by its
// form and by how the answer says that the object is encrypted.
func isPlainMD5(etag string, h http.Header) bool {
	switch h.Get("X-Amz-Server-Side-Encryption") {
	case "", "AES256":
	default:
		return false
	}
	if h.Get("X-Amz-Server-Side-Encryption-Customer-Algorithm") != "" || len(etag) != 32 {
		return false
	}
	for _, c := range []byte(etag) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// hideQuery is for errors of net/url, which quote what they couldn't read.
func hideQuery(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
