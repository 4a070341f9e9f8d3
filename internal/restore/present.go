package restore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/slipcover/slipcover/internal/manifest"
)

// Found is what a directory holds that a restore may go to.
type Found struct {
	// Complete says that it has a CouchDB's databases, and no unfinished restore.
	Complete bool
	// Backup and Instance are those of an unfinished restore; empty if there is none, or if
	// it doesn't say.
	Backup   manifest.BackupID
	Instance string
}

// Find says what the data directory dir holds, changing nothing. A CouchDB has databases
// there if there is a _dbs.couch, its list of them, which a restore writes last. A directory
// that isn't there holds nothing.
func Find(dir string) (Found, error) {
	mark, err := readMarker(dir)
	if err != nil {
		return Found{}, err
	}
	if mark != nil {
		return Found{Backup: mark.Backup, Instance: mark.Instance}, nil
	}
	info, err := os.Stat(filepath.Join(dir, dbsPath))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Found{}, nil
	case err != nil:
		return Found{}, err
	}
	return Found{Complete: info.Mode().IsRegular()}, nil
}
