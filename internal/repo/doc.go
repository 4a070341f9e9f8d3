// Package repo is Slipcover's repository, format 1, on any storage.Store.
//
//	slipcover.json                                   format version, id, recipients
//	keys/<recipient>.age                             reading key under a passphrase
//	segments/<instance>/<backup>/<number>.zst.age    bytes of files
//	backups/<instance>/<backup>/manifest.json.zst.age  every file, where its bytes are
//	backups/<instance>/<backup>/record.jsonl         summary, hash of the manifest, signature
//	backups/<instance>/<backup>/deleting             mark: this backup is being deleted
//	locks/<instance>/<number>.json                   who works on the instance
//
// Without encryption the ".age" endings are missing. docs/repository-format.md
// gives every byte.
//
// Invariants. Objects are written once and never changed, locks excepted. The
// record goes last: what a record names exists, and a backup without a record is
// not a backup. A crash leaves objects that nothing refers to, never half a
// backup. A backup refers to segments of its own instance only, and whoever
// writes or deletes in an instance holds the instance's lock.
//
// Deleting writes the mark first, which hides the backup; then removes segments
// that no other record of the instance needs, manifest, record, and the mark at
// the end. Each step can be repeated; the record is the plan.
package repo
