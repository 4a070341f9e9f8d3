package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
)

// MapFile is the file of the shard map, relative to the data directory.
const MapFile = "_dbs.couch"

// BootFile holds an id that is another one after each start of the machine; tests set it.
// Source: Linux, random(4).
var BootFile = "/proc/sys/kernel/random/boot_id"

// BootID returns the id of this start of the machine, "" where it can't be known.
func BootID() string {
	b, err := os.ReadFile(BootFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Identify says who a node is by its configuration and its shard map. What can't be
// read is not known: that is for the backup to tell. name is that of the node, if n
// doesn't say it the one that wrote the shard map last.
func Identify(n *node.Node) (id manifest.Identity, name string) {
	id.ServerUUID, name = n.UUID, n.NodeName
	if h, err := FileHeader(filepath.Join(n.DataDir, MapFile)); err == nil {
		id.MapUUID = h.UUID
		if name == "" && len(h.Epochs) > 0 {
			name = h.Epochs[0].Node
		}
	}
	return id, name
}

// FileHeader reads the newest header of a database file.
func FileHeader(path string) (couchfile.Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return couchfile.Header{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return couchfile.Header{}, err
	}
	raw, err := couchfile.FindHeader(f, info.Size())
	if err != nil {
		return couchfile.Header{}, err
	}
	return couchfile.ParseHeader(raw)
}

// PinPath is the file of the pinned key in the folder of an instance.
func PinPath(dir string) string { return filepath.Join(dir, "pin.json") }

// ReadPin returns the pin in dir, nil if there is none. One that doesn't parse or
// doesn't have its checksum is an error: going on without it would be to trust the
// storage.
func ReadPin(dir string) (*repo.KeyPin, error) {
	pin, _, err := LoadPin(dir)
	return pin, err
}

// LoadPin is ReadPin, and says whether the pin has a checksum, as earlier versions
// wrote none.
func LoadPin(dir string) (pin *repo.KeyPin, sealed bool, err error) {
	pin = &repo.KeyPin{}
	sealed, err = durable.ReadJSON(PinPath(dir), pin)
	var perr *fs.PathError
	switch {
	case err == nil:
		return pin, sealed, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case errors.As(err, &perr):
		return nil, false, fmt.Errorf("read the pinned key: %w", err)
	}
	return nil, false, fmt.Errorf("%w: the pinned key can't be used (%w); `slipcover key accept` makes a new one", repo.ErrRecipients, err)
}
