package contents_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/contents"
)

// sizes are CouchDB's own.
type sizes struct {
	Sizes     struct{ File, Active int64 }
	PurgeSeq  any `json:"purge_seq"`
	Signature string
}

func readSizes(t *testing.T, path string) (s sizes, ok bool) {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, false
	}
	must(t, err)
	must(t, json.Unmarshal(b, &struct {
		*sizes
		ViewIndex *sizes `json:"view_index"`
	}{&s, &s}))
	return s, true
}

// parts are what the bytes of a database's files are.
func parts(x *contents.DatabaseSpace) (live, sum int64) {
	live = x.DocumentBytes + x.AttachmentBytes + x.ConflictBytes + x.TombstoneBytes + x.TreeBytes
	return live, live + x.OldRevisionBytes + x.OldOtherBytes + x.UnreadBytes
}

// Where the bytes of a database are adds up to its files, what is live is what CouchDB calls active, and so it is of its indexes.
func TestSpaceAsServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var list contents.Databases
	w.into(&list, "databases", "backup", "latest", "limit", "500")
	seen, indexes := contents.DatabaseSpace{}, 0
	for _, d := range list.Databases {
		var x contents.DatabaseSpace
		w.into(&x, "space", "backup", "latest", "db", d.Name)
		live, sum := parts(&x)
		if sum != x.FileBytes || x.FileBytes != d.FileBytes || !x.Complete || x.Looked != x.Documents || x.Problem != "" || x.Backup != w.second || x.NoIndexes {
			t.Errorf("%s: the parts are %d bytes: %+v", d.Name, sum, x)
		}
		dir := filepath.Join(fixtures, "expected", url.PathEscape(d.Name))
		of, ok := readSizes(t, filepath.Join(dir, "info.json"))
		if !ok {
			continue
		}
		if of.Sizes.File != x.FileBytes || of.Sizes.Active != live && strings.HasPrefix(fmt.Sprint(of.PurgeSeq), "0-") { // a purge leaves them as they were
			t.Errorf("%s: CouchDB says %+v, it is %d and %+v", d.Name, of, live, x)
		}
		seen.AttachmentBytes, seen.ConflictBytes = seen.AttachmentBytes+x.AttachmentBytes, seen.ConflictBytes+x.ConflictBytes
		seen.TombstoneBytes, seen.OldRevisionBytes = seen.TombstoneBytes+x.TombstoneBytes, seen.OldRevisionBytes+x.OldRevisionBytes
		files, err := filepath.Glob(filepath.Join(dir, "ddoc_info", "*.json"))
		must(t, err)
		for _, file := range files {
			of, _ := readSizes(t, file)
			name, err := url.PathUnescape(strings.TrimSuffix(filepath.Base(file), ".json"))
			must(t, err)
			n := slices.IndexFunc(x.Indexes, func(i contents.IndexSpace) bool { return i.Signature == of.Signature })
			if n < 0 || x.Indexes[n].FileBytes != of.Sizes.File || x.Indexes[n].LiveBytes != of.Sizes.Active || !slices.Contains(x.Indexes[n].Designs, name) {
				t.Errorf("%s: of %s CouchDB says %+v, it is %+v", d.Name, name, of, x.Indexes)
			}
			indexes++
		}
	}
	if seen.AttachmentBytes == 0 || seen.ConflictBytes == 0 || seen.TombstoneBytes == 0 || seen.OldRevisionBytes == 0 || indexes < 4 {
		t.Errorf("the fixtures lack a kind: %+v, %d indexes", seen, indexes)
	}
	a := w.get(w.viewer, "space", "backup", "latest", "db", "viewed")
	if a.Status != 200 || strings.Contains(a.Body, "_design") || !strings.Contains(a.Body, `"designs":[]`) {
		t.Errorf("a viewer who may not read: %d %s", a.Status, a.Body)
	}
	if a := w.get(w.operator, "space", "backup", "latest", "db", "none"); a.Status != 404 {
		t.Errorf("of no database: %d %s", a.Status, a.Body)
	}
	if a := w.get(w.other, "space", "db", "viewed"); a.Status != 404 {
		t.Errorf("of another project: %d %s", a.Status, a.Body)
	}
}
