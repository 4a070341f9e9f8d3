package backup

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// stateFormat is the version of the local state; an unknown one is taken as no
// state at all.
const stateFormat = 1

// name is a file of a backup.
type name struct {
	root manifest.Root
	path string
}

// local is what the node knows of a file beyond the manifest.
type local struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`  // of the file, not of the cut
	MTime int64  `json:"mtime"` // Unix nanoseconds
	CTime int64  `json:"ctime"`
	Hash  []byte `json:"hash"` // state of the SHA-256 over the bytes up to the cut
}

// known is a file of the backup before.
type known struct {
	file  *manifest.File
	local local
}

// state is what a run leaves for the next one.
type state struct {
	summary  manifest.Summary
	key      string    // instance recipient that the backup was encrypted to
	proved   time.Time // when all prefixes were last proven
	segments []manifest.Segment
	damage   []manifest.Damage
	files    map[name]*known
}

type stateHead struct {
	Format   int                `json:"format"`
	Repo     string             `json:"repository"`
	Key      string             `json:"key,omitempty"`
	Proved   time.Time          `json:"proved"`
	Summary  manifest.Summary   `json:"summary"`
	Segments []manifest.Segment `json:"segments"`
	Damage   []manifest.Damage  `json:"damage"`
	Files    int                `json:"files"`
}

type stateLine struct {
	File  *manifest.File `json:"file"`
	Local local          `json:"local"`
}

// stateDir is the folder of one instance in one repository.
func stateDir(dir, repoID, instance string) string { return filepath.Join(dir, repoID, instance) }

func statePath(dir string) string { return filepath.Join(dir, "state.jsonl.zst") }

// readState reads the state in dir. Without one, or with one that doesn't parse,
// it returns nil and why: the next backup is then a full one.
func readState(dir, repoID string) (st *state, why string, err error) {
	f, err := os.Open(statePath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "there is no state of an earlier backup here", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read state: %w", err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, "", err
	}
	defer z.Close()
	st, err = decodeState(z, repoID)
	if err != nil {
		return nil, fmt.Sprintf("the state of the earlier backup can't be used (%v)", err), nil
	}
	return st, "", nil
}

func decodeState(r io.Reader, repoID string) (*state, error) {
	d := json.NewDecoder(bufio.NewReaderSize(r, 1<<16))
	var head stateHead
	if err := d.Decode(&head); err != nil {
		return nil, err
	}
	if head.Format != stateFormat || head.Repo != repoID {
		return nil, fmt.Errorf("format %d of repository %s", head.Format, head.Repo)
	}
	st := &state{summary: head.Summary, key: head.Key, proved: head.Proved, segments: head.Segments, damage: head.Damage, files: make(map[name]*known, head.Files)}
	for range head.Files {
		var line stateLine
		if err := d.Decode(&line); err != nil {
			return nil, err
		}
		if line.File == nil {
			return nil, errors.New("a line without a file")
		}
		for _, e := range line.File.Extents {
			if e.Seg >= len(head.Segments) {
				return nil, errors.New("an extent without a segment")
			}
		}
		st.files[name{line.File.Root, line.File.Path}] = &known{line.File, line.Local}
	}
	return st, nil
}

func stateWriter(w io.Writer) (*zstd.Encoder, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
}

// writeState stores the state of a backup that was committed.
func writeState(dir, repoID string, key *repo.WriteKey, proved time.Time, m *manifest.Manifest, locals map[name]local) error {
	return durable.WriteFile(statePath(dir), 0o600, func(w *os.File) error {
		z, err := stateWriter(w)
		if err != nil {
			return err
		}
		e := json.NewEncoder(z)
		recipient := ""
		if key.Pin != nil {
			recipient = key.Pin.InstanceRecipient
		}
		if err := e.Encode(stateHead{stateFormat, repoID, recipient, proved, m.Summary, m.Segments, m.Damage, len(m.Files)}); err != nil {
			return err
		}
		for _, f := range m.Files {
			if err := e.Encode(stateLine{f, locals[name{f.Root, f.Path}]}); err != nil {
				return err
			}
		}
		return z.Close()
	})
}

// WriterKey returns the key that this node signs with, made at first use.
func WriterKey(stateDir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(stateDir, "writer.key")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newWriterKey(stateDir, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the writer's key: %w", err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is not a writer's key; remove it and a new one is made", path)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func newWriterKey(dir, path string) (ed25519.PrivateKey, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	err = durable.WriteFile(path, 0o600, func(w *os.File) error {
		_, err := fmt.Fprintln(w, hex.EncodeToString(key.Seed()))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store the writer's key: %w", err)
	}
	return key, nil
}
