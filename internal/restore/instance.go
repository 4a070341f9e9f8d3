package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
)

// The names in an instance's directory.
const (
	cardName  = "slipcover-instance.json"
	stateName = "slipcover-instance-state.json"
	dataName  = "data"
	startName = "start"
	pidName   = "couchdb.pid"
	logName   = "couchdb.log"
	iniName   = "local.ini" // in etc
)

// card is the file that makes a directory an instance's. It is there first, goes
// last, and never changes; who works on the directory has it locked.
type card struct {
	Says   string            `json:"says"`
	Name   string            `json:"name"`
	Backup manifest.BackupID `json:"backup,omitempty"` // "": it was made empty
	Source string            `json:"source,omitempty"` // the instance of the backup
}

func (k card) String() string {
	if k.Backup == "" {
		return k.Name + ", made empty"
	}
	return fmt.Sprintf("%s, of backup %s", k.Name, k.Backup)
}

// state is how far its making came.
type state struct {
	Restored *Result  `json:"restored,omitempty"` // the data is whole
	NodeName string   `json:"node_name,omitempty"`
	Notes    []string `json:"notes,omitempty"`
	Complete bool     `json:"complete"` // and so is all else
}

// instance is the directory of one that is held.
type instance struct {
	dir  string
	lock *os.File // the card, open and locked
	card card
}

// claim makes dir the directory of the instance that want describes, or takes it up
// if it is that already. It returns ErrTaken for a directory that holds something else,
// ErrInstanceExists if that is another instance, and ErrInUse.
func claim(dir string, want card) (*instance, error) {
	for {
		if err := writeCard(dir, want); err != nil {
			return nil, err
		}
		in, err := hold(dir)
		if errors.Is(err, ErrNoInstance) { // removed just now
			continue
		}
		if err != nil {
			return nil, err
		}
		if in.card == want {
			return in, nil
		}
		in.release()
		return nil, fmt.Errorf("%s: %w (%s)", dir, ErrInstanceExists, in.card)
	}
}

// writeCard puts the card into a directory that is missing or empty, unless it has one.
func writeCard(dir string, want card) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == cardName }) {
		return nil
	}
	entries = ofOthers(dir, entries)
	if len(entries) > 0 && !onlyTemps(entries) {
		// Versions without a card restored the data first.
		k, err := readMarker(filepath.Join(dir, dataName))
		if err != nil || k == nil || k.Backup != want.Backup || len(entries) > 1 {
			return fmt.Errorf("%s: %w", dir, ErrTaken)
		}
	}
	if err := durable.MkdirAll(dir, folderMode); err != nil {
		return err
	}
	err = writeJSON(filepath.Join(dir, cardName), want, durable.WriteNewFile)
	if errors.Is(err, fs.ErrExist) {
		return nil // another call was quicker
	}
	return err
}

// onlyTemps reports whether what is in a directory is what a kill left of the first
// file that was put there.
func onlyTemps(entries []fs.DirEntry) bool {
	return !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !e.Type().IsRegular() || !durable.IsTemp(e.Name()) })
}

func writeJSON(path string, v any, write func(string, fs.FileMode, func(*os.File) error) error) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return write(path, 0o600, func(f *os.File) error {
		_, err := f.Write(append(b, '\n'))
		return err
	})
}

// hold takes the directory of an instance for one who works on it. It returns
// ErrNoInstance, or ErrInUse while another one does.
func hold(dir string) (*instance, error) {
	path := filepath.Join(dir, cardName)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoInstance)
	}
	if err != nil {
		return nil, err
	}
	in := &instance{dir: dir, lock: f}
	if durable.TryLock(f) {
		in.release()
		return nil, fmt.Errorf("%s: %w: something else works on the instance just now", dir, ErrInUse)
	}
	if err := in.readCard(path); err != nil {
		in.release()
		return nil, err
	}
	return in, nil
}

func (in *instance) readCard(path string) error {
	// It may have been removed before it was locked.
	now, err1 := os.Lstat(path)
	mine, err2 := in.lock.Stat()
	if err := errors.Join(err1, err2); err != nil || !os.SameFile(now, mine) {
		return fmt.Errorf("%s: %w", in.dir, ErrNoInstance)
	}
	b, err := io.ReadAll(io.LimitReader(in.lock, 1<<16))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &in.card); err != nil {
		return fmt.Errorf("%s: %w: it is not JSON", path, ErrNoInstance)
	}
	return nil
}

func (in *instance) release() { _ = in.lock.Close() } // nothing was written

func (in *instance) path(name string) string { return filepath.Join(in.dir, name) }

func (in *instance) readState() (state, error) {
	var s state
	b, err := os.ReadFile(in.path(stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%s is damaged: remove the instance and create it again: %w", in.path(stateName), err)
	}
	return s, nil
}

func (in *instance) writeState(s state) error {
	return writeJSON(in.path(stateName), s, durable.WriteFile)
}

// Running returns the process number of the CouchDB that Create or Start started on
// the instance in dir, 0 if it has ended. It returns ErrNoInstance, and
// errors.ErrUnsupported where processes can't be told apart.
func Running(dir string) (pid int, err error) {
	if _, err := os.Stat(filepath.Join(dir, cardName)); errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%s: %w", dir, ErrNoInstance)
	} else if err != nil {
		return 0, err
	}
	p, err := readProcess(dir)
	if err != nil {
		return 0, err
	}
	return p.PID, nil
}

// readProcess returns the process that the directory names, or none if it isn't there
// any more: then the number may be another one's.
func readProcess(dir string) (process, error) {
	b, err := os.ReadFile(filepath.Join(dir, pidName))
	if errors.Is(err, fs.ErrNotExist) {
		return process{}, nil
	}
	if err != nil {
		return process{}, err
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 3 {
		return process{}, nil // of a version that didn't say when it was started
	}
	pid, err := strconv.Atoi(lines[0])
	if err != nil || pid <= 1 {
		return process{}, nil //nolint:nilerr // it names none
	}
	p := process{PID: pid, Start: lines[1], Boot: lines[2]}
	if alive, err := p.alive(dir); err != nil || !alive {
		return process{}, err
	}
	return p, nil
}

func (in *instance) writeProcess(p process) error {
	return durable.WriteFile(in.path(pidName), 0o644, func(f *os.File) error {
		_, err := fmt.Fprintf(f, "%d\n%s\n%s\n", p.PID, p.Start, p.Boot)
		return err
	})
}

// Remove stops the instance in dir and removes the directory. Killed at any moment, it
// can be called again; one that is gone is no error. It returns ErrNoInstance for a
// directory that Create didn't make, and ErrInUse while something else works on it or
// a CouchDB that was started by hand runs on it.
func Remove(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	entries = ofOthers(dir, entries)
	if onlyTemps(entries) { // killed before its first step or before its last
		return removeEmpty(dir, entries)
	}
	in, err := hold(dir)
	if err != nil {
		return err
	}
	defer in.release()
	return in.remove(ctx)
}

// remove removes what says that all is there, then all but the card, the card, and the directory: what a kill leaves is no instance that
// could be started.
func (in *instance) remove(ctx context.Context) error {
	if err := in.stop(ctx, stopPatience); err != nil {
		return err
	}
	if err := inUse(ctx, in.path(dataName)); err != nil {
		return err
	}
	if err := os.Remove(in.path(stateName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := durable.SyncDir(in.dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(in.dir)
	if err != nil {
		return err
	}
	for _, e := range ofOthers(in.dir, entries) {
		if e.Name() == cardName {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := os.RemoveAll(in.path(e.Name())); err != nil {
			return err
		}
	}
	if err := durable.SyncDir(in.dir); err != nil {
		return err
	}
	if err := os.Remove(in.path(cardName)); err != nil {
		return err
	}
	return removeEmpty(in.dir, nil)
}

// removeEmpty removes a directory with nothing in it but temporary files.
func removeEmpty(dir string, temps []fs.DirEntry) error {
	for _, e := range temps {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_ = os.Remove(dir) // it may be a mount; an empty one is nobody's instance
	return durable.SyncDir(filepath.Dir(dir))
}
