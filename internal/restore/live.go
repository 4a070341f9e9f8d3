package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/slipcover/slipcover/internal/manifest"
)

// LiveReport is what CompareLive found.
type LiveReport struct {
	Same        int               // files that hold the same
	Other       int               // that were compacted, deleted or made anew since: they say nothing
	Differences []TrialDifference // files that don't hold the same
}

// CompareLive holds the databases' files of a moment against those of the CouchDB that it is of, up
// to the moment's sequence of each: the header that tells that sequence is still there, and so
// must be all before it. It reads as much of the live files as the moment has.
func CompareLive(ctx context.Context, m *manifest.Manifest, dataDir string) (*LiveReport, error) {
	r := &LiveReport{}
	for path, f := range m.Databases() {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if f.Header == nil || f.SHA256 == "" {
			r.Other++
			continue
		}
		what, same, err := compareLive(ctx, f, filepath.Join(dataDir, filepath.FromSlash(path)))
		switch {
		case err != nil:
			return nil, fmt.Errorf("compare with the live %s: %w", path, err)
		case what != "":
			r.Differences = append(r.Differences, TrialDifference{Database: path, What: path + ": " + what})
		case same:
			r.Same++
		default:
			r.Other++
		}
	}
	return r, nil
}

// compareLive compares a file. It says what differs, or whether it is the same file at all.
func compareLive(ctx context.Context, f *manifest.File, path string) (what string, same bool, err error) {
	live, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer live.Close()
	header := sha256.New()
	n, err := io.Copy(header, io.NewSectionReader(live, f.Header.Offset, f.Size-f.Header.Offset))
	if err != nil {
		return "", false, err
	}
	if n != f.Size-f.Header.Offset || hex.EncodeToString(header.Sum(nil)) != f.Header.SHA256 {
		return "", false, nil
	}
	all := sha256.New()
	if _, err := io.Copy(all, &stopped{ctx, io.NewSectionReader(live, 0, f.Size)}); err != nil {
		return "", false, err
	}
	if hex.EncodeToString(all.Sum(nil)) != f.SHA256 {
		return fmt.Sprintf("up to its update_seq %d the live file holds something else", f.Header.UpdateSeq), false, nil
	}
	return "", true, nil
}

// stopped is a reader that ends with its context.
type stopped struct {
	ctx context.Context //nolint:containedctx // for as long as one call lasts
	r   io.Reader
}

func (s *stopped) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}
