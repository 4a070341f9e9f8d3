package retention_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/retention"
)

var update = flag.Bool("update", false, "write the last columns of the example in docs/retention.md anew")

const page = "../../docs/retention.md"

var (
	settings = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	row      = regexp.MustCompile(`(?m)^\| (\d{4}-\d\d-\d\d \d\d:\d\d) \|([^|\n]*)\|[^|\n]*\|[^|\n]*\|$`)
)

// The example of the page: its settings as the program reads them, applied to its
// backups, give its last columns.
func TestExampleInDocs(t *testing.T) {
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	decisions, err := retention.Decide(examplePolicy(t, text), exampleBackups(t, text), time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	if len(decisions) != 20 {
		t.Fatalf("the example has %d backups", len(decisions))
	}
	want := row.ReplaceAllStringFunc(text, func(line string) string {
		d := decisions[0]
		decisions = decisions[1:]
		m := row.FindStringSubmatch(line)
		if d.ID != m[1] {
			t.Fatalf("the row of %s stands where %s belongs: list the newest first", m[1], d.ID)
		}
		stays := "no"
		if d.Keep {
			stays = "yes"
		}
		return fmt.Sprintf("| %s |%s| %s | %s |", m[1], m[2], stays, strings.Join(d.Reasons, "; "))
	})
	if want == text {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the rules say: run this test with -update, and look at the change", page)
	}
	if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
}

func examplePolicy(t *testing.T, text string) retention.Policy {
	t.Helper()
	m := settings.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%s has no settings", page)
	}
	file := filepath.Join(t.TempDir(), "slipcover.yml")
	if err := os.WriteFile(file, []byte(m[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Options{File: file, Environ: []string{"HOME=/home/u"}, Hostname: func() (string, error) { return "db1", nil }})
	if err != nil {
		t.Fatal(err)
	}
	return retention.Policy{
		KeepLast: c.KeepLast, KeepHourly: c.KeepHourly, KeepDaily: c.KeepDaily, KeepWeekly: c.KeepWeekly, KeepMonthly: c.KeepMonthly, KeepYearly: c.KeepYearly,
		KeepWithin: c.KeepWithin, Minimum: c.KeepMinimum, Location: c.RetentionTimeZone.Location,
	}
}

func exampleBackups(t *testing.T, text string) (list []retention.Backup) {
	t.Helper()
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		made, err := time.Parse("2006-01-02 15:04", m[1])
		if err != nil {
			t.Fatal(err)
		}
		b := retention.Backup{ID: m[1], Time: made}
		is, reason, _ := strings.Cut(strings.TrimSpace(m[2]), ": ")
		switch is {
		case "damaged":
			b.Damaged = true
		case "verified":
			b.Verified = true
		case "pinned":
			b.Pinned, b.PinReason = true, reason
		case "":
		default:
			t.Fatalf("%s is %q, which is nothing that a backup is", m[1], is)
		}
		list = append(list, b)
	}
	return list
}
