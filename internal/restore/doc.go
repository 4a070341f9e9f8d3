// Package restore brings a backup back: as the files of a node (Files), as a new
// CouchDB instance (Create, Start, Stop, Running, Remove); and proves that it could, by
// reading it (Verify) or by serving it (Trial).
//
// A restore that isn't finished must not look like one that is. CouchDB serves
// what its shard map, _dbs.couch, names, and creates each named shard that isn't
// there, empty and without a word. So:
//
//   - first a marker file, slipcover-restore-incomplete, is put into each folder
//     that is written to, and _dbs.couch and _nodes.couch are set aside;
//   - then come all other files, each under a temporary name, hashed on the way,
//     and renamed only if its bytes are those of the manifest;
//   - then, once all of them are on the disk, _nodes.couch and _dbs.couch, of what was set
//     aside if that is them, and else that goes;
//   - and last the marker goes.
//
// A killed restore leaves the marker. Running the same one again goes on with
// it: files whose bytes are right by then are kept, as --delta does.
//
// Where a shard is missing, has no header or can't be read back, an empty folder takes
// the place of its file. CouchDB can't create a file there, so the database answers with
// an error and not as an empty one. What can't be read back keeps nothing else from
// coming back: see damage.go.
package restore
