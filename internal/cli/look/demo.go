package look

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/cli/open"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
)

// sample is a part of the data directory of a real CouchDB 3.5.0, made-up data in
// it: some databases, cut at a header (demo_test.go says how and holds it true).
//
//go:embed all:demo/data
var sample embed.FS

const sampleRoot = "demo/data"

// sampleGrowing tells the databases that the demo lets grow. It starts with their
// files cut at an earlier header: a state that they once had.
var sampleGrowing = []string{"/deletions.", "/localdocs.", "/attach."}

type demoOptions struct{ keep bool }

func newDemo(env *core.Env) *cobra.Command {
	o := &demoOptions{}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show a backup, an incremental and a restore on a small sample, in a second or two",
		Long: `Show what Slipcover does, on a small sample of real CouchDB files that is part of the program: a full backup, growth,
an incremental, verification, a restore, and a comparison of every document. It fails if anything differs. It works in a
temporary folder and removes it at the end.`,
		Args: core.Arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), env, o) },
	}
	c.Flags().BoolVar(&o.keep, "keep", false, "keep the temporary folder, to look around in it")
	return c
}

type demoResult struct {
	OK          bool             `json:"ok"`
	Folder      string           `json:"folder,omitempty"` // with --keep
	Full        core.SummaryJSON `json:"full"`
	GrownBytes  int64            `json:"grown_bytes"`
	Incremental core.SummaryJSON `json:"incremental"`
	Verified    *core.VerifyJSON `json:"verified"`
	Compared    comparison       `json:"compared"`
	TookSeconds float64          `json:"took_seconds"`
}

// comparison counts what was compared and found to be the same.
type comparison struct {
	Files       int `json:"files"`
	Documents   int `json:"documents"`
	Attachments int `json:"attachments"`
}

// demo is one run.
type demo struct {
	env   *core.Env
	s     *core.Settings
	dir   string
	step  int
	repo  *open.Repository
	res   demoResult
	began time.Time
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

// say prints a numbered step; the lines under it are indented.
func (d *demo) say(format string, args ...any) {
	d.step++
	if !d.env.JSON {
		fmt.Fprintf(d.env.Stdout, "\n%d. %s\n", d.step, fmt.Sprintf(format, args...))
	}
}

func (d *demo) detail(format string, args ...any) {
	if !d.env.JSON {
		fmt.Fprintf(d.env.Stdout, "   %s\n", fmt.Sprintf(format, args...))
	}
}

func (d *demo) command(format string, args ...any) { d.detail("$ slipcover "+format, args...) }

func runDemo(ctx context.Context, env *core.Env, o *demoOptions) (err error) {
	dir, err := os.MkdirTemp("", "slipcover-demo-")
	if err != nil {
		return err
	}
	d := &demo{env: env, dir: dir, began: time.Now()}
	if o.keep {
		d.res.Folder = dir
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if !env.JSON {
		fmt.Fprintf(env.Stdout, "A backup and a restore of a small CouchDB, in the folder %s\n", dir)
	}
	for _, step := range []func(context.Context) error{
		d.makeNode, d.makeRepository, d.fullBackup, d.grow, d.incremental, d.list, d.verify, d.restore, d.compare,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return d.end(o.keep)
}

func (d *demo) end(keep bool) error {
	d.repo.Close()
	d.res.OK, d.res.TookSeconds = true, core.Seconds(time.Since(d.began))
	if d.env.JSON {
		return core.PrintJSON(d.env.Stdout, d.res)
	}
	w := d.env.Stdout
	fmt.Fprintf(w, "\nAll the same. That took %s; ", core.Took(time.Since(d.began)))
	if keep {
		fmt.Fprintf(w, "everything is still in %s\n", d.dir)
	} else {
		fmt.Fprintln(w, "the folder is removed again (--keep leaves it).")
	}
	return nil
}

// growing reports whether the demo lets a file of the sample grow.
func growing(name string) bool {
	return strings.HasPrefix(name, "shards/") && slices.ContainsFunc(sampleGrowing,
		func(s string) bool { return strings.Contains(name, s) })
}

// earlier returns the end of a header about the middle of a database file.
func earlier(b []byte) (int64, error) {
	points, err := couchfile.Points(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(points) == 0 {
		return 0, errors.Join(couchfile.ErrNoHeader, err)
	}
	return points[len(points)/2].End, nil
}

func (d *demo) makeNode(context.Context) error {
	files, bytes := 0, int64(0)
	databases := map[string]bool{}
	err := eachSample(func(name string, b []byte) error {
		if growing(name) {
			n, err := earlier(b)
			if err != nil {
				return err
			}
			b = b[:n]
		}
		files, bytes = files+1, bytes+int64(len(b))
		if strings.HasPrefix(name, "shards/") {
			databases[strings.SplitN(filepath.Base(name), ".", 2)[0]] = true
		}
		return writeSample(d.path("node/data"), name, b)
	})
	if err != nil {
		return err
	}
	if err := writeSample(d.path("node/etc"), "local.ini", []byte("[couchdb]\nsingle_node = true\nuuid = 0123456789abcdef0123456789abcdef\n")); err != nil {
		return err
	}
	d.say("A CouchDB node: %s of %s, %s, as CouchDB 3.5.0 wrote them", core.Count(files, "file"),
		core.Count(len(databases), "database"), core.Size(bytes))
	return nil
}

func eachSample(fn func(name string, b []byte) error) error {
	return fs.WalkDir(sample, sampleRoot, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := sample.ReadFile(p)
		if err != nil {
			return err
		}
		return fn(strings.TrimPrefix(p, sampleRoot+"/"), b)
	})
}

func writeSample(dir, name string, b []byte) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

func (d *demo) makeRepository(ctx context.Context) error {
	place, err := core.RepositoryURL(d.path("repository"))
	if err != nil {
		return err
	}
	identity := d.path("identity.txt")
	d.s = &core.Settings{Config: &config.Config{Repository: place, Compression: "fastest"}}
	d.say("An encrypted repository, and the key that reads it")
	d.command("init --repo repository --identity-out identity.txt")
	store, err := open.Store(ctx, d.env, d.s, true)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	recipient, err := open.NewIdentity(d.env, identity, store.URL())
	if err != nil {
		return err
	}
	if _, err := repo.Init(ctx, store, repo.InitOptions{Recipients: []string{recipient}}); err != nil {
		return err
	}
	d.detail("the backups below are written without that key; reading them needs it")
	d.repo, err = open.Repo(ctx, d.env, d.s, false)
	return err
}

func (d *demo) backup(ctx context.Context, name string) (*backup.Result, error) {
	n, err := node.Locate(ctx, node.Options{DataDir: d.path("node/data"), ConfigDir: d.path("node/etc"),
		Getenv: func(string) string { return "" }})
	if err != nil {
		return nil, err
	}
	d.command("backup create --repo repository --instance demo --data-dir node/data --config-dir node/etc --state-dir state --name %s", name)
	res, err := backup.Run(ctx, backup.Options{Repo: d.repo.Repo, Node: n, Instance: "demo",
		StateDir: d.path("state"), Name: name,
		Tool: "slipcover " + core.ToolVersion(), Strategy: core.StrategyName, Namespace: core.Namespace, Indexes: true})
	if err != nil {
		return nil, err
	}
	if len(res.Damage)+len(res.LeftOut) > 0 {
		return nil, core.Say(core.ErrProblem, "the backup of the sample left out %d files and found %d damaged places; it should be whole", len(res.LeftOut), len(res.Damage))
	}
	return res, nil
}

func (d *demo) fullBackup(ctx context.Context) error {
	d.say("A full backup, while CouchDB could be running")
	res, err := d.backup(ctx, "first")
	if err != nil {
		return err
	}
	b := core.SummaryOf(res.Record)
	d.res.Full = b
	d.detail("%s backup of %s: read %s, stored %s", b.Type, core.Count(b.FileCount, "file"), core.Size(b.ReadBytes),
		core.Size(b.StoredBytes))
	return nil
}

func (d *demo) grow(context.Context) error {
	files := 0
	err := eachSample(func(name string, b []byte) error {
		if !growing(name) {
			return nil
		}
		f, err := os.OpenFile(filepath.Join(d.path("node/data"), filepath.FromSlash(name)), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil {
			files++
			d.res.GrownBytes += int64(len(b)) - info.Size()
			_, err = f.Write(b[info.Size():])
		}
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return err
	}
	d.say("CouchDB goes on: documents are written, changed and deleted; %s grow by %s", core.Count(files, "file"),
		core.Size(d.res.GrownBytes))
	return nil
}

func (d *demo) incremental(ctx context.Context) error {
	d.say("The second backup is an incremental, which reads and stores what is new; it restores alone all the same")
	res, err := d.backup(ctx, "second")
	if err != nil {
		return err
	}
	b := core.SummaryOf(res.Record)
	d.res.Incremental = b
	d.detail("%s backup of %s: read %s of %s, stored %s", b.Type, core.Count(b.FileCount, "file"),
		core.Size(b.ReadBytes), core.Size(b.SizeBytes), core.Size(b.StoredBytes))
	if b.Type != manifest.Incremental || b.AddedBytes != d.res.GrownBytes {
		return core.Say(core.ErrProblem, "the second backup is %s and stored %d new bytes; it should be incremental and store the %d that were added", b.Type, b.AddedBytes, d.res.GrownBytes)
	}
	return nil
}

func (d *demo) list(ctx context.Context) error {
	d.say("What the repository holds")
	d.command("backup list --repo repository")
	recs, _, err := d.repo.List(ctx, "demo")
	if err != nil {
		return err
	}
	if len(recs) != 2 {
		return core.Say(core.ErrProblem, "the repository lists %d backups, not 2", len(recs))
	}
	for _, r := range recs {
		d.detail("%s  %-6s  %-11s  %9s  stored %9s", r.ID, r.Name, r.Type, core.Size(r.SizeBytes), core.Size(r.StoredBytes))
	}
	return nil
}

// reopen opens the repository again with the key.
func (d *demo) reopen(ctx context.Context) error {
	d.repo.Close()
	d.s.Identities = []string{d.path("identity.txt")}
	var err error
	d.repo, err = open.Repo(ctx, d.env, d.s, false)
	return err
}

func (d *demo) verify(ctx context.Context) error {
	if err := d.reopen(ctx); err != nil {
		return err
	}
	d.say("With the key: does the second backup restore? Read it back, and every document in it")
	d.command("backup verify latest --repo repository --identity identity.txt")
	rec, err := d.repo.Find(ctx, "demo", "second")
	if err != nil {
		return err
	}
	rep, err := restore.Verify(ctx, restore.VerifyOptions{Repo: d.repo.Repo, Record: rec, Scratch: d.dir})
	if err != nil {
		return err
	}
	d.res.Verified = &core.VerifyJSON{OK: rep.OK(), Backup: core.SummaryOf(rec), VerifyReport: rep,
		Took: core.Seconds(rep.Took)}
	if len(rep.Findings) > 0 {
		return core.Say(core.ErrProblem, "the backup does not verify: %s: %s", rep.Findings[0].Path, rep.Findings[0].What)
	}
	d.detail("%s and %s read back, nothing is wrong", core.Count(int(rep.Files), "file"),
		core.Count(int(rep.Docs), "document"))
	return nil
}

func (d *demo) restore(ctx context.Context) error {
	d.say("A restore into an empty folder")
	d.command("restore latest --to restored --config-to restored-etc --repo repository --identity identity.txt")
	rec, err := d.repo.Find(ctx, "demo", "second")
	if err != nil {
		return err
	}
	res, err := restore.Files(ctx, restore.Options{Repo: d.repo.Repo, Record: rec, To: d.path("restored"),
		ConfigTo: d.path("restored-etc")})
	if err != nil {
		return err
	}
	if !res.OK() || len(res.Dropped) > 0 {
		return core.Say(core.ErrProblem, "the restore is not whole: %s", strings.Join(res.Problems, "; "))
	}
	d.detail("%s, %s", core.Count(int(res.Files), "file"), core.Size(res.Bytes))
	return nil
}

// compare holds each file of the node against the restored one: bytes, and each
// document and attachment as read out of the restored file.
func (d *demo) compare(ctx context.Context) error {
	d.say("Is it the same? Every document and attachment, read out of the restored files, against the node's")
	err := eachSample(func(name string, _ []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		was, err := os.ReadFile(filepath.Join(d.path("node/data"), filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		is, err := os.ReadFile(filepath.Join(d.path("restored"), filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		if !bytes.Equal(was, is) {
			return core.Say(core.ErrProblem, "%s is not the same after the restore", name)
		}
		d.res.Compared.Files++
		if filepath.Ext(name) != ".couch" {
			return nil
		}
		if err := d.res.Compared.database(was, is); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c := d.res.Compared
	d.detail("%s, %s and %s are the same", core.Count(c.Files, "file"), core.Count(c.Documents, "document"),
		core.Count(c.Attachments, "attachment"))
	return d.example()
}

// database compares the documents of two states of a database file.
func (c *comparison) database(was, is []byte) error {
	a, err := couchfile.Open(bytes.NewReader(was), int64(len(was)))
	if err != nil {
		return err
	}
	b, err := couchfile.Open(bytes.NewReader(is), int64(len(is)))
	if err != nil {
		return err
	}
	for info, err := range a.Docs(couchfile.DocsOptions{}) {
		if err != nil {
			return err
		}
		one, err1 := a.Doc(info.ID, couchfile.DocOptions{Revs: true, Conflicts: true})
		two, err2 := b.Doc(info.ID, couchfile.DocOptions{Revs: true, Conflicts: true})
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if !bytes.Equal(one, two) {
			return core.Say(core.ErrProblem, "document %q is not the same after the restore", info.ID)
		}
		c.Documents++
		atts, err := a.Attachments(info.ID, info.Winner())
		if err != nil {
			return err
		}
		for _, att := range atts {
			if err := c.attachment(a, b, info.ID, att.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *comparison) attachment(a, b *couchfile.DB, id, name string) error {
	one, err := attachmentSum(a, id, name)
	if err != nil {
		return err
	}
	two, err := attachmentSum(b, id, name)
	if err != nil {
		return err
	}
	if one != two {
		return core.Say(core.ErrProblem, "attachment %q of document %q is not the same after the restore", name, id)
	}
	c.Attachments++
	return nil
}

func attachmentSum(db *couchfile.DB, id, name string) (sum [sha256.Size]byte, err error) {
	r, _, err := openAttachment(db, id, "", name)
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

// demoDoc is a document of the sample with an attachment, in demoFile.
const (
	demoFile       = "shards/00000000-7fffffff/attach.1795334389.couch"
	demoDoc        = "text"
	demoAttachment = "readme.txt"
)

// example shows one document, as it comes out of a restored file.
func (d *demo) example() error {
	path := filepath.Join(d.path("restored"), filepath.FromSlash(demoFile))
	d.command("inspect restored/%s --doc %s", demoFile, demoDoc)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	db, err := couchfile.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	doc, err := db.Doc(demoDoc, couchfile.DocOptions{})
	if err != nil {
		return err
	}
	d.detail("%s", doc)
	sum, err := attachmentSum(db, demoDoc, demoAttachment)
	if err != nil {
		return err
	}
	d.detail("its attachment %s has the SHA-256 %x", demoAttachment, sum)
	return nil
}
