package tryout_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/serve/tryout"
	"github.com/slipcover/slipcover/internal/testenv"
)

// The fixture has conflicts, deletions, attachments, partitions and odd names.
func TestRun(t *testing.T) {
	t.Parallel()
	rep := run(t, "../../../testdata/couchdb-3.5.0/data", nil)
	if !rep.OK() || len(rep.Differences) > 0 || len(rep.Partial) > 0 || rep.Databases < 20 || rep.Sampled < 50 || rep.Attachments < 5 || rep.Documents < 100 {
		t.Errorf("%+v", rep)
	}
}

// What a running server was given is found again, in several shards and below odd names.
func TestRunOfALiveServer(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	for _, db := range []string{"many", "a+b/c"} {
		if err := c.Put(testenv.DBPath(db)+"?q=4", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.Load(testenv.LoadOptions{Databases: []string{"many", "a+b/c"}, MaxWrites: 300, Deletes: 20, Duration: 5 * time.Minute, Seed: 3}).Wait()
	rep := run(t, c.DataDir, nil)
	if !rep.OK() || len(rep.Differences) > 0 || rep.Sampled < 20 {
		t.Errorf("%+v", rep)
	}
}

// What isn't what the manifest says is found.
func TestDifferences(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*manifest.Manifest, *manifest.File)
		say    string
		known  bool
	}{
		"a document less":  {func(_ *manifest.Manifest, f *manifest.File) { f.Header.Docs++ }, "the backup says", false},
		"a deletion less":  {func(_ *manifest.Manifest, f *manifest.File) { f.Header.DeletedDocs++ }, "deleted ones, the backup says", false},
		"another sequence": {func(_ *manifest.Manifest, f *manifest.File) { f.Header.UpdateSeq++ }, "it is at the sequence", false},
		"no header":        {func(_ *manifest.Manifest, f *manifest.File) { f.Header = nil }, "can't be read as a database", false},
		"that is known of it": {func(m *manifest.Manifest, f *manifest.File) {
			f.Header.Docs++
			m.Damage = append(m.Damage, manifest.Damage{Path: f.Path})
		}, "the backup says", true},
		"the content of another": {func(m *manifest.Manifest, f *manifest.File) { // the content of another shard
			for _, other := range m.Files {
				if other.Kind == manifest.Shard && other.Header != nil && other.Header.Docs != f.Header.Docs && !strings.Contains(other.Path, "conflicted") {
					docs, deleted, seq := f.Header.Docs, f.Header.DeletedDocs, f.Header.UpdateSeq
					path := f.Path
					*f = *other
					h := *other.Header
					h.Docs, h.DeletedDocs, h.UpdateSeq = docs, deleted, seq
					f.Path, f.Header = path, &h
					return
				}
			}
		}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rep := run(t, "../../../testdata/couchdb-3.5.0/data", func(m *manifest.Manifest) {
				i := slices.IndexFunc(m.Files, func(f *manifest.File) bool {
					return f.Kind == manifest.Shard && strings.Contains(f.Path, "/conflicted.")
				})
				tt.change(m, m.Files[i])
			})
			if len(rep.Differences) == 0 || rep.OK() != tt.known {
				t.Fatalf("%+v", rep)
			}
			for _, d := range rep.Differences {
				if d.Database != "conflicted" || d.Known != tt.known || !strings.Contains(d.What, tt.say) && d == rep.Differences[0] {
					t.Errorf("%+v", d)
				}
			}
		})
	}
}

// A shard that is not there makes a database none that can be compared.
func TestPartial(t *testing.T) {
	t.Parallel()
	rep := run(t, "../../../testdata/couchdb-3.5.0/data", func(m *manifest.Manifest) {
		m.Files = slices.DeleteFunc(m.Files, func(f *manifest.File) bool {
			return f.Kind == manifest.Shard && strings.Contains(f.Path, "/conflicted.")
		})
	})
	if !rep.OK() || !slices.Equal(rep.Partial, []string{"conflicted"}) {
		t.Errorf("%+v", rep)
	}
}

func run(t *testing.T, data string, change func(*manifest.Manifest)) *tryout.Report {
	t.Helper()
	r, m := servetest.Backup(t, data)
	if change != nil {
		change(m)
	}
	rep, err := tryout.Run(t.Context(), r, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d databases, %d documents, %d read, %d attachments", rep.Databases, rep.Documents, rep.Sampled, rep.Attachments)
	return rep
}
