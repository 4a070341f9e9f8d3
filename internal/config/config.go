// Package config reads slipcover.yml, its environment variables and flags.
//
// Each setting has one name, given by the yaml tag of a field of Config: the key
// data_dir is the variable SLIPCOVER_DATA_DIR and the flag --data-dir. What
// counts is, from the strongest: flag, SLIPCOVER_ variable, file, CouchDB's own
// variables (COUCH_URL, COUCHDB_USER, COUCHDB_PASSWORD), default. Anything
// unknown is an error.
package config

import (
	"time"

	"github.com/slipcover/slipcover/internal/calendar"
)

// Config is all settings. The tags are what the program, its example file and
// its manual go by:
//
//	yaml     the key
//	default  the value if nobody says otherwise, as it is written in the file
//	example  a value to show where there is no fixed default
//	doc      what it means
//	enum     the values allowed, separated by "|"
//	min, max the smallest and the largest number allowed; min is 0 if it isn't given
//	kind     path: relative to the file that says it, or to the working directory
type Config struct {
	Repository   string        `yaml:"repository" kind:"place" example:"file:///srv/backup" doc:"Where backups are stored, as a URL or a folder's absolute path."`
	Repositories []string      `yaml:"repositories" kind:"place" example:"[s3://bucket/couchdb, file:///mnt/backup]" doc:"Further repositories to which each backup is copied, in this order, after it is in repository."`
	Recipients   []string      `yaml:"recipients" example:"[age1z5xphhwcaug5n38vyg40nqdc23ffl6cu6v8qj5pz4wdr2f47fuysypkakq]" doc:"The age recipients that this node encrypts to, and no others. A repository with another one is refused, so that somebody who can write there can't add a reader. Without this setting the repository's own count."`
	ImmutableFor calendar.Span `yaml:"immutable_for" default:"0" doc:"For how long a storage with object lock protects what is written from being deleted or replaced, such as 30d, 2w or 1y6m; 0 is not at all. Until then prune can't delete it either."`
	Instance     string        `yaml:"instance" example:"db1" doc:"Name of this CouchDB node in the repository: letters, digits, dot, underscore and dash, at most 63. Without it, the name that this CouchDB's backups already have, according to the state directory or the repository; at first the host name (in a container, whose host name changes, the node's name)."`
	Cluster      string        `yaml:"cluster" example:"prod" doc:"Name of the CouchDB cluster that this node is of, the same on all its nodes, in the same characters as instance. Without it the nodes recognise each other by CouchDB's own list of them, which is enough unless the repository has two clusters whose nodes have the same names, as those of a restored copy. See docs/clusters.md."`

	DataDir           string `yaml:"data_dir" kind:"path" example:"/opt/couchdb/data" doc:"CouchDB's data directory, the one of _dbs.couch and shards. Without it, what CouchDB's configuration says."`
	ConfigDir         string `yaml:"config_dir" kind:"path" example:"/opt/couchdb/etc" doc:"CouchDB's configuration directory, the one of default.ini and local.ini. Without it: COUCHDB_INI_FILES, then the server at couch_url, then /opt/couchdb/etc and /etc/couchdb."`
	NodeName          string `yaml:"node_name" example:"couchdb@127.0.0.1" doc:"The Erlang name of that CouchDB, by which shard maps know it. Without it, what the server at couch_url, _dbs.couch, ERL_FLAGS or vm.args says, if the shard maps and the files agree; a backup says if they don't."`
	CouchURL          string `yaml:"couch_url" example:"http://127.0.0.1:5984" doc:"The running CouchDB of this node. Backups do not need it; it is asked for its directories if nothing else says where they are, and restores into a running cluster go through it. It may carry user:password@. COUCH_URL is understood too."`
	CouchUser         string `yaml:"couch_user" example:"admin" doc:"A server admin of that CouchDB. COUCHDB_USER is understood too."`
	CouchPassword     Secret `yaml:"couch_password" example:"secret" doc:"The admin's password. COUCHDB_PASSWORD is understood too."`
	CouchPasswordFile string `yaml:"couch_password_file" kind:"path" example:"/etc/slipcover/couch_password" doc:"A file with the admin's password, instead of couch_password."`

	StateDir string `yaml:"state_dir" kind:"path" example:"/var/lib/slipcover" doc:"Where Slipcover keeps what the next incremental needs to know, and the key that signs backups. Losing it costs a full backup and a new signing key. Without it, /var/lib/slipcover for root, else $XDG_STATE_HOME/slipcover or ~/.local/state/slipcover."`

	IdentityFile   string   `yaml:"identity_file" kind:"path" example:"/etc/slipcover/identity.txt" doc:"An age identity that decrypts backups. Only restore, verify and serve need it: keep it off the nodes."`
	Passphrase     Secret   `yaml:"passphrase" example:"secret" doc:"The passphrase of the repository, if it was made with one."`
	PassphraseFile string   `yaml:"passphrase_file" kind:"path" example:"/etc/slipcover/passphrase" doc:"A file with the passphrase, instead of passphrase."`
	TrustedWriters []string `yaml:"trusted_writers" example:"[]" doc:"Public keys (Ed25519, base64) of the nodes whose backups may be restored. Each counts for all instances: to restore one node's, list that node's key alone. Without any, each backup must be signed, but by anybody."`

	BackupStrategy   string `yaml:"backup_strategy" default:"CouchDBBackup" doc:"How to back up: a name within backup_namespace. The names are those of OpenStack Trove."`
	BackupNamespace  string `yaml:"backup_namespace" default:"trove.guestagent.strategies.backup.experimental.couchdb_impl" doc:"Where backup_strategy is looked up. slipcover.physical is our own name for the same."`
	RestoreNamespace string `yaml:"restore_namespace" default:"trove.guestagent.strategies.restore.experimental.couchdb_impl" doc:"Where the strategy that a backup names is looked up to restore it. slipcover.physical is our own name for the same."`

	Indexes       bool          `yaml:"indexes" default:"true" doc:"Back up view indexes too. Without them a restored node builds them again, which can take hours, and a backup is smaller."`
	Strict        bool          `yaml:"strict" default:"false" doc:"Make no backup if any file is damaged or has no valid header. To look for damage, files that are new or have grown are read twice then. Otherwise the backup holds the file as it is and says so."`
	Parallel      int           `yaml:"parallel" default:"0" max:"1024" doc:"How many files are read and segments are stored at a time, each for some 20 MiB of memory; 0 is the number of CPUs, at most 4."`
	Compression   string        `yaml:"compression" default:"fastest" enum:"fastest|default|better" doc:"How hard zstd tries: fastest, default or better. CouchDB compresses documents itself, so trying harder gains some percent and costs the node as much again or more."`
	Compaction    string        `yaml:"compaction" default:"whole" enum:"copy|replay|whole" doc:"How a database is stored that CouchDB has compacted since the last backup. whole stores the file again. copy stores what is new in it, and where attachments and large documents are that are stored already; a restore is as fast. replay stores what is new in it, and of a view index too, mostly some kilobytes, and a restore computes the file out of that and what was stored before, which takes several times as long; the node remembers some 9 bytes of each document in its state directory for it, and for copy some 20 of each chunk of an attachment. See docs/compaction.md."`
	Tails         string        `yaml:"tails" default:"whole" enum:"replay|whole" doc:"How an incremental backup stores what CouchDB appended to a database. whole stores these bytes. replay stores the documents in them and lets a restore compute the rest, which is most of what small writes append. See docs/compaction.md."`
	ProveInterval time.Duration `yaml:"prove_interval" default:"720h" doc:"How long a file may go without being read whole, which proves that its beginning is still what the last backup holds. A file's turn comes after half to all of that time, so that not all are read in one night. 720h is 30 days, 168h a week. With 0 only small files, and those that give reason to doubt, are read whole."`
	ShipInterval  time.Duration `yaml:"ship_interval" default:"1s" doc:"Shipping: how long after a commit it is stored at most, while the storage keeps up. Nothing is stored while nothing is committed."`
	Ship          bool          `yaml:"ship" default:"false" doc:"Agent: ship its node all the time, as \"slipcover ship\" does, whatever the server says. Without it the server says: slipcover ship enable. It needs repository; in the accounts of a server's callers nothing is shipped."`
	KeepMoments   calendar.Span `yaml:"keep_moments" default:"14d" doc:"Shipping: for how long what was shipped is kept, counted from the newest moment and not from now, such as 36h, 14d, 2w, 3m (months) or 1y; the backups on which these moments rest stay as long. 0 keeps all of it."`
	Owner         string        `yaml:"owner" default:"couchdb:couchdb" doc:"User and group that restored files belong to, when root restores; an empty text leaves them to whoever restores."`

	RetryFor      time.Duration `yaml:"retry_for" default:"5m" doc:"For how long an operation is repeated when remote storage is not available, counted from its first failure; 0 is never. The waits in between grow from 0.2 to 30 seconds, or are as long as the storage asks."`
	LimitUpload   Rate          `yaml:"limit_upload" default:"0" doc:"The most bytes per second that are sent to the storage, all operations together, such as 20MiB/s or 500KB/s; 0 is no limit."`
	LimitDownload Rate          `yaml:"limit_download" default:"0" doc:"The most bytes per second that are read from the storage, all operations together; 0 is no limit."`
	CacheSize     Bytes         `yaml:"cache_size" default:"64MiB" doc:"How much of what is read from remote storage by ranges is kept, so that it need not be read again: in memory, or in cache_dir if that is set; 0 is nothing. What is opened of it to read documents in place is kept in memory besides, up to the same size, of all databases together."`
	CacheDir      string        `yaml:"cache_dir" kind:"path" example:"/var/cache/slipcover" doc:"A directory for that cache, which then outlives the command; several commands may use it at once. Its content is encrypted as it is in the storage. Verify and check never read from it."`

	KeepLast          int           `yaml:"keep_last" default:"0" max:"100000" doc:"Retention, which prune applies to each instance: the newest so many backups are kept. A backup goes when no rule keeps it; while all rules from keep_last to keep_within are 0, every backup is kept. The newest, the newest verified and pinned ones stay in any case."`
	KeepHourly        int           `yaml:"keep_hourly" default:"0" max:"100000" doc:"For so many hours that have a backup, the newest of each is kept."`
	KeepDaily         int           `yaml:"keep_daily" default:"0" max:"100000" doc:"For so many days that have a backup, the newest of each is kept."`
	KeepWeekly        int           `yaml:"keep_weekly" default:"0" max:"100000" doc:"For so many weeks (Monday to Sunday) that have a backup, the newest of each is kept."`
	KeepMonthly       int           `yaml:"keep_monthly" default:"0" max:"100000" doc:"For so many months that have a backup, the newest of each is kept."`
	KeepYearly        int           `yaml:"keep_yearly" default:"0" max:"100000" doc:"For so many years that have a backup, the newest of each is kept."`
	KeepWithin        calendar.Span `yaml:"keep_within" default:"0" doc:"All backups are kept that were made within that time before the newest one: y, m (months), w, d and h, such as 30d, 12h, 2w or 1y6m. It counts from the newest backup, not from now, so a node that stopped loses nothing."`
	KeepMinimum       int           `yaml:"keep_minimum" default:"1" min:"1" max:"100000" doc:"This many of the newest undamaged backups are kept whatever the rules say; if there are fewer, damaged ones make up the number. It is a floor under the rules, not a rule of its own."`
	RetentionTimeZone TimeZone      `yaml:"retention_time_zone" default:"UTC" doc:"Where hours, days, weeks, months and years of those rules begin: UTC, or a name of the time zone database such as Europe/Berlin."`

	// Of slipcover server.
	Listen           string        `yaml:"listen" default:"127.0.0.1:8779" doc:"Server: host and port of its HTTP APIs. On an address that other machines reach it must have tls_cert and tls_key, or insecure_http."`
	TLSCert          string        `yaml:"tls_cert" kind:"path" example:"/etc/slipcover/tls.crt" doc:"Server: certificate of its APIs and of the port for agents, PEM, with the chain. It is read again when it changes."`
	TLSKey           string        `yaml:"tls_key" kind:"path" example:"/etc/slipcover/tls.key" doc:"Server: its private key."`
	InsecureHTTP     bool          `yaml:"insecure_http" default:"false" doc:"Server: speak plain HTTP on an address that other machines reach, because something in front of it does TLS. Tokens travel in the clear."`
	PublicURL        string        `yaml:"public_url" example:"https://backup.example:8779" doc:"Server: where clients reach it; links begin with it. Without it, with the address that the client used."`
	Auth             string        `yaml:"auth" default:"token" enum:"token|keystone|none" doc:"Server: whose tokens count: its own (token), those of OpenStack Keystone, or nobody's: then whoever reaches it may do everything, and it must listen on this machine only."`
	KeystoneURL      string        `yaml:"keystone_url" example:"https://keystone.example:5000/v3" doc:"Server: the Identity API v3 that checks tokens."`
	KeystoneUser     string        `yaml:"keystone_user" example:"trove" doc:"Server: the service user who checks tokens, with the role admin or service, and acts for callers in their Swift accounts. Without one, the server asks about each token with that token; agents get callers' own tokens, so administrators' requests are refused; and scheduled backups go to the agent's own repository."`
	KeystonePassword Secret        `yaml:"keystone_password" example:"secret" doc:"Server: that user's password."`
	KeystoneProject  string        `yaml:"keystone_project" default:"service" doc:"Server: that user's project."`
	KeystoneDomain   string        `yaml:"keystone_domain" default:"default" doc:"Server: the identifier (not the name) of the domain of that user and project."`
	Region           string        `yaml:"region" example:"RegionOne" doc:"Server: the region whose object store is used, of those in a token's catalog; and the region that instances show."`
	TokenCache       time.Duration `yaml:"token_cache" default:"30s" doc:"Server: for how long an answer of Keystone counts. A revoked token may still work for that long."`
	OwnSwift         bool          `yaml:"own_swift" default:"true" doc:"Server with Keystone: backups go to the caller's Swift account, as in Trove. With false, and always without Keystone, they go to the agent's own repository."`
	SwiftContainer   string        `yaml:"swift_container" default:"database_backups" doc:"Server with Keystone: the container in such an account, which is made if it isn't there. Backup strategies may name others."`
	ContentsRoles    []string      `yaml:"contents_roles" example:"[backup_reader]" doc:"Server with Keystone: roles with which a viewer may read documents out of backups, beside that of a viewer (reader). Without any only operators and administrators may."`
	SwiftRoles       []string      `yaml:"swift_roles" example:"[member, swiftoperator]" doc:"Server with Keystone: the only roles with which agents may act for callers in their Swift accounts; they get those that the caller has. One of them must be among Swift's operator_roles. Don't name an administrator's role. Without any: member, _member_ and swiftoperator."`
	QuotaInstances   int           `yaml:"quota_instances" default:"-1" min:"-1" max:"1000000000" doc:"Server: how many instances a project may have that has no quota of its own; -1 is no limit."`
	QuotaBackups     int           `yaml:"quota_backups" default:"-1" min:"-1" max:"1000000000" doc:"Server: how many backups it may have; -1 is no limit."`
	QuotaVolumes     int           `yaml:"quota_volumes" default:"-1" min:"-1" max:"1000000000" doc:"Server: how many GB the volumes of its instances may have together; -1 is no limit."`
	RateLimit        int           `yaml:"rate_limit" default:"600" max:"1000000" doc:"Server: how many requests a minute one caller may make; 0 is no limit."`
	Serves           int           `yaml:"serves" default:"8" max:"1000" doc:"Server: how many backups may be open to be read at a time (slipcover serves open), each for some 50 MiB of memory; one project may have half of them. 0 lets none be opened. What is opened must be in repository, repositories or the caller's Swift account, and identity_file or the server's own key must read it."`
	TrustedProxies   []string      `yaml:"trusted_proxies" example:"[10.0.0.5, 10.1.0.0/16]" doc:"Server: addresses or networks of proxies in front of it, whose X-Forwarded-For is believed: in the logs, in audit_file, and for the limit of one address. This machine's own is 127.0.0.1."`
	Datastores       []string      `yaml:"datastores" example:"[mysql]" doc:"Server: names of further datastores that Trove's API shows beside couchdb. They have no versions, instances or backups; they are for tools that expect several."`
	AuditFile        string        `yaml:"audit_file" kind:"path" example:"/var/log/slipcover/audit.jsonl" doc:"Server: a file to which each request that changes something, or shows documents of a backup, adds a line of JSON: who, what, and how it ended. Without it, audit.jsonl in state_dir."`
	NATSURL          string        `yaml:"nats_url" example:"nats://n1:4222,nats://n2:4222" doc:"Server and agent: an existing NATS cluster with JetStream, instead of the one in the server. An agent that joins learns it from its server."`
	NATSCreds        string        `yaml:"nats_creds" kind:"path" example:"/etc/slipcover/service.creds" doc:"Server and agent: credentials file for that cluster."`
	NATSAccountSeed  string        `yaml:"nats_account_seed" kind:"path" example:"/etc/slipcover/account.nk" doc:"Server: seed of the key of its account on that cluster, or of a signing key. With it the server gives each agent credentials for its own subjects only."`
	NATSReplicas     int           `yaml:"nats_replicas" default:"1" min:"1" max:"5" doc:"Server: on how many of that cluster's servers state is kept: 3 on three servers."`
	NATSListen       string        `yaml:"nats_listen" example:"0.0.0.0:4222" doc:"Server: host and port on which its own NATS listens for agents of other machines, over TLS. Without it, only an agent in the same process can connect."`
	LogLevel         string        `yaml:"log_level" default:"info" enum:"debug|info|warn|error" doc:"Server and agent: what is logged, to standard error."`
	LogFormat        string        `yaml:"log_format" default:"text" enum:"text|json" doc:"Server and agent: how."`
	MetricsToken     Secret        `yaml:"metrics_token" example:"secret" doc:"Server: what reads /metrics must send this as its bearer token. Without it, only this machine may read it."`

	// Of slipcover agent.
	ServerURL      string        `yaml:"server_url" default:"http://127.0.0.1:8779" doc:"Agent, and the commands that speak to a server: where its APIs are."`
	CAFile         string        `yaml:"ca_file" kind:"path" example:"/etc/slipcover/ca.crt" doc:"PEM file with certificate authorities that the system doesn't know. Agent, and the commands that speak to a server: those of the server and of NATS. Server: those of the NATS cluster at nats_url, which must then speak TLS; agents that join get them."`
	Token          Secret        `yaml:"token" example:"slc_…" doc:"The token of the commands that speak to a server. The one that a new server makes is in admin-token in its state_dir."`
	TokenFile      string        `yaml:"token_file" kind:"path" example:"/root/.slipcover-token" doc:"A file with that token, instead of token."`
	AcceptStorages []string      `yaml:"accept_storages" example:"[https://swift.example/v1/]" doc:"Agent: where else, besides repository and repositories, its jobs may find or put backups: beginnings of URLs, such as https://HOST/v1/AUTH_ID for a Swift account, or a place where the repository used to be. A job for another place is refused. A node with neither a repository nor this setting goes where its server says."`
	AcceptWrites   bool          `yaml:"accept_writes" default:"false" doc:"Agent: whether its server may have documents put back into the CouchDB that runs here, each as a new revision. It needs a key that reads; who writes is couch_user with couch_password, or whom the caller names. Without it, a server that somebody else has taken over can change no document."`
	AcceptReads    bool          `yaml:"accept_reads" default:"false" doc:"Agent: whether its server may have backups of the CouchDBs that this agent has read here, for those who may read documents at the server. It needs a key that reads. What is read goes to the server encrypted; the key stays here. Without it, a server that has no key of its own shows no contents, and one that somebody else has taken over reads none."`
	AcceptRestores bool          `yaml:"accept_restores" default:"false" doc:"Agent: whether its server may have a cluster restored into this node's data directory, if that is empty, and a database under a new name into the CouchDB that runs here; with accept_writes too, one in the place of a database there. No file that is there is ever overwritten. It needs a key that reads, and for a database couch_user and couch_password."`
	InstancesDir   string        `yaml:"instances_dir" kind:"path" example:"/srv/couchdb-instances" doc:"Agent: where it makes new CouchDB instances, each in a directory of its own, and tests that backups restore. CouchDB's user must be able to enter it. Without it, state_dir with -instances behind its name."`
	BindAddress    string        `yaml:"bind_address" default:"127.0.0.1" doc:"Agent: the address on which those instances listen."`
	CouchDBBin     string        `yaml:"couchdb_bin" kind:"path" example:"/opt/couchdb/bin/couchdb" doc:"Agent: CouchDB's program for those instances. Without it: COUCHDB_BIN, /opt/couchdb/bin/couchdb, or couchdb in PATH."`
	RestartCommand string        `yaml:"restart_command" example:"systemctl restart couchdb" doc:"Agent: a command that restarts this node's CouchDB, run by a shell. Without it, the node can't be restarted through the service."`
	HookBefore     string        `yaml:"hook_before" example:"/etc/slipcover/before" doc:"Agent: a command that a shell runs before each backup. If it fails, no backup is made."`
	HookAfter      string        `yaml:"hook_after" example:"/etc/slipcover/after" doc:"Agent: a command that a shell runs after each backup, with SLIPCOVER_OUTCOME (completed or failed), SLIPCOVER_BACKUP and SLIPCOVER_INSTANCE in its environment."`
	HookTimeout    time.Duration `yaml:"hook_timeout" default:"10m" doc:"Agent: after which time a hook is stopped."`

	Progress string `yaml:"progress" default:"auto" enum:"auto|bar|plain|json|none" doc:"How progress is shown: a bar on a terminal, plain lines, JSON lines, or none; auto is a bar on a terminal and plain lines elsewhere."`

	// File is the configuration file that was read; empty if there was none.
	File string `yaml:"-"`
	// Warnings are sentences for the operator, such as of a password file that
	// everybody can read.
	Warnings []string `yaml:"-"`
	// Faults say by key what is wrong with settings that not all commands need: a password
	// file that can't be read, variables of others such as COUCH_URL. Such a setting is
	// empty, and who needs it returns its fault.
	Faults map[string]error `yaml:"-"`

	// PassphraseBytes are those of passphrase_file; see Passphrases.
	PassphraseBytes Secret `yaml:"-"`

	origin map[string]string
}

// Origin says where a setting comes from: "--data-dir", "SLIPCOVER_DATA_DIR",
// "/etc/slipcover/slipcover.yml:3" or "default".
func (c *Config) Origin(key string) string {
	if o, ok := c.origin[key]; ok {
		return o
	}
	return "default"
}
