package web_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

// history makes n backups of a node, one a day, of which the last have damage.
func (p *player) history(n, damaged int) (ids []string) {
	p.w.t.Helper()
	for day := n; day > 0; day-- {
		end := time.Now().UTC().Add(-time.Duration(day)*24*time.Hour + 2*time.Hour)
		began := end.Add(-221 * time.Second)
		ids = append(ids, p.backup(func(r *job.Report) {
			r.Result.Started, r.Result.Finished, r.Result.Stored = &began, &end, int64(n-day+1)<<24
			if day <= damaged {
				r.Result.Damage = 2
			}
		}))
	}
	return ids
}

func TestInstancePage(t *testing.T) {
	w := newWorld(t)
	b := w.as(access.Operator)
	p := w.play(`db1"><b>`)
	path := "/instances/" + p.Instance
	b.get(path).has(200, "no backup yet", "Nothing is stored yet", "No schedule of this instance is enabled")
	p.history(6, 2)
	if _, err := w.Server.CreateSchedule(t.Context(), caller(), &job.Schedule{Name: "nightly", Instance: p.Instance, Enabled: true, Cron: "@daily", Jitter: 10 * time.Minute, ProveCron: "@weekly"}); err != nil {
		t.Fatal(err)
	}
	a := b.get(path)
	a.has(200, `db1"><b>`, "Damaged source", "Recovery window", "backups only", "Backup by nightly", "Up to 10 min of jitter", "Proof: restore the newest", "6, each restores alone", "2 findings", "made by hand", "1 to 6 of 6", "6 backups only these moments")
	a.hasNot(`db1"><b>`, "style=", "ZgotmplZ", "<no value>")
	if n := strings.Count(a.body, `class="spine"`); n != 7 { // one is in the key
		t.Errorf("%d spines are drawn, want 7", n)
	}
	at := time.Now().Add(-3 * 24 * time.Hour)
	zoomed := b.get(fmt.Sprintf("%s?from=%d&to=%d&at=%d", path, at.Add(-time.Hour).Unix(), at.Add(time.Hour).Unix(), at.Unix()))
	zoomed.has(200, at.Format("Mon 2 Jan 15:04:05")+", backups only", "The newest backup before this one is used")
	if n := strings.Count(zoomed.body, `class="spine"`); n != 1 {
		t.Errorf("%d spines are drawn of two hours without a backup, want that of the key", n)
	}
	b.get(path+"?from=-5&to=x&at=99999999999999&page=9&q=nothing").has(200, "Nothing is found for")
	w.as(access.Viewer).get(path).has(200, "Recovery window")
	b.get("/instances/0189aaaa-0000-7000-8000-000000000000").has(404)
}

func TestInstancePageShipped(t *testing.T) {
	w := newWorld(t)
	b := w.as(access.Operator)
	p := w.play("db1")
	p.history(3, 0)
	if _, err := w.Server.SetShipping(t.Context(), caller(), p.Instance, true, "7d"); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	if err := p.greet(t.Context(), &job.Shipping{Shipped: now, Chain: now.Add(-50 * time.Hour), Window: now.Add(-50 * time.Hour), LagSeconds: 400, LagBytes: 5000}); err != nil {
		t.Fatal(err)
	}
	a := b.get("/instances/" + p.Instance)
	a.has(200, "6 min 40 s", "5.00 kB not stored yet", "any second", "What was shipped can't be read here", "not shipped yet", "exact to the second")
	if !strings.Contains(a.body, `class="lag"`) || !strings.Contains(a.body, `class="ship"`) || !strings.Contains(a.body, "kept: only backups are left") {
		t.Errorf("the band, what isn't shipped yet or what is older isn't drawn: %s", a.body)
	}
}
