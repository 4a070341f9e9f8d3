package backup

import (
	"fmt"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/capture"
	"github.com/slipcover/slipcover/internal/manifest"
)

func TestDoubt(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	ns := func(d time.Duration) int64 { return now.Add(d).UnixNano() }
	old := capture.Local{Dev: 1, Ino: 2, Size: 3, MTime: ns(-30 * time.Hour), CTime: ns(-30 * time.Hour), Proven: now.Add(-48 * time.Hour).Unix()}
	recent := old
	recent.CTime = ns(-24*time.Hour - 10*time.Minute)
	with := func(l capture.Local, edit func(*capture.Local)) capture.Local { edit(&l); return l }
	grow := func(l *capture.Local) { l.Size++; l.MTime, l.CTime = ns(-time.Hour), ns(-time.Hour) }
	booting := &proofs{booted: true, since: now.Add(-24 * time.Hour), now: now}
	for _, tt := range []struct {
		name    string
		p       *proofs
		was, is capture.Local
		want    doubt
	}{
		{"nothing", &proofs{now: now}, old, old, noDoubt},
		{"grown", &proofs{now: now}, old, with(old, grow), noDoubt},
		{"asked", &proofs{now: now, all: asked}, old, old, asked},
		{"device", &proofs{now: now}, old, with(old, func(l *capture.Local) { l.Dev++ }), moved},
		{"inode", &proofs{now: now}, old, with(old, func(l *capture.Local) { l.Ino++ }), moved},
		{"mtime back", &proofs{now: now}, old, with(old, func(l *capture.Local) { l.MTime--; l.CTime++ }), times},
		{"ctime back", &proofs{now: now}, old, with(old, func(l *capture.Local) { l.CTime-- }), times},
		{"mtime kept", &proofs{now: now}, old, with(old, func(l *capture.Local) { l.Size++; l.CTime++ }), times},
		{"times alone", &proofs{now: now}, old, with(old, func(l *capture.Local) { l.MTime++; l.CTime++ }), touched},
		{"time of change alone", &proofs{now: now}, old, with(old, func(l *capture.Local) { l.CTime++ }), touched},
		{"booted, at rest", booting, old, old, noDoubt},
		{"booted, grown", booting, old, with(old, grow), booted},
		{"booted, written just before the backup", booting, recent, recent, booted},
		{"not yet due", &proofs{now: now, interval: 97 * time.Hour}, old, old, noDoubt},
		{"due", &proofs{now: now, interval: 48 * time.Hour}, old, old, due},
		{"never due", &proofs{now: now}, with(old, func(l *capture.Local) { l.Proven = 0 }), old, noDoubt},
		{"proven in time to come", &proofs{now: now, interval: 48 * time.Hour}, with(old, func(l *capture.Local) { l.Proven = now.Add(2 * time.Hour).Unix() }), old, due},
	} {
		if got := tt.p.doubt(capture.Name{Root: manifest.DataRoot, Path: "x"}, &tt.was, &tt.is); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Files that were backed up first on one day aren't all read on one day again.
func TestDueIsSpread(t *testing.T) {
	t.Parallel()
	const days, files = 30, 3000
	start := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	proven := make([]int64, files)
	for i := range proven {
		proven[i] = start.Unix()
	}
	most, age := 0, time.Duration(0)
	for day := 1; day <= 6*days; day++ {
		p := &proofs{now: start.AddDate(0, 0, day), interval: days * 24 * time.Hour}
		n := 0
		for i := range proven {
			age = max(age, p.now.Sub(time.Unix(proven[i], 0)))
			if p.due(capture.Name{Root: manifest.DataRoot, Path: fmt.Sprint("shards/", i)}, proven[i]) {
				proven[i] = p.now.Unix()
				n++
			}
		}
		most = max(most, n)
	}
	if most > files/10 || age > days*24*time.Hour {
		t.Errorf("up to %d of %d files on one day, and one was not proven for %s", most, files, age)
	}
}
