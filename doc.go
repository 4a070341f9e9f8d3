// Package slipcover is the root of Slipcover, which backs up a running Apache
// CouchDB by its files and brings back anything from it.
//
// Data flows one way and imports point down only; internal/archtest holds it:
//
//	cmd/slipcover      main only: arguments in, exit code out
//	internal/cli       the command line: a package for each group of its help, backups, restores, look and
//	                   service, a file per command; below them open, which opens repositories, and core with
//	                   settings, output and exit codes
//	internal/web       the dashboard, pages over what both APIs use
//	internal/trove     OpenStack Trove's REST API over server
//	internal/admin     our own REST API, for what Trove's lacks
//	internal/looks     who reads what APIs and pages look at: the server, or an agent
//	internal/opened    backups that a server has open to be read
//	internal/api       what both do alike with a request
//	internal/httpd     listener, TLS, and what stands around handlers
//	internal/server    catalog, who does which job, schedules, quotas
//	internal/agent     does the jobs of a node with the engines
//	internal/contents  what was in backups and moments, as answers for APIs and pages
//	internal/states    repositories and moments that are open to be looked into
//	internal/access    who asks: Keystone's tokens or our own
//	internal/bus       NATS: tables with revisions, queues, requests between agents and servers
//	internal/schedule  when a schedule fires, and what to do about it
//	internal/job       documents of the service, and what agents and servers say
//	internal/refusal   why something isn't done, in a sentence for whoever asked
//	internal/sdnotify  tells systemd how a service is doing
//	internal/backup    full and incremental backups of a node
//	internal/ship      what is committed between backups, as it happens
//	internal/serve     the databases of a backup or moment, read in place
//	internal/takeout   documents and databases out of these, into a living server
//	internal/restore   a backup back to files, to a new instance, or verified
//	internal/cluster   the backups of a cluster's nodes, read as one
//	internal/capture   what is new of one file of a node: proven, read, replayed
//	internal/state     what a node keeps of an instance between runs
//	internal/repo      the repository format: segments, manifests, keys, locks, prune, check, copies
//	internal/retention which backups a policy keeps, and why
//	internal/storage   the object store contract. Below it the drivers file, swift, s3, cdk (Google, Azure),
//	                   sftp and mem; the wrappers retry, limit, cache, meter and faulty; probe, which holds
//	                   a storage against the contract
//	internal/node      where a CouchDB node keeps its files
//	internal/follow    which of them change
//	internal/config    slipcover.yml and its environment variables
//	couchfile          public: reads .couch and .view files; below it erlterm, Erlang's terms; snappy, which
//	                   compresses as CouchDB does; couchwriter, which writes files as CouchDB does; and replay,
//	                   which stores compacted files and tails as the documents that led to them
//	internal/couchgen  writes .couch files: a restore's shard maps, and what tests need
//	internal/topology  plans clusters: which instances are one, and who gets which file
//	internal/manifest  what a backup records
//	internal/newest    which backup is the newest, and which stored times are believed
//	internal/calendar  lengths of time such as 30d and 1y6m
//	internal/words     the word that was meant
//	internal/userfile  paths with a ~, and small files as all editors save them
//	internal/localhost the name localhost, without a resolver
//	internal/shard     names, ranges and maps of shards
//	internal/diverge   what the copies of a shard disagree about
//	internal/viewindex what views answer, out of stored indexes
//	internal/mrargs    the arguments of view queries, and CouchDB's words for wrong ones
//	internal/opaque    terms in the texts that clients give back
//	internal/sequence  the sequences that CouchDB shows of databases
//	internal/ejson     JSON values as CouchDB holds them
//	internal/collate   their order
//	internal/mango     CouchDB's selectors, and what its _find and _explain say
//	internal/durable   writes that survive a power cut
//
// Only for tests and measuring:
// internal/testenv (real servers), internal/cli/clitest (the program), internal/bench (beside other programs),
// internal/archtest (imports), internal/devtools (versions of linters).
package slipcover
