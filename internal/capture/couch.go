package capture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
)

const (
	// readOnce is the size up to which a file is read into memory with one call, in bytes.
	// Its header, its root nodes and its proof would take some six.
	readOnce = 256 << 10
	// maxDamage bounds the findings recorded for one file.
	maxDamage = 1000
)

// takeCouch takes a .couch or .view file up to its newest header.
func (f *taking) takeCouch(ctx context.Context) error {
	raw, err := f.cut(ctx)
	if errors.Is(err, couchfile.ErrNoHeader) {
		return f.takeHeaderless(ctx)
	}
	if err != nil {
		return err
	}
	f.file = f.newFile()
	f.file.Size = raw.End
	if f.o.TrustHeader && f.isStored(raw) {
		f.takeOver()
		return nil
	}
	if f.file.Header, err = f.header(ctx, raw); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return f.takeForeign(ctx, raw, err)
	}
	f.sum = f.newPrefixHash(f.file.Size)
	if err := f.begin(ctx); err != nil {
		return err
	}
	if f.o.Examine || f.o.Scan {
		f.scan = couchfile.NewScanner(f.out.From)
	}
	from, err := f.replays(ctx, f.out.From)
	if err != nil {
		return err
	}
	if err := f.takeRange(ctx, from); err != nil {
		return err
	}
	f.out.Local.Unsound = f.scan != nil && len(f.scan.Anomalies()) > 0 || f.out.From > 0 && f.old.Local.Unsound
	look := f.o.Strict || f.o.Examine && (len(f.scan.Anomalies()) > 0 || f.old.Damaged)
	return f.finish(ctx, look)
}

// begin lets the file begin with what is stored of it, if it is that one grown; else it
// is a new generation.
func (f *taking) begin(ctx context.Context) (err error) {
	old := f.old.File
	if old != nil {
		if f.o.Judge != nil {
			for _, d := range f.o.Judge(f.file, old) {
				f.damaged(d)
			}
		}
		if f.out.From, err = f.prove(ctx); err != nil {
			return err
		}
	}
	if f.out.From == 0 {
		f.file.Generation, err = f.named(ctx)
		return err
	}
	f.file.Generation = old.Generation
	f.file.Extents = append(make([]manifest.Extent, 0, len(old.Extents)+1), old.Extents...)
	f.file.Replays = old.Replays
	f.out.Local.Known = f.old.Local.Known
	return nil
}

// named returns the name of a physical file of which nothing is stored: that by which others know it, or a new one.
func (f *taking) named(ctx context.Context) (string, error) {
	var known *Known
	if f.o.Named != nil {
		known = f.o.Named(f.name)
	}
	if known == nil || known.File.Generation == "" || known.File.Header == nil || !grown(known.File, f.file) ||
		f.old.File != nil && known.File.Generation == f.old.File.Generation { // it just proved not to be that one
		return f.o.Generation(), nil
	}
	same, err := sameHeader(f.src, known.File)
	if err == nil && same {
		sum := f.newPrefixHash(0)
		sum.resume(&known.Local)
		err = f.hashPrefix(ctx, sum, known.File.Size)
		same = hex.EncodeToString(sum.Sum(nil)) == known.File.SHA256
	}
	if err != nil || !same {
		return f.o.Generation(), err
	}
	return known.File.Generation, nil
}

// isStored reports whether the newest header is the one that is stored, of the same file.
func (f *taking) isStored(raw couchfile.RawHeader) bool {
	old, was, is := f.old.File, &f.old.Local, &f.out.Local
	if old == nil || old.Header == nil || f.old.Lost || f.old.Damaged || was.Dev != is.Dev || was.Ino != is.Ino {
		return false
	}
	sum := sha256.Sum256(raw.Raw)
	return old.Size == raw.End && old.Header.Offset == raw.Offset && old.Header.SHA256 == hex.EncodeToString(sum[:]) && f.doubt(f.name, was, is) == ""
}

// takeOver takes all from what is stored of the file.
func (f *taking) takeOver() {
	old, was := f.old.File, &f.old.Local
	f.file.SHA256, f.file.Generation, f.file.Header, f.file.Extents, f.file.Replays = old.SHA256, old.Generation, old.Header, old.Extents, old.Replays
	l := &f.out.Local
	l.Hash, l.HashAt, l.Proven, l.Known = was.Hash, was.HashAt, was.Proven, was.Known
	f.out.File, f.out.From = f.file, f.file.Size
}

// finish ends a file whose bytes are taken, after a closer look if asked for.
func (f *taking) finish(ctx context.Context, look bool) error {
	s, file, local := f.src, f.file, &f.out.Local
	s.whole = nil // what follows is about the file as it is now
	if look {
		sound, err := f.examine(ctx)
		if err != nil || !sound && file.Kind == manifest.View {
			return err
		}
	}
	if file.Kind == manifest.View { // the one kind of file that CouchDB may reset in place
		if same, err := sameHeader(s, file); err != nil || !same {
			return errors.Join(ErrShrunk, err)
		}
	}
	file.SHA256 = hex.EncodeToString(f.sum.Sum(nil))
	if local.Proven == 0 { // not by prove: all of it was copied
		local.Proven, f.all = f.o.Now().Unix(), true
	}
	switch {
	case f.sum.state != nil:
		local.Hash, local.HashAt = f.sum.state, f.sum.mark
	case f.out.From > 0 && f.sum.mark > 0: // it went on from behind the mark, as it was proven by less the last time
		local.Hash, local.HashAt = f.old.Local.Hash, f.old.Local.HashAt
	}
	if f.o.Look != nil {
		damage, err := f.o.Look(ctx, s, file)
		if err != nil {
			return err
		}
		for _, d := range damage {
			f.damaged(d)
		}
	}
	if err := f.rememberIf(ctx); err != nil {
		return err
	}
	f.out.File = file
	return nil
}

// cut finds the newest header. A file that was just created gets a moment to
// write its first one.
func (f *taking) cut(ctx context.Context) (couchfile.RawHeader, error) {
	var raw couchfile.RawHeader
	s := f.src
	err := settle(ctx, func() (again bool, err error) {
		if s.info, err = s.f.Stat(); err != nil {
			return false, err
		}
		f.out.Local, s.whole = LocalOf(s.info), nil
		if s.Size() <= readOnce {
			if f.whole == nil {
				f.whole = make([]byte, readOnce)
			}
			if err := s.readWhole(f.whole); err != nil {
				return false, err
			}
		}
		raw, err = couchfile.FindHeader(couchfile.WithContext(ctx, s), s.Size())
		fresh := time.Since(s.info.ModTime()) < 10*time.Second
		return errors.Is(err, couchfile.ErrNoHeader) && fresh, err
	})
	return raw, err
}

// takeHeaderless deals with a file that has no valid header. CouchDB would serve
// it as an empty database, silently; so it is damage, and all its bytes are taken
// as they are. An index is left out, since CouchDB builds it anew.
func (f *taking) takeHeaderless(ctx context.Context) error {
	if f.entry.Kind == manifest.View {
		f.leaveOut("an index without a valid header; CouchDB builds it anew")
		return nil
	}
	f.damaged(manifest.Damage{What: "no valid header", Error: "CouchDB would serve this file as an empty database"})
	return f.takeWhole(ctx)
}

// takeForeign deals with a file whose newest header is not one of its kind.
func (f *taking) takeForeign(ctx context.Context, raw couchfile.RawHeader, cause error) error {
	if f.entry.Kind == manifest.View {
		f.leaveOut(fmt.Sprintf("an index that CouchDB builds anew: %v", cause))
		return nil
	}
	f.damaged(manifest.Damage{Offset: raw.Offset, What: "header", Error: cause.Error()})
	return f.takeWhole(ctx)
}

// takeWhole takes all bytes of a file, without a header.
func (f *taking) takeWhole(ctx context.Context) error {
	f.file = f.newFile()
	f.file.Size = f.src.Size()
	f.file.Generation = f.o.Generation()
	f.sum = f.newPrefixHash(0) // without a header it is never taken for grown
	if err := f.takeRange(ctx, 0); err != nil {
		return err
	}
	return f.finish(ctx, false)
}

// header says what the newest header of a file holds.
func (f *taking) header(ctx context.Context, raw couchfile.RawHeader) (*manifest.Header, error) {
	sum := sha256.Sum256(raw.Raw)
	h := &manifest.Header{Offset: raw.Offset, SHA256: hex.EncodeToString(sum[:])}
	if f.entry.Kind == manifest.View {
		v, err := couchfile.ParseViewHeader(raw)
		if err != nil {
			return nil, err
		}
		h.Signature, h.UpdateSeq, h.PurgeSeq = v.Signature, v.UpdateSeq, v.PurgeSeq
		return h, nil
	}
	d, err := couchfile.ParseHeader(raw)
	if err != nil {
		return nil, err
	}
	h.UUID, h.UpdateSeq, h.CompactedSeq = d.UUID, d.UpdateSeq, d.CompactedSeq
	f.out.Epochs = d.Epochs
	db, err := couchfile.OpenAt(couchfile.WithContext(ctx, f.src), raw.End, d)
	if err != nil {
		return nil, err
	}
	// Counts stand in the roots, which can be damaged while the header is not: that
	// is for the examination to say.
	if info, err := db.Info(); err == nil {
		h.PurgeSeq, h.Docs, h.DeletedDocs = info.PurgeSeq, info.DocCount, info.DeletedCount
	} else if !errors.Is(err, couchfile.ErrCorrupt) {
		return nil, err
	}
	return h, nil
}

// examine reads a file as CouchDB would and records what is wrong. Damage to an
// index is no damage: it is left out, and CouchDB builds it anew.
func (f *taking) examine(ctx context.Context) (sound bool, err error) {
	report, err := couchfile.Verify(ctx, f.src, f.file.Size, couchfile.VerifyOptions{})
	if err != nil {
		return false, fmt.Errorf("examine %s: %w", f.name.Path, err)
	}
	if len(report.Findings) == 0 {
		return true, nil
	}
	if f.entry.Kind == manifest.View {
		f.leaveOut("a damaged index; CouchDB builds it anew once the file is removed")
		return false, nil
	}
	for _, found := range report.Findings[:min(len(report.Findings), maxDamage)] {
		text := found.What
		if found.Err != nil {
			text = found.Err.Error()
		}
		f.damaged(manifest.Damage{Offset: found.Offset, What: found.What, Doc: found.Doc, Rev: found.Rev, Error: text})
	}
	return false, nil
}
