package agent

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
)

func TestAttemptID(t *testing.T) {
	t.Parallel()
	const id = "0193516e-0000-7000-8000-000000000001"
	seen := map[manifest.BackupID]bool{}
	for n := 1; n <= 50; n++ {
		got := attemptID(id, n)
		if !got.Valid() || seen[got] || got != attemptID(id, n) || !got.Time().Equal(manifest.BackupID(id).Time()) {
			t.Errorf("attempt %d: %s", n, got)
		}
		seen[got] = true
	}
	if attemptID(id, 1) != id || attemptID("nonsense", 1) != "" || attemptID("nonsense", 2) != "" {
		t.Error("the first attempt's id, or that of nonsense")
	}
}

// Processes that make the identity at once have the same one afterwards.
func TestIdentityOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := make([]string, 8)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() {
			var err error
			if got[i], err = Recipient(dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, r := range got {
		if r != got[0] || r == "" {
			t.Errorf("got %q", got)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "agent", identityName))
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
}

// Without its list of instances an agent doesn't begin.
func TestDamagedInstances(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "instances.json")
	for _, text := range []string{"", "{", `{"format":2}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadInstances(path); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// Each start has a higher number than the one before, though the clock was set back, or the file is lost or damaged.
func TestNextStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "start.json")
	next := func() int64 {
		t.Helper()
		n, err := nextStart(path)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := time.Now().UnixMilli()
	last := next()
	if last < before || last > time.Now().UnixMilli() {
		t.Errorf("the first is %d, want the time", last)
	}
	ahead := last + time.Hour.Milliseconds() // as if the clock had been an hour ahead
	if err := durable.WriteJSON(path, 0o600, map[string]int64{"start": ahead}); err != nil {
		t.Fatal(err)
	}
	for want := ahead + 1; want < ahead+4; want++ {
		if n := next(); n != want {
			t.Errorf("got %d, want %d", n, want)
		}
	}
	for _, text := range []string{"", "{", `{"start": 9223372036854775807}`, `{"start": 99999999999999999999}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := next(); n < last || n > time.Now().UnixMilli() {
			t.Errorf("with %q in the file it is %d, want the time", text, n)
		}
	}
	if n, err := nextStart(filepath.Join(path, "no folder", "start.json")); n < last || err == nil {
		t.Errorf("where nothing can be noted: %d, %v", n, err)
	}
}

func TestURLOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                     "http://127.0.0.1:5984",
		"[chttpd]\nport = 15984\n":             "http://127.0.0.1:15984",
		"[chttpd]\nbind_address = 0.0.0.0\n":   "http://127.0.0.1:5984",
		"[chttpd]\nbind_address = ::\n":        "http://127.0.0.1:5984",
		"[chttpd]\nbind_address = 10.0.0.7\n":  "http://10.0.0.7:5984",
		"[chttpd]\nbind_address = any:thing\n": "http://127.0.0.1:5984",
	} {
		if got := urlOf(&node.Node{IniFiles: []string{"x"}, Settings: node.ParseIni([]byte(text))}); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
	if got := urlOf(&node.Node{}); got != "" {
		t.Error(got)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	out := &tail{max: 10}
	for range 5 {
		if _, err := out.Write([]byte("1234567\n")); err != nil {
			t.Fatal(err)
		}
	}
	if out.Len() != 10 || out.lastLine() != "1234567" {
		t.Errorf("%q, %q", out.String(), out.lastLine())
	}
}

// Whatever an error says, its fault is one line of bounded length without the secrets.
func FuzzFaultOf(f *testing.F) {
	f.Add("open sftp://me:pw@host/x:\nline two\x00", "pw")
	f.Add(strings.Repeat("ä\n", 2000), "ä")
	f.Add("\xff\xfe", "")
	f.Fuzz(func(t *testing.T, text, secret string) {
		got := faultOf(errors.New(text), secret)
		if len(got) > maxFault || strings.ContainsAny(got, "\n\r\x00") {
			t.Errorf("%q", got)
		}
		if utf8.ValidString(text) && !utf8.ValidString(got) {
			t.Errorf("%q is cut inside a character", got)
		}
		if secret != "" && !strings.Contains("***", secret) && !strings.Contains(secret, "*") && secret == oneLine(secret) && len(secret) > 3 && !strings.Contains(strings.ReplaceAll(text, secret, "***"), secret) && strings.Contains(got, secret) {
			t.Errorf("%q shows %q", got, secret)
		}
	})
}
