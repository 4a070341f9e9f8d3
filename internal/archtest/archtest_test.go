// Package archtest holds the imports of the project against the picture in
// doc.go: data flows one way, and imports point down.
package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/slipcover/slipcover"

// allowed lists what each package may import of the project. A package that isn't
// here fails the test: put it where it belongs, with a reason.
var allowed = map[string][]string{
	// Public: reads files through an io.ReaderAt and knows nothing of backups.
	"couchfile":         {"couchfile/erlterm"},
	"couchfile/erlterm": {},
	"couchfile/snappy":  {},
	// Public: writes files as CouchDB does, out of what the reader gives.
	"couchfile/couchwriter": {"couchfile", "couchfile/erlterm", "couchfile/snappy"},
	// Public: stores a compacted file as what the compactor read.
	"couchfile/replay": {"couchfile", "couchfile/couchwriter", "couchfile/erlterm"},

	// No I/O of their own, or I/O that knows nothing of backups.
	"internal/shard":     {"couchfile"},
	"internal/ejson":     {"couchfile/erlterm"},
	"internal/opaque":    {"couchfile/erlterm"},
	"internal/mrargs":    {"internal/ejson"},
	"internal/collate":   {"internal/ejson"},
	"internal/mango":     {"couchfile/erlterm", "internal/collate", "internal/ejson", "internal/opaque"},
	"internal/viewindex": {"couchfile", "couchfile/couchwriter", "couchfile/erlterm", "internal/collate", "internal/ejson", "internal/mrargs", "internal/shard"},
	"internal/diverge":   {"couchfile", "couchfile/erlterm"},
	"internal/sequence":  {"couchfile/erlterm", "internal/opaque", "internal/shard"},
	"internal/manifest":  {},
	"internal/durable":   {},
	"internal/words":     {},
	"internal/localhost": {},
	"internal/userfile":  {},
	"internal/calendar":  {},
	"internal/newest":    {},
	"internal/job":       {},
	"internal/refusal":   {},
	"internal/config":    {"internal/calendar", "internal/userfile", "internal/words"},

	// Where a node's files are: not what is in them.
	"internal/node": {"internal/localhost", "internal/manifest", "internal/shard", "internal/userfile"},

	// Which files below some folders change: not whose they are.
	"internal/follow": {},

	// Keys and bytes: no backups. Drivers and wrappers know the contract alone.
	"internal/storage":             {},
	"internal/storage/file":        {"internal/storage", "internal/durable"},
	"internal/storage/mem":         {"internal/storage"},
	"internal/storage/faulty":      {"internal/storage"},
	"internal/storage/wrap":        {"internal/storage"},
	"internal/storage/probe":       {"internal/storage", "internal/storage/wrap"},
	"internal/storage/storagetest": {"internal/storage", "internal/storage/probe", "internal/testenv"},
	"internal/storage/swift":       {"internal/storage", "internal/storage/web"},
	"internal/storage/s3":          {"internal/storage", "internal/storage/web"},
	"internal/storage/cdk":         {"internal/storage", "internal/storage/web"},
	"internal/storage/web":         {"internal/localhost", "internal/storage", "internal/userfile"},
	"internal/storage/sftp":        {"internal/storage", "internal/localhost", "internal/userfile"},
	"internal/storage/retry":       {"internal/storage", "internal/storage/wrap"},
	"internal/storage/limit":       {"internal/storage", "internal/storage/wrap"},
	"internal/storage/cache":       {"internal/storage", "internal/storage/wrap"},
	"internal/storage/meter":       {"internal/storage", "internal/storage/wrap"},
	"internal/storage/drivers": {"internal/storage", "internal/storage/file", "internal/storage/swift", "internal/storage/s3",
		"internal/storage/cdk", "internal/storage/sftp"},

	// Pure: a policy and backups in, what is kept and why out.
	"internal/retention": {"internal/calendar", "internal/newest"},

	// Backups, but neither a driver nor what is in a .couch file.
	"internal/repo": {"couchfile", "couchfile/replay", "internal/durable", "internal/manifest", "internal/newest", "internal/shard", "internal/storage"},

	// What is new of one file of a node: for the engines, and without what they do with it.
	"internal/capture": {"couchfile", "couchfile/replay", "internal/durable", "internal/manifest", "internal/node"},
	// What a node keeps of an instance between runs.
	"internal/state": {"couchfile", "internal/capture", "internal/durable", "internal/manifest", "internal/node", "internal/repo"},

	// Pure: backups of a cluster's nodes in; which of them are one, and who gets which file, out.
	"internal/topology": {"internal/manifest", "internal/newest", "internal/shard", "internal/words"},
	// The backups of a cluster's nodes read as one thing, for commands and what restores them.
	"internal/cluster": {"couchfile", "internal/diverge", "internal/manifest", "internal/repo", "internal/shard", "internal/topology"},

	// Engines: an engine never imports another.
	"internal/backup": {"couchfile", "internal/capture", "internal/durable", "internal/manifest", "internal/newest", "internal/node", "internal/repo", "internal/shard", "internal/state"},
	"internal/ship":   {"couchfile", "internal/capture", "internal/durable", "internal/follow", "internal/manifest", "internal/node", "internal/repo", "internal/state"},
	"internal/serve":  {"couchfile", "internal/cluster", "internal/ejson", "internal/mango", "internal/manifest", "internal/repo", "internal/shard"},
	// CouchDB's HTTP API over it.
	"internal/serve/chttpd": {"couchfile", "internal/ejson", "internal/mango", "internal/manifest", "internal/mrargs", "internal/node", "internal/sequence", "internal/serve", "internal/shard", "internal/viewindex"},
	// What serve reads, written into a living server: it stands on that engine, and makes nothing of its own of backups.
	"internal/takeout": {"couchfile", "internal/diverge", "internal/durable", "internal/ejson", "internal/localhost", "internal/mango", "internal/serve", "internal/shard", "internal/viewindex"},
	// Asks that API of all of a state's databases: for tests of backups where no CouchDB is.
	"internal/serve/tryout": {"internal/manifest", "internal/repo", "internal/serve", "internal/serve/chttpd"},
	"internal/restore":      {"couchfile", "couchfile/couchwriter", "couchfile/erlterm", "internal/cluster", "internal/couchgen", "internal/durable", "internal/localhost", "internal/manifest", "internal/node", "internal/repo", "internal/shard", "internal/storage", "internal/topology", "internal/words"},

	// Who asks, and a listener with what stands around handlers: neither knows what is asked for.
	"internal/access": {"internal/bus", "internal/config", "internal/words"},
	"internal/httpd":  {"internal/durable", "internal/localhost"},

	// NATS: bytes between agents and servers, and their state; no backups.
	"internal/bus": {"internal/durable", "internal/userfile"},

	// Pure: a line of cron, a zone and the time in; what is to be done and when out.
	"internal/schedule": {},

	// What systemd is told of a service, by whoever runs one.
	"internal/sdnotify": {},

	// The catalog and who does what: no HTTP, no engines, no NATS of its own. Which instances are one cluster package topology
	// says, as of backups, so that a cluster has one name in the service and in repositories.
	"internal/server": {"internal/access", "internal/bus", "internal/calendar", "internal/durable", "internal/job", "internal/localhost", "internal/manifest", "internal/newest", "internal/refusal", "internal/retention", "internal/schedule", "internal/shard", "internal/topology", "internal/words"},

	// What both REST APIs do alike with a request.
	"internal/api": {"internal/access", "internal/httpd", "internal/server"},

	// Repositories and states that are open to be looked into, wherever that is: no catalog, no callers.
	"internal/states": {"internal/job", "internal/manifest", "internal/refusal", "internal/repo", "internal/serve"},
	// What was in them: lists, documents and what differs, as answers.
	"internal/contents": {"couchfile", "internal/cluster", "internal/ejson", "internal/job", "internal/mango", "internal/manifest", "internal/refusal", "internal/repo", "internal/serve", "internal/shard", "internal/states", "internal/viewindex", "internal/words"},

	// Backups that a server has open, each answered as a CouchDB: who may ask, and for how long; reading is package serve's.
	"internal/opened": {"internal/access", "internal/config", "internal/httpd", "internal/job", "internal/manifest", "internal/repo", "internal/serve", "internal/serve/chttpd", "internal/server", "internal/states"},
	// Who reads what callers and the dashboard look at: this server or an agent.
	"internal/looks": {"internal/access", "internal/bus", "internal/contents", "internal/job", "internal/opened", "internal/repo", "internal/server", "internal/states"},

	// Trove's REST API: requests and documents translated, nothing kept.
	"internal/trove": {"internal/access", "internal/api", "internal/httpd", "internal/job", "internal/server", "internal/words"},

	// Our own REST API over the same: an agent's join, schedules, lengths of time and names checked.
	"internal/admin": {"internal/access", "internal/api", "internal/calendar", "internal/contents", "internal/httpd", "internal/job", "internal/looks", "internal/states", "internal/manifest", "internal/opened", "internal/schedule", "internal/server", "internal/words"},

	// The dashboard: pages over what both APIs use, so that it can do nothing which they can't; sessions in a table of the bus.
	"internal/web": {"internal/access", "internal/api", "internal/bus", "internal/calendar", "internal/cluster", "internal/config", "internal/contents", "internal/diverge", "internal/httpd", "internal/job", "internal/looks", "internal/states", "internal/manifest", "internal/opened", "internal/schedule", "internal/serve", "internal/server", "internal/shard", "internal/topology",
		"internal/words", "internal/web/timeline"},
	"internal/web/timeline": {"internal/shard"},

	// Runs jobs on a node with the engines; the bus brings them.
	"internal/agent": {"internal/backup", "internal/bus", "internal/cluster", "internal/contents", "internal/durable", "internal/job", "internal/localhost", "internal/manifest", "internal/node", "internal/refusal", "internal/repo", "internal/restore", "internal/serve", "internal/serve/tryout", "internal/shard", "internal/ship",
		"internal/states", "internal/storage", "internal/takeout", "internal/topology"},

	// What commands have in common, and the settings' repositories opened: no command.
	"internal/cli/core": {"internal/userfile", "couchfile", "internal/backup", "internal/cluster", "internal/config", "internal/diverge", "internal/serve", "internal/ship", "internal/manifest", "internal/node", "internal/repo",
		"internal/restore", "internal/storage", "internal/storage/limit", "internal/storage/meter", "internal/takeout", "internal/topology"},
	"internal/cli/open": {"internal/userfile", "internal/calendar", "internal/cluster", "internal/topology", "internal/cli/core", "internal/durable", "internal/job", "internal/manifest", "internal/repo", "internal/sequence", "internal/serve", "internal/shard", "internal/storage",
		"internal/storage/cache", "internal/storage/drivers", "internal/storage/retry"},

	// The groups of the help: a group never imports another.
	"internal/cli/backups": {"internal/userfile", "internal/calendar", "internal/cli/core", "internal/cli/open", "internal/backup", "internal/manifest", "internal/newest", "internal/state",
		"internal/node", "internal/repo", "internal/restore", "internal/retention", "internal/storage"},
	"internal/cli/restores": {"internal/cluster", "internal/diverge", "internal/shard", "internal/topology", "couchfile", "internal/userfile", "internal/cli/core", "internal/cli/open", "internal/durable", "internal/ejson", "internal/mango", "internal/manifest", "internal/node", "internal/repo", "internal/restore",
		"internal/serve", "internal/takeout"},
	"internal/cli/look": {"internal/cli/core", "internal/cli/open", "couchfile", "internal/backup", "internal/calendar", "internal/cluster", "internal/config", "internal/diverge", "internal/ejson",
		"internal/httpd", "internal/localhost", "internal/mango", "internal/manifest", "internal/mrargs", "internal/newest", "internal/node", "internal/repo", "internal/restore", "internal/serve", "internal/serve/chttpd", "internal/shard", "internal/storage/drivers",
		"internal/storage/meter", "internal/storage/probe", "internal/topology"},
	"internal/cli/service": {"internal/calendar", "internal/cli/core", "internal/cli/open", "internal/access", "internal/admin", "internal/agent", "internal/backup",
		"internal/bus", "internal/config", "internal/contents", "internal/durable", "internal/httpd", "internal/job", "internal/localhost", "internal/manifest",
		"internal/node", "internal/opened", "internal/repo", "internal/restore", "internal/sdnotify", "internal/server", "internal/ship", "internal/states", "internal/storage",
		"internal/storage/meter", "internal/storage/web", "internal/trove", "internal/web"},

	// Puts the groups together.
	"internal/cli": {"internal/cli/core", "internal/cli/backups", "internal/cli/restores", "internal/cli/look", "internal/cli/service",
		"internal/config"},
	"cmd/slipcover": {"internal/cli", "internal/cli/core"},

	// Writes .couch files: shard maps of a restore, and all that tests need.
	"internal/couchgen": {"couchfile", "couchfile/couchwriter", "couchfile/erlterm"},

	// Test support: nothing above may import it.
	"internal/testenv":             {},
	"internal/agent/agenttest":     {"internal/agent", "internal/repo", "internal/storage", "internal/storage/drivers"},
	"internal/serve/servetest":     {"internal/backup", "internal/couchgen", "internal/manifest", "internal/node", "internal/repo", "internal/serve", "internal/shard", "internal/storage", "internal/storage/mem", "internal/testenv"},
	"internal/looks/lookstest":     {"internal/access", "internal/backup", "internal/bus", "internal/job", "internal/node", "internal/opened", "internal/repo", "internal/serve/servetest", "internal/server", "internal/server/servertest", "internal/storage/mem"},
	"internal/bus/bustest":         {"internal/testenv"},
	"internal/cli/clitest":         {"internal/cli/core", "internal/testenv"},
	"internal/testenv/skipsummary": {"internal/testenv"},
	"internal/testenv/crosscheck":  {},
	"internal/bench":               {"internal/couchgen", "internal/testenv"},
	"internal/archtest":            {},
	"packaging":                    {"internal/testenv"},
	"packaging/release":            {},
	"":                             {},
	// The dashboard in browsers: tests only.
	"internal/web/stories": {},
	// Stands on the server and under the tests of the APIs: their listener, not the APIs.
	"internal/server/servertest": {"internal/access", "internal/bus", "internal/httpd", "internal/job", "internal/server", "internal/testenv"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "../../...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		check(t, p)
	}
	if seen < 15 {
		t.Errorf("go list named %d packages", seen)
	}
}

func check(t *testing.T, p pkg) {
	t.Helper()
	name := local(p.ImportPath)
	may, known := allowed[name]
	if !known {
		t.Errorf("%s is not in the table", name)
	}
	for _, i := range p.Imports {
		if !strings.HasPrefix(i, module) {
			if name != "internal/storage/storagetest" && name != "internal/testenv" && i == "testing" {
				t.Errorf("%s imports testing", name)
			}
			continue
		}
		if !slices.Contains(may, local(i)) {
			t.Errorf("%s imports %s, which the table doesn't allow", name, local(i))
		}
	}
}

func local(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
}
