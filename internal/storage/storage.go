// Package storage is the contract between the repository and the place that
// holds its objects: keys and bytes, nothing about backups.
//
// Drivers live in packages below this one and are listed in storage/drivers;
// wrappers (storage/faulty) have the same interface. storage/storagetest is the
// contract as a test suite which every driver and every wrapper passes.
package storage

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Errors that a Store returns, wrapped or bare; callers ask with errors.Is.
var (
	// ErrNotExist says that no object has that key.
	ErrNotExist = errors.New("no such object")
	// ErrExist says that IfAbsent was asked for and an object has that key.
	ErrExist = errors.New("object exists already")
	// ErrFull says that the storage has no room: disk full, quota reached.
	ErrFull = errors.New("storage is full")
	// ErrDenied says that the storage refused for want of rights.
	ErrDenied = errors.New("permission denied by the storage")
	// ErrUnavailable says that the storage itself could not be reached, is gone or
	// can't serve now: an unmounted folder, a refused or cut connection, an answer
	// 429 or 5xx. Asking again may help; see RetryAfter.
	ErrUnavailable = errors.New("storage is not available")
	// ErrRetained says that the storage keeps the object until a date that was set
	// when it was put, and refuses to replace or delete it until then.
	ErrRetained = errors.New("the storage protects the object until a later date")
)

// ErrNoPlace is an ErrUnavailable of storage that answers and has no bucket or
// container of that name: asking again doesn't help.
var ErrNoPlace error = noPlace{}

type noPlace struct{}

func (noPlace) Error() string { return ErrUnavailable.Error() }
func (noPlace) Unwrap() error { return ErrUnavailable }

// UnavailableError is an ErrUnavailable of a storage that said when to ask again.
type UnavailableError struct {
	After time.Duration // from the moment of the answer
	Err   error         // cause
}

func (e *UnavailableError) Error() string   { return e.Err.Error() }
func (e *UnavailableError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

// UnfitError says that what answers is not the storage that was meant, or can't be
// trusted to be: it speaks another protocol, its certificate is unknown, it shows a page
// for people. Asking again doesn't help. It is none of the errors above.
type UnfitError struct{ Why string } // a sentence that says what to do

func (e *UnfitError) Error() string { return e.Why }

// RetryAfter returns how long the storage asked to wait, 0 if it did not.
func RetryAfter(err error) time.Duration {
	var u *UnavailableError
	if errors.As(err, &u) {
		return u.After
	}
	return 0
}

// Key names an object: one or more elements joined by "/", each of them one to
// 255 bytes of the characters A-Z a-z 0-9 . _ - and not "." or "..". Drivers may
// rely on that (see Valid) and refuse any other key. No key may be another one with
// "/" and more behind it, and none may differ from another one in upper and lower
// case alone: folders can't hold both.
type Key string

// Valid reports whether k has the form that Key describes and at most 1024 bytes.
func (k Key) Valid() bool {
	if len(k) == 0 || len(k) > 1024 {
		return false
	}
	for e := range strings.SplitSeq(string(k), "/") {
		if e == "" || e == "." || e == ".." || len(e) > 255 {
			return false
		}
		for i := range len(e) {
			c := e[i]
			switch {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
			default:
				return false
			}
		}
	}
	return true
}

// Body is the content of an object to be stored: bytes of a known size which can
// be read again, so that a put can be retried. *bytes.Reader and
// *io.SectionReader are Bodies.
type Body interface {
	io.ReaderAt
	Size() int64
}

// PutOptions are the options of Store.Put. The zero value replaces an object
// that is there.
type PutOptions struct {
	// IfAbsent makes Put fail with ErrExist, and change nothing, when an object
	// has that key. Of several concurrent puts with IfAbsent one wins.
	// ErrExist is an answer about what is stored: the object that exists is durable.
	IfAbsent bool
	// RetainUntil, if not zero, makes the storage itself refuse to replace or delete
	// the object until then (S3 Object Lock). A Store that can't do that fails the
	// Put, with an error that says so.
	RetainUntil time.Time
}

// Info describes an object.
type Info struct {
	Key      Key
	Size     int64     // bytes
	Modified time.Time // by the storage's clock, UTC
}

// Store holds objects. All methods may be called from several goroutines.
//
// Durability: when Put or Delete returns nil the change survives a power cut of
// the machine that called and of the storage.
// Atomicity: an object is there whole or not at all; a reader sees the bytes of
// one put. A failed Put may or may not have taken effect.
// Reading: Get and Stat see every Put that returned before they began. List may
// be late where the storage is (object stores of old); what it shows may be gone.
// Integrity: where the storage gives a checksum of an object, Put compares it with
// what was sent, and a Get of the whole object with what was read; a difference is
// ErrUnavailable, as the next try may go right.
// Retries: a driver doesn't retry, storage/retry does, as a wrapper; a driver may
// log in again when its token has expired.
// Cancelling: after ctx is done nothing more is begun, and the error wraps
// ctx.Err().
type Store interface {
	// Put stores body under key.
	// It returns ErrExist (see PutOptions), ErrFull, ErrDenied, ErrUnavailable.
	Put(ctx context.Context, key Key, body Body, opts PutOptions) error

	// Get calls fn with n bytes of the object from byte offset off; n < 0 means to
	// its end. fn may be called again from the start after a failure in the
	// middle, so it must begin anew each time. A range that ends behind the object
	// gives what is there; io.ErrUnexpectedEOF is the caller's to raise. A negative
	// off is an error. A connection that ends before all bytes came makes the reader
	// return an error that is not io.EOF, and Get ErrUnavailable.
	// fn's own error comes back unchanged. Returns ErrNotExist.
	Get(ctx context.Context, key Key, off, n int64, fn func(io.Reader) error) error

	// Stat returns size and time of an object, or ErrNotExist.
	Stat(ctx context.Context, key Key) (Info, error)

	// List calls fn for each object whose key begins with prefix, in byte order of
	// the keys, and stops at fn's first error, which it returns. prefix is "" or
	// ends with "/", its elements valid as those of a Key. Listing what isn't there is
	// not an error.
	List(ctx context.Context, prefix string, fn func(Info) error) error

	// Delete removes an object; removing what isn't there is not an error. Returns
	// ErrRetained.
	Delete(ctx context.Context, key Key) error

	// URL returns where the store is, without secrets, for messages.
	URL() string

	// Close frees what the Store holds. No other method may be called after it.
	Close() error
}

// Deleter is implemented by a Store that removes many objects with fewer requests
// than one for each.
type Deleter interface {
	// DeleteAll is Delete for each of keys. After an error some may be left.
	DeleteAll(ctx context.Context, keys []Key) error
}

// deletesAtOnce is how many single deletes DeleteAll has under way.
const deletesAtOnce = 8

// DeleteAll removes objects in no particular order, in the way that suits s. It
// stops at the first error; some may then be left.
func DeleteAll(ctx context.Context, s Store, keys []Key) error {
	if d, ok := s.(Deleter); ok {
		return d.DeleteAll(ctx, keys)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deletesAtOnce)
	for _, key := range keys {
		g.Go(func() error { return s.Delete(ctx, key) })
	}
	return g.Wait()
}

// Roomer is implemented by a Store that knows how much room it has.
type Roomer interface {
	// Room returns how many bytes can still be stored, and how many there is room for in all, with what others store there.
	Room(ctx context.Context) (free, total int64, err error)
}

// Retainer is implemented by a Store that can prolong what PutOptions.RetainUntil
// began; it never shortens it.
type Retainer interface {
	Retain(ctx context.Context, key Key, until time.Time) error
}
