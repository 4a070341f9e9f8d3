package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/slipcover/slipcover/internal/calendar"
)

// load loads with no file of this machine, as the user 1000 on host db1.
func load(o Options) (*Config, error) {
	o.Hostname = func() (string, error) { return "db1", nil }
	o.uid = func() int { return 1000 }
	o.system = os.DevNull
	if o.Environ == nil {
		o.Environ = []string{"HOME=/home/u"}
	}
	return Load(o)
}

func write(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "slipcover.yml")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// settings drops what says where settings come from.
func settings(c *Config) Config {
	s := *c
	s.origin, s.File, s.Warnings = nil, "", nil
	return s
}

func TestDefaults(t *testing.T) {
	c, err := load(Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Instance: "db1", StateDir: filepath.FromSlash("/home/u/.local/state/slipcover"), Indexes: true, Compression: "fastest", Compaction: "whole", Tails: "whole", Owner: "couchdb:couchdb", Progress: "auto",
		RetryFor: 5 * time.Minute, CacheSize: 64 << 20, ProveInterval: 30 * 24 * time.Hour, ShipInterval: time.Second, KeepMoments: calendar.Span{Days: 14},
		KeepMinimum: 1, RetentionTimeZone: TimeZone{time.UTC},
		BackupStrategy:   "CouchDBBackup",
		BackupNamespace:  "trove.guestagent.strategies.backup.experimental.couchdb_impl",
		RestoreNamespace: "trove.guestagent.strategies.restore.experimental.couchdb_impl",
		Listen:           "127.0.0.1:8779", Auth: "token", KeystoneProject: "service", KeystoneDomain: "default", TokenCache: 30 * time.Second,
		OwnSwift: true, SwiftContainer: "database_backups", QuotaInstances: -1, QuotaBackups: -1, QuotaVolumes: -1, RateLimit: 600, Serves: 8, NATSReplicas: 1, LogLevel: "info", LogFormat: "text",
		ServerURL: "http://127.0.0.1:8779", BindAddress: "127.0.0.1", HookTimeout: 10 * time.Minute,
	}
	if got := settings(c); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestExampleIsTheDefaults(t *testing.T) {
	defaults, err := load(Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := load(Options{File: write(t, Example())})
	if err != nil {
		t.Fatalf("the example does not load: %v\n%s", err, Example())
	}
	if !reflect.DeepEqual(settings(c), settings(defaults)) {
		t.Errorf("the example gives %+v\nwant the defaults %+v", settings(c), settings(defaults))
	}
}

func TestEmptyText(t *testing.T) {
	c, err := load(Options{File: write(t, "owner: ''\ninstance: \"\"\n")})
	if err != nil || c.Owner != "" || c.Instance != "db1" {
		t.Errorf("%+v, %v", c, err)
	}
}

// Each commented setting of the example, uncommented, must load as well.
func TestExampleValuesLoad(t *testing.T) {
	for _, k := range Keys() {
		if k.Doc == "" || k.Default == "" && k.Example == "" {
			t.Errorf("%s has no doc, or neither a default nor an example", k.Name)
		}
		if strings.HasSuffix(k.Name, "_file") && k.Name != "identity_file" {
			continue // would be read
		}
		value := k.Default
		if value == "" {
			value = k.Example
		}
		if _, err := load(Options{File: write(t, k.Name+": "+value)}); err != nil {
			t.Error(err)
		}
	}
}

// What config show prints as JSON can be written into the file again.
func TestTypesInJSON(t *testing.T) {
	c, err := load(Options{File: write(t, "keep_within: 30d\nretention_time_zone: Asia/Kolkata\n")})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal([]any{c.KeepWithin, c.RetentionTimeZone, c.ImmutableFor, TimeZone{}})
	if err != nil || string(b) != `["30d","Asia/Kolkata","0","UTC"]` {
		t.Errorf("%s, %v", b, err)
	}
}

// No number of the settings is without a bound of its own.
func TestNumbersHaveBounds(t *testing.T) {
	for _, k := range Keys() {
		kind := reflect.TypeFor[Config]().Field(k.field).Type.Kind()
		if kind == reflect.Int && (k.max == math.MaxInt || k.min > k.max) {
			t.Errorf("%s is from %d to %d", k.Name, k.min, k.max)
		}
	}
}

// Every field is a setting, and every setting a field.
func TestKeysCoverConfig(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Keys() {
		if seen[k.Name] {
			t.Errorf("%s twice", k.Name)
		}
		seen[k.Name] = true
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if tag := f.Tag.Get("yaml"); f.IsExported() && tag != "-" && !seen[tag] {
			t.Errorf("field %s has no key", f.Name)
		}
	}
	k, ok := findKey("data_dir")
	if !ok || k.Env() != "SLIPCOVER_DATA_DIR" || k.Flag() != "data-dir" {
		t.Errorf("data_dir is %+v", k)
	}
}

func TestAllSettings(t *testing.T) {
	key := "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	file := write(t, `
repository: s3://bucket/prefix?region=eu
instance: node.1
cluster: Prod-1
data_dir: /d
config_dir: ./etc
couch_url: "http://adm:p%40ss@127.0.0.1:5984/"
state_dir: /s
identity_file: id.txt
passphrase: 0123
trusted_writers:
  - `+key+`
backup_strategy: X
backup_namespace: slipcover.physical
restore_namespace: slipcover.physical
indexes: false
strict: true
parallel: 3
compression: better
compaction: replay
tails: replay
prove_interval: 168h
ship_interval: 5s
ship: true
keep_moments: 2w
owner: a:b
retry_for: 1m
limit_upload: 20MiB/s
limit_download: 500KB/s
cache_size: 1GiB
cache_dir: cache
repositories: [file:///mnt/backup, /srv/backup]
recipients: [age1z5xphhwcaug5n38vyg40nqdc23ffl6cu6v8qj5pz4wdr2f47fuysypkakq]
immutable_for: 2w
keep_last: 1
keep_hourly: 2
keep_daily: 3
keep_weekly: 4
keep_monthly: 5
keep_yearly: 6
keep_within: 1y6m
keep_minimum: 7
retention_time_zone: Europe/Berlin
progress: json
listen: 0.0.0.0:8779
tls_cert: tls.crt
tls_key: tls.key
insecure_http: true
public_url: https://b:8779
auth: keystone
keystone_url: http://k:5000/v3
keystone_user: trove
keystone_password: kp
keystone_project: services
keystone_domain: D
region: R
token_cache: 5s
own_swift: false
swift_container: c
contents_roles: [r3]
swift_roles: [r1, r2]
quota_instances: 1
quota_backups: 2
quota_volumes: 3
rate_limit: 4
serves: 5
audit_file: audit
nats_url: nats://n:4222
nats_creds: creds
nats_account_seed: seed
nats_replicas: 3
nats_listen: 0.0.0.0:4222
server_url: https://b:8779
ca_file: ca
token: slc
accept_storages: ["https://s/v1/"]
accept_restores: true
accept_reads: true
instances_dir: /i
bind_address: 0.0.0.0
couchdb_bin: /c
restart_command: r
hook_before: x
hook_after: y
hook_timeout: 1m
log_level: debug
log_format: json
metrics_token: mt
`)
	c, err := load(Options{File: file})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Repository: "s3://bucket/prefix?region=eu", Instance: "node.1", Cluster: "Prod-1", DataDir: "/d", ConfigDir: filepath.Join(dir, "etc"),
		CouchURL: "http://127.0.0.1:5984/", CouchUser: "adm", CouchPassword: "p@ss", StateDir: "/s", IdentityFile: filepath.Join(dir, "id.txt"), Passphrase: "0123",
		TrustedWriters: []string{key}, BackupStrategy: "X", BackupNamespace: "slipcover.physical", RestoreNamespace: "slipcover.physical",
		Strict: true, Parallel: 3, Compression: "better", Compaction: "replay", Tails: "replay", ProveInterval: 168 * time.Hour, ShipInterval: 5 * time.Second, Ship: true, KeepMoments: calendar.Span{Weeks: 2}, Owner: "a:b", Progress: "json",
		RetryFor: time.Minute, LimitUpload: 20 << 20, LimitDownload: 500_000, CacheSize: 1 << 30, CacheDir: filepath.Join(dir, "cache"),
		Repositories: []string{"file:///mnt/backup", "/srv/backup"}, Recipients: []string{"age1z5xphhwcaug5n38vyg40nqdc23ffl6cu6v8qj5pz4wdr2f47fuysypkakq"}, ImmutableFor: calendar.Span{Weeks: 2},
		KeepLast: 1, KeepHourly: 2, KeepDaily: 3, KeepWeekly: 4, KeepMonthly: 5, KeepYearly: 6, KeepWithin: calendar.Span{Years: 1, Months: 6}, KeepMinimum: 7,
		RetentionTimeZone: TimeZone{berlin},
		Listen:            "0.0.0.0:8779", TLSCert: filepath.Join(dir, "tls.crt"), TLSKey: filepath.Join(dir, "tls.key"), InsecureHTTP: true, PublicURL: "https://b:8779",
		Auth: "keystone", KeystoneURL: "http://k:5000/v3", KeystoneUser: "trove", KeystonePassword: "kp", KeystoneProject: "services", KeystoneDomain: "D", Region: "R",
		TokenCache: 5 * time.Second, SwiftContainer: "c", ContentsRoles: []string{"r3"}, SwiftRoles: []string{"r1", "r2"}, QuotaInstances: 1, QuotaBackups: 2, QuotaVolumes: 3, RateLimit: 4, Serves: 5, AuditFile: filepath.Join(dir, "audit"),
		NATSURL: "nats://n:4222", NATSCreds: filepath.Join(dir, "creds"), NATSAccountSeed: filepath.Join(dir, "seed"), NATSReplicas: 3, NATSListen: "0.0.0.0:4222",
		ServerURL: "https://b:8779", CAFile: filepath.Join(dir, "ca"), Token: "slc", AcceptStorages: []string{"https://s/v1/"}, AcceptRestores: true, AcceptReads: true, InstancesDir: "/i", BindAddress: "0.0.0.0", CouchDBBin: "/c",
		RestartCommand: "r", HookBefore: "x", HookAfter: "y", HookTimeout: time.Minute, LogLevel: "debug", LogFormat: "json", MetricsToken: "mt",
	}
	if got := settings(c); !reflect.DeepEqual(got, want) && runtime.GOOS != "windows" {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if c.File != file || c.Origin("parallel") != file+":18" || c.Origin("couch_password") != file+":7" {
		t.Errorf("file %q, parallel from %q, password from %q", c.File, c.Origin("parallel"), c.Origin("couch_password"))
	}
}

func TestOrder(t *testing.T) {
	o := Options{
		File:    write(t, "instance: file\nparallel: 1\nowner: f:f\ncouch_user: file\n"),
		Environ: []string{"HOME=/h", "SLIPCOVER_INSTANCE=env", "SLIPCOVER_PARALLEL=2", "COUCHDB_USER=couch", "COUCHDB_PASSWORD=pw", "COUCH_URL=http://h:1", "SLIPCOVER_STRICT="},
		Flags:   map[string]string{"instance": "flag", "trusted_writers": ""},
	}
	c, err := load(o)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string][2]string{
		"instance":    {c.Instance, "flag"},
		"parallel":    {fmt.Sprint(c.Parallel), "2"},
		"owner":       {c.Owner, "f:f"},
		"couch_user":  {c.CouchUser, "file"},
		"couch_url":   {c.CouchURL, "http://h:1"},
		"compression": {c.Compression, "fastest"},
		"password":    {c.CouchPassword.Reveal(), "pw"},
		"from flag":   {c.Origin("instance"), "--instance"},
		"from env":    {c.Origin("parallel"), "SLIPCOVER_PARALLEL"},
		"from couch":  {c.Origin("couch_password"), "COUCHDB_PASSWORD"},
		"from none":   {c.Origin("compression"), "default"},
		"from host":   {c.Origin("state_dir"), "default"},
	} {
		if want[0] != want[1] {
			t.Errorf("%s: %q, want %q", key, want[0], want[1])
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	tests := []struct {
		name, file string
		env        []string
		flags      map[string]string
		want       string
	}{
		{name: "typo", file: "instance: a\nparalel: 2\n", want: ":2: unknown key paralel: did you mean parallel?"},
		{name: "dash", file: "data-dir: /x\n", want: "did you mean data_dir?"},
		{name: "far off", file: "colour: red\n", want: "see 'slipcover config example'"},
		{name: "nested", file: "couch:\n  url: x\n", want: "write couch_url"},
		{name: "twice", file: "instance: a\ninstance: b\n", want: ":2"},
		{name: "no value", file: "instance:\n", want: ":1: instance has no plain value"},
		{name: "a list", file: "instance: [a, b]\n", want: ":1: instance takes one value, not a list"},
		{name: "deep list", file: "trusted_writers: [[a]]\n", want: "list of plain values"},
		{name: "anchor", file: "instance: &x a\n", want: "no plain value"},
		{name: "not a map", file: "- a\n", want: "write 'key: value'"},
		{name: "two documents", file: "instance: a\n---\nowner: b:c\n", want: "second YAML document"},
		{name: "broken", file: "instance: a\n  owner: \"b\n", want: "check indentation"},
		{name: "bool", file: "strict: yes\n", want: `:1: strict is "yes", and must be true or false`},
		{name: "number", file: "parallel: -1\n", want: "whole number from 0 to 1024"},
		{name: "large number", file: "parallel: 1025\n", want: "whole number from 0 to 1024"},
		{name: "number of backups", file: "keep_daily: 100001\n", want: "whole number from 0 to 100000"},
		{name: "minimum", file: "keep_minimum: 0\n", want: "whole number from 1 to 100000"},
		{name: "span", file: "keep_within: 1m1y\n", want: `:1: keep_within is "1m1y", and must be a time such as 12h`},
		{name: "span without a unit", file: "immutable_for: 30\n", want: "a time such as 12h"},
		{name: "time zone", file: "retention_time_zone: Berlin\n", want: "such as Europe/Berlin"},
		{name: "this machine's time zone", file: "retention_time_zone: Local\n", want: "such as Europe/Berlin"},
		{name: "path as time zone", file: "retention_time_zone: ../../etc/passwd\n", want: "such as Europe/Berlin"},
		{name: "repositories", file: "repositories: [/srv/backup, srv/backup]\n", want: "repositories must be a URL such as file:///srv/backup"},
		{name: "repositories with password", file: "repositories: [\"s3://u:hunter2@h/b\"]\n", want: "repositories holds a password"},
		{name: "repositories twice", file: "repositories: [/srv/b, /srv/c, /srv/b]\n", want: "names one twice"},
		{name: "recipient", file: "recipients: [ssh-ed25519]\n", want: ":1: recipients must be age recipients"},
		{name: "identity as recipient", file: "recipients: [AGE-SECRET-KEY-1hunter2]\n", want: "recipients must be age recipients"},
		{name: "duration", file: "prove_interval: 7 days\n", want: "such as 168h"},
		{name: "size", file: "cache_size: 64M\n", want: "such as 64MiB"},
		{name: "rate", file: "limit_upload: 20MiB\n", want: "such as 20MiB/s"},
		{name: "enum", file: "compression: best\n", want: "one of fastest, default, better"},
		{name: "instance", file: "instance: a/b\n", want: "letters, digits"},
		{name: "cluster", file: "cluster: a b\n", want: ":1: cluster is"},
		{name: "owner", file: "owner: couchdb\n", want: "must be user:group"},
		{name: "writer", file: "trusted_writers: abc\n", want: "Ed25519 public key"},
		{name: "repository", file: "repository: srv/backup\n", want: "such as file:///srv/backup"},
		{name: "repository with password", file: "repository: s3://u:hunter2@h/b\n", want: "repository holds a password"},
		{name: "couch_url", file: "couch_url: localhost:hunter2\n", want: "http://127.0.0.1:5984"},
		{name: "user twice", file: "couch_url: http://a:hunter2@h\ncouch_user: b\n", want: "different users"},
		{name: "password twice", file: "couch_password: hunter2\ncouch_password_file: /x\n", want: "are both given"},
		{name: "couch_url with odd characters", file: "couch_url: http://a:hunter2%s@h\n", want: ":1: the user or password in couch_url has characters that a URL can't hold: write % as %25"},
		{name: "couch_url with a fragment", file: "couch_url: http://h:5984/#hunter2\n", want: ":1: couch_url must look like"},
		{name: "nats_url with odd characters", file: "nats_url: nats://a:hunter#2@h:4222\n", want: ":1: the user or password in nats_url has characters"},
		{name: "a home that isn't there", file: "state_dir: ~no-such-user-here/x\n", want: "write the path out"},
		{name: "listen", file: "listen: nonsense\n", want: `:1: listen is "nonsense", and must be HOST:PORT`},
		{name: "port", file: "listen: 127.0.0.1:99999\n", want: "a port from 0 to 65535"},
		{name: "nats_listen", file: "nats_listen: 4222\n", want: ":1: nats_listen is"},
		{name: "keystone_url", file: "keystone_url: foo\n", want: ":1: keystone_url must look like"},
		{name: "public_url", file: "public_url: not a url\n", want: ":1: public_url must look like"},
		{name: "public_url with password", file: "public_url: https://u:hunter2@h\n", want: "without a user"},
		{name: "nats_url", file: "nats_url: bogus://hunter2@n1:4222\n", want: ":1: nats_url must look like nats://"},
		{name: "one of nats_url", file: "nats_url: nats://n1:4222,n2:4222\n", want: "nats_url must look like nats://"},
		{name: "container", file: "swift_container: a/b\n", want: `swift_container is "a/b", and must be the name of a container`},
		{name: "proxy", file: "trusted_proxies: [10.0.0.0/8, proxy.example]\n", want: `:1: trusted_proxies has "proxy.example", and each must be an address such as 10.0.0.5`},
		{name: "network of a proxy", file: "trusted_proxies: 10.0.0.0/33\n", want: `trusted_proxies has "10.0.0.0/33"`},
		{name: "datastore", file: "datastores: [\"my\\esql\"]\n", want: `:1: datastores has "my\x1bsql": give each name once`},
		{name: "our own datastore", file: "datastores: [mysql, CouchDB]\n", want: `datastores has "CouchDB"`},
		{name: "datastore twice", file: "datastores: [mysql, mysql]\n", want: `datastores has "mysql"`},
		{name: "variable", env: []string{"SLIPCOVER_DATADIR=/x"}, want: "did you mean SLIPCOVER_DATA_DIR?"},
		{name: "variable far off", env: []string{"SLIPCOVER_ZZZZZZ=hunter2"}, want: "unknown environment variable SLIPCOVER_ZZZZZZ: unset it"},
		{name: "variable in lower case", env: []string{"SLIPCOVER_data_dir=/x"}, want: "did you mean SLIPCOVER_"},
		{name: "variable's value", env: []string{"SLIPCOVER_STRICT=1"}, want: "SLIPCOVER_STRICT: strict is"},
		{name: "flag's value", flags: map[string]string{"parallel": "x"}, want: "--parallel: parallel is"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Environ: append([]string{"HOME=/h"}, tt.env...), Flags: tt.flags}
			if tt.file != "" {
				o.File = write(t, tt.file)
			}
			c, err := load(o)
			if err == nil {
				t.Fatalf("loads as %+v", c)
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %v\nwant %s in one line", err, tt.want)
			}
		})
	}
}

func TestOtherVariablesAreNoSettings(t *testing.T) {
	c, err := load(Options{Environ: []string{
		"HOME=/h", "SLIPCOVER_MUST_RUN=couchdb", "SLIPCOVER_CONFIG=" + write(t, "instance: named\n"),
		"SLIPCOVER_PORT=tcp://10.0.0.1:80", "SLIPCOVER_PORT_80_TCP_ADDR=10.0.0.1", "SLIPCOVER_SERVICE_HOST=10.0.0.1", "SLIPCOVER_SERVER_SERVICE_PORT_HTTP=80",
	}})
	if err != nil || c.Instance != "named" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestSearch(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, ".config", "slipcover", "slipcover.yml")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("instance: mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(write(t, "instance: cwd\n")))
	if c, err := load(Options{Environ: []string{"HOME=" + home}}); err != nil || c.Instance != "mine" || c.File != file {
		t.Errorf("in the home directory: %+v, %v", c, err)
	}
	if c, err := load(Options{Environ: []string{"HOME=" + home, "XDG_CONFIG_HOME=" + filepath.Join(home, "none")}}); err != nil || c.Instance != "db1" {
		t.Errorf("only in the working directory: %+v, %v", c, err)
	}
	if _, err := load(Options{File: filepath.Join(home, "none.yml")}); err == nil {
		t.Error("a named file that is missing is no error")
	}
	c, err := Load(Options{system: write(t, "instance: system\n"), Environ: []string{"HOME=/none"}, uid: func() int { return 0 }})
	if err != nil || c.Instance != "system" || c.StateDir != "/var/lib/slipcover" {
		t.Errorf("for root: %+v, %v", c, err)
	}
}

func TestPasswordFiles(t *testing.T) {
	dir := t.TempDir()
	pw := filepath.Join(dir, "pw")
	if err := os.WriteFile(pw, []byte("hunter2 \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "slipcover.yml")
	if err := os.WriteFile(file, []byte("couch_password_file: pw\npassphrase: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(Options{File: file})
	if err != nil || c.CouchPassword.Reveal() != "hunter2 " || len(c.Warnings) != 0 {
		t.Fatalf("password %q, warnings %q, %v", c.CouchPassword.Reveal(), c.Warnings, err)
	}
	c, err = load(Options{File: file, Environ: []string{"HOME=/h", "SLIPCOVER_COUCH_PASSWORD=env"}})
	if err != nil || c.CouchPassword.Reveal() != "env" || c.CouchPasswordFile != "" {
		t.Errorf("a stronger password: %q, file %q, %v", c.CouchPassword.Reveal(), c.CouchPasswordFile, err)
	}
	c, err = load(Options{File: write(t, "couch_password: x\n"), Flags: map[string]string{"couch_password_file": pw}})
	if err != nil || c.CouchPassword.Reveal() != "hunter2 " {
		t.Errorf("a stronger file: %q, %v", c.CouchPassword.Reveal(), err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	for _, f := range []string{pw, file} {
		if err := os.Chmod(f, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err = load(Options{File: file})
	if err != nil || len(c.Warnings) != 2 || !strings.Contains(c.Warnings[0], "chmod 600") || !strings.Contains(c.Warnings[1], "pw") {
		t.Errorf("warnings %q, %v", c.Warnings, err)
	}
	if err := os.WriteFile(pw, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err = load(Options{File: file}); err != nil || c.Faults["couch_password_file"] == nil || !strings.Contains(c.Faults["couch_password_file"].Error(), "couch_password_file: "+pw+" is empty") {
		t.Errorf("an empty password file: %v, %v", err, c.Faults)
	}
	c, err = load(Options{File: write(t, "passphrase_file: /does/not/exist\n")})
	if fault := c.Faults["passphrase_file"]; err != nil || fault == nil || !strings.Contains(fault.Error(), "passphrase_file: open ") || len(c.Passphrases()) != 0 {
		t.Errorf("a password file that isn't there: %v, %v", err, c.Faults)
	}
}

func TestSecretsStayHidden(t *testing.T) {
	c, err := load(Options{Environ: []string{"HOME=/h", "COUCH_URL=http://admin:hunter2@h:1", "SLIPCOVER_PASSPHRASE=hunter2"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.CouchPassword.Reveal() != "hunter2" || c.Passphrase.Reveal() != "hunter2" {
		t.Fatalf("the secrets are %q and %q", c.CouchPassword.Reveal(), c.Passphrase.Reveal())
	}
	var b bytes.Buffer
	holder := struct {
		One  Secret
		By   *Secret
		List []Secret
		Of   map[string]Secret
		Any  any
		In   struct{ Deep [1]Secret }
	}{c.Passphrase, &c.Passphrase, []Secret{c.Passphrase}, map[string]Secret{"a": c.Passphrase}, c.Passphrase, struct{ Deep [1]Secret }{[1]Secret{c.Passphrase}}}
	for verb := 'A'; verb <= 'z'; verb++ {
		if verb == 'p' || verb == 'w' { // see Secret
			continue
		}
		for _, flags := range []string{"", "+", "-", "#", " ", "0", "+#", "# ", "3", "-40.2", ".1", "#20.30"} {
			for _, v := range []any{c.Passphrase, &c.Passphrase, c, *c, holder, &holder, []any{c.Passphrase, holder}, [2]Secret{"", c.Passphrase}, map[Secret]Secret{c.Passphrase: c.Passphrase}} {
				fmt.Fprintf(&b, "%"+flags+string(verb)+"\n", v)
			}
		}
	}
	fmt.Fprintln(&b, c.Passphrase, holder, fmt.Errorf("wrong: %v", c.Passphrase), errors.New(fmt.Sprint(c)))
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "secret", c.Passphrase, "config", c, "holder", holder)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "secret", c.Passphrase, "config", c, "holder", &holder)
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, func(v any) ([]byte, error) { return yaml.Marshal(v) }} {
		for _, v := range []any{c, holder, &holder} {
			out, err := marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(out)
		}
	}
	for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"), fmt.Sprintf("% x", "hunter2"), fmt.Sprintf("% X", "hunter2"), "104 117"} {
		if i := strings.Index(b.String(), leak); i >= 0 {
			t.Errorf("%q shows in %q", leak, b.String()[max(0, i-200):i+20])
		}
	}
	if !strings.Contains(b.String(), "***") {
		t.Error("nothing says that there is a secret")
	}
	if s := Secret(""); s.String() != "" || fmt.Sprint(s) != "" {
		t.Errorf("an empty secret shows as %q", s)
	}
}

func TestHostNameThatCantNameAnInstance(t *testing.T) {
	o := Options{Environ: []string{"HOME=/h"}, Hostname: func() (string, error) { return "bad name", nil }, system: os.DevNull}
	c, err := Load(o)
	if err != nil || c.Instance != "" || c.Faults["instance"] == nil || !strings.Contains(c.Faults["instance"].Error(), "set instance") {
		t.Errorf("got %v, %+v", err, c)
	}
}

// Variables that are meant for other programs, and what there is no home for, are
// faults of what needs them and stop nobody else.
func TestFaults(t *testing.T) {
	for _, tt := range []struct{ env, key, want string }{
		{"HOME=/h COUCH_URL=http://admin:hunter%2@h:5984", "couch_url", "COUCH_URL: the user or password in couch_url has characters that a URL can't hold: write % as %25"},
		{"HOME=/h COUCH_URL=http://admin:hunter/2@h:5984", "couch_url", "give COUCHDB_USER and COUCHDB_PASSWORD"},
		{"HOME=/h COUCH_URL=http://admin:1/hunter2@h:5984", "couch_url", "characters that a URL can't hold"},
		{"HOME=/h COUCH_URL=http://admin:hunter[2]@h:5984", "couch_url", "characters that a URL can't hold"},
		{"HOME=/h COUCH_URL=http://admin:hünter2@h:5984", "couch_url", "characters that a URL can't hold"},
		{"HOME=/h COUCH_URL=http://admin:p@hunter2.invalid#w@h:5984", "couch_url", "characters that a URL can't hold"},
		{"HOME=/h COUCH_URL=http://h:5984/?hunter2", "couch_url", "must look like"},
		{"HOME=/h COUCH_URL=couch.example", "couch_url", "must look like"},
		{"X=1", "state_dir", "set state_dir"},
	} {
		c, err := load(Options{Environ: strings.Fields(tt.env), uid: func() int { return 1000 }})
		if err != nil || c.CouchURL != "" || len(c.Faults) != 1 {
			t.Errorf("%s: got %v, %+v", tt.env, err, c)
			continue
		}
		if got := c.Faults[tt.key]; got == nil || !strings.Contains(got.Error(), tt.want) || strings.Contains(got.Error(), "unter") {
			t.Errorf("%s: got the fault %v, want %q", tt.env, got, tt.want)
		}
	}
	c, err := load(Options{Environ: []string{"HOME=/h", "COUCHDB_USER=root", "COUCH_URL=http://admin:x@h:5984", "SLIPCOVER_COUCH_URL=http://a:p%40s@h:5984"}})
	if err != nil || c.CouchURL != "http://h:5984" || c.CouchPassword.Reveal() != "p@s" || len(c.Faults) != 0 {
		t.Errorf("our own variable beside others: %v, %+v", err, c)
	}
}

func TestHome(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	c, err := load(Options{Environ: []string{"SLIPCOVER_REPOSITORIES=~/a file:~/b s3://x/~/c"}, File: write(t, "repository: file://~/r\nstate_dir: \"~\"\n")})
	want := &Config{Repository: "/home/me/r", Repositories: []string{"/home/me/a", "/home/me/b", "s3://x/~/c"}, StateDir: "/home/me"}
	if err != nil || c.Repository != want.Repository || !slices.Equal(c.Repositories, want.Repositories) || c.StateDir != want.StateDir {
		t.Errorf("got %+v, %v", c, err)
	}
}

// A passphrase is what people typed, and for repositories of old what the file's bytes were.
func TestPassphrases(t *testing.T) {
	for in, want := range map[string][]string{
		"hunter2\n":                  {"hunter2"},
		" hunter2 \r\n":              {" hunter2 ", "hunter2"},
		"\xef\xbb\xbfhunter2\n":      {"hunter2", "\xef\xbb\xbfhunter2"},
		"\xff\xfeh\x00\n\x00":        {"h", "\xff\xfeh\x00\n\x00"},
		"\x01\x02\x00\xff\x80\n":     {"\x01\x02\x00\xff\x80"},
		"\x01\x02\x00\xff\x80\n\r\n": {"\x01\x02\x00\xff\x80"},
	} {
		file := write(t, in)
		c, err := load(Options{Flags: map[string]string{"passphrase_file": file}})
		if err != nil || !slices.Equal(c.Passphrases(), want) || len(c.Faults) != 0 {
			t.Errorf("%q: got %q, %v, %v, want %q", in, c.Passphrases(), err, c.Faults, want)
		}
	}
	c, err := load(Options{File: write(t, "\xef\xbb\xbfcouch_user: me\r\n")})
	if err != nil || c.CouchUser != "me" {
		t.Errorf("settings as Notepad saves them: %v, %+v", err, c)
	}
	if _, err = load(Options{File: write(t, "\x7fELF\x00\x01")}); err == nil || !strings.Contains(err.Error(), "is not a text file") {
		t.Errorf("no text: %v", err)
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(Example()))
	f.Add([]byte("a: [b, {c: d}]\n--- \n? x\n: y\n<<: *z\n"))
	f.Add([]byte("passphrase: |\n  x\n  y\nparallel: 0x10\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		layer, err := parseFile("f", data, "/")
		if err != nil {
			return
		}
		for name, v := range layer {
			if _, ok := findKey(name); !ok || v.origin == "" {
				t.Fatalf("%q gives %s = %+v", data, name, v)
			}
		}
		_ = (&Config{origin: map[string]string{}}).apply(layer)
	})
}

func TestProxies(t *testing.T) {
	c, err := load(Options{File: write(t, "trusted_proxies: [127.0.0.1, 10.1.2.3/16, '::ffff:10.0.0.5', 2001:db8::/32]\n")})
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Proxies()
	if got, want := fmt.Sprint(list), "[127.0.0.1/32 10.1.0.0/16 10.0.0.5/32 2001:db8::/32]"; err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}
