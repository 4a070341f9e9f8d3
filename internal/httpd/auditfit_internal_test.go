package httpd

import (
	"encoding/json"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What is left out by the bytes of a line alone is nothing that is asked for.
func TestAuditMayFit(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(7, 8))
	texts := []string{"", "ann", "Ann", "ANNA", "ba\"nn", "a<b", "\u212aelvin", "kelvin", "ä", "Ä", "0189aaaa-0000", "10.0.0.7", "x\\y", "na", "nan", "\u2028"}
	actions := []string{"", "backup", "backup.create", "backups", "document.read", "documents.list", "document,documents", " document , backup", "no"}
	pick := func(list []string) string { return list[rnd.IntN(len(list))] }
	fitted, left := 0, 0
	for range 20_000 {
		r := AuditRecord{Time: time.Unix(1e9, 0), User: pick(texts) + pick(texts), Address: pick(texts), Target: pick(texts) + "/" + pick(texts), Action: pick(actions), Outcome: "ok"}
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		q := AuditQuery{Who: strings.ToLower(pick(texts)), Target: strings.ToLower(pick(texts)), Action: pick(actions)}
		one := auditReader{query: q, page: &AuditPage{}}
		one.look(&r)
		switch {
		case len(one.page.Records) == 1 && !q.mayFit(line):
			t.Fatalf("%+v fits %+v and is left out", r, q)
		case len(one.page.Records) == 1:
			fitted++
		case !q.mayFit(line):
			left++
		}
	}
	if fitted < 300 || left < 5000 {
		t.Errorf("%d fit, %d were left out", fitted, left)
	}
}

// Lines that are no records are counted, whatever is asked for.
func TestAuditUnreadableCounted(t *testing.T) {
	t.Parallel()
	a, err := OpenAudit(filepath.Join(t.TempDir(), "audit.log"), nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, line := range []string{"{torn", "garbage}", `{"time":"2026-11-30T11:00:00Z","user":"ann","action":"x.y","outcome":"ok"}`, ""} {
		if _, err := a.file.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	p, err := a.Read(t.Context(), AuditQuery{Who: "nobody"})
	if err != nil || p.Unreadable != 2 || len(p.Records) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
}
