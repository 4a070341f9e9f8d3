package restore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/topology"
)

// identity is what all nodes of a restored cluster have alike, and the original never had: nodes that have another
// cookie don't join it.
type identity struct {
	uuid, secret, cookie string
}

// identityOf makes it out of what only readers of the plan's backups have, and what tells this plan from others, so that
// each node makes the same one alone and the plan holds no secret.
func (r *run) identityOf(ctx context.Context) (id identity, err error) {
	var secrets []byte
	for _, b := range r.opts.Part.Backups {
		s, err := r.opts.Repo.Secret(ctx, b.Record)
		if err != nil {
			return id, err
		}
		sum := sha256.Sum256(s)
		secrets = append(secrets, sum[:]...)
	}
	derive := func(what string, n int) (out []byte) {
		if err == nil {
			out, err = hkdf.Key(sha256.New, secrets, []byte(r.opts.Part.ID), "slipcover: "+what+" of a restored cluster", n)
		}
		return out
	}
	id.uuid, id.secret = hex.EncodeToString(derive("uuid", 16)), hex.EncodeToString(derive("secret", 32))
	id.cookie = base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(derive("cookie", 20))
	return id, err
}

const (
	localFolder  = "local.d"
	argsFragment = "vm.args.slipcover"
)

// inherited is what the ini files of the backup say, which the restored cluster must know.
type inherited struct {
	last      string // path of the file that CouchDB reads last
	admins    bool
	seeds     bool
	placement string
}

func (r *run) inherited(ctx context.Context) (in inherited, err error) {
	in.last = localFolder + "/zz-slipcover.ini"
	p := r.opts.Part
	err = eachIni(ctx, r.opts.Repo, p.Backups[p.config()].Manifest, func(path string, ini node.Ini, _ error) {
		for strings.HasPrefix(path, localFolder+"/") && path >= in.last {
			in.last = localFolder + "/z" + strings.TrimPrefix(in.last, localFolder+"/")
		}
		in.admins = in.admins || len(ini["admins"]) > 0
		if s, ok := ini.Get("cluster", "seedlist"); ok {
			in.seeds = s != ""
		}
		if s, ok := ini.Get("cluster", "placement"); ok {
			in.placement = s
		}
	})
	return in, err
}

// writeIdentity writes what the node's CouchDB must read after the configuration that it had: an ini file that comes last,
// and vm.args with its name and cookie. All is written anew by a restore that goes on.
//
// Source: CouchDB 3.5.0, src/config/src/config_app.erl, default; config.erl, expand_dirs (sorted by name);
// src/mem3/src/mem3_seeds.erl, get_seeds (a node waits for its seeds before it is up).
func (r *run) writeIdentity(ctx context.Context) error {
	if r.opts.Part == nil || r.opts.ConfigTo == "" {
		return nil
	}
	id, err := r.identityOf(ctx)
	if err != nil {
		return err
	}
	in, err := r.inherited(ctx)
	if err != nil {
		return err
	}
	if err := r.putConfig(in.last, r.identityIni(id, in)); err != nil {
		return err
	}
	args, text := "", []byte{}
	for _, it := range r.plan.items {
		if it.root == manifest.EtcRoot && !strings.HasSuffix(it.path, ".ini") && !r.lost[it.f] {
			args = it.path
			if text, err = os.ReadFile(r.targets.path(it)); err != nil {
				return err
			}
			break
		}
	}
	text = renamedArgs(text, r.opts.Part.Node.Name, id.cookie)
	if args != "" {
		r.mu.Lock()
		r.rewritten[args] = int64(len(text))
		r.mu.Unlock()
	}
	if err := r.putConfig(cmp.Or(args, argsFragment), string(text)); err != nil {
		return err
	}
	r.tellIdentity(in, args)
	return nil
}

// identityIni is the file that CouchDB reads last.
func (r *run) identityIni(id identity, in inherited) string {
	p := r.opts.Part
	var b strings.Builder
	fmt.Fprintf(&b, "; Of %s, written by Slipcover: CouchDB reads this file last.\n; All nodes of the restored cluster have one uuid and one secret, which the original never had.\n", p.Node.Name)
	fmt.Fprintf(&b, "[couchdb]\nuuid = %s\n", id.uuid)
	fmt.Fprintf(&b, "; Nobody is served before restore-check --open takes this away.\nmaintenance_mode = true\n")
	names := make([]string, len(p.Nodes))
	for i, n := range p.Nodes {
		names[i] = n.Name
	}
	slices.Sort(names)
	if len(names) > 1 {
		b.WriteString("single_node = false\n")
	}
	fmt.Fprintf(&b, "\n[chttpd_auth]\nsecret = %s\n", id.secret)
	if isCouchDB2(p.base().Record.CouchDBVersion) {
		fmt.Fprintf(&b, "\n[couch_httpd_auth]\nsecret = %s\n", id.secret)
	}
	if in.seeds || p.Placement != "" {
		b.WriteString("\n[cluster]\n")
	}
	if in.seeds {
		fmt.Fprintf(&b, "; Those of before are nodes of the original.\nseedlist = %s\n", strings.Join(names, ","))
	}
	if p.Placement != "" {
		fmt.Fprintf(&b, "placement = %s\n", p.Placement)
	}
	return b.String()
}

// renamedArgs takes the name and the cookie of a node out of its vm.args and adds others. What comes behind -extra are no
// flags, so that they stand before it.
func renamedArgs(text []byte, name, cookie string) []byte {
	gone := make([]bool, len(text))
	end := len(text)
	value := false // words up to the next flag are ones of what goes
	for _, w := range argWords(text) {
		if w.text == "-extra" {
			end = w.from
			break
		}
		if strings.HasPrefix(w.text, "-") || strings.HasPrefix(w.text, "+") {
			value = w.text == "-name" || w.text == "-sname" || w.text == "-setcookie"
		}
		for i := w.from; value && i < w.to; i++ {
			gone[i] = true
		}
	}
	var b bytes.Buffer
	for at := 0; at < end; {
		n := bytes.IndexByte(text[at:end], '\n') + 1
		if n == 0 {
			n = end - at
		}
		var kept []byte
		for i := at; i < at+n; i++ {
			if !gone[i] {
				kept = append(kept, text[i])
			}
		}
		switch {
		case len(kept) == n:
			b.Write(kept)
		case len(bytes.TrimSpace(kept)) > 0:
			b.Write(bytes.TrimLeft(kept, " \t"))
		}
		at += n
	}
	if n := b.Len(); n > 0 && b.Bytes()[n-1] != '\n' {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "# By Slipcover: the node's name in the restored cluster, and that cluster's own cookie.\n%s %s\n-setcookie %s\n", nameFlag(name), name, cookie)
	b.Write(text[end:])
	return b.Bytes()
}

// argWord is a word of a vm.args, and where it stands.
type argWord struct {
	from, to int
	text     string // without its quotes
}

// argWords takes a vm.args apart: words stand between white space, but for that within quotes of both kinds and behind a
// backslash that is in none, and "#" begins a comment, also right behind a word.
//
// Source: Erlang/OTP 25, erts/etc/common/erlexec.c, read_args_file; tried with erlexec -emu_args_exit.
func argWords(text []byte) (out []argWord) {
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
			continue
		case isArgSpace(c):
			i++
			continue
		}
		w := argWord{from: i}
		var word []byte
		quote := byte(0)
		for ; i < len(text); i++ {
			c := text[i]
			switch {
			case quote == 0 && c == '\\' && i+1 < len(text):
				i++
				word = append(word, text[i])
			case c == quote:
				quote = 0
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			case quote == 0 && (c == '#' || isArgSpace(c)):
				w.to, w.text = i, string(word)
			default:
				word = append(word, c)
			}
			if w.to > 0 {
				break
			}
		}
		if w.to == 0 {
			w.to, w.text = i, string(word)
		}
		out = append(out, w)
	}
	return out
}

func isArgSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// putConfig writes a file of the configuration that holds secrets.
func (r *run) putConfig(path, text string) error {
	full := filepath.Join(r.targets.dirOf(manifest.EtcRoot), filepath.FromSlash(path))
	seen := map[string]bool{}
	for _, dir := range r.folders {
		seen[dir] = true
	}
	if err := r.makeFolder(filepath.Dir(full), seen); err != nil {
		return err
	}
	return durable.WriteFile(full, 0o600, func(f *os.File) error {
		if _, err := io.WriteString(f, text); err != nil {
			return err
		}
		return r.owner.file(f)
	})
}

// tellIdentity says what was written and what is left to do.
func (r *run) tellIdentity(in inherited, args string) {
	p, dir := r.opts.Part, r.targets.dirOf(manifest.EtcRoot)
	if in.placement != "" && p.Placement == "" && slices.ContainsFunc(p.Nodes, func(n topology.Node) bool { return n.Zone == "" }) {
		r.res.note("by the ini files new databases are placed by zones (cluster/placement = %s), and by the plan not all nodes have a zone: where one has none CouchDB makes no database", in.placement)
	}
	what := "couchdb/uuid and chttpd_auth/secret of the restored cluster, and maintenance_mode = true for the first start"
	if in.seeds {
		what += ", and its seedlist"
	}
	r.res.note("%s has %s: CouchDB must read it after all other ini files, so with COUCHDB_INI_FILES put it last", filepath.Join(dir, filepath.FromSlash(in.last)), what)
	if args != "" {
		r.res.note("%s is that of %s with the name %s and a cookie that all nodes of this plan get and the original never had", filepath.Join(dir, filepath.FromSlash(args)), p.Backups[p.config()].Manifest.NodeName, p.Node.Name)
	} else {
		r.res.note("the backup holds no vm.args: add the lines of %s to that of %s, in the place of its -name, -sname and -setcookie; they are its name, and a cookie that all nodes of this plan get and the original never had", filepath.Join(dir, argsFragment), p.Node.Name)
	}
	r.res.note("addresses, directories and certificates in %s are those of %s: look them through before CouchDB gets them", dir, p.Backups[p.config()].Manifest.NodeName)
	if !in.admins {
		r.res.note("the ini files of the backup name no administrator: CouchDB doesn't start without one in [admins]")
	}
}
