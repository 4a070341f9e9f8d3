// Package chttpd answers CouchDB's HTTP API over a node that is read in place: a backup, or a moment between two.
//
// Answers are those of CouchDB 3.5, byte for byte where the server's are determined: statuses, headers that clients go by,
// JSON with its order of members and its line breaks, errors. Nothing can be written but checkpoints, which replicators
// keep at their source: these stay in memory, and lie over the local documents of the backup. Other writes are refused.
//
// A request is read into a request, which a function of its path answers with what package serve reads. It returns an error
// for whatever isn't answered yet, a fail with the status and the words that CouchDB has for it. Damage and storages that
// don't answer become a status of 500 and a line in the log; once some of an answer was sent its connection is cut instead.
//
// Source: CouchDB 3.5.0, src/chttpd and src/fabric.
package chttpd
