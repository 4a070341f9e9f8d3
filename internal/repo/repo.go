package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/internal/storage"
)

// Format is the version of the repository's format that this program writes and
// reads. Version 1, since 0.1.0: everything that docs/repository-format.md says.
const Format = 1

// configKey is the root object; Init writes it last, and a change of recipients
// replaces it.
const configKey storage.Key = "slipcover.json"

// maxFetches is how many segments are read from the storage at once, unless there
// are more CPUs: what hides the time that remote storage takes to answer.
const maxFetches = 4

// These bound small objects that are read whole, in bytes. Records and plans list ranges
// of segments, of which an old, large instance may have a million.
const (
	maxRecord = 64 << 20 // a record, or a plan
	maxConfig = 1 << 20  // slipcover.json
	maxMark   = 64 << 10 // a lock or a mark
)

// Config is the root object, slipcover.json.
type Config struct {
	Format     int       `json:"format"`
	ID         string    `json:"id"` // UUID
	Created    time.Time `json:"created"`
	Encryption string    `json:"encryption"` // "age" or "none"
	Recipients []string  `json:"recipients"` // age recipients that the instances' keys are wrapped for
}

// Encrypted reports whether the repository's objects are encrypted.
func (c Config) Encrypted() bool { return c.Encryption == "age" }

// Level is how hard segments are compressed.
type Level int

// The levels. The zero value is the fastest.
const (
	Fastest Level = iota
	Default
	Better
)

// Options are the options of Open.
type Options struct {
	// Identities open what is encrypted; none are needed for writing.
	Identities []age.Identity
	// Passphrase opens the identity that the repository keeps under a passphrase;
	// it is asked for only when something must be read. Of several spellings the first
	// that opens it counts. nil if there is none.
	Passphrase func() ([]string, error)
	// TrustedWriters are Ed25519 public keys in base64. If there are any, records of
	// other writers are refused; if not, any valid signature is accepted.
	TrustedWriters []string
	// Level is the compression of what this process writes.
	Level Level
	// RetainUntil, if not zero, is until when the storage shall refuse to remove what
	// this process writes for a backup, and what the backup takes over.
	RetainUntil time.Time
	// CacheSize is how many bytes of content are kept that the Readers of NewSharing read by ranges, of all of them
	// together; DefaultCacheSize if 0, and some megabytes at least.
	CacheSize int64
	// Cached says that the storage keeps what is read of it by ranges (package storage/cache), so that more may be
	// read of an object than is needed now.
	Cached bool
	// Notify, if not nil, is told in a sentence when a call waits for long.
	Notify func(string)
	// Now, if not nil, is the clock of this host, and Host, if not empty, its name:
	// for tests of several hosts.
	Now  func() time.Time
	Host string
}

// Repo is an open repository. Its methods may be called from several goroutines.
type Repo struct {
	store   storage.Store
	config  Config // as it was when the repository was opened
	opts    Options
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	keys    keyring
	fetches chan struct{} // full when as many segments are read at once as may be
	opens   chan struct{} // and opened

	sealed   *spares // for stored segments while they are opened
	contents *spares // for the content of segments
	content  *contentCache
}

// InitOptions are the options of Init.
type InitOptions struct {
	Recipients []string // age recipients; none means no encryption
	// Passphrase, if not empty, makes a new key, adds it to the recipients and keeps
	// its identity in the repository, encrypted with the passphrase.
	Passphrase string
}

// Init makes a repository in store, which must hold none (ErrExists).
func Init(ctx context.Context, store storage.Store, opts InitOptions) (Config, error) {
	for _, key := range []storage.Key{configKey, configCopyKey} {
		switch _, err := store.Stat(ctx, key); {
		case err == nil:
			return Config{}, fmt.Errorf("%s: %w", store.URL(), ErrExists)
		case !errors.Is(err, storage.ErrNotExist):
			return Config{}, err
		}
	}
	c := Config{Format: Format, ID: uuid.NewString(), Created: time.Now().UTC().Truncate(time.Second), Encryption: "none", Recipients: slices.Clone(opts.Recipients)}
	if opts.Passphrase != "" {
		recipient, err := storeIdentity(ctx, store, opts.Passphrase)
		if err != nil {
			return Config{}, err
		}
		c.Recipients = append(c.Recipients, recipient)
	}
	if len(c.Recipients) > 0 {
		c.Encryption = "age"
		if _, err := parseRecipients(c.Recipients); err != nil {
			return Config{}, err
		}
	}
	b, err := encodeConfig(c)
	if err != nil {
		return Config{}, err
	}
	err = store.Put(ctx, configKey, bytes.NewReader(b), storage.PutOptions{IfAbsent: true})
	if errors.Is(err, storage.ErrExist) {
		err = fmt.Errorf("%s: %w", store.URL(), ErrExists)
	}
	if err == nil { // only by who made it, whose bytes these are
		err = store.Put(ctx, configCopyKey, bytes.NewReader(b), storage.PutOptions{})
	}
	return c, err
}

// Open opens the repository in store, which it doesn't close.
// It returns ErrNoRepository or ErrFormat.
func Open(ctx context.Context, store storage.Store, opts Options) (*Repo, error) {
	c, err := openConfig(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", store.URL(), err)
	}
	cpus := runtime.GOMAXPROCS(0)
	fetches := max(maxFetches, cpus)
	r := &Repo{
		store: store, config: c, opts: opts,
		fetches: make(chan struct{}, fetches), opens: make(chan struct{}, max(2, cpus)),
		// All are for the largest: memory that grows leaves twice of it to the collector.
		sealed: newSpares(SegmentSize+64<<10, fetches), contents: newSpares(SegmentSize+decoderSpare, fetches),
		content: newContentCache(opts.CacheSize),
	}
	level := map[Level]zstd.EncoderLevel{Fastest: zstd.SpeedFastest, Default: zstd.SpeedDefault, Better: zstd.SpeedBetterCompression}[opts.Level]
	r.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithWindowSize(frameSize), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	r.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(2*SegmentSize), zstd.WithDecoderMaxWindow(SegmentSize))
	return r, err
}

func parseConfig(b []byte) (c Config, err error) {
	var v struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return c, fmt.Errorf("%s: %w", configKey, errors.Join(ErrCorrupt, err))
	}
	if v.Format != Format {
		return c, fmt.Errorf("%w: version %d, this program reads version %d; use a newer slipcover", ErrFormat, v.Format, Format)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("%s: %w", configKey, errors.Join(ErrCorrupt, err))
	}
	// The id is part of paths in a node's state directory.
	if id, err := uuid.Parse(c.ID); err != nil || id.String() != c.ID || c.Encryption != "age" && c.Encryption != "none" || c.Encrypted() != (len(c.Recipients) > 0) {
		return c, fmt.Errorf("%s: %w: id, encryption and recipients don't fit", configKey, ErrCorrupt)
	}
	if _, err := parseRecipients(c.Recipients); err != nil {
		return c, fmt.Errorf("%s: %w", configKey, errors.Join(ErrCorrupt, err))
	}
	return c, nil
}

// Config returns the root object's content.
func (r *Repo) Config() Config { return r.config }

// URL returns where the repository is, without secrets.
func (r *Repo) URL() string { return r.store.URL() }

// ending is what names of compressed objects end with.
func (r *Repo) ending() string {
	if r.config.Encrypted() {
		return ".zst.age"
	}
	return ".zst"
}

// readObject reads an object whole, and refuses one of more than limit bytes. It
// asks for all of it and not for a range, so that the storage's checksum counts:
// bytes that change on the way are then read again.
func readObject(ctx context.Context, store storage.Store, key storage.Key, limit int64) ([]byte, error) {
	var b []byte
	err := store.Get(ctx, key, 0, -1, func(rd io.Reader) error {
		var err error
		b, err = io.ReadAll(io.LimitReader(rd, limit+1))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: %w: more than the %d bytes it should have", key, ErrCorrupt, limit)
	}
	return b, nil
}

// readInto reads an object of size bytes into b as readObject does. b may be used
// again.
func readInto(ctx context.Context, b *bytes.Buffer, store storage.Store, key storage.Key, size int64) error {
	err := store.Get(ctx, key, 0, -1, func(rd io.Reader) error {
		b.Reset()                                            // a try before may have begun
		if n := int(size) + 1 + bytes.MinRead; b.Cap() < n { // Grow would make it twice as large as it was
			*b = *bytes.NewBuffer(make([]byte, 0, n))
		}
		_, err := b.ReadFrom(io.LimitReader(rd, size+1))
		return err
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if int64(b.Len()) > size {
		return fmt.Errorf("read %s: %w: more than the %d bytes it should have", key, ErrCorrupt, size)
	}
	return nil
}

func parseRecipients(list []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, s := range list {
		rs, err := age.ParseRecipients(strings.NewReader(s))
		if err != nil {
			return nil, fmt.Errorf("age recipient %q: %w", s, err)
		}
		out = append(out, rs...)
	}
	return out, nil
}
