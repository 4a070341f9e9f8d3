package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// ErrMixed says that of two repositories one is encrypted and the other is not.
var ErrMixed = errors.New("backups are copied as they are stored, and only one of the two repositories is encrypted")

// ErrSame says that two repositories have the same id.
var ErrSame = errors.New("source and destination are the same repository")

// ErrDirect says that a backup is encrypted to the recipients of its repository
// themselves, as the first versions did: others could not read a copy.
var ErrDirect = errors.New("a backup of the first versions can only be copied to a repository with the same recipients")

// copiedAtOnce is how many segments are copied at once, each of them in memory:
// together some 64 MiB at most.
const copiedAtOnce = 8

// CopyOptions are the options of Copy.
type CopyOptions struct {
	// Readers are recipients of the destination who may read what they can't read in
	// the source (see CopyKeys).
	Readers  []string
	Progress *CopyProgress // counters; may be nil
}

// CopyProgress counts what copies do; others may read it at any time.
type CopyProgress struct {
	Bytes atomic.Int64 // of the segments of the backups begun
	Done  atomic.Int64 // of those, what is in the destination
	Sent  atomic.Int64 // of those, what was not there before
}

// CopyResult is what Copy did, in segments.
type CopyResult struct {
	Already    bool  `json:"already"` // the backup was there: nothing was done
	Sent       int   `json:"sent"`
	SentBytes  int64 `json:"sent_bytes"`
	There      int   `json:"there"` // were there before, and are as large as in the source
	ThereBytes int64 `json:"there_bytes"`
	// Problems are sentences on what was wrong with keys in the destination, also if it
	// was put right.
	Problems []string `json:"problems,omitempty"`
}

// Copy copies the backup of rec from src to dst: the keys of its instance, the
// segments that dst lacks, the manifest, and last the record, whose bytes and
// signature stay as they are. Nothing is decrypted, so it needs no key, unless the
// repositories have different recipients. With a key that reads src each segment
// that is sent must have the hash that the manifest gives; without one, the size
// that it has in src. The manifest must have the record's hash in any case.
//
// It holds the lock of the instance in dst, and none in src: a backup that is
// deleted there meanwhile is ErrNoBackup. After an error dst has no such backup, but
// segments that the next try doesn't send again. The manifest and some segments are
// in memory. It returns ErrMixed, ErrSame, ErrDirect, ErrLocked, ErrCorrupt, what
// CopyKeys returns, or the storage's error.
func Copy(ctx context.Context, dst, src *Repo, rec *manifest.Record, opts CopyOptions) (CopyResult, error) {
	switch {
	case dst.config.Encrypted() != src.config.Encrypted():
		return CopyResult{}, fmt.Errorf("%w: make %s like %s", ErrMixed, dst.URL(), src.URL())
	case dst.config.ID == src.config.ID:
		return CopyResult{}, fmt.Errorf("%w: %s", ErrSame, dst.URL())
	}
	if opts.Progress == nil {
		opts.Progress = &CopyProgress{}
	}
	c := &copier{src: src, dst: dst, instance: rec.Instance, id: rec.ID, opts: opts}
	if err := c.readRecord(ctx); err != nil {
		return CopyResult{}, err
	}
	var err error
	if c.res.Already, err = c.stored(ctx); err != nil || c.res.Already {
		return c.res, err
	}
	lock, err := dst.Lock(ctx, c.instance, purposeCopy, c.id)
	if err != nil {
		return CopyResult{}, err
	}
	if err = c.run(ctx, lock); err == nil {
		lock.knows(c.rec)
	}
	if rerr := lock.End(ctx); err == nil {
		err = rerr
	}
	return c.res, err
}

// copier is one Copy.
type copier struct {
	src, dst *Repo
	instance string
	id       manifest.BackupID
	opts     CopyOptions

	rec  *manifest.Record // as it is in src
	text []byte           // of its object
	// For other recipients what is sent must be encrypted to the keys of the instance.
	// own are those, if src can be read; else since is when the first one was stored.
	own   []age.Identity
	since time.Time

	sent, sentBytes atomic.Int64
	res             CopyResult
}

func (c *copier) run(ctx context.Context, lock *Lock) error {
	if err := c.keys(ctx); err != nil {
		return err
	}
	list, body, err := c.segments(ctx)
	if err != nil {
		return err
	}
	todo, err := c.missing(ctx, list)
	if err != nil {
		return err
	}
	err = c.send(ctx, todo)
	c.res.Sent, c.res.SentBytes = int(c.sent.Load()), c.sentBytes.Load()
	if err != nil {
		return err
	}
	key := c.dst.manifestKey(c.instance, c.id)
	if err := c.put(ctx, key, body); err != nil {
		return fmt.Errorf("store manifest: %w", err)
	}
	if err := c.putRecord(ctx, lock); err != nil {
		return err
	}
	lock.made.Store(true)
	return nil
}

// readRecord reads the record in src, with its bytes.
func (c *copier) readRecord(ctx context.Context) error {
	key := backupKey(c.instance, c.id, recordName)
	text, err := readObject(ctx, c.src.store, key, maxRecord)
	if errors.Is(err, storage.ErrNotExist) || err == nil && len(text) == 0 {
		return fmt.Errorf("%w: %s", ErrNoBackup, c.id)
	}
	if err != nil {
		return err
	}
	rec, err := c.src.verifyRecord(text)
	if err == nil && (rec.ID != c.id || rec.Instance != c.instance) {
		err = fmt.Errorf("%w: it is the record of %s/%s", ErrCorrupt, rec.Instance, rec.ID)
	}
	if err == nil && rec.ManifestSize > maxManifest {
		err = fmt.Errorf("%w: a manifest of %d bytes", ErrCorrupt, rec.ManifestSize)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	c.rec, c.text = rec, text
	return nil
}

// stored reports whether dst has the record. Another one of that id is ErrCorrupt.
func (c *copier) stored(ctx context.Context) (bool, error) {
	key := backupKey(c.instance, c.id, recordName)
	text, err := readObject(ctx, c.dst.store, key, maxRecord)
	switch {
	case errors.Is(err, storage.ErrNotExist) || err == nil && len(text) == 0:
		return false, nil
	case err != nil:
		return false, err
	case !bytes.Equal(text, c.text):
		return false, fmt.Errorf("%s: %w: it differs from that in %s; `slipcover check` of both says which is damaged", key, ErrCorrupt, c.src.URL())
	}
	return true, nil
}

// keySlack is how much older than its key a backup may be: the id is made first,
// then the lock is taken, and the storage's clock dates the key.
const keySlack = 15 * time.Minute

// keys copies the keys of the instance. For other recipients these must open all
// of the backup: what is encrypted to those of src directly, they don't.
func (c *copier) keys(ctx context.Context) error {
	if !c.src.config.Encrypted() {
		return nil
	}
	if err := c.dst.CopyKeys(ctx, c.src, c.instance, c.opts.Readers); err != nil {
		return err
	}
	var err error
	if _, c.res.Problems, err = c.dst.healKeys(ctx, c.instance, nil); err != nil {
		return err
	}
	if retainer, until := c.protection(); !until.IsZero() {
		if err := c.dst.keepKeys(ctx, c.instance, retainer, until); err != nil {
			return err
		}
	}
	if recipientsDiffer(c.dst.config.Recipients, c.src.config.Recipients) == "" {
		return nil
	}
	if !c.src.CanRead() {
		return c.oldestKey(ctx)
	}
	given, err := c.src.identities(ctx)
	if err != nil {
		return err
	}
	if c.own, err = c.src.openInstance(ctx, c.instance, given); err != nil {
		return err
	}
	if len(c.own) == 0 {
		return c.errDirect()
	}
	return nil
}

// oldestKey finds out since when the instance has keys.
func (c *copier) oldestKey(ctx context.Context) error {
	keys, err := c.src.instanceKeys(ctx, c.instance)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.wrapped && (c.since.IsZero() || k.modified.Before(c.since)) {
			c.since = k.modified
		}
	}
	if c.since.IsZero() {
		return c.errDirect()
	}
	return nil
}

func (c *copier) errDirect() error {
	return fmt.Errorf("%w: %s is encrypted to those of %s themselves", ErrDirect, c.id, c.src.URL())
}

// opens returns an error unless the keys of the instance open an object of a
// backup, where that matters. Without them all that can be told is whether it was
// stored before they were.
func (c *copier) opens(key storage.Key, id manifest.BackupID, b []byte) error {
	if !c.since.IsZero() && id.Time().Before(c.since.Add(-keySlack)) {
		return fmt.Errorf("%s is older than the keys of instance %s, and may not be encrypted to them: %w, to see whether other recipients can have it; pass --identity FILE", key, c.instance, ErrNoKey)
	}
	if c.own == nil {
		return nil
	}
	_, err := age.Decrypt(bytes.NewReader(b), c.own...)
	if isNoMatch(err) {
		return c.errDirect()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, errors.Join(ErrCorrupt, err))
	}
	return nil
}

// segments returns the segments of the backup, with their sizes and, if src can be
// read, their hashes, and the manifest's object.
func (c *copier) segments(ctx context.Context) ([]manifest.Segment, []byte, error) {
	key := c.src.manifestKey(c.instance, c.id)
	body, err := c.src.readHashed(ctx, key, c.rec.ManifestSize, c.rec.ManifestSHA256)
	if err == nil {
		err = c.opens(key, c.id, body)
	}
	if err != nil {
		return nil, nil, c.gone(ctx, err)
	}
	if !c.src.CanRead() {
		list, err := c.sizes(ctx)
		return list, body, err
	}
	m, err := c.src.openManifest(ctx, c.rec, body, nil)
	if err == nil {
		segments, shipped := m.Refs()
		if !maps.EqualFunc(segments, c.rec.Segments, slices.Equal[[]manifest.Range]) || !slices.Equal(shipped, c.rec.Shipped) {
			err = fmt.Errorf("%w: it names other segments than the record", ErrCorrupt)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", key, err)
	}
	return m.Segments, body, nil
}

// sizes returns the segments that the record names, with the sizes they have in src.
func (c *copier) sizes(ctx context.Context) ([]manifest.Segment, error) {
	listed, err := c.src.storedOf(ctx, c.instance, c.rec)
	if err != nil {
		return nil, err
	}
	if n := c.rec.Counts().Segments; n > int64(len(listed))+maxUnlisted {
		return nil, fmt.Errorf("%w: the record of %s names %d segments, and all that are stored are %d", ErrCorrupt, c.id, n, len(listed))
	}
	var list []manifest.Segment
	for s := range eachOf(c.rec) {
		list = append(list, manifest.Segment{Backup: s.Backup, N: s.N, Key: s.Key})
	}
	slices.SortFunc(list, func(a, b manifest.Segment) int {
		return cmp.Or(strings.Compare(string(a.Backup), string(b.Backup)), a.N-b.N, strings.Compare(a.Key, b.Key))
	})
	sizes, err := c.src.sizesOf(ctx, c.instance, list, listed, func(SegmentID) bool { return true })
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Size = sizes[i]; sizes[i] < 0 {
			key := c.src.segmentOf(c.instance, list[i])
			return nil, c.gone(ctx, fmt.Errorf("%s: %w", key, storage.ErrNotExist))
		}
	}
	return list, nil
}

// gone tells why something isn't in src: the backup was deleted, or is damaged.
func (c *copier) gone(ctx context.Context, err error) error {
	if !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if _, rerr := c.src.readRecord(ctx, c.instance, c.id); errors.Is(rerr, storage.ErrNotExist) {
		return fmt.Errorf("%w: %s was deleted from %s while it was copied", ErrNoBackup, c.id, c.src.URL())
	}
	return errors.Join(ErrCorrupt, err)
}

// missing returns those of list that dst lacks. The listing is believed, as in
// Commit, for segments of a backup that is there and can't be deleted meanwhile.
func (c *copier) missing(ctx context.Context, list []manifest.Segment) ([]manifest.Segment, error) {
	believed := namedBy(nil)
	if c.rec.Parent != "" {
		if parent, err := c.dst.Record(ctx, c.instance, c.rec.Parent); err == nil { // else each is asked for
			believed = namedBy(parent)
		}
	}
	sizes, err := c.dst.stored(ctx, c.instance, list, believed)
	if err != nil {
		return nil, err
	}
	var todo []manifest.Segment
	var there []storage.Key
	for i, s := range list {
		key := c.dst.segmentOf(c.instance, s)
		if s.Size <= 0 || s.Size > 2*SegmentSize {
			return nil, fmt.Errorf("%s: %w: %d stored bytes", key, ErrCorrupt, s.Size)
		}
		c.opts.Progress.Bytes.Add(s.Size)
		switch sizes[i] {
		case -1:
			todo = append(todo, s)
		case s.Size:
			there = append(there, key)
			c.res.There++
			c.res.ThereBytes += s.Size
			c.opts.Progress.Done.Add(s.Size)
		default:
			return nil, c.errOther(key, sizes[i], s.Size)
		}
	}
	return todo, c.retain(ctx, there...)
}

// retain prolongs the protection of objects that dst has, where its storage can
// protect and this process was told until when.
func (c *copier) retain(ctx context.Context, keys ...storage.Key) error {
	retainer, until := c.protection()
	if until.IsZero() {
		return nil
	}
	return retainAll(ctx, retainer, until, keys)
}

// protection returns until when dst shall protect what is copied; zero where its
// storage can't.
func (c *copier) protection() (storage.Retainer, time.Time) {
	retainer, ok := c.dst.store.(storage.Retainer)
	if !ok {
		return nil, time.Time{}
	}
	return retainer, c.dst.opts.RetainUntil
}

// absent are the options of what is copied.
func (c *copier) absent() storage.PutOptions {
	_, until := c.protection()
	return storage.PutOptions{IfAbsent: true, RetainUntil: until}
}

func (c *copier) errOther(key storage.Key, got, want int64) error {
	return fmt.Errorf("%s: %w: %s has %d bytes of it, and %s has %d", key, ErrCorrupt, c.dst.URL(), got, c.src.URL(), want)
}

// send copies segments, several at once.
func (c *copier) send(ctx context.Context, todo []manifest.Segment) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(copiedAtOnce, len(todo)) {
		g.Go(func() error {
			var buf bytes.Buffer
			for {
				i := int(next.Add(1)) - 1
				if i >= len(todo) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				if err := c.sendOne(ctx, &buf, todo[i]); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

func (c *copier) sendOne(ctx context.Context, buf *bytes.Buffer, s manifest.Segment) error {
	key := c.src.segmentOf(c.instance, s)
	if need := int(s.Size) + 1 + bytes.MinRead; buf.Cap() < need {
		*buf = *bytes.NewBuffer(make([]byte, 0, need)) // to grow would double it
	}
	if err := readInto(ctx, buf, c.src.store, key, s.Size); err != nil {
		return c.gone(ctx, err)
	}
	var err error
	switch {
	case s.SHA256 != "":
		err = sameHash(buf.Bytes(), key, s.Size, s.SHA256)
	case int64(buf.Len()) != s.Size:
		err = fmt.Errorf("%s: %w: %d of its %d bytes came", key, ErrCorrupt, buf.Len(), s.Size)
	}
	if err == nil {
		err = c.opens(key, s.Backup, buf.Bytes())
	}
	if err != nil {
		return err
	}
	if err := c.put(ctx, key, buf.Bytes()); err != nil {
		return fmt.Errorf("store segment: %w", err)
	}
	c.sent.Add(1)
	c.sentBytes.Add(s.Size)
	c.opts.Progress.Done.Add(s.Size)
	c.opts.Progress.Sent.Add(s.Size)
	return nil
}

// put stores an object in dst, which another copy may just have stored.
func (c *copier) put(ctx context.Context, key storage.Key, b []byte) error {
	err := c.dst.store.Put(ctx, key, bytes.NewReader(b), c.absent())
	if !errors.Is(err, storage.ErrExist) {
		return err
	}
	info, err := c.dst.store.Stat(ctx, key)
	if err == nil && info.Size != int64(len(b)) {
		err = c.errOther(key, info.Size, int64(len(b)))
	}
	if err != nil {
		return err
	}
	return c.retain(ctx, key)
}

// putRecord makes the copy count. A copy that didn't end may have left an empty
// record (see Lock.settle). It goes only now, when all that a record of this backup
// names is there, whoever puts it; and before the look at the lock, so that the
// empty record of who takes the lock over after that look stays, and stops this
// one. If the lock is lost, it may have been that of the new holder: it is put back.
func (c *copier) putRecord(ctx context.Context, lock *Lock) error {
	key := backupKey(c.instance, c.id, recordName)
	info, err := c.dst.store.Stat(ctx, key)
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	given := err == nil && info.Size == 0
	if given {
		if err := c.dst.store.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove what a copy left that did not end: %w", err)
		}
	}
	if err := lock.Check(ctx); err != nil {
		if given {
			_ = c.dst.store.Put(ctx, key, bytes.NewReader(nil), storage.PutOptions{IfAbsent: true}) // the error that counts is err
		}
		return err
	}
	err = c.dst.store.Put(ctx, key, bytes.NewReader(c.text), c.absent())
	if errors.Is(err, storage.ErrExist) {
		there, err := c.stored(ctx)
		if err == nil && !there {
			err = fmt.Errorf("the backup was not copied: %w", ErrLockLost)
		}
		return err
	}
	if err != nil {
		return fmt.Errorf("store record: %w", err)
	}
	return nil
}

// IDs returns the ids of an instance's backups, sorted, which is not the order that they
// were made in (see package newest). It reads no record.
func (r *Repo) IDs(ctx context.Context, instance string) ([]manifest.BackupID, error) {
	found, err := r.listBackups(ctx, instance)
	if err != nil {
		return nil, err
	}
	var ids []manifest.BackupID
	for _, l := range found { // in the order of the keys, which end with the id
		if l.record {
			ids = append(ids, l.id)
		}
	}
	return ids, nil
}

// PinKey returns the pin of a node that writes an instance's objects with the key
// of that recipient, whose identity must be stored here (ErrKeyGone). Without
// encryption there is none.
func (r *Repo) PinKey(ctx context.Context, instance, recipient string) (*KeyPin, error) {
	if !r.config.Encrypted() {
		return nil, nil
	}
	keys, err := r.instanceKeys(ctx, instance)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(keys, func(k *instanceKey) bool { return k.recipient == recipient && k.wrapped })
	if i < 0 {
		return nil, fmt.Errorf("instance %s: %w", instance, ErrKeyGone)
	}
	w, err := r.readWrapping(ctx, keys[i])
	if err != nil {
		return nil, err
	}
	b := w.best()
	if b == nil {
		return nil, fmt.Errorf("%s %s: %w", w.key, w.fault(), ErrKeyGone)
	}
	return &KeyPin{URL: r.URL(), Recipients: r.config.Recipients, InstanceRecipient: recipient, WrappedSHA256: hashOf(b), Wrapped: string(b)}, nil
}
