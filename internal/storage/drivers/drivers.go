// Package drivers is the list of storage drivers: it turns what a user writes for
// a storage into a storage.Store.
package drivers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/cdk"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/storage/s3"
	"github.com/slipcover/slipcover/internal/storage/sftp"
	"github.com/slipcover/slipcover/internal/storage/swift"
)

// Options are the options of Open. The zero value opens what is there.
type Options struct {
	// Create makes the place (folder, container, bucket) if it isn't there. Without
	// it, a missing place is an error: it may be a disk that isn't mounted.
	Create bool
	// Getenv replaces os.Getenv for the log-in to Swift, so that one process can open the
	// storage of several accounts at once; nil for os.Getenv. It is Swift's alone: the other
	// drivers, and the libraries under some of them, read the environment of the process,
	// and file has no log-in.
	Getenv func(string) string
}

// driver is one line of the list.
type driver struct {
	scheme string // before "://"
	form   string // for messages and help
	open   func(ctx context.Context, url string, opts Options) (storage.Store, error)
}

func list() []driver {
	return []driver{
		{"file", "file:///path", openFile},
		{"swift", "swift://container/prefix", openSwift},
		{"s3", s3.Form, openS3},
		{"gs", "gs://bucket/prefix", openGCS},
		{"azblob", "azblob://container/prefix", openAzure},
		{"sftp", "sftp://user@host/path", openSFTP},
	}
}

// Forms returns how storage can be written, for help texts.
func Forms() []string {
	forms := []string{"/path"}
	for _, d := range list() {
		forms = append(forms, d.form)
	}
	return forms
}

// Open opens the storage that url names: a URL with the scheme of a driver, or the
// path of a folder. A relative path counts from the working folder.
//
// Its errors never quote a URL whose scheme isn't known, as it may hold secrets.
func Open(ctx context.Context, url string, opts Options) (storage.Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	if url == "" {
		return nil, fmt.Errorf("no storage given; write %s", choices())
	}
	if strings.ContainsRune(url, 0) {
		return nil, errors.New("the storage has a zero byte in its name")
	}
	scheme, rest, ok := cutScheme(url)
	if !ok {
		return openFolder(url, opts)
	}
	for _, d := range list() {
		if d.scheme != scheme {
			continue
		}
		if !strings.HasPrefix(rest, "//") {
			return nil, fmt.Errorf("a storage of kind %s is written %s (and a folder of that name ./%s:…)", scheme, d.form, scheme)
		}
		return d.open(ctx, scheme+":"+rest, opts)
	}
	return nil, fmt.Errorf("there is no storage of kind %q; write %s", scheme, choices())
}

func choices() string {
	forms := Forms()
	last := len(forms) - 1
	return strings.Join(forms[:last], ", ") + " or " + forms[last]
}

// cutScheme splits at the colon behind a scheme, which it returns in lower case.
// One letter is no scheme but a drive of Windows, and a slash before the colon makes
// it a path. What looks like a scheme without "//" behind it counts as one: taken
// for a folder, a slip of the pen would put a backup on the wrong disk.
func cutScheme(url string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(url, ":")
	if !ok || len(scheme) < 2 {
		return "", "", false
	}
	for i, c := range []byte(scheme) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		other := '0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'
		if !letter && (i == 0 || !other) {
			return "", "", false
		}
	}
	return strings.ToLower(scheme), rest, true
}

func openFile(_ context.Context, url string, opts Options) (storage.Store, error) {
	path, err := file.PathOfURL(url)
	if err != nil {
		return nil, err
	}
	return openFolder(path, opts)
}

// openFolder returns a plain nil with an error, not a nil *file.Store.
func openFolder(path string, opts Options) (storage.Store, error) {
	open := file.Open
	if opts.Create {
		open = file.Create
	}
	s, err := open(path)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openGCS(ctx context.Context, url string, opts Options) (storage.Store, error) {
	s, err := cdk.OpenGCS(ctx, url, cdk.Options{Create: opts.Create})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openAzure(ctx context.Context, url string, opts Options) (storage.Store, error) {
	s, err := cdk.OpenAzure(ctx, url, cdk.Options{Create: opts.Create})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openS3(ctx context.Context, url string, opts Options) (storage.Store, error) {
	s, err := s3.Open(ctx, url, s3.Options{Create: opts.Create})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openSFTP(ctx context.Context, url string, opts Options) (storage.Store, error) {
	s, err := sftp.Open(ctx, url, sftp.Options{Create: opts.Create})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openSwift(ctx context.Context, url string, opts Options) (storage.Store, error) {
	s, err := swift.Open(ctx, url, swift.Options{Create: opts.Create, Getenv: opts.Getenv})
	if err != nil {
		return nil, err
	}
	return s, nil
}
