// Package manifest says what a backup records: its record and its manifest, as
// Go types and as the JSON documents of repository format 1
// (docs/repository-format.md). It does no I/O.
//
// A Record is small, not encrypted and signed: enough to list, delete and prune
// without a key. A Manifest is large, encrypted, and names every file, where its
// bytes are, and what a reader must find in it. The record carries the hash of
// the manifest and is the last object that a backup writes.
package manifest

import (
	"iter"
	"slices"
	"time"
)

// Format is the version of the documents in this package. A manifest in which a file
// has a Replay is of ReplayFormat, so that versions that don't know it say so; its record
// is of Format, since all that a record says they do know. A manifest that refers to objects
// of chains is of ShippedFormat, and its record of ShippedRecord: who deletes, checks or
// copies must know them.
const (
	Format        = 1
	ReplayFormat  = 2
	ShippedFormat = 3
	ShippedRecord = 2
)

// BackupID names a backup: a UUID of version 7 in its usual text form, so ids
// sort by the time of their making.
type BackupID string

// Short returns the part of the id that tells backups of one repository apart
// at a glance: its last 12 characters.
func (id BackupID) Short() string {
	if len(id) <= 12 {
		return string(id)
	}
	return string(id[len(id)-12:])
}

// Type says how a backup was made; each restores alone.
type Type string

// The types of backup.
const (
	Full        Type = "full"
	Incremental Type = "incremental"
)

// Status says how a backup ended. Only backups that can be restored have a record.
type Status string

const (
	// Completed: every file found was stored whole.
	Completed Status = "completed"
	// CompletedDamaged: all that could be read is stored; the source had damage or
	// files without a valid header, which the manifest names.
	CompletedDamaged Status = "completed_damaged"
)

// Summary is what both the record and the manifest say of a backup.
type Summary struct {
	ID          BackupID `json:"id"`
	Instance    string   `json:"instance"`
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	// Labels are what the maker of a backup wants to find it by; see CheckLabels. They
	// are not encrypted.
	Labels    map[string]string `json:"labels,omitempty"`
	Type      Type              `json:"type"`
	Parent    BackupID          `json:"parent,omitempty"`
	Status    Status            `json:"status"`
	Strategy  string            `json:"strategy"` // e.g. "CouchDBBackup"
	Namespace string            `json:"namespace"`
	Started   time.Time         `json:"started"`  // UTC; every write acknowledged before it is in the backup
	Finished  time.Time         `json:"finished"` // UTC
	NodeName  string            `json:"node_name,omitempty"`
	// Identity says of which CouchDB this is a backup; records of before it was there
	// lack it, and nothing is known then.
	Identity Identity `json:"identity,omitzero"`
	// Nodes are the names of all nodes of the cluster, this one among them, sorted, as the node's _nodes.couch has
	// them. None are of a node that is alone, where it couldn't be read, and in records of before they were there.
	Nodes []string `json:"nodes,omitempty"`
	// Cluster is what the configuration calls the cluster; "" if it doesn't. See CheckCluster for both.
	Cluster        string `json:"cluster,omitempty"`
	CouchDBVersion string `json:"couchdb_version,omitempty"`
	Tool           string `json:"tool"` // "slipcover 0.1.0"

	FileCount     int   `json:"file_count"`
	DatabaseCount int   `json:"database_count"`
	SizeBytes     int64 `json:"size_bytes"`     // of all files, as restored
	ReadBytes     int64 `json:"read_bytes"`     // read from the source's files by this run
	AddedBytes    int64 `json:"added_bytes"`    // file bytes that this run stored
	StoredBytes   int64 `json:"stored_bytes"`   // objects that this run wrote, compressed and encrypted
	LeftOutCount  int   `json:"left_out_count"` // files not in the backup
	DamageCount   int   `json:"damage_count"`   // findings in the source
}

// Identity says who a CouchDB node is, as far as that is known: with the node's name
// and the writer of the record what backups, retention and the service compare. What
// is empty is not known, which never makes two nodes different.
type Identity struct {
	// ServerUUID is couchdb/uuid of the ini files, 32 hex digits. Nodes of one cluster
	// may have the same.
	ServerUUID string `json:"server_uuid,omitempty"`
	// MapUUID is the uuid in the header of _dbs.couch, 32 hex digits, which CouchDB makes
	// with the file and keeps through compactions: each node has one of its own.
	MapUUID string `json:"map_uuid,omitempty"`
}

// Agrees reports whether two identities are surely of one node: the shard maps are
// known and the same, and nothing else that both know differs.
func (i Identity) Agrees(o Identity) bool {
	return i.MapUUID != "" && i.MapUUID == o.MapUUID && (i.ServerUUID == "" || o.ServerUUID == "" || i.ServerUUID == o.ServerUUID)
}

// Node returns what names the node that a backup is of, the same for all of it; "" if
// that isn't known, as of old records.
func (s *Summary) Node() string {
	if s.Identity.MapUUID != "" || s.Identity.ServerUUID == "" {
		return s.Identity.MapUUID
	}
	return s.Identity.ServerUUID + "/" + s.NodeName
}

// Record is the first line of backups/<instance>/<id>/record.jsonl.
type Record struct {
	Format int `json:"format"`
	Summary
	ManifestSHA256 string `json:"manifest_sha256"` // of the stored manifest object, hex
	ManifestSize   int64  `json:"manifest_size"`   // bytes of that object
	// Segments lists the segments that the manifest refers to: for each backup
	// that wrote some, the ranges of their numbers, both ends included.
	Segments map[BackupID][]Range `json:"segments"`
	// Shipped lists the objects of chains that it refers to, each as its key below ship/<instance>/
	// without the ending, sorted. A record with some is of ShippedRecord.
	Shipped []string `json:"shipped,omitempty"`
	// What follows is for those who can't open the manifest, and missing in records of
	// earlier versions. InstanceRecipient is what the manifest, and the segments that this
	// run wrote, are encrypted to. SegmentBytes is the stored size of all segments,
	// SegmentSizes and SegmentHashes are the SHA-256, in hex, of the lines
	// "<backup>/<n> <size>\n" and "<backup>/<n> <sha256>\n" of all segments by backup and n. An object of a
	// chain has its key there, and comes behind those that the same id wrote.
	InstanceRecipient string `json:"instance_recipient,omitempty"`
	SegmentBytes      int64  `json:"segment_bytes,omitempty"`
	SegmentSizes      string `json:"segment_sizes,omitempty"`
	SegmentHashes     string `json:"segment_hashes,omitempty"`
	// RetainUntil is until when the storage protects every object of the backup; nil
	// if it was not asked to.
	RetainUntil *time.Time `json:"retain_until,omitempty"`
	// Order is greater than that of every backup of the instance that the repository
	// knew when this one was made, whatever the clocks say; see package newest. 0 in
	// records of versions that had none.
	Order int64 `json:"order,omitempty"`
	// NewGenerations counts databases' files that this backup was the first to name: shipped moments after it rest
	// on it then. Nil in records of versions that didn't count.
	NewGenerations *int `json:"new_generations,omitempty"`
	// Writer is the Ed25519 public key that signed it, base64. It stands in the
	// signature's line of the object, not in the record's.
	Writer string `json:"-"`
}

// Range is a range of segment numbers, both ends included: [first, last] in JSON.
type Range [2]int

// Manifest is the JSON object backups/<instance>/<id>/manifest…
type Manifest struct {
	Format int `json:"format"`
	Summary
	Segments []Segment `json:"segments"`
	Files    []*File   `json:"files"` // sorted by root, then path
	LeftOut  []LeftOut `json:"left_out"`
	Damage   []Damage  `json:"damage"`
	Notes    []string  `json:"notes"` // what else an operator should know
}

// Segment is a stored object that holds file bytes.
type Segment struct {
	Backup BackupID `json:"backup"` // the run, or chain, that wrote it
	N      int      `json:"n"`      // its number in that run, from 0
	// Key is, of an object of a chain, its key below ship/<instance>/ without the ending; N is
	// 0 then.
	Key    string `json:"key,omitempty"`
	Size   int64  `json:"size"`   // bytes as stored
	Plain  int64  `json:"plain"`  // bytes of content
	SHA256 string `json:"sha256"` // of the stored bytes, hex
	// TrailerSHA256 is that of the end of the zstd bytes, which has the hash of each
	// frame, hex. Segments written before it was there lack it, and are read whole.
	TrailerSHA256 string `json:"trailer_sha256,omitempty"`
}

// Root says which of a node's directories a path is relative to.
type Root string

// The roots.
const (
	DataRoot  Root = "data"  // couchdb/database_dir
	IndexRoot Root = "index" // couchdb/view_index_dir; only if it isn't the data directory
	EtcRoot   Root = "etc"   // the ini files and vm.args
)

// Kind says what a file is.
type Kind string

// The kinds of files.
const (
	Shard  Kind = "shard"  // shards/<range>/<db>.<stamp>.couch
	System Kind = "system" // _dbs.couch, _nodes.couch, and other node-local .couch files
	View   Kind = "view"   // .view
	Config Kind = "config" // ini files, vm.args
)

// File is one file in a backup.
type File struct {
	Root Root   `json:"root"`
	Path string `json:"path"` // relative to the root, with "/"
	// RawPath is what Path stands for where that can't be said in JSON or on every system:
	// the bytes of the file's real path, base64 in JSON. See EscapePath.
	RawPath []byte `json:"raw_path,omitempty"`
	Kind    Kind   `json:"kind"`
	Mode    uint32 `json:"mode"` // permission bits
	Owner   string `json:"owner,omitempty"`
	Group   string `json:"group,omitempty"`
	MTime   int64  `json:"mtime"` // Unix nanoseconds

	Size   int64  `json:"size"`   // bytes in the backup: the cut
	SHA256 string `json:"sha256"` // over all those bytes, hex

	Generation string   `json:"generation,omitempty"` // physical file, see design; empty for ini files
	Header     *Header  `json:"header,omitempty"`     // nil for ini files and files without a valid header
	Extents    []Extent `json:"extents"`              // in file order, without gaps, together Size bytes
	// Replays make the bytes of the extents that name them.
	Replays []*Replay `json:"replays,omitempty"`

	// Longer is, of a file of a moment, what proves it where no hash of its Size bytes is
	// known: its extents make a longer file, of which it is the beginning.
	Longer *Longer `json:"-"`
}

// Longer is a file of which another one is the beginning.
type Longer struct {
	Size   int64
	SHA256 string // over all those bytes, hex
}

// Replay says that bytes of a file are stored as a stream of package couchfile/replay
// (docs/replay-format.md).
type Replay struct {
	Kind   ReplayKind `json:"kind"`
	Size   int64      `json:"size"`   // bytes of the file that the stream makes
	Stream []Extent   `json:"stream"` // of the stream, prologue and body
	Older  *Older     `json:"older,omitempty"`
}

// ReplayKind says which stream a replay is.
type ReplayKind string

// The kinds of replays.
const (
	CompactionReplay ReplayKind = "compaction" // makes what a compaction wrote: the first bytes of a file
	ViewReplay       ReplayKind = "view"       // the same of a view index
	TailReplay       ReplayKind = "tail"       // makes what a server appended between two headers, out of the bytes before
	CopyReplay       ReplayKind = "copy"       // makes the first bytes of a file out of pieces of an older one
)

// Older is the file out of which a stream takes documents, or rows: another generation of
// the database or index, up to the end of one of its headers. Of a copy
// it is as much of that file as is needed, in which there are no replays of other kinds.
type Older struct {
	Generation string    `json:"generation"`
	Header     int64     `json:"header"`  // offset of the header, in bytes; 0 of a copy
	Size       int64     `json:"size"`    // bytes up to its end
	Extents    []Extent  `json:"extents"` // as those of a File
	Replays    []*Replay `json:"replays,omitempty"`
}

// MaxReplays is how many compactions and copies at most rest on each other, which bounds what a
// restore has to build.
const MaxReplays = 64

// Append puts extents and their replays behind those that the file has.
func (f *File) Append(extents []Extent, replays []*Replay) {
	for _, e := range extents {
		if e.Seg < 0 {
			f.Replays = append(f.Replays, replays[-1-e.Seg])
			e.Seg = -len(f.Replays)
		}
		f.Extents = append(f.Extents, e)
	}
}

// Content is how many bytes of segments hold what is stored of the file, of its streams where it is replayed.
func (f *File) Content() (n int64) {
	for e := range f.Stored() {
		n += e.N
	}
	return n
}

// Renumbered returns extents and replays with other numbers of segments, those of streams too. What the replays
// rest on stays as it is.
func Renumbered(extents []Extent, replays []*Replay, to func(seg int) int) ([]Extent, []*Replay) {
	move := func(list []Extent) []Extent {
		out := slices.Clone(list)
		for i := range out {
			if out[i].Seg >= 0 {
				out[i].Seg = to(out[i].Seg)
			}
		}
		return out
	}
	made := make([]*Replay, len(replays))
	for i, r := range replays {
		moved := *r
		moved.Stream = move(r.Stream)
		made[i] = &moved
	}
	return move(extents), made
}

// Stored iterates over the extents of a file that are in segments, and those of all that
// its replays need. They may be changed in place.
func (f *File) Stored() iter.Seq[*Extent] {
	return func(yield func(*Extent) bool) { eachStored(f.Extents, f.Replays, yield) }
}

func eachStored(extents []Extent, replays []*Replay, yield func(*Extent) bool) bool {
	for i := range extents {
		if extents[i].Seg >= 0 && !yield(&extents[i]) {
			return false
		}
	}
	for _, r := range replays {
		if !eachStored(r.Stream, nil, yield) || r.Older != nil && !eachStored(r.Older.Extents, r.Older.Replays, yield) {
			return false
		}
	}
	return true
}

// Depth is how many compactions and copies rest on each other in replays.
func Depth(replays []*Replay) int {
	deepest := 0
	for _, r := range replays {
		n := 0
		if r.Kind != TailReplay {
			n = 1
		}
		if r.Older != nil {
			n += Depth(r.Older.Replays)
		}
		deepest = max(deepest, n)
	}
	return deepest
}

// Merges says whether the databases of a chain of compactions can be merged, going by how they are
// stored: nothing but replays stands behind what a compaction wrote, in the file and in those below it.
func Merges(extents []Extent, replays []*Replay) bool {
	if len(extents) == 0 || extents[0].Seg >= 0 || replays[0].Kind != CompactionReplay {
		return true // the first one, whatever it is made of
	}
	for _, e := range extents[1:] {
		if e.Seg >= 0 {
			return false
		}
	}
	o := replays[0].Older
	return o == nil || Merges(o.Extents, o.Replays)
}

// StreamSize is how many bytes the streams of replays have, and of all that they rest on.
func StreamSize(replays []*Replay) (size int64) {
	for _, r := range replays {
		for _, e := range r.Stream {
			size += e.N
		}
		if r.Older != nil {
			size += StreamSize(r.Older.Replays)
		}
	}
	return size
}

// Databases returns the .couch files of m by path.
func (m *Manifest) Databases() map[string]*File {
	out := make(map[string]*File, len(m.Files))
	for _, f := range m.Files {
		if f.Root == DataRoot && (f.Kind == Shard || f.Kind == System) {
			out[f.Path] = f
		}
	}
	return out
}

// CouchDB1 reports whether files are those of a CouchDB 1.x: databases, none of them with
// shards, and neither _dbs.couch nor _nodes.couch, which later versions make when they
// first start.
func CouchDB1(files []*File) bool {
	found := false
	for _, f := range files {
		switch {
		case f.Kind == Shard, f.Root == DataRoot && (f.Path == "_dbs.couch" || f.Path == "_nodes.couch"):
			return false
		case f.Kind == System:
			found = true
		}
	}
	return found
}

// Header is what the newest header within the cut says.
type Header struct {
	Offset       int64  `json:"offset"` // bytes; the header ends at the cut
	SHA256       string `json:"sha256"` // of the header's raw bytes, offset to cut, hex
	UUID         string `json:"uuid,omitempty"`
	Signature    string `json:"signature,omitempty"` // of a view, hex
	UpdateSeq    uint64 `json:"update_seq"`
	PurgeSeq     uint64 `json:"purge_seq"`
	CompactedSeq uint64 `json:"compacted_seq"`
	Docs         uint64 `json:"docs"`
	DeletedDocs  uint64 `json:"deleted_docs"`
}

// Extent is a run of bytes of a file: N bytes at offset At of the content of
// Segments[Seg]; or, with a Seg below 0, the N bytes that the replay -1-Seg of its file
// makes, At being 0: only a file of a moment may have the first At bytes of them already. In JSON it is the array [seg, at, n].
type Extent struct {
	Seg int
	At  int64
	N   int64
}

// LeftOut is a file that was found and is not in the backup.
type LeftOut struct {
	Root   Root   `json:"root"`
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// DamageNode is the What of a finding that says why the node's name is in doubt. It
// stands at _dbs.couch; Summary.NodeName is then a guess.
const DamageNode = "node name"

// Damage is a finding in the source, which the backup holds as it was.
type Damage struct {
	Root   Root   `json:"root"`
	Path   string `json:"path"`
	Offset int64  `json:"offset"`        // bytes in the file
	What   string `json:"what"`          // what was being read
	Doc    string `json:"doc,omitempty"` // id of the document that it hurts
	Rev    string `json:"rev,omitempty"`
	Error  string `json:"error"`
}
