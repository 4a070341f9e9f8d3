package look

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/cli/clitest"
)

var update = flag.Bool("update", false, "write the demo's sample anew")

const fixture = "../../../testdata/couchdb-3.5.0"

// sampleCuts are the databases of the sample and where their files are cut: at
// the end of the header with this update_seq, or, for 0, not at all. _dbs.couch is
// cut where it names just these databases.
var sampleCuts = map[string]int64{
	"_dbs": 32768, "_nodes": 0, "_users": 0, "_replicator": 0, "conflicted": 0, "deletions": 0, "localdocs": 0, "viewed": 0,
	"00000000-7fffffff/attach": 24576, // before its attachment of 1.3 MB
	"80000000-ffffffff/attach": 0,
}

// sampleFiles makes the sample out of the files of testdata.
func sampleFiles(t *testing.T) map[string][]byte {
	t.Helper()
	data := filepath.Join(fixture, "data")
	out := map[string][]byte{}
	err := filepath.WalkDir(data, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name := strings.TrimPrefix(filepath.ToSlash(path), filepath.ToSlash(data)+"/")
		cut, ok := sampleCut(name)
		if !ok {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if cut > 0 {
			raw, err := couchfile.ReadHeader(bytes.NewReader(b), int64(len(b)), cut)
			if err != nil {
				return err
			}
			b = b[:raw.End]
		}
		out[name] = b
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sampleCut(name string) (cut int64, ok bool) {
	parts := strings.Split(name, "/")
	db, _, _ := strings.Cut(parts[len(parts)-1], ".")
	if parts[0] == ".shards" {
		db, _, _ = strings.Cut(parts[2], ".")
	}
	if cut, ok = sampleCuts[db]; !ok && len(parts) > 2 {
		cut, ok = sampleCuts[parts[1]+"/"+db]
	}
	return cut, ok
}

// TestSampleIsOfARealServer holds the embedded files against testdata.
func TestSampleIsOfARealServer(t *testing.T) {
	want := sampleFiles(t)
	if *update {
		if err := os.RemoveAll(sampleRoot); err != nil {
			t.Fatal(err)
		}
		for name, b := range want {
			if err := writeSample(sampleRoot, name, b); err != nil {
				t.Fatal(err)
			}
		}
		t.Skip("written; run the test again")
	}
	total := 0
	err := eachSample(func(name string, b []byte) error {
		if !bytes.Equal(b, want[name]) {
			return fmt.Errorf("%s is not the file of testdata; go test ./internal/cli/look -run Sample -update writes it anew", name)
		}
		delete(want, name)
		total += len(b)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for name := range want {
		t.Errorf("%s is missing from the sample", name)
	}
	if total > 2<<20 {
		t.Errorf("the sample has %d bytes", total)
	}
}

// TestDemoNoticesDifferences changes one byte of what the demo compares.
func TestDemoNoticesDifferences(t *testing.T) {
	b, err := sample.ReadFile(sampleRoot + "/" + demoFile)
	if err != nil {
		t.Fatal(err)
	}
	var c comparison
	if err := c.database(b, b); err != nil || c.Documents == 0 || c.Attachments == 0 {
		t.Fatalf("compared %+v, %v", c, err)
	}
	at := bytes.Index(b, []byte("made-up"))
	if at < 0 {
		n, err := earlier(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.database(b, b[:n]); err == nil {
			t.Error("an earlier state passes for the newest")
		}
		return
	}
	changed := bytes.Clone(b)
	changed[at] ^= 1
	if err := c.database(b, changed); err == nil {
		t.Error("a changed document passes")
	}
}

func TestDemoJSON(t *testing.T) {
	env, out, _ := clitest.Env(t)
	env.JSON = true
	c := newDemo(env)
	c.SetArgs([]string{})
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var res demoResult
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		t.Fatal(err)
	}
	if !res.OK || res.Compared.Documents < 50 || res.Compared.Attachments < 3 {
		t.Errorf("got %+v", res)
	}
	if res.Incremental.StoredBytes >= res.Full.StoredBytes {
		t.Errorf("the incremental stored %d bytes, the full one %d", res.Incremental.StoredBytes, res.Full.StoredBytes)
	}
}
