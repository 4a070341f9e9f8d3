package chttpd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/sequence"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/shard"
)

// database answers what is asked of a database.
func (h *Handler) database(r *request) error {
	name := r.parts[0]
	switch {
	case len(r.parts) == 1 && (r.method == http.MethodPut || r.method == http.MethodDelete):
		return errReadOnly
	}
	d, err := h.open(name)
	if err != nil {
		return err
	}
	if len(r.parts) == 1 {
		switch r.method {
		case http.MethodGet:
			info, err := h.info(d)
			if err != nil {
				return err
			}
			return r.json(http.StatusOK, info)
		case http.MethodPost:
			return errReadOnly
		}
		return methods("DELETE,GET,HEAD,POST")
	}
	if f := ofDatabase[r.parts[1]]; f != nil {
		return f(h, r, d)
	}
	return h.ofDocument(r, d)
}

// open opens a database by its name; the shard map is one, too.
func (h *Handler) open(name string) (*serve.Database, error) {
	if name == "_dbs" {
		return h.node.ShardMaps()
	}
	return h.node.Database(name)
}

// ofDatabase are the functions of what is beside the documents of a database.
var ofDatabase map[string]func(*Handler, *request, *serve.Database) error

func init() { // the functions refer to the map
	ofDatabase = map[string]func(*Handler, *request, *serve.Database) error{
		"_all_docs": (*Handler).allDocs, "_design_docs": (*Handler).allDocs, "_local_docs": (*Handler).allDocs,
		"_changes": (*Handler).changes, "_bulk_get": (*Handler).bulkGet, "_revs_diff": (*Handler).revsDiff, "_missing_revs": (*Handler).revsDiff,
		"_security": (*Handler).security, "_revs_limit": (*Handler).revsLimit, "_purged_infos_limit": (*Handler).purgedInfosLimit,
		"_shards": (*Handler).shards, "_partition": (*Handler).partition, "_purged_infos": (*Handler).purgedInfos,
		"_ensure_full_commit": (*Handler).fullCommit, "_design": (*Handler).design,
		"_find": (*Handler).mangoFind, "_explain": (*Handler).mangoExplain, "_index": (*Handler).mangoIndexes,
		"_bulk_docs": posts, "_purge": posts, "_compact": posts, "_view_cleanup": posts, "_sync_shards": posts, "_temp_view": posts,
	}
}

// posts refuses what would write.
func posts(_ *Handler, r *request, _ *serve.Database) error {
	if r.method != http.MethodPost {
		return methods("POST")
	}
	return errReadOnly
}

// each calls fn with all shards of a database, by range.
func (h *Handler) each(d *serve.Database, fn func(*serve.Shard, *couchfile.DB) error) error {
	for _, s := range d.Shards {
		db, err := d.Open(h.ctx, s)
		if err != nil {
			return err
		}
		if err := fn(s, db); err != nil {
			return err
		}
	}
	return nil
}

// owner is the node that wrote a sequence of a shard.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_db.erl, owner_of.
func owner(hd couchfile.Header, seq uint64) string {
	for _, e := range hd.Epochs { // the newest first
		if seq >= e.UpdateSeq {
			return e.Node
		}
	}
	return "undefined"
}

// position is where a sequence is in a shard.
func (h *Handler) position(s *serve.Shard, db *couchfile.DB, seq uint64) sequence.Shard {
	hd := db.Header()
	return sequence.Shard{Node: h.nodeName(), Range: s.Range, Seq: seq, UUID: hd.UUID, Owner: owner(hd, seq)}
}

// info is what CouchDB says of a database.
//
// Source: CouchDB 3.5.0, src/fabric/src/fabric_db_info.erl.
func (h *Handler) info(d *serve.Database) (ejson.Object, error) {
	var seqs, purges []sequence.Shard
	var sum couchfile.Info
	props := ejson.Object{}
	err := h.each(d, func(s *serve.Shard, db *couchfile.DB) error {
		i, err := db.Info()
		if err != nil {
			return err
		}
		seqs = append(seqs, h.position(s, db, i.UpdateSeq))
		purges = append(purges, sequence.Shard{Node: h.nodeName(), Range: s.Range, Seq: i.PurgeSeq})
		sum.DocCount += i.DocCount
		sum.DeletedCount += i.DeletedCount
		sum.FileSize += i.FileSize
		sum.ActiveSize += max(0, i.ActiveSize)
		sum.ExternalSize += max(0, i.ExternalSize)
		sum.DiskVersion = max(sum.DiskVersion, i.DiskVersion)
		if p, err := db.Partitioned(); err != nil {
			return err
		} else if p {
			props = ejson.Object{{Name: "partitioned", Value: true}}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	q, n := h.copies(d)
	return ejson.Object{
		{Name: "instance_start_time", Value: startTime(d)},
		{Name: "db_name", Value: d.Name},
		{Name: "purge_seq", Value: sequence.Pack(purges)},
		{Name: "update_seq", Value: sequence.Pack(seqs)},
		{Name: "sizes", Value: ejson.Object{
			{Name: "file", Value: sum.FileSize}, {Name: "external", Value: sum.ExternalSize}, {Name: "active", Value: sum.ActiveSize},
		}},
		{Name: "props", Value: props},
		{Name: "doc_del_count", Value: sum.DeletedCount},
		{Name: "doc_count", Value: sum.DocCount},
		{Name: "disk_format_version", Value: sum.DiskVersion},
		{Name: "compact_running", Value: false},
		{Name: "cluster", Value: ejson.Object{
			{Name: "q", Value: q}, {Name: "n", Value: n}, {Name: "w", Value: n/2 + 1}, {Name: "r", Value: n/2 + 1},
		}},
	}, nil
}

// startTime is when a database was made, as its shard files' suffix says it.
func startTime(d *serve.Database) string {
	if s := strings.TrimPrefix(d.Map.Suffix, "."); s != "" {
		return s
	}
	return "0"
}

// copies counts the ranges of a database, and how many nodes have each.
func (h *Handler) copies(d *serve.Database) (q, n int) {
	has := map[shard.Range]int{}
	for _, list := range d.Map.ByNode {
		for _, rg := range list {
			has[rg]++
		}
	}
	for _, k := range has {
		n = max(n, k)
	}
	return max(1, len(has)), max(1, n)
}

func (h *Handler) security(r *request, d *serve.Database) error {
	if r.method == http.MethodPut {
		return errReadOnly
	}
	if r.method != http.MethodGet {
		return methods("PUT,GET")
	}
	b, err := h.securityOf(d)
	if err != nil {
		return err
	}
	return r.raw(http.StatusOK, b)
}

// securityOf returns a database's security object. Of shards that have different ones it takes that which most have, as
// CouchDB does.
func (h *Handler) securityOf(d *serve.Database) (json.RawMessage, error) {
	if b, ok := h.secure.Load(d); ok {
		return b.(json.RawMessage), nil
	}
	count := map[string]int{}
	var best json.RawMessage
	err := h.each(d, func(_ *serve.Shard, db *couchfile.DB) error {
		b, err := db.Security()
		if err != nil {
			return err
		}
		if count[string(b)]++; best == nil || count[string(b)] > count[string(best)] {
			best = b
		}
		return nil
	})
	if err == nil {
		h.secure.Store(d, best)
	}
	return best, err
}

// oneOf answers with a number of the first shard.
func (h *Handler) oneOf(r *request, d *serve.Database, allowed string, of func(couchfile.Header) uint64) error {
	if r.method == http.MethodPut {
		return errReadOnly
	}
	if r.method != http.MethodGet {
		return methods(allowed)
	}
	n := uint64(0)
	err := h.each(d, func(_ *serve.Shard, db *couchfile.DB) error {
		n = max(n, of(db.Header()))
		return nil
	})
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, n)
}

func (h *Handler) revsLimit(r *request, d *serve.Database) error {
	return h.oneOf(r, d, "PUT,GET", func(hd couchfile.Header) uint64 { return hd.RevsLimit })
}

func (h *Handler) purgedInfosLimit(r *request, d *serve.Database) error {
	return h.oneOf(r, d, "GET,PUT", func(hd couchfile.Header) uint64 { return hd.PurgeInfosLimit })
}

func (h *Handler) purgedInfos(r *request, d *serve.Database) error {
	if r.method != http.MethodGet {
		return methods("GET")
	}
	var purges []couchfile.Purge
	err := h.each(d, func(_ *serve.Shard, db *couchfile.DB) error {
		for p, err := range db.Purges(0) {
			if err != nil {
				return err
			}
			purges = append(purges, p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(purges, func(a, b couchfile.Purge) int { return strings.Compare(a.DocID, b.DocID) })
	list := ejson.Array{}
	for _, p := range purges {
		var revs []string
		for _, rev := range p.Revs {
			revs = append(revs, rev.String())
		}
		list = append(list, ejson.Object{{Name: "id", Value: p.DocID}, {Name: "revs", Value: revs}})
	}
	return r.json(http.StatusOK, ejson.Object{{Name: "purged_infos", Value: list}})
}

func (h *Handler) fullCommit(r *request, d *serve.Database) error {
	if r.method != http.MethodPost {
		return methods("POST")
	}
	if err := r.jsonType(); err != nil {
		return err
	}
	return r.json(http.StatusCreated, ejson.Object{{Name: "ok", Value: true}, {Name: "instance_start_time", Value: startTime(d)}})
}

// nodesOf are the nodes that have a range.
func nodesOf(d *serve.Database, rg shard.Range) []string {
	out := []string{}
	for n, list := range d.Map.ByNode {
		if slices.Contains(list, rg) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func (h *Handler) shards(r *request, d *serve.Database) error {
	if r.method != http.MethodGet || len(r.parts) > 3 {
		return methods("GET")
	}
	if len(r.parts) == 3 {
		if err := h.placeable(d, r.parts[2]); err != nil {
			return err
		}
		s, err := d.ShardOf(h.ctx, r.parts[2])
		if err != nil {
			return err
		}
		return r.json(http.StatusOK, ejson.Object{{Name: "range", Value: s.Range.String()}, {Name: "nodes", Value: nodesOf(d, s.Range)}})
	}
	all := ejson.Object{}
	for _, s := range d.Shards {
		all = append(all, ejson.Member{Name: s.Range.String(), Value: nodesOf(d, s.Range)})
	}
	return r.json(http.StatusOK, ejson.Object{{Name: "shards", Value: all}})
}

// partition answers of one partition: its sizes, or what is asked of its documents alone.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_db.erl, handle_partition_req.
func (h *Handler) partition(r *request, d *serve.Database) error {
	if len(r.parts) == 2 {
		return badRequest("invalid_partition_req")
	}
	name := r.parts[2]
	if len(r.parts) == 3 {
		if r.method == http.MethodPost && strings.HasPrefix(name, "_") {
			return illegalPartition("Partition must not start with an underscore")
		}
		if r.method != http.MethodGet {
			return methods("GET")
		}
	}
	parted, err := d.Partitioned(h.ctx)
	if err != nil {
		return err
	}
	if len(r.parts) == 3 {
		if err := checkPartition(name); err != nil {
			return err
		}
		if !parted {
			return badRequest("database is not partitioned")
		}
		return h.partitionInfo(r, d, name)
	}
	if !parted {
		return badRequest("database is not partitioned")
	}
	if err := checkPartition(name); err != nil {
		return err
	}
	query, err := r.query.InPartition(name)
	if err != nil {
		return err
	}
	rest := r.parts[3:]
	r.parts, r.query = append([]string{r.parts[0]}, rest...), query
	switch {
	case slices.Contains([]string{"_all_docs", "_index", "_find", "_explain"}, rest[0]), rest[0] == "_design" && len(rest) > 2 && strings.HasPrefix(rest[2], "_"):
		if f := ofDatabase[rest[0]]; f != nil {
			return f(h, r, d)
		}
	}
	return errMissing
}

func illegalPartition(reason string) error {
	return fail{status: http.StatusBadRequest, name: "illegal_partition", reason: reason}
}

// checkPartition refuses names that no partition has.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_partition.erl, validate_partition.
func checkPartition(name string) error {
	switch {
	case name == "":
		return illegalPartition("Partition must not be empty")
	case strings.HasPrefix(name, "_"):
		return illegalPartition("Partition must not start with an underscore")
	case strings.Contains(name, ":"):
		return illegalPartition("Partition must not contain a colon")
	case len(name) > 512:
		return illegalPartition("Document partition is too long")
	}
	return nil
}

// partitionInfo counts the documents of a partition.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_bt_engine.erl, get_partition_info.
func (h *Handler) partitionInfo(r *request, d *serve.Database, name string) error {
	db, err := d.Find(h.ctx, name+":x")
	if err != nil {
		return err
	}
	from, err := db.CountBefore(name + ":")
	if err != nil {
		return err
	}
	to, err := db.CountBefore(name + ";")
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, ejson.Object{
		{Name: "db_name", Value: d.Name},
		{Name: "sizes", Value: ejson.Object{
			{Name: "active", Value: to.Sizes.Active - from.Sizes.Active}, {Name: "external", Value: to.Sizes.External - from.Sizes.External},
		}},
		{Name: "partition", Value: name},
		{Name: "doc_count", Value: to.Docs - from.Docs},
		{Name: "doc_del_count", Value: to.Deleted - from.Deleted},
	})
}

// design answers of a design document: itself, its attachments, and what its functions are for.
func (h *Handler) design(r *request, d *serve.Database) error {
	if len(r.parts) < 4 || !strings.HasPrefix(r.parts[3], "_") {
		return h.ofDocument(r, d)
	}
	switch action := r.parts[3]; action {
	case "_info", "_view":
		id := "_design/" + r.parts[2]
		doc, err := h.document(d, id)
		if err != nil {
			return err
		}
		if action == "_info" {
			return h.designInfo(r, d, doc)
		}
		return h.view(r, d, doc)
	case "_show", "_list", "_update", "_rewrite", "_search", "_search_info", "_nouveau", "_nouveau_info":
		return notImplemented("%s runs functions or another engine's index, which a backup that is read in place doesn't: restore the database, then ask the server.", action)
	}
	return h.ofDocument(r, d)
}

// find opens the shard that a document is in. Of a partitioned database the id must have a partition.
func (h *Handler) find(d *serve.Database, id string) (*couchfile.DB, error) {
	if err := h.placeable(d, id); err != nil {
		return nil, err
	}
	return d.Find(h.ctx, id)
}

// placeable refuses an id that no partition can have.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_partition.erl, from_docid.
func (h *Handler) placeable(d *serve.Database, id string) error {
	if strings.HasPrefix(id, "_") || strings.Contains(id, ":") {
		return nil
	}
	parted, err := d.Partitioned(h.ctx)
	if err == nil && parted {
		err = fail{status: http.StatusBadRequest, name: "illegal_docid", reason: "Doc id must be of form partition:id"}
	}
	return err
}

// document reads the winning revision of a document, which must not be deleted.
func (h *Handler) document(d *serve.Database, id string) (ejson.Object, error) {
	db, err := h.find(d, id)
	if err != nil {
		return nil, err
	}
	b, err := db.Doc(id, couchfile.DocOptions{})
	if err != nil {
		return nil, err
	}
	v, err := ejson.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("document %q: %w", id, err)
	}
	return v.(ejson.Object), nil
}
