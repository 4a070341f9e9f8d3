package core

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/diverge"
)

func TestPrintDivergence(t *testing.T) {
	var many []diverge.Document
	for i := range 3 {
		many = append(many, diverge.Document{ID: fmt.Sprint("d", i), Revs: []string{"1-a"}})
	}
	d := &cluster.Divergence{
		Database: "orders", Range: "00000000-7fffffff",
		Report: &diverge.Report{
			Documents: 100, Equal: 90, Different: 7, Unread: 3,
			Local:    diverge.Local{Documents: 2, Equal: 1, Different: 1},
			Settings: []diverge.Setting{{Name: "security", Values: []json.RawMessage{[]byte(`{}`), []byte(`{"a":1}`), nil}}},
			Copies: []diverge.CopyReport{
				{
					Node: "n@a", Documents: 97, Missing: diverge.List{Count: 1003, First: many},
					Behind: diverge.List{Count: 1, First: []diverge.Document{{ID: "x\x1b[31m", Revs: []string{"2-b", "3-c deleted"}}}},
				},
				{
					Node: "n@b", Documents: 100, Only: diverge.List{Count: 1, First: many[:1]}, Purged: diverge.List{Count: 1, First: many[2:]},
					LocalDiffers: diverge.List{Count: 1, First: []diverge.Document{{ID: "_local/x", Revs: []string{"0-2"}}}},
				},
				{
					Node: "n@c", Documents: 95, Unread: 3, Damaged: 3,
					Damage: []diverge.Damage{
						{Part: diverge.PartDocuments, After: "a", Last: "b", Error: "node at 7: bad"}, {Part: diverge.PartPurges, Error: "node at 8: bad"},
					},
				},
			},
		},
		NotCompared: []cluster.NotCompared{{Node: "n@d", Why: "no backup of it is there"}},
	}
	var out strings.Builder
	if err := PrintDivergence(&out, d); err != nil {
		t.Fatal(err)
	}
	want := `orders 00000000-7fffffff: 7 of 100 documents differ, 1 of 2 local documents differs, security differs, 3 could not be compared everywhere
NODE  DOCUMENTS  MISSING  BEHIND  PURGED  ONLY HERE  LOCAL DIFFERS  UNREAD
n@a   97         1003     1       0       0          0              0
n@b   100        0        0       1       1          1              0
n@c   95         0        0       0       0          0              3
NODE  WHAT           DOCUMENT   REVISIONS
n@a   missing        d0         1-a
n@a   missing        d1         1-a
n@a   missing        d2         1-a
n@a   missing        ...        and 1000 more
n@a   behind         x\x1b[31m  2-b, 3-c deleted
n@b   purged         d2         1-a
n@b   only here      d0         1-a
n@b   local differs  _local/x   0-2
security of n@a: {}
security of n@b: {"a":1}
security of n@c: can't be read
can't be read: documents of n@c behind a up to b: node at 7: bad
can't be read: purges of n@c: node at 8: bad
can't be read: 1 more part of n@c
not compared: n@d: no backup of it is there
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
