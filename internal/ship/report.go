package ship

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/state"
)

// reportName is the file of a Report, beside the journal.
const reportName = "status.json"

// Report is what a shipper last said of itself on its node, where who asks needs neither the
// storage nor the shipper: the file ship/status.json in the instance's state.
type Report struct {
	// Running says that a shipper works now. It isn't in the file: the lock tells.
	Running bool `json:"running"`
	Status
	Repository string    `json:"repository"` // URL, without secrets
	DataDir    string    `json:"data_dir"`   // of the node
	Written    time.Time `json:"written"`    // by the node's clock
}

const (
	tellEvery = time.Second
	// lagEvery is how often a report is written of which nothing has changed but how much there
	// is to be shipped.
	lagEvery = 10 * time.Second
	// tellShare is how much of the time may go into finding out how much that is: one part in so many.
	tellShare = 20
)

// Tell writes what Status tells to the node's disk, for Reports, until end is called, which
// must be before Close: within about a second of a change, and nothing while nothing changes.
func (s *Shipper) Tell() (end func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		r := &reporter{s: s}
		for wait := time.Duration(0); ; {
			select {
			case <-time.After(wait):
			case <-done:
				r.write(true)
				return
			}
			began := time.Now()
			now := s.o.Now().UnixMilli()
			if was := s.beat.Swap(now); was > 0 && now-was > stopped.Milliseconds() {
				s.stood.Store(was)
			}
			r.write(false)
			wait = max(tellEvery, tellShare*time.Since(began))
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// reporter writes the reports of a shipper.
type reporter struct {
	s    *Shipper
	last []byte // but for what always changes
	at   time.Time
}

// write writes a report if it says something new. It isn't synced: after a power cut there
// is no shipper of which it could tell.
func (r *reporter) write(last bool) {
	s := r.s
	now := Report{Status: s.Status(), Repository: s.o.Repo.URL(), DataDir: s.o.Node.DataDir}
	if now.Shipped.IsZero() && now.Behind.IsZero() && now.Error == "" { // it has not looked yet: what the last one said counts
		return
	}
	steady := now
	steady.LagSeconds, steady.LagBytes, steady.LagFiles, steady.Shipped, steady.Window = 0, 0, 0, time.Time{}, time.Time{}
	key, err := json.Marshal(steady)
	due := last || now.LagFiles > 0 && time.Since(r.at) >= lagEvery
	if err != nil || bytes.Equal(key, r.last) && !due {
		return
	}
	now.Written = s.o.Now().UTC()
	text, err := json.MarshalIndent(now, "", "  ")
	path := filepath.Join(s.dir, state.ShipDir, reportName)
	text = append(text, '\n')
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	} else if overwrite(path, text) == nil { // on a full disk the blocks of the last one are still there
		err = os.Remove(path + ".new")
	}
	if err != nil {
		s.log.Warn("how shipping is doing can't be noted for `slipcover ship status`", "err", err)
	}
	r.last, r.at = key, time.Now()
}

// overwrite writes a small file in the place that it has. Who reads it meanwhile may find half of it.
func overwrite(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	return errors.Join(err, f.Close())
}

// Reports returns what the shippers of a state directory say of themselves, in the order of their
// folders, with how far behind they are at now. One that doesn't run can't say that: then its
// node's files are held against what was shipped.
func Reports(ctx context.Context, stateDir string, now time.Time) ([]*Report, error) {
	paths, err := fs.Glob(os.DirFS(stateDir), "*/*/"+state.ShipDir+"/"+reportName)
	if err != nil {
		return nil, err
	}
	var out []*Report
	for _, rel := range paths {
		p := filepath.Join(stateDir, filepath.FromSlash(rel))
		b, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		r := &Report{}
		if err == nil {
			err = json.Unmarshal(b, r)
		}
		if err != nil {
			return nil, fmt.Errorf("read what the shipper last said (%s): %w", p, err)
		}
		dir := filepath.Dir(filepath.Dir(p))
		r.Instance = filepath.Base(dir)
		if r.Running, err = locked(dir); err == nil && !r.Running {
			err = r.behind(ctx, dir)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil { // of this one; the others are told all the same
			r.Error, r.ErrorSince = err.Error(), time.Time{}
		}
		r.LagSeconds = 0
		if !r.Behind.IsZero() {
			r.LagSeconds = max(0, now.Sub(r.Behind).Seconds())
		}
		out = append(out, r)
	}
	return out, nil
}

// locked reports whether a shipper works with the state in dir.
func locked(dir string) (bool, error) {
	f, err := os.OpenFile(filepath.Join(dir, state.ShipDir, "lock"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("see whether a shipper is running: %w", err)
	}
	defer f.Close()
	return durable.TryLock(f), nil
}

// behind finds out what of a node's files was not shipped when its shipper ended, or was
// committed since.
func (r *Report) behind(ctx context.Context, dir string) error {
	known, err := r.shippedSizes(dir)
	if err != nil {
		return err
	}
	r.LagFiles, r.LagBytes, r.Behind = 0, 0, time.Time{}
	err = filepath.WalkDir(r.DataDir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(r.DataDir, path)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case rel == "." && err != nil:
			return fmt.Errorf("look at the node's files: %w", err)
		case err != nil:
			return nil
		case d.IsDir() && rel != "." && strings.HasPrefix(rel, "."): // indexes, and what was deleted
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".couch":
			return nil
		}
		was := known[capture.Name{Root: manifest.DataRoot, Path: filepath.ToSlash(rel)}]
		if size := committed(path, d); size > was {
			r.LagFiles++
			r.LagBytes += size - was
		} else if size > 0 && size < was { // another file has taken its place
			r.LagFiles++
			r.LagBytes += size
		}
		return nil
	})
	if r.LagFiles > 0 {
		r.Behind = r.Shipped
	}
	return err
}

// committed returns where the newest header of a file ends, 0 if it has none or is gone.
func committed(path string, d fs.DirEntry) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	info, err := d.Info()
	if err != nil {
		return 0
	}
	h, err := couchfile.FindHeader(f, info.Size())
	if err != nil {
		return 0
	}
	return h.End
}

// shippedSizes returns up to where each file is stored, by the last backup and what was shipped since,
// as far as the report knows. It only reads: a shipper may be starting.
func (r *Report) shippedSizes(dir string) (map[capture.Name]int64, error) {
	st, _, err := state.Read(dir, filepath.Base(filepath.Dir(dir)))
	if err != nil || st == nil {
		return nil, err
	}
	sizes := make(map[capture.Name]int64, len(st.Files))
	for nm, k := range st.Files {
		if k.File != nil {
			sizes[nm] = k.File.Size
		}
	}
	shipped, err := state.ReadShipped(dir, r.Tick)
	for nm, k := range shipped.Files {
		sizes[nm] = max(sizes[nm], k.File.Size)
	}
	return sizes, err
}
