// Package repo is Slipcover's repository, format 1, on any storage.Store.
//
//	slipcover.json                                   format version, id, recipients
//	keys/<recipient>.age                             reading key under a passphrase
//	keys/<instance>/<instance recipient>.age         key of the instance, wrapped for the recipients
//	keys/<instance>/<instance recipient>.retired     mark: a new key is to be made
//	segments/<instance>/<backup>/<number>.zst.age    bytes of files
//	backups/<instance>/<backup>/manifest.json.zst.age  every file, where its bytes are
//	backups/<instance>/<backup>/record.jsonl         summary, hash of the manifest, signature
//	backups/<instance>/<backup>/pin.json             mark: kept from every deletion
//	backups/<instance>/<backup>/verified.json        mark: read whole, and sound
//	locks/<instance>/<number>.json                   who works on the instance
//	plans/<instance>/<number>.json                   what a deletion removes
//
// A manifest names all that its files are made of, also what replays rest on, so nothing
// but Reader knows of replays: it makes the files in scratch files where it must.
//
// Without encryption the ".age" endings are missing. docs/repository-format.md
// gives every byte.
//
// Invariants. Objects are written once and never changed, locks, marks, and what a
// change of recipients replaces excepted, and no key is used again for something else. The record goes last: what a record
// names exists, and a backup without a record is not a backup. A crash leaves
// objects that nothing refers to, never half a backup. A backup refers to segments of its own instance only, and whoever
// writes or deletes in an instance holds the instance's lock.
//
// Deleting stores a plan first, and then removes records, manifests and segments;
// once the plan is stored all of it counts as deleted, and whoever takes the lock
// after a crash carries it out again. A lock may be lost without its holder knowing;
// what keeps data safe then is described at Lock.
package repo
