package open

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
)

// TestSequences unpacks the sequences that a server showed of its databases, and holds them against the
// numbers of their shards.
func TestSequences(t *testing.T) {
	t.Parallel()
	const expected = "../../../testdata/couchdb-3.5.0/expected/"
	list, err := filepath.Glob(expected + "*/info.json")
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	for _, name := range list {
		var info struct {
			Name string `json:"db_name"`
			Seq  string `json:"update_seq"`
		}
		var shards map[string]struct {
			Seq  uint64 `json:"update_seq"`
			UUID string `json:"uuid"`
		}
		read(t, name, &info)
		if _, err := os.Stat(filepath.Join(filepath.Dir(name), "shard_info.json")); err != nil {
			continue
		}
		read(t, filepath.Join(filepath.Dir(name), "shard_info.json"), &shards)
		w := When{AtSeq: []string{info.Name + "=" + info.Seq}}
		c, err := w.commit()
		if err != nil || c.DB != info.Name || len(c.Seqs) != len(shards) {
			t.Errorf("%s: %+v, %v", info.Name, c, err)
			continue
		}
		for path, s := range shards {
			n, err := shard.ParsePath(path + ".couch")
			if err != nil || c.Seqs[n.Range] != s.Seq || s.UUID != "" && !strings.HasPrefix(s.UUID, c.UUIDs[n.Range]) {
				t.Errorf("%s: %d of %s, want %d of %s", path, c.Seqs[n.Range], c.UUIDs[n.Range], s.Seq, s.UUID)
			}
		}
	}
}

func read(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestCommitText reads what people write.
func TestCommitText(t *testing.T) {
	t.Parallel()
	half := shard.Range{End: 0x7fffffff}
	for name, x := range map[string]struct {
		when When
		want *repo.Commit // nil: refused
	}{
		"a number":         {When{AtSeq: []string{"a/b=7"}}, &repo.Commit{DB: "a/b", Seqs: map[shard.Range]uint64{{}: 7}}},
		"of a shard":       {When{AtSeq: []string{"a/b/00000000-7fffffff=7"}}, &repo.Commit{DB: "a/b", Seqs: map[shard.Range]uint64{half: 7}}},
		"a document":       {When{BeforeChange: "a/_design/x"}, &repo.Commit{DB: "a", Doc: "_design/x"}},
		"a name with /":    {When{BeforeChange: "a%2Fb/x/y"}, &repo.Commit{DB: "a/b", Doc: "x/y"}},
		"two databases":    {When{AtSeq: []string{"a=1", "b=2"}}, nil},
		"nothing":          {When{AtSeq: []string{"=1"}}, nil},
		"no sequence":      {When{AtSeq: []string{"a=12-g1AAAA"}}, nil},
		"packed, of shard": {When{AtSeq: []string{"a/00000000-7fffffff=12-g1AAAA"}}, nil},
		"both":             {When{AtSeq: []string{"a=1"}, BeforeChange: "a/b"}, nil},
		"no document":      {When{BeforeChange: "a/"}, nil},
	} {
		got, err := x.when.commit()
		switch {
		case x.want == nil && err == nil:
			t.Errorf("%s: %+v was taken", name, got)
		case x.want != nil && (err != nil || got.DB != x.want.DB || got.Doc != x.want.Doc || len(got.Seqs) != len(x.want.Seqs)):
			t.Errorf("%s: %+v, %v", name, got, err)
		case x.want != nil:
			for rg, n := range x.want.Seqs {
				if got.Seqs[rg] != n {
					t.Errorf("%s: %+v", name, got)
				}
			}
		}
	}
}
