package durable

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ErrChecksum says that a file isn't what WriteJSON wrote.
var ErrChecksum = errors.New("the file was changed or is damaged: it doesn't have its checksum")

// The last member of what WriteJSON writes stands between these: the SHA-256 of all
// text before it, in hex.
const (
	sumBegin = ",\n  \"sha256\": \""
	sumEnd   = "\"\n}\n"
)

// WriteJSON writes v, a struct with at least one member, as JSON with a checksum, by
// WriteFile. Who reads the file without asking for the checksum sees one member more.
func WriteJSON(path string, perm fs.FileMode, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	b, ok := bytes.CutSuffix(b, []byte("\n}"))
	if !ok {
		return fmt.Errorf("write %s: a %T is no JSON object with members", path, v)
	}
	sum := sha256.Sum256(b)
	return WriteFile(path, perm, func(w *os.File) error {
		_, err := fmt.Fprintf(w, "%s%s%x%s", b, sumBegin, sum, sumEnd)
		return err
	})
}

// ReadJSON reads into v what WriteJSON wrote. A file without a checksum, as earlier
// versions wrote it, is read too, and sealed is false. It returns ErrChecksum if the
// checksum is another, fs.ErrNotExist, or what is wrong with the JSON.
func ReadJSON(path string, v any) (sealed bool, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	var last struct {
		SHA256 *json.RawMessage `json:"sha256"`
	}
	if err := json.Unmarshal(b, &last); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	if last.SHA256 != nil {
		at := bytes.LastIndex(b, []byte(sumBegin))
		if at < 0 {
			return false, fmt.Errorf("read %s: %w", path, ErrChecksum)
		}
		sum := sha256.Sum256(b[:at])
		if string(b[at:]) != sumBegin+hex.EncodeToString(sum[:])+sumEnd {
			return false, fmt.Errorf("read %s: %w", path, ErrChecksum)
		}
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return last.SHA256 != nil, nil
}
