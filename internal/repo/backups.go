package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/newest"
	"github.com/slipcover/slipcover/internal/storage"
)

// maxManifest bounds a stored manifest, and its content, in bytes.
const maxManifest = 4 << 30

// parallelReads is how many small objects are read at once.
const parallelReads = 16

// recordName names the object that makes a backup. One of no bytes says that the
// backup was given up: no record can be put there any more (see Lock).
const (
	recordName   = "record.jsonl"
	manifestName = "manifest.json" // and an ending
)

// errGivenUp is an ErrNotExist of a record that there will never be.
var errGivenUp = fmt.Errorf("the backup was given up: %w", storage.ErrNotExist)

func backupKey(instance string, id manifest.BackupID, name string) storage.Key {
	return storage.Key(fmt.Sprintf("backups/%s/%s/%s", instance, id, name))
}

func (r *Repo) manifestKey(instance string, id manifest.BackupID) storage.Key {
	return backupKey(instance, id, manifestName+r.ending())
}

// signature is the second line of a record object.
type signature struct {
	Writer    string `json:"writer"`    // Ed25519 public key, base64
	Signature string `json:"signature"` // over the bytes of the first line without its newline, base64
}

// Commit makes a backup out of m: it checks that every segment m refers to is
// stored with its size, writes the manifest, and then, as the step that counts,
// the signed record. The caller holds lock.
func (r *Repo) Commit(ctx context.Context, lock *Lock, m *manifest.Manifest, key *WriteKey, signer ed25519.PrivateKey) (*manifest.Record, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	m.FileCount, m.LeftOutCount, m.DamageCount = len(m.Files), len(m.LeftOut), len(m.Damage)
	parent, err := r.parentOf(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := r.checkSegments(ctx, m, parent); err != nil {
		return nil, err
	}
	until, err := r.retained(ctx, m, parent)
	if err != nil {
		return nil, err
	}
	if err := lock.Check(ctx); err != nil {
		return nil, err
	}
	body, err := r.sealManifest(ctx, m, key)
	if err != nil {
		return nil, fmt.Errorf("seal manifest: %w", err)
	}
	sum := sha256.Sum256(body)
	m.StoredBytes += int64(len(body))
	rec := &manifest.Record{Format: manifest.Format, Summary: m.Summary, ManifestSHA256: hex.EncodeToString(sum[:]), ManifestSize: int64(len(body)), RetainUntil: until, Order: lock.nextOrder(parent, m.Started)}
	if rec.Segments, rec.Shipped = m.Refs(); len(rec.Shipped) > 0 {
		rec.Format = manifest.ShippedRecord
	}
	sumUp(rec, m)
	rec.NewGenerations = newGenerations(m)
	if r.config.Encrypted() {
		rec.InstanceRecipient = key.recipient.String()
	}
	text, err := signed(rec, signer)
	if err != nil {
		return nil, err
	}
	absent := storage.PutOptions{IfAbsent: true, RetainUntil: r.opts.RetainUntil}
	if err := r.store.Put(ctx, r.manifestKey(m.Instance, m.ID), bytes.NewReader(body), absent); err != nil {
		return nil, fmt.Errorf("store manifest: %w", err)
	}
	err = r.store.Put(ctx, backupKey(m.Instance, m.ID, recordName), bytes.NewReader(text), absent)
	if errors.Is(err, storage.ErrExist) {
		return nil, fmt.Errorf("no backup was made: %w, which gave this backup up", ErrLockLost)
	}
	if err != nil {
		return nil, fmt.Errorf("store record: %w", err)
	}
	lock.knows(rec)
	lock.made.Store(true)
	return rec, nil
}

// newGenerations counts the databases' files that m was the first to name: names of generations begin with the
// backup or chain that gave them.
func newGenerations(m *manifest.Manifest) *int {
	n := 0
	for _, f := range m.Files {
		if (f.Kind == manifest.Shard || f.Kind == manifest.System) && strings.HasPrefix(f.Generation, string(m.ID)+"-") {
			n++
		}
	}
	return &n
}

// parentOf returns the record of m's parent, nil if there is none (any more).
func (r *Repo) parentOf(ctx context.Context, m *manifest.Manifest) (*manifest.Record, error) {
	if m.Parent == "" {
		return nil, nil
	}
	parent, err := r.Record(ctx, m.Instance, m.Parent)
	if errors.Is(err, ErrNoBackup) {
		return nil, nil
	}
	return parent, err
}

// checkSegments returns an error with a name if a segment of m isn't stored with
// its size. The listing answers for segments of this run and of the parent, which
// is there and can't be deleted meanwhile; others, which an interrupted run left,
// may have been deleted after all, and are asked for one by one.
func (r *Repo) checkSegments(ctx context.Context, m *manifest.Manifest, parent *manifest.Record) error {
	taken := namedBy(parent)
	sizes, err := r.stored(ctx, m.Instance, m.Segments, func(s SegmentID) bool { return s.Backup == m.ID || taken(s) })
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	for i, s := range m.Segments {
		if sizes[i] != s.Size {
			return fmt.Errorf("commit: segment %s: %w: %d bytes stored, not %d", idOf(s), ErrCorrupt, sizes[i], s.Size)
		}
	}
	return nil
}

// Stored tells of each segment whether it is stored with its size.
func (r *Repo) Stored(ctx context.Context, instance string, segments []manifest.Segment) ([]bool, error) {
	sizes, err := r.stored(ctx, instance, segments, func(SegmentID) bool { return true })
	if err != nil {
		return nil, err
	}
	out := make([]bool, len(segments))
	for i, s := range segments {
		out[i] = sizes[i] == s.Size
	}
	return out, nil
}

// stored returns the size in bytes of each segment, -1 if it isn't there. The
// listing is believed only of what it shows, and only of segments that believed
// tells: it may be late.
func (r *Repo) stored(ctx context.Context, instance string, segments []manifest.Segment, believed func(SegmentID) bool) ([]int64, error) {
	listed, err := r.Segments(ctx, instance)
	if err == nil && slices.ContainsFunc(segments, func(s manifest.Segment) bool { return s.Key != "" }) {
		err = r.addShipped(ctx, instance, listed)
	}
	if err != nil {
		return nil, err
	}
	return r.sizesOf(ctx, instance, segments, listed, believed)
}

// sizesOf is stored with the listing that it goes by.
func (r *Repo) sizesOf(ctx context.Context, instance string, segments []manifest.Segment, listed map[SegmentID]int64, believed func(SegmentID) bool) ([]int64, error) {
	sizes := make([]int64, len(segments))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	for i, s := range segments {
		id := idOf(s)
		if size, ok := listed[id]; ok && believed(id) {
			sizes[i] = size
			continue
		}
		g.Go(func() error {
			info, err := r.store.Stat(ctx, r.segmentOf(instance, s))
			if errors.Is(err, storage.ErrNotExist) {
				info.Size, err = -1, nil
			}
			sizes[i] = info.Size
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("look for segments: %w", err)
	}
	return sizes, nil
}

// SegmentID names a segment within its instance.
type SegmentID struct {
	Backup manifest.BackupID
	N      int
	Key    string // of an object of a chain, as in a manifest.Segment
}

// String names it as the sums of a record do.
func (s SegmentID) String() string {
	if s.Key != "" {
		return s.Key
	}
	return fmt.Sprintf("%s/%d", s.Backup, s.N)
}

func idOf(s manifest.Segment) SegmentID { return SegmentID{s.Backup, s.N, s.Key} }

// shippedID is the id of an object of a chain by its name.
func shippedID(name string) SegmentID {
	chain, _, _ := strings.Cut(name, "/")
	return SegmentID{Backup: manifest.BackupID(chain), Key: name}
}

// keyOf returns the key of a segment.
func (r *Repo) keyOf(instance string, s SegmentID) storage.Key {
	return r.segmentOf(instance, manifest.Segment{Backup: s.Backup, N: s.N, Key: s.Key})
}

// storedOf returns the size in bytes of each segment that is stored for the instance, and of the objects of chains if one
// of recs names some.
func (r *Repo) storedOf(ctx context.Context, instance string, recs ...*manifest.Record) (map[SegmentID]int64, error) {
	out, err := r.Segments(ctx, instance)
	if err == nil && slices.ContainsFunc(recs, func(rec *manifest.Record) bool { return len(rec.Shipped) > 0 }) {
		err = r.addShipped(ctx, instance, out)
	}
	return out, err
}

// addShipped adds the sizes of the objects of chains that are stored.
func (r *Repo) addShipped(ctx context.Context, instance string, to map[SegmentID]int64) error {
	list, err := r.Shipped(ctx, instance)
	for _, o := range list {
		to[shippedID(o.String())] = o.Size
	}
	return err
}

// checkKeys checks the names of objects of chains among segments.
func checkKeys(segments []manifest.Segment) error {
	for _, s := range segments {
		if s.Key == "" {
			continue
		}
		if n, ok := ParseShipName(s.Key); !ok || n.Chain != s.Backup || s.N != 0 {
			return fmt.Errorf("%w: an object of a chain named %q", ErrCorrupt, s.Key)
		}
	}
	return nil
}

// Segments returns size in bytes of each segment stored for the instance.
func (r *Repo) Segments(ctx context.Context, instance string) (map[SegmentID]int64, error) {
	out := map[SegmentID]int64{}
	prefix := "segments/" + instance + "/"
	err := r.store.List(ctx, prefix, func(i storage.Info) error {
		var id manifest.BackupID
		id36, rest, _ := strings.Cut(strings.TrimPrefix(string(i.Key), prefix), "/")
		id = manifest.BackupID(id36)
		var n int
		if _, err := fmt.Sscanf(rest, "%d.", &n); err == nil && r.segmentKey(instance, id, n) == i.Key {
			out[SegmentID{Backup: id, N: n}] = i.Size
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list segments: %w", err)
	}
	return out, nil
}

// sealManifest returns the object of m. It is the last look whether someone will
// be able to open what was encrypted to key.
func (r *Repo) sealManifest(ctx context.Context, m *manifest.Manifest, key *WriteKey) ([]byte, error) {
	if err := r.checkWrapped(ctx, m.Instance, key); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e, err := r.encrypt(&out, key)
	if err != nil {
		return nil, err
	}
	packed := &counted{w: e}
	// Two, so that text is made while what was made before is compressed.
	z, err := zstd.NewWriter(packed, zstd.WithEncoderConcurrency(2), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	text := &counted{w: z}
	err = errors.Join(manifest.Encode(text, m), z.Close(), pad(packed, text.n), e.Close())
	return out.Bytes(), err
}

// signed returns v as a line of JSON, and a line with its signature.
func signed(v any, key ed25519.PrivateKey) ([]byte, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	b64 := base64.StdEncoding.EncodeToString
	sig, err := json.Marshal(signature{Writer: b64(key.Public().(ed25519.PublicKey)), Signature: b64(ed25519.Sign(key, line))})
	if err != nil {
		return nil, err
	}
	return slices.Concat(line, []byte("\n"), sig, []byte("\n")), nil
}

// verifyRecord checks the signature and returns the record.
func (r *Repo) verifyRecord(text []byte) (*manifest.Record, error) {
	line, writer, err := r.verifySigned(text)
	if err != nil {
		return nil, err
	}
	return parseRecord(line, writer)
}

// verifySigned checks what signed made and returns the line, and who signed it: one of the
// trusted writers, if there are some.
func (r *Repo) verifySigned(text []byte) (line []byte, writer string, err error) {
	lines := bytes.SplitN(text, []byte("\n"), 4)
	if len(lines) != 3 || len(lines[2]) != 0 {
		return nil, "", fmt.Errorf("%w: it doesn't have two lines", ErrCorrupt)
	}
	var sig signature
	if err := json.Unmarshal(lines[1], &sig); err != nil {
		return nil, "", errors.Join(ErrCorrupt, err)
	}
	key, err1 := base64.StdEncoding.DecodeString(sig.Writer)
	raw, err2 := base64.StdEncoding.DecodeString(sig.Signature)
	if err1 != nil || err2 != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, lines[0], raw) {
		return nil, "", ErrSignature
	}
	if t := r.opts.TrustedWriters; len(t) > 0 && !slices.Contains(t, sig.Writer) {
		return nil, "", fmt.Errorf("%w: writer %s is not among trusted_writers", ErrSignature, sig.Writer)
	}
	return lines[0], sig.Writer, nil
}

func parseRecord(line []byte, writer string) (*manifest.Record, error) {
	rec := &manifest.Record{}
	if err := json.Unmarshal(line, rec); err != nil {
		return nil, errors.Join(ErrCorrupt, err)
	}
	if rec.Format != manifest.Format && rec.Format != manifest.ShippedRecord || rec.Format < manifest.ShippedRecord && len(rec.Shipped) > 0 {
		return nil, fmt.Errorf("%w: record of format %d", ErrFormat, rec.Format)
	}
	if err := checkRanges(rec.Segments); err != nil {
		return nil, err
	}
	for i, name := range rec.Shipped {
		if _, ok := ParseShipName(name); !ok || i > 0 && name <= rec.Shipped[i-1] {
			return nil, fmt.Errorf("%w: it names %q as an object of a chain", ErrCorrupt, name)
		}
	}
	rec.Writer = writer
	return rec, nil
}

// checkRanges checks ranges of segments: each list ascends and names none twice.
func checkRanges(refs map[manifest.BackupID][]manifest.Range) error {
	for _, ranges := range refs {
		next := 0
		for _, g := range ranges {
			if g[0] < next || g[1] < g[0] || g[1] > 1<<30 {
				return fmt.Errorf("%w: segments %v", ErrCorrupt, g)
			}
			next = g[1] + 1
		}
	}
	return nil
}

// Record returns the record of the backup with that id, or ErrNoBackup. It doesn't
// depend on a listing.
func (r *Repo) Record(ctx context.Context, instance string, id manifest.BackupID) (*manifest.Record, error) {
	rec, err := r.readRecord(ctx, instance, id)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoBackup, id)
	}
	return rec, err
}

// CheckNewID returns ErrIDUsed if anything is stored under an id: a backup, the empty
// record of one that was given up, or what an attempt left that ended early. The caller
// holds the lock for that id, so that nobody else gives it up from now on.
func (r *Repo) CheckNewID(ctx context.Context, instance string, id manifest.BackupID) error {
	for what, key := range map[string]storage.Key{
		"there is a record of it, or it was given up": backupKey(instance, id, recordName),
		"there is a manifest of it":                   r.manifestKey(instance, id),
	} {
		_, err := r.store.Stat(ctx, key)
		if err == nil {
			return fmt.Errorf("%w: %s (%s)", ErrIDUsed, what, id)
		}
		if !errors.Is(err, storage.ErrNotExist) {
			return fmt.Errorf("look for backup %s: %w", id, err)
		}
	}
	return r.store.List(ctx, fmt.Sprintf("segments/%s/%s/", instance, id), func(i storage.Info) error {
		return fmt.Errorf("%w: there are segments of it (%s)", ErrIDUsed, id)
	})
}

// readRecord reads a backup's record and holds it against where it was found.
func (r *Repo) readRecord(ctx context.Context, instance string, id manifest.BackupID) (*manifest.Record, error) {
	key := backupKey(instance, id, recordName)
	text, err := readObject(ctx, r.store, key, maxRecord)
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, errGivenUp
	}
	rec, err := r.verifyRecord(text)
	if err == nil && (rec.ID != id || rec.Instance != instance) {
		err = fmt.Errorf("%w: it is the record of %s/%s", ErrCorrupt, rec.Instance, rec.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return rec, nil
}

// BadRecord is a backup whose record can't be used.
type BadRecord struct {
	Instance string
	ID       manifest.BackupID
	Err      error
}

// listing is what the keys below backups/ say.
type listing struct {
	instance string
	id       manifest.BackupID
	manifest bool
	size     int64 // of the manifest's object
	record   bool  // there is a record
	givenUp  bool  // an empty one
	pin      bool
	verified bool
}

func (r *Repo) listBackups(ctx context.Context, instance string) ([]listing, error) {
	prefix := "backups/"
	if instance != "" {
		prefix += instance + "/"
	}
	var out []listing
	err := r.store.List(ctx, prefix, func(i storage.Info) error {
		p := strings.Split(string(i.Key), "/")
		if len(p) != 4 || !manifest.ValidInstance(p[1]) || !manifest.BackupID(p[2]).Valid() {
			return nil
		}
		if k := len(out); k == 0 || out[k-1].instance != p[1] || string(out[k-1].id) != p[2] {
			out = append(out, listing{instance: p[1], id: manifest.BackupID(p[2])})
		}
		l := &out[len(out)-1]
		switch p[3] {
		case recordName:
			l.record, l.givenUp = i.Size > 0, i.Size == 0
		case manifestName + r.ending():
			l.manifest, l.size = true, i.Size
		case pinName:
			l.pin = true
		case verifiedName:
			l.verified = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	return out, nil
}

// Instances returns the instances that the repository has anything of, sorted.
// Whoever writes for one takes its lock first, and locks are few.
func (r *Repo) Instances(ctx context.Context) ([]string, error) {
	seen := map[string]bool{}
	for _, prefix := range []string{"backups/", "locks/"} {
		err := r.store.List(ctx, prefix, func(i storage.Info) error {
			if name, _, ok := strings.Cut(strings.TrimPrefix(string(i.Key), prefix), "/"); ok && manifest.ValidInstance(name) {
				seen[name] = true
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list instances: %w", err)
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// Known returns the instances that the repository has anything of, also if that is a key
// alone, sorted.
func (r *Repo) Known(ctx context.Context) ([]string, error) {
	names, err := r.Instances(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := r.instanceKeys(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.wrapped && !k.destroyed {
			names = append(names, k.instance)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Missing returns ErrNoBackup, with the instances that are there, if the repository has
// nothing of an instance.
func (r *Repo) Missing(ctx context.Context, instance string) error {
	known, err := r.Known(ctx)
	if err != nil || slices.Contains(known, instance) {
		return err
	}
	if len(known) == 0 {
		return fmt.Errorf("%w: nothing of %s is here, nor of any other instance", ErrNoBackup, instance)
	}
	return fmt.Errorf("%w: nothing of %s is here; instances here: %s", ErrNoBackup, instance, strings.Join(known, ", "))
}

// List returns the backups of an instance, or of all for "", oldest first by the order
// that they were made in (see package newest), and those whose record is damaged or not to be trusted.
func (r *Repo) List(ctx context.Context, instance string) ([]*manifest.Record, []BadRecord, error) {
	found, err := r.listBackups(ctx, instance)
	if err != nil {
		return nil, nil, err
	}
	found = slices.DeleteFunc(found, func(l listing) bool { return !l.record })
	return r.readRecords(ctx, found)
}

func (r *Repo) readRecords(ctx context.Context, found []listing) (recs []*manifest.Record, bad []BadRecord, err error) {
	var mu sync.Mutex // guards recs and bad
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	for _, l := range found {
		g.Go(func() error {
			rec, err := r.readRecord(ctx, l.instance, l.id)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				recs = append(recs, rec)
			case errors.Is(err, ErrCorrupt) || errors.Is(err, ErrSignature) || errors.Is(err, ErrFormat):
				bad = append(bad, BadRecord{l.instance, l.id, err})
			case !errors.Is(err, storage.ErrNotExist): // deleted since it was listed
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	newest.Sort(recs, OrderOf)
	slices.SortFunc(bad, func(a, b BadRecord) int { return cmp.Compare(a.ID, b.ID) })
	return recs, bad, nil
}

// Latest stands for the newest backup in Find.
const Latest = "latest"

// Find returns the backup that ref names: an id, its beginning or end of 4
// characters or more, a name (the newest of that name), or "latest". instance
// may be "" where that leaves one answer; "latest" of several instances, and a part of
// several ids, are ErrAmbiguous. It returns ErrNoBackup.
func (r *Repo) Find(ctx context.Context, instance, ref string) (*manifest.Record, error) {
	recs, bad, err := r.List(ctx, instance)
	if err != nil {
		return nil, err
	}
	rec, err := find(recs, ref)
	for _, b := range bad {
		if errors.Is(err, ErrNoBackup) && string(b.ID) == ref {
			return nil, b.Err
		}
	}
	if errors.Is(err, ErrNoBackup) && instance != "" {
		return nil, cmp.Or(r.Missing(ctx, instance), err)
	}
	return rec, err
}

func find(recs []*manifest.Record, ref string) (*manifest.Record, error) {
	var match []*manifest.Record
	exact := func(rec *manifest.Record) bool { return string(rec.ID) == ref }
	named := func(rec *manifest.Record) bool { return rec.Name == ref || ref == Latest }
	part := func(rec *manifest.Record) bool {
		return len(ref) >= 4 && (strings.HasPrefix(string(rec.ID), ref) || strings.HasSuffix(string(rec.ID), ref))
	}
	byPart := false
	for i, test := range []func(*manifest.Record) bool{exact, named, part} {
		byPart = i == 2
		for _, rec := range recs {
			if test(rec) {
				match = append(match, rec)
			}
		}
		if len(match) > 0 {
			break
		}
	}
	if len(match) == 0 {
		return nil, fmt.Errorf("%w: %q; `slipcover backup list` shows them", ErrNoBackup, ref)
	}
	last := match[len(match)-1]
	for _, rec := range match[:len(match)-1] {
		if rec.Instance != last.Instance {
			return nil, fmt.Errorf("%w: %q is in instances %s and %s; pass --instance", ErrAmbiguous, ref, rec.Instance, last.Instance)
		}
		if byPart {
			return nil, fmt.Errorf("%w: %q fits %s and %s", ErrAmbiguous, ref, rec.ID, last.ID)
		}
	}
	return last, nil
}

// sealedManifest reads the object of rec's manifest, which must have the hash that rec
// gives.
func (r *Repo) sealedManifest(ctx context.Context, rec *manifest.Record) ([]byte, error) {
	if rec.ManifestSize > maxManifest {
		return nil, fmt.Errorf("%w: a manifest of %d bytes", ErrCorrupt, rec.ManifestSize)
	}
	return r.readHashed(ctx, r.manifestKey(rec.Instance, rec.ID), rec.ManifestSize, rec.ManifestSHA256)
}

// Manifest reads the manifest of rec, which must have the hash that rec gives.
func (r *Repo) Manifest(ctx context.Context, rec *manifest.Record) (*manifest.Manifest, error) {
	return r.readManifest(ctx, rec, nil)
}

// partOf reads some of the files of rec's manifest, which must have the hash that rec gives. It is not for who writes
// a manifest, or counts what is in it.
func (r *Repo) partOf(ctx context.Context, rec *manifest.Record, p manifest.Part) (*manifest.Manifest, error) {
	m, err := r.readManifest(ctx, rec, &p)
	if errors.Is(err, manifest.ErrNotLines) {
		m, err = r.readManifest(ctx, rec, nil)
		if err == nil {
			m.Files = slices.DeleteFunc(m.Files, func(f *manifest.File) bool { return !p.Wanted(f) })
		}
	}
	return m, err
}

// readManifest reads rec's manifest, or that part of it.
func (r *Repo) readManifest(ctx context.Context, rec *manifest.Record, part *manifest.Part) (*manifest.Manifest, error) {
	b, err := r.sealedManifest(ctx, rec)
	if err != nil {
		return nil, err
	}
	m, err := r.openManifest(ctx, rec, b, part)
	if err == nil && (m.ID != rec.ID || m.Instance != rec.Instance) {
		err = fmt.Errorf("%w: it is the manifest of %s/%s", ErrCorrupt, m.Instance, m.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.manifestKey(rec.Instance, rec.ID), err)
	}
	m.StoredBytes = rec.StoredBytes
	return m, nil
}

// openManifest opens b, the object of rec's manifest, or that part of it.
func (r *Repo) openManifest(ctx context.Context, rec *manifest.Record, b []byte, part *manifest.Part) (m *manifest.Manifest, err error) {
	src := io.Reader(bytes.NewReader(b))
	if r.config.Encrypted() {
		if src, err = r.decrypt(ctx, rec.Instance, b); err != nil {
			return nil, err
		}
	}
	z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	text := &bounded{z, manifestBound(int64(len(b))) + 1}
	if part == nil {
		m, err = manifest.Decode(text, rec.Counts())
	} else {
		m, err = manifest.DecodePart(text, rec.Counts(), *part)
	}
	if err != nil {
		return nil, errors.Join(ErrCorrupt, err)
	}
	return m, checkKeys(m.Segments)
}
