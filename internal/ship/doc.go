// Package ship stores what a CouchDB node commits, as it happens: between two backups
// it follows the node's files, and at every interval stores the new commits of all that
// changed as one object, a tick. See docs/decisions/0011-shipping.md.
//
//	follow: which files changed -> capture: what is new of each -> one buffer -> repo: sealed
//	                                                                       -> journal -> storage
//
// A tick changes nothing of what the shipper knows until it is stored: what failed is
// taken again from the files, which are the buffer. Before it is stored its hash and index are in
// the journal (state directory, ship/journal.jsonl), so that after a crash it is known whether
// it was, and what it had.
//
// A shipper goes on from a backup: from the state that the last one left on the node. When
// the next backup has written its own, it goes on from that one's cuts.
//
// One goroutine does all of it. Status is for others.
package ship
