// Package node finds where a CouchDB node keeps its files and lists them.
//
// Locate answers where: the data and index directories, the chain of ini files,
// the node's name. Scan walks them and says what each file is. Nothing here
// writes, locks or opens a database file.
package node

import (
	"path/filepath"

	"github.com/slipcover/slipcover/internal/manifest"
)

// Node is a CouchDB node as seen from its own machine.
type Node struct {
	// DataDir is couchdb/database_dir, absolute, symlinks resolved. It exists.
	DataDir string
	// IndexDir is couchdb/view_index_dir, absolute, symlinks resolved. Often the
	// same as DataDir. CouchDB creates it with the first index, so it may be missing.
	IndexDir string
	// EtcDir is the directory that the ini files of the backup are relative to;
	// empty if no configuration is known.
	EtcDir string
	// ReleaseDir is the directory that CouchDB changes to when it starts, which
	// relative settings are relative to; empty if it is not known.
	ReleaseDir string
	// IniFiles is the chain of ini files in the order in which CouchDB reads them:
	// what stands later wins. CouchDB writes its own changes to the last one.
	IniFiles []string
	// VMArgs is the file of arguments for the Erlang VM; empty if there is none.
	VMArgs string
	// NodeName is the Erlang name, such as couchdb@127.0.0.1, as far as configuration or
	// a server says it; empty if not known. Shard maps and files may know better: see
	// shard.FindSelf.
	NodeName string
	// NameSource is what says it: node_name, the server at a URL, vm.args, ERL_FLAGS.
	NameSource string
	// NameTold says that an operator or the running server told it; else configuration
	// was read, which need not be what the node was started with.
	NameTold bool
	// UUID is couchdb/uuid; empty before the first start of the server.
	UUID string
	// Version is CouchDB's, such as 3.5.0; empty if not known.
	Version string
	// Source says in a word or two what decided: --data-dir, --config-dir,
	// COUCHDB_INI_FILES, the URL of the server, or a default directory.
	Source string
	// Served is what the server says of its databases; nil if none was asked.
	Served *Served
	// Settings is what the ini files say together. It holds secrets.
	Settings Ini

	vmArgs []byte // what VMArgs holds, while the node is located
}

// Served is what a running server says of the databases that it serves, to be held
// against the files: it may see other ones at the same path, as in a container.
type Served struct {
	URL     string // without user and password
	MapUUID string // of its _dbs.couch; empty before CouchDB 3, which doesn't tell it
	// Databases are the first of its databases by name; only where MapUUID is empty.
	Databases []string
}

// Dir returns the directory of a root, or "" if the node has none.
func (n *Node) Dir(root manifest.Root) string {
	switch root {
	case manifest.DataRoot:
		return n.DataDir
	case manifest.IndexRoot:
		return n.IndexDir
	case manifest.EtcRoot:
		return n.EtcDir
	}
	return ""
}

// Path returns where the bytes of an entry are to be read.
func (n *Node) Path(e *Entry) string {
	if e.Source != "" {
		return e.Source
	}
	return filepath.Join(n.Dir(e.Root), filepath.FromSlash(e.Path))
}
