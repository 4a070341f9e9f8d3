package contents

import (
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
)

func TestFindings(t *testing.T) {
	t.Parallel()
	shard := "shards/00000000-ffffffff/patients.1700000000.couch"
	a, b := manifest.Damage{Path: shard, Doc: "patient:88421", What: "body", Error: "e"}, manifest.Damage{Path: "shards/00000000-ffffffff/lab.1700000000.couch", What: "tree", Error: "e"}
	var list []*job.Backup
	day := func(n int) time.Time { return time.Date(2026, 11, n, 2, 0, 0, 0, time.UTC) }
	for n := range 6 { // of the 28th, 27th and so on
		list = append(list, &job.Backup{ID: string(rune('a' + n)), Created: day(28 - n)})
	}
	got := findings(list, [][]manifest.Damage{{a}, {a, b}, {a}, nil, {a}, nil})
	if len(got) != 2 {
		t.Fatalf("%d findings: %+v", len(got), got)
	}
	p := got[0]
	if p.Database != "patients" || p.Document != "patient:88421" || !p.Now || p.Since.Backup != "c" || p.Last.Backup != "a" || p.Whole == nil || p.Whole.Backup != "d" || !p.Whole.At.Equal(day(25)) {
		t.Errorf("the patient: %+v", p)
	}
	if l := got[1]; l.Database != "lab" || l.Now || l.Since.Backup != "b" || l.Whole == nil || l.Whole.Backup != "c" {
		t.Errorf("the lab: %+v", l)
	}
	if got := findings(list[:1], [][]manifest.Damage{{a}}); len(got) != 1 || got[0].Whole != nil {
		t.Errorf("without an older backup: %+v", got)
	}
}
