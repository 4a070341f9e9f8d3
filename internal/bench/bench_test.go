package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/testenv"
)

// The program generates data by running itself, which in a test is the test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == generateCommand {
		exit(generate(os.Args[2:], os.Stdout))
	}
	os.Exit(m.Run())
}

// fakeKopia takes the commands of Kopia that the program uses and keeps one copy.
const fakeKopia = `#!/bin/sh
set -e
[ "$1" = --version ] && { echo "0.0 fake"; exit; }
[ "$KOPIA_CHECK_FOR_UPDATES" = false ]
config=$2; shift 5 # --config-file F --log-dir D --no-progress
case "$1 $2" in
"repository create") echo "$5" > "$config" ;;
"policy set") ;;
"snapshot create") rm -rf "$(cat "$config")/copy"; cp -r "$4" "$(cat "$config")/copy"; echo '{"rootEntry":{"obj":"kabc"}}' ;;
"restore kabc") cp -r "$(cat "$config")/copy/." "$3" ;;
"snapshot verify") [ -d "$(cat "$config")/copy" ] ;;
*) echo "unknown command: $*" >&2; exit 1 ;;
esac
`

func TestAllScenarios(t *testing.T) {
	if testing.Short() {
		t.Skip("runs other programs")
	}
	dir := t.TempDir()
	env := map[string]string{"PATH": os.Getenv("PATH")}
	if runtime.GOOS != "windows" {
		env["KOPIA"] = filepath.Join(dir, "kopia")
		if err := os.WriteFile(env["KOPIA"], []byte(fakeKopia), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o, err := parse([]string{"--size", "4MiB", "--small-files", "20", "--rounds", "1", "--only", "full,restore,verify,incremental,small", "--dir", filepath.Join(dir, "work"), "--json"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	o.getenv = func(k string) string { return env[k] }
	var out bytes.Buffer
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v in\n%s", err, &out)
	}
	if len(r.Scenarios) != 6 {
		t.Errorf("%d scenarios, want 6", len(r.Scenarios))
	}
	for _, sc := range r.Scenarios {
		if len(sc.Failed) > 0 {
			t.Errorf("%s: %v", sc.Title, sc.Failed)
		}
		ours := sc.Samples["slipcover"]
		if len(ours) != 1 || ours[0].Wall <= 0 || ours[0].cpu() <= 0 {
			t.Errorf("%s: samples of slipcover are %+v", sc.Title, ours)
		}
		if env["KOPIA"] != "" && len(sc.Samples["kopia"]) != 1 {
			t.Errorf("%s: kopia was not measured", sc.Title)
		}
	}
	for _, v := range r.Results {
		if v.What != "" && v.Verdict != "reached" {
			t.Errorf("%+v", v)
		}
	}
	left, err := os.ReadDir(filepath.Join(dir, "work"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestCompareFindsDifferences(t *testing.T) {
	write := func(t *testing.T, name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, got, want string }{
		{"same", "abc", ""},
		{"other bytes", "abd", "other bytes"},
		{"shorter", "ab", "other bytes"},
		{"longer", "abcd", "other bytes"},
		{"absent", "", "not restored"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			write(t, filepath.Join(a, "x", "file"), "abc")
			if c.got != "" {
				write(t, filepath.Join(b, "x", "file"), c.got)
			}
			err := compare(t.Context(), a, b)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestPipe(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs cat")
	}
	r := &runner{env: []string{"PATH=" + os.Getenv("PATH")}}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := r.measure(t.Context(), job{pipe: [][]string{{"cat", in}, {"cat"}}, in: dir, out: out})
	if err != nil {
		t.Fatal(err)
	}
	if s.Stored != 1<<20 {
		t.Errorf("stored %d bytes, want %d", s.Stored, 1<<20)
	}
	if s.Read >= 0 && s.Read < 2<<20 {
		t.Errorf("read %d bytes, want at least %d", s.Read, 2<<20)
	}
	// Whichever process of a pipe fails, the job has.
	for _, pipe := range [][][]string{{{"cat", "absent"}, {"cat"}}, {{"cat", in}, {"cat", "absent"}}, {{"cat", in}, {"no-such-program"}}} {
		if _, err := r.measure(context.Background(), job{pipe: pipe, in: dir, out: out}); err == nil {
			t.Errorf("%v: no error", pipe)
		}
	}
}

func TestJudge(t *testing.T) {
	list := func(walls ...float64) []sample {
		var out []sample
		for _, w := range walls {
			out = append(out, sample{Wall: w, User: w, PeakRSS: 100 << 20, SourceRead: 5000})
		}
		return out
	}
	r := &report{Tools: []*entry{{Name: "slipcover"}, {Name: "tar|zstd -1"}, {Name: "restic"}, {Name: "kopia", Missing: "kopia is not installed"}}}
	sc := r.add("full", "full backup", "")
	sc.Samples = map[string][]sample{"slipcover": list(2, 4), "tar|zstd -1": list(2, 2), "restic": list(4, 9)}
	sc = r.add("incremental", "incremental", "")
	sc.Growth = []growth{{1, 4000, 4500}}
	sc.Samples = map[string][]sample{"slipcover": list(1)}
	sc.Failed["restic"] = "failed: disk"
	r.judge()
	want := []string{
		"full backup tar|zstd -1 1.00 reached", "full backup restic 2.00 missed by 9 %", "full backup kopia - kopia is not installed",
		"full backup most memory of slipcover reached",
		"incremental restic - failed: disk", "incremental kopia - kopia is not installed",
		"incremental most memory of slipcover reached", "incremental source read by slipcover, 3.9 KiB grown in 1 files missed by 500 B",
	}
	var got []string
	for _, v := range r.Results {
		if v.Tool != "" {
			got = append(got, v.Scenario+" "+v.Tool+" "+times(v.Best)+" "+v.Verdict)
		} else {
			got = append(got, v.Scenario+" "+v.What+" "+v.Verdict)
		}
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	if err := r.print(io.Discard); err != nil {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		ok   bool
	}{
		{"", true},
		{"--size 1.5GiB --only full,small", true},
		{"--size 64MB --slow 1m", true},
		{"--size 64", false},
		{"--size -1GB", false},
		{"--size big", false},
		{"--only full,fast", false},
		{"--rounds 0", false},
		{"full", false},
		{"--unknown", false},
	} {
		if _, err := parse(strings.Fields(c.args), io.Discard); (err == nil) != c.ok {
			t.Errorf("%q: %v", c.args, err)
		}
	}
	o, err := parse(nil, io.Discard)
	if err != nil || o.size != 1<<30 || o.smallFiles != 10000 || o.rounds != 3 || o.slow != 45*time.Second {
		t.Errorf("defaults are %+v, %v", o, err)
	}
}

// A CouchDB writes what apt knows of packages.
func TestProse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m, err := makeProse(dir, 30)
	if err != nil {
		t.Fatal(err)
	}
	if m.Missing != "" {
		testenv.Missing(t, "couchdb", m.Missing)
	}
	shards, err := filepath.Glob(filepath.Join(dir, "shards", "*", "packages.*.couch"))
	if err != nil || len(shards) != 2 || m.Files < 4 || m.Bytes < 1<<16 {
		t.Errorf("made %+v, %q, %v", m, shards, err)
	}
}

func TestParsePackages(t *testing.T) {
	t.Parallel()
	const text = "Package: a\nVersion: 1\nDescription: one\n two\n .\n\nPackage: a\nVersion: 2\n\nPackage: b\n\nPackage: c\n\n"
	docs, err := parsePackages(strings.NewReader(text), 2)
	got, _ := json.Marshal(docs)
	if want := `[{"Description":"one\n two\n .","Version":"1","_id":"a"},{"_id":"b"}]`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}
