package node

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
)

// Target finds where a node's files are to be that is made by a restore: as Locate does, but the directories need not be
// there yet, and no server is asked.
func Target(ctx context.Context, o Options) (*Node, error) {
	o.URL = ""
	n, err := Locate(ctx, o)
	if !errors.Is(err, fs.ErrNotExist) {
		return n, err
	}
	missing := err // and not the configuration, which the rest can't be found without
	data := o.DataDir
	at := []string{o.ConfigDir}
	if data == "" && o.ConfigDir == "" {
		at = usual
	}
	for _, dir := range at {
		if dir == "" || !isDir(dir) || !hasIni(dir) {
			continue
		}
		if n, err = Locate(ctx, Options{ConfigDir: dir, DataDir: filepath.Dir(dir), NodeName: o.NodeName, Getenv: o.Getenv}); err != nil {
			return nil, err
		}
		break
	}
	if n == nil {
		if data == "" {
			return nil, missing
		}
		n = &Node{NodeName: o.NodeName, Settings: Ini{}}
		if n.NodeName != "" {
			n.NameSource, n.NameTold = "node_name", true
		}
	}
	set, ok := n.Settings.Get("couchdb", "database_dir")
	if data == "" {
		if !ok {
			return nil, missing
		}
		if data, err = n.absolute("database_dir", set); err != nil {
			return nil, err
		}
	}
	if n.DataDir, err = filepath.Abs(data); err != nil {
		return nil, err
	}
	n.IndexDir, n.Source = n.DataDir, "settings"
	if index, ok := n.Settings.Get("couchdb", "view_index_dir"); ok && index != set {
		if n.IndexDir, err = n.absolute("view_index_dir", index); err != nil {
			return nil, err
		}
	}
	return n, nil
}
