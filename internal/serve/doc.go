// Package serve reads a CouchDB node in place: the databases of a backup, or of a moment between two, out of what a
// repository stores, without restoring them.
//
// A Node is what the files of a moment are to a client: databases by name, each of its shards opened when it is first asked
// for. Reads cost what they need: a document a few nodes of its shard's tree, each out of one frame of a stored object,
// which is proven by its hash. Nothing is written.
package serve
