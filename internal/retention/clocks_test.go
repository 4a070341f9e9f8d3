package retention_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/retention"
)

// made makes backups in the order that they were made in, a line each as of parse.
func made(t *testing.T, lines string) []retention.Backup {
	t.Helper()
	list := parse(t, lines)
	for i := range list {
		list[i].Order = i + 1
	}
	return list
}

// What was made last is the newest, whatever its clock showed, and a wrong stamp takes
// nobody's place.
func TestWrongClocks(t *testing.T) {
	for _, tt := range []struct {
		name, backups string
		policy        retention.Policy
		now           string
		gone          string // ids
	}{
		{"the newest is stamped 1970", "2026-11-20T02:00Z\n2026-11-21T02:00Z\n2026-11-22T02:00Z\n1970-01-01T00:00Z\n", retention.Policy{KeepLast: 1}, "2026-11-23T12:00Z",
			"2026-11-22T02:00Z 2026-11-21T02:00Z 2026-11-20T02:00Z"},
		{"and takes no day's and no year's place", "2024-11-20T02:00Z\n2025-11-21T02:00Z\n2026-11-22T02:00Z\n1970-01-01T00:00Z\n", retention.Policy{KeepYearly: 3}, "2026-11-23T12:00Z", ""},
		{"one of 2099 in between", "2024-11-20T02:00Z\n2025-11-21T02:00Z\n2099-01-01T00:00Z\n2026-11-22T02:00Z\n2026-11-23T02:00Z\n", retention.Policy{KeepYearly: 3}, "2026-11-23T12:00Z",
			"2026-11-22T02:00Z"},
		{"it goes with the year it was made in", "2024-11-20T02:00Z\n2099-01-01T00:00Z\n2025-11-21T02:00Z\n2026-11-23T02:00Z\n", retention.Policy{KeepYearly: 2}, "2026-11-23T12:00Z",
			"2099-01-01T00:00Z 2024-11-20T02:00Z"},
		{"a month of 1970 keeps its days", "2026-11-20T02:00Z\n2026-11-21T02:00Z\n2026-11-22T02:00Z\n1970-01-01T02:00Z\n1970-01-02T02:00Z\n2026-11-25T02:00Z\n", retention.Policy{KeepDaily: 2}, "2026-11-25T12:00Z",
			"2026-11-21T02:00Z 2026-11-20T02:00Z"},
		{"the clock that decides is in 1970 too", "2026-11-20T02:00Z\n2026-11-21T02:00Z\n1970-01-01T00:00Z\n", retention.Policy{KeepLast: 1}, "1970-01-01T00:10Z", ""},
		{"keep_within counts from when it was made", "2026-11-20T02:00Z\n2026-11-21T02:00Z\n2026-11-22T02:00Z\n1970-01-01T00:00Z\n", retention.Policy{KeepWithin: calendar.Span{Days: 1}}, "2026-11-23T12:00Z",
			"2026-11-20T02:00Z"},
		{"stamped ahead, then set right", "2026-11-20T02:00Z\n2026-11-21T02:00Z\n2027-01-01T02:00Z\n2026-11-23T02:00Z\n2026-11-24T02:00Z\n", retention.Policy{KeepLast: 2}, "2026-11-24T12:00Z",
			"2027-01-01T02:00Z 2026-11-21T02:00Z 2026-11-20T02:00Z"},
	} {
		list, err := retention.Decide(tt.policy, made(t, tt.backups), at(t, tt.now))
		if err != nil {
			t.Fatal(err)
		}
		var gone []string
		for _, d := range list {
			if !d.Keep {
				gone = append(gone, d.ID)
			}
		}
		if got := strings.Join(gone, " "); got != tt.gone {
			t.Errorf("%s: gone are %s, want %s\n%s", tt.name, got, tt.gone, text(list))
		}
	}
}

func TestDoubtIsTold(t *testing.T) {
	list, err := retention.Decide(retention.Policy{KeepLast: 1}, made(t, "2026-11-20T02:00Z\n2099-01-01T00:00Z\n2026-11-21T02:00Z\n"), at(t, "2026-11-22T12:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "stamped 2099-01-01T00:00:00Z, which doesn't fit those made before and after it: counted as of 2026-11-20T02:00:00Z"
	if d := list[1]; d.ID != "2099-01-01T00:00Z" || d.Keep || d.Reasons[1] != want {
		t.Errorf("got %+v", d)
	}
}

// A damaged backup of a wrong clock, wherever in the history it was made, costs no other
// one its place but that of the newest.
func TestWrongClockCostsNobody(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		data := make([]byte, 15+r.IntN(60))
		for i := range data {
			data[i] = byte(r.IntN(256))
		}
		s := tell(t, data)
		s.policy.KeepLast, s.policy.Minimum = 0, 0
		if len(s.backups) < 3 || s.policy == (retention.Policy{Location: s.policy.Location}) {
			continue
		}
		for i := range s.backups { // told the newest first
			s.backups[i].Order = 2 * (len(s.backups) - i)
		}
		kept := s.kept(t)
		stamp := time.Date([]int{1970, 2099}[r.IntN(2)], 1, 1, 0, 0, 0, 0, time.UTC)
		place := r.IntN(len(s.backups) + 1)
		wrong := retention.Backup{ID: "wrong", Time: stamp, Order: 2*place + 1, Damaged: true}
		if place == len(s.backups) {
			delete(kept, s.backups[0].ID) // it is not the newest any more
		}
		s.backups = append(s.backups, wrong)
		mustHold(t, fmt.Sprintf("with one stamped %d at %d", stamp.Year(), place), kept, s.kept(t))
		if t.Failed() {
			list, _ := retention.Decide(s.policy, s.backups, s.now)
			t.Fatalf("policy %+v\n%s", s.policy, text(list))
		}
	}
}
