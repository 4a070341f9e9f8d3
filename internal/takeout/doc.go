// Package takeout brings documents and databases out of a backup or moment into a living CouchDB.
//
// The source is what package serve reads; the target is any CouchDB, over HTTP. A replication of an old state would lose: against
// the tombstone of what was deleted, and against each newer revision. So Documents writes old contents as new revisions, on top
// of those that win at the target. Each write names the revision that was looked at, so that nobody's edit meanwhile is lost: it
// is refused, and the document is looked at again.
//
// What is there already with the same content is left alone. That is why whatever was interrupted goes on when it is run again,
// without a journal.
package takeout
