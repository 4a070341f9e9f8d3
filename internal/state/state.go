package state

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
)

// Versions of the local state; an unknown one is taken as no state at all.
const (
	// oldStateFormat has no checksum, and the hash state of the whole prefix, which
	// proves nothing of the file: what it says is believed once all files are proven.
	oldStateFormat = 1
	// stateFormat has the start of the machine, per file the hash state before the
	// tail and when it was last read whole, and at its end a line {"sha256": …} with
	// the hash of all lines before it.
	stateFormat = 2
)

// State is what a backup leaves for the next one.
type State struct {
	Summary  manifest.Summary
	Key      string // instance recipient that the backup was encrypted to
	Boot     string // id of the machine's start; "" is unknown
	Unproven bool   // of an old version: files must be proven by reading them
	Segments []manifest.Segment
	Damage   []manifest.Damage
	Files    map[capture.Name]*capture.Known
}

type stateHead struct {
	Format   int                `json:"format"`
	Repo     string             `json:"repository"`
	Key      string             `json:"key,omitempty"`
	Boot     string             `json:"boot,omitempty"`
	Summary  manifest.Summary   `json:"summary"`
	Segments []manifest.Segment `json:"segments"`
	Damage   []manifest.Damage  `json:"damage"`
	Files    int                `json:"files"`
}

type stateLine struct {
	File  *manifest.File `json:"file"`
	Local capture.Local  `json:"local"`
}

// Dir is the folder of one instance in one repository.
func Dir(dir, repoID, instance string) string { return filepath.Join(dir, repoID, instance) }

// Path is the file of the state in such a folder.
func Path(dir string) string { return filepath.Join(dir, "state.jsonl.zst") }

// Read reads the state in dir. Without one, or with one that doesn't parse,
// it returns nil and why: the next backup is then a full one.
func Read(dir, repoID string) (st *State, why string, err error) {
	f, err := os.Open(Path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "there is no state of an earlier backup here", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read state: %w", err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, "", err
	}
	defer z.Close()
	st, err = Decode(z, repoID)
	if err != nil {
		return nil, fmt.Sprintf("the state of the earlier backup can't be used (%v)", err), nil
	}
	return st, "", nil
}

// Decode reads a state of a repository.
func Decode(r io.Reader, repoID string) (*State, error) {
	lines, err := newStateReader(r)
	if err != nil {
		return nil, err
	}
	head := &lines.head
	if head.Format != stateFormat && head.Format != oldStateFormat || head.Repo != repoID {
		return nil, fmt.Errorf("format %d of repository %s", head.Format, head.Repo)
	}
	st := &State{Summary: head.Summary, Key: head.Key, Boot: head.Boot, Unproven: head.Format == oldStateFormat,
		Segments: head.Segments, Damage: head.Damage, Files: make(map[capture.Name]*capture.Known, max(0, min(head.Files, 1<<20)))}
	if err := st.readFiles(lines); err != nil {
		return nil, err
	}
	if len(st.Files) != head.Files {
		return nil, fmt.Errorf("%d files of %d", len(st.Files), head.Files)
	}
	return st, nil
}

// parsedAtOnce is how many lines of a state are parsed by one CPU at a time.
const parsedAtOnce = 256

// readFiles parses the lines of files on all CPUs: with many files that is most of what
// a backup does that finds nothing new.
func (st *State) readFiles(lines *stateReader) error {
	var mu sync.Mutex // guards st.Files
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for end := false; !end; {
		var batch [][]byte
		for len(batch) < parsedAtOnce && !end {
			b, err := lines.next()
			if end = errors.Is(err, io.EOF); end {
				break
			}
			if err != nil {
				return errors.Join(err, g.Wait())
			}
			batch = append(batch, b)
		}
		g.Go(func() error {
			parsed, err := parseFiles(batch, len(st.Segments))
			mu.Lock()
			defer mu.Unlock()
			for _, k := range parsed {
				st.Files[capture.Name{Root: k.File.Root, Path: k.File.Path}] = k
			}
			return err
		})
	}
	return g.Wait()
}

// parseFiles parses lines of files that are in that many segments.
func parseFiles(batch [][]byte, segments int) ([]*capture.Known, error) {
	out := make([]*capture.Known, 0, len(batch))
	for _, b := range batch {
		var line stateLine
		if err := json.Unmarshal(b, &line); err != nil {
			return nil, err
		}
		if line.File == nil {
			return nil, errors.New("a line without a file")
		}
		for e := range line.File.Stored() {
			if e.Seg >= segments {
				return nil, errors.New("an extent without a segment")
			}
		}
		out = append(out, &capture.Known{File: line.File, Local: line.Local})
	}
	return out, nil
}

// sumLine is the last line of a state.
type sumLine struct {
	SHA256 string `json:"sha256"` // of the lines before it, in hex
}

// stateReader reads a state line by line.
type stateReader struct {
	head  stateHead
	lines *bufio.Reader
	sum   hash.Hash
}

func newStateReader(r io.Reader) (*stateReader, error) {
	s := &stateReader{lines: bufio.NewReaderSize(r, 1<<16), sum: sha256.New()}
	b, err := s.next()
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err == nil {
		err = json.Unmarshal(b, &s.head)
	}
	return s, err
}

// next returns the next line, and io.EOF behind the last if its checksum says that
// all lines are what was written. The old format has only zstd's own checksum, which
// is checked where the stream ends.
func (s *stateReader) next() ([]byte, error) {
	b, err := s.lines.ReadBytes('\n')
	if errors.Is(err, io.EOF) && len(b) == 0 && s.head.Format == oldStateFormat {
		return nil, io.EOF
	}
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(b, []byte(`{"sha256":`)) {
		var last sumLine
		if json.Unmarshal(b, &last) != nil || last.SHA256 != hex.EncodeToString(s.sum.Sum(nil)) {
			return nil, errors.New("its checksum is wrong")
		}
		if _, err := s.lines.ReadByte(); !errors.Is(err, io.EOF) {
			return nil, errors.Join(errors.New("something follows its last line"), err)
		}
		return nil, io.EOF
	}
	_, _ = s.sum.Write(b)
	return b, nil
}

// stateWriter writes a state line by line.
type stateWriter struct {
	z   *zstd.Encoder
	sum hash.Hash
}

func newStateWriter(w io.Writer) (*stateWriter, error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(1<<20))
	return &stateWriter{z, sha256.New()}, err
}

func (w *stateWriter) line(b []byte) error {
	_, _ = w.sum.Write(b)
	_, err := w.z.Write(b)
	return err
}

func (w *stateWriter) encode(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.line(append(b, '\n'))
}

// close writes the checksum.
func (w *stateWriter) close() error {
	if err := w.encode(sumLine{hex.EncodeToString(w.sum.Sum(nil))}); err != nil {
		return err
	}
	return w.z.Close()
}

// Write stores the state of a backup that was committed.
func Write(dir, repoID string, key *repo.WriteKey, m *manifest.Manifest, locals map[capture.Name]capture.Local) error {
	recipient := ""
	if key.Pin != nil {
		recipient = key.Pin.InstanceRecipient
	}
	head := stateHead{stateFormat, repoID, recipient, BootID(), m.Summary, m.Segments, m.Damage, len(m.Files)}
	return durable.WriteFile(Path(dir), 0o600, func(f *os.File) error {
		w, err := newStateWriter(f)
		if err != nil {
			return err
		}
		if err := w.encode(head); err != nil {
			return err
		}
		for _, f := range m.Files {
			if err := w.encode(stateLine{f, locals[capture.Name{Root: f.Root, Path: f.Path}]}); err != nil {
				return err
			}
		}
		return w.close()
	})
}

// WriterKey returns the key that this node signs with, made at first use. Its file
// has the seed in hex and, so that a changed digit is noticed, the public key in
// base64; earlier versions wrote the seed alone.
func WriterKey(stateDir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(stateDir, "writer.key")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return key, writeWriterKey(path, key)
	}
	if err != nil {
		return nil, fmt.Errorf("read the writer's Key: %w", err)
	}
	words := strings.Fields(string(b))
	if len(words) == 0 || len(words) > 2 {
		return nil, badWriterKey(path)
	}
	seed, err := hex.DecodeString(words[0])
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, badWriterKey(path)
	}
	key := ed25519.NewKeyFromSeed(seed)
	if len(words) == 1 {
		return key, writeWriterKey(path, key)
	}
	if words[1] != publicText(key) {
		return nil, badWriterKey(path)
	}
	return key, nil
}

func badWriterKey(path string) error {
	return fmt.Errorf("%s is not a writer's key, or is damaged: put a copy of it back; or remove it, and the next backup makes a new key, to be added wherever trusted_writers is set", path)
}

func publicText(key ed25519.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
}

func writeWriterKey(path string, key ed25519.PrivateKey) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	err := durable.WriteFile(path, 0o600, func(w *os.File) error {
		_, err := fmt.Fprintf(w, "%x\n%s\n", key.Seed(), publicText(key))
		return err
	})
	if err != nil {
		return fmt.Errorf("store the writer's Key: %w", err)
	}
	return nil
}
