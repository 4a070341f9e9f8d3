// Package packaging has the files that packages and operators need; this tests them.
package packaging_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/testenv"
)

var metric = regexp.MustCompile(`slipcover_[a-z_]+`)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// documented returns the metrics that docs/metrics.md explains.
func documented(t *testing.T) []string {
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(slipcover_[a-z_]+)` \\|").FindAllStringSubmatch(read(t, "../docs/metrics.md"), -1) {
		names = append(names, m[1])
	}
	if len(names) < 20 {
		t.Fatalf("docs/metrics.md explains %d metrics", len(names))
	}
	return names
}

func checkMetrics(t *testing.T, where, text string, known []string) {
	t.Helper()
	for _, name := range metric.FindAllString(text, -1) {
		if !slices.Contains(known, name) && !slices.Contains(known, strings.TrimSuffix(name, "_bucket")) {
			t.Errorf("%s uses %s, which docs/metrics.md does not explain", where, name)
		}
	}
}

func TestBoard(t *testing.T) {
	known := documented(t)
	text := read(t, "grafana/slipcover.json")
	checkMetrics(t, "the board", text, known)
	for _, name := range known {
		if !strings.Contains(text, name) {
			t.Errorf("the board does not show %s", name)
		}
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal([]byte(text), &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for i, p := range board.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d, %q: id, title or place", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range board.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
		for _, target := range p.Targets {
			if target.Expr == "" || target.RefID == "" {
				t.Errorf("panel %q asks for nothing", p.Title)
			}
		}
		if (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %q has %d targets", p.Title, len(p.Targets))
		}
	}
}

// The expressions of the board parse: promtool checks them as rules.
func TestBoardExpressions(t *testing.T) {
	promtool := testenv.Tool(t, "promtool")
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/slipcover.json")), &board); err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			rules = append(rules, rule{"x", target.Expr})
		}
	}
	// JSON is YAML.
	b, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "board", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/rules.yml"
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, promtool, "check", "rules", "--lint=none", file)
}

func TestAlerts(t *testing.T) {
	known := documented(t)
	text := read(t, "prometheus/alerts.yml")
	checkMetrics(t, "alerts.yml", text, known)
	checkMetrics(t, "alerts_test.yml", read(t, "prometheus/alerts_test.yml"), known)
	doc := read(t, "../docs/metrics.md")
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(text, -1)
	if len(alerts) < 10 {
		t.Errorf("%d alerts", len(alerts))
	}
	for _, a := range alerts {
		if !strings.Contains(doc, "| `"+a[1]+"` |") {
			t.Errorf("docs/metrics.md does not explain %s", a[1])
		}
	}
	promtool := testenv.Tool(t, "promtool")
	run(t, promtool, "check", "rules", "prometheus/alerts.yml")
	run(t, promtool, "test", "rules", "prometheus/alerts_test.yml")
}

func TestVersion(t *testing.T) {
	for _, tt := range []struct{ describe, want string }{
		{"", "0.0.0"},
		{"ea2b205", "0.0.0+123.gea2b205"},
		{"ea2b205-dirty", "0.0.0+123.gea2b205.dirty"},
		{"1.2.0", "1.2.0"},
		{"v1.2.0", "1.2.0"},
		{"v1.2.0-dirty", "1.2.0+dirty"},
		{"v1.2.0-rc.1", "1.2.0~rc.1"},
		{"v1.2.0-5-gabc1234", "1.2.0+5.gabc1234"},
		{"v1.2.0-rc.1-5-gabc1234-dirty", "1.2.0~rc.1+5.gabc1234.dirty"},
		{"v1.2.0-rc-x-5-gabc1234", "1.2.0~rc.x+5.gabc1234"},
		{"some branch/é-3-gabc1234", "0.0.0+123.gsomebranch3gabc1234"},
	} {
		if got := run(t, "sh", "version.sh", tt.describe, "123"); strings.TrimSpace(got) != tt.want {
			t.Errorf("%q: got %s, want %s", tt.describe, got, tt.want)
		}
	}
}

// TestUnits holds the units against systemd, as far as it says so without running.
func TestUnits(t *testing.T) {
	analyze := testenv.Tool(t, "systemd-analyze")
	for unit, most := range map[string]string{"slipcover-server": "15", "slipcover-agent": "35", "slipcover-ship": "30"} {
		// It must be a program that is there.
		file := t.TempDir() + "/" + unit + ".service"
		text := strings.ReplaceAll(read(t, unit+".service"), "/usr/bin/slipcover", "/bin/true")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := run(t, analyze, "verify", "--man=no", file); out != "" {
			t.Errorf("%s: %s", unit, out)
		}
		run(t, analyze, "security", "--offline=true", "--no-pager", "--threshold="+most, file)
	}
}

// A panic in the test below, as a bug would be.
func init() {
	if os.Getenv("SLIPCOVER_TEST_PANIC") != "" {
		panic("asked for")
	}
}

// TestUnitsRestart holds that a panic isn't taken for wrong settings: exit code 2 is
// both, and after wrong settings there is no restart.
func TestUnitsRestart(t *testing.T) {
	for unit, codes := range map[string]string{"slipcover-server": "2", "slipcover-agent": "2 8", "slipcover-ship": "2 11"} { // 8: it was removed; 11: another machine ships
		text := read(t, unit+".service")
		if !strings.Contains(text, "\nRestartPreventExitStatus="+codes+"\n") || !strings.Contains(text, "\nLimitCORE=0\n") {
			t.Errorf("%s: wrong settings or cores are treated otherwise", unit)
		}
		c := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -c 0 && exec "$0"`, os.Args[0])
		c.Env = append(os.Environ(), "SLIPCOVER_TEST_PANIC=1")
		for _, m := range regexp.MustCompile(`(?m)^Environment=(GOTRACEBACK=.*)$`).FindAllStringSubmatch(text, -1) {
			c.Env = append(c.Env, m[1])
		}
		out, err := c.CombinedOutput()
		// -1: by a signal.
		if err == nil || !strings.Contains(string(out), "asked for") || c.ProcessState.ExitCode() != -1 {
			t.Errorf("%s: a panic ends with %v, not by a signal: %s", unit, err, out)
		}
	}
}

func TestScriptsParse(t *testing.T) {
	for _, name := range []string{"version.sh", "scripts/postinstall.sh", "scripts/preremove.sh", "scripts/postremove.sh"} {
		run(t, "sh", "-n", name)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
