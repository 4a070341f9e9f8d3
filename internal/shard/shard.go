// Package shard knows how CouchDB cuts a database into shards and names their
// files: hash ranges, the ids that fall into them, and the paths
//
//	shards/<range>/<db><suffix>.couch
//	.shards/<range>/<db><suffix>_design/mrview/<signature>.view
//
// A range is eight hex digits, "-", eight hex digits, both ends included. The
// name of the database is not escaped: its slashes are folders. The suffix is
// "." and the second in which the database was created, or, rarely, empty. The
// package does no I/O.
package shard

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"regexp"
	"strconv"
	"strings"
)

// Range is a range of document hashes, both ends included.
type Range struct {
	Begin, End uint32
}

// Full is the range of a database with a single shard.
var Full = Range{0, 1<<32 - 1}

// ParseRange reads a range as CouchDB writes it in paths and shard maps:
// "00000000-7fffffff", in lower case.
func ParseRange(s string) (Range, error) {
	if len(s) != 17 || s[8] != '-' {
		return Range{}, fmt.Errorf("%q is not a shard range such as 00000000-7fffffff", s)
	}
	begin, ok1 := parseHex(s[:8])
	end, ok2 := parseHex(s[9:])
	if !ok1 || !ok2 {
		return Range{}, fmt.Errorf("%q is not a shard range: both ends are eight hex digits in lower case", s)
	}
	if begin > end {
		return Range{}, fmt.Errorf("%q is not a shard range: it ends before it begins", s)
	}
	return Range{begin, end}, nil
}

// parseHex reads eight hex digits. strconv would also take upper case and "_".
func parseHex(s string) (n uint32, ok bool) {
	for _, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9':
			n = n<<4 | uint32(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | uint32(c-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}

// String returns the range as it is written in paths: "00000000-7fffffff".
func (r Range) String() string { return fmt.Sprintf("%08x-%08x", r.Begin, r.End) }

// Contains says whether a document with this hash belongs into the range.
func (r Range) Contains(hash uint32) bool { return r.Begin <= hash && hash <= r.End }

// Compare orders ranges by their beginning, then by their end.
func (r Range) Compare(o Range) int {
	return cmp.Or(cmp.Compare(r.Begin, o.Begin), cmp.Compare(r.End, o.End))
}

// Hash returns the number that decides into which shard a document goes: the
// CRC-32 (IEEE) of its id. In a partitioned database it is the CRC-32 of what
// stands before the first ":", except for ids that start with "_", which have no
// partition. An id without ":" can't exist in a partitioned database; it is
// hashed whole.
//
// Source: CouchDB 3.5.0, src/mem3/src/mem3_hash.erl, crc32, and
// src/couch/src/couch_partition.erl, hash.
func Hash(docID string, partitioned bool) uint32 {
	if partitioned && !strings.HasPrefix(docID, "_") {
		if partition, _, ok := strings.Cut(docID, ":"); ok {
			docID = partition
		}
	}
	return crc32.ChecksumIEEE([]byte(docID))
}

// Name names one shard of one database.
type Name struct {
	Range  Range
	DB     string // as in the API: "team/a+b"
	Suffix string // "." and at least ten digits, or empty
}

// dbName is what CouchDB takes for the name of a database in the cluster or of
// one node: the ordinary pattern, or a system database, also below a prefix.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_db.erl, DBNAME_REGEX and
// is_system_db_name. A leading "_" is taken in each last part here, since which
// names are system databases can be configured.
var dbName = regexp.MustCompile(`^([a-z][a-z0-9_$()+\-/]*|([a-z][a-z0-9_$()+\-/]*/)?_[a-z0-9_$()+\-]+)$`)

// ValidDB says whether CouchDB could open a database of this name.
func ValidDB(name string) bool {
	return dbName.MatchString(name) &&
		!strings.HasSuffix(name, "/") && !strings.Contains(name, "//")
}

// nodeName is what the name of an Erlang node looks like that can stand in vm.args and
// in a shard map as it is.
var nodeName = regexp.MustCompile(`^[A-Za-z0-9_.+-]+@[A-Za-z0-9_.:-]+$`)

// ValidNode says whether a CouchDB node could be called so: couchdb@127.0.0.1.
func ValidNode(name string) bool { return nodeName.MatchString(name) }

// CutSuffix cuts the creation stamp from the name of a shard: "db.1795334390" is
// "db" and ".1795334390". Without a stamp the suffix is empty.
func CutSuffix(s string) (db, suffix string) {
	dot := strings.LastIndexByte(s, '.')
	if dot < 0 || len(s)-dot-1 < 10 {
		return s, ""
	}
	for _, c := range []byte(s[dot+1:]) {
		if c < '0' || c > '9' {
			return s, ""
		}
	}
	return s[:dot], s[dot:]
}

// Created returns the second in which the shard's database was created, as its
// suffix says; 0 if there is none.
func (n Name) Created() int64 {
	if n.Suffix == "" {
		return 0
	}
	sec, err := strconv.ParseInt(n.Suffix[1:], 10, 64)
	if err != nil {
		return 0
	}
	return sec
}

// String returns the name by which CouchDB calls the shard:
// "shards/00000000-7fffffff/db.1795334390".
func (n Name) String() string { return "shards/" + n.base() }

// Path returns the path of the shard's file below the data directory.
func (n Name) Path() string { return "shards/" + n.base() + ".couch" }

// ViewPath returns the path of a view index of the shard below the index
// directory.
func (n Name) ViewPath(signature string) string {
	return ".shards/" + n.base() + "_design/mrview/" + signature + ".view"
}

func (n Name) base() string { return n.Range.String() + "/" + n.DB + n.Suffix }

// ParsePath reads the path of a shard's file below the data directory.
func ParsePath(p string) (Name, error) {
	rest, ok1 := strings.CutPrefix(p, "shards/")
	rest, ok2 := strings.CutSuffix(rest, ".couch")
	if !ok1 || !ok2 {
		return Name{}, fmt.Errorf("%q is not the path of a shard: shards/<range>/<db>.couch", p)
	}
	return parseBase(rest)
}

// ParseViewPath reads the path of a shard's view index below the index
// directory.
func ParseViewPath(p string) (n Name, signature string, err error) {
	rest, ok1 := strings.CutPrefix(p, ".shards/")
	base, signature, ok2 := CutView(rest)
	if !ok1 || !ok2 {
		return Name{}, "", fmt.Errorf("%q is not the path of a view index: .shards/<range>/<db>_design/mrview/<signature>.view", p)
	}
	n, err = parseBase(base)
	return n, signature, err
}

// CutView cuts the end of a view index's path, "_design/mrview/<signature>.view",
// from what stands before it. A signature is 32 hex digits in lower case.
//
// Source: CouchDB 3.5.0, src/couch_index/src/couch_index_util.erl, index_dir and
// hexsig; src/couch_mrview/src/couch_mrview_util.erl, index_file.
func CutView(p string) (owner, signature string, ok bool) {
	const middle = "_design/mrview/"
	rest, ok := strings.CutSuffix(p, ".view")
	if !ok || len(rest) < 32+len(middle) {
		return "", "", false
	}
	rest, signature = rest[:len(rest)-32], rest[len(rest)-32:]
	for i := 0; i < 32; i += 8 {
		if _, ok := parseHex(signature[i : i+8]); !ok {
			return "", "", false
		}
	}
	owner, ok = strings.CutSuffix(rest, middle)
	return owner, signature, ok && owner != ""
}

// ViewOwner returns the path of the database file, below the data directory, that a view
// index belongs to, by the index's path below the index directory.
func ViewOwner(view string) (path string, ok bool) {
	owner, _, ok := CutView(view)
	if !ok || !strings.HasPrefix(owner, ".") {
		return "", false
	}
	return owner[1:] + ".couch", true
}

func parseBase(s string) (Name, error) {
	r, name, ok := strings.Cut(s, "/")
	if !ok {
		return Name{}, fmt.Errorf("%q names no database below its range", s)
	}
	rng, err := ParseRange(r)
	if err != nil {
		return Name{}, err
	}
	db, suffix := CutSuffix(name)
	if !ValidDB(db) {
		return Name{}, fmt.Errorf("%q is not a name that CouchDB gives a database", db)
	}
	return Name{Range: rng, DB: db, Suffix: suffix}, nil
}
