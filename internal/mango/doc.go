// Package mango answers what CouchDB's _find, _explain and the filter _selector of _changes answer, without any index: selectors,
// fields, sorts, bookmarks, and how documents are scanned for them. It does no I/O: documents come in order of their ids from whoever has them.
//
//	Parse        a selector; Match asks it of a document
//	ParseOptions the body of _find and _explain; Explain is what _explain says, Find a Cursor
//	Cursor       takes documents one by one, and gives what _find prints of them and behind them
//
// Values are internal/ejson's. What clients did wrong is an *Error with CouchDB's status, error and reason, also where CouchDB says so only
// because something in it broke.
//
// Source: CouchDB 3.5, src/mango; held against a running server by the tests.
package mango
