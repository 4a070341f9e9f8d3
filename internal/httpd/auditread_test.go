package httpd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/httpd"
)

func openAudit(t *testing.T) (*httpd.Audit, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	var log logs
	a, err := httpd.OpenAudit(path, log.logger(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a, path
}

// readAll follows the pages of a query to the end.
func readAll(t *testing.T, a *httpd.Audit, q httpd.AuditQuery) (all []httpd.AuditRecord, unreadable int) {
	t.Helper()
	for range 10_000 {
		p, err := a.Read(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Records) > q.Limit {
			t.Fatalf("%d records, more than %d", len(p.Records), q.Limit)
		}
		all, unreadable = append(all, p.Records...), unreadable+p.Unreadable
		if q.Before = p.Next; p.Next == "" {
			if !p.Complete {
				t.Error("at the end, and not complete")
			}
			return all, unreadable
		}
	}
	t.Fatal("the pages never end")
	return nil, 0
}

// All records come back, each once, whatever the size of the pages, over renamed files, torn and overlong lines.
func TestAuditRead(t *testing.T) {
	a, path := openAudit(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	begin := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	var all []httpd.AuditRecord
	torn := 0
	damage := func(text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		torn++
	}
	for n := range 900 {
		r := httpd.AuditRecord{Time: begin.Add(time.Duration(n) * time.Minute), User: []string{"ann", "Bob"}[rnd.IntN(2)], Project: []string{"p", "q"}[rnd.IntN(2)],
			Action: []string{"backup.create", "backup.delete", "document.read", "backups.odd"}[rnd.IntN(4)],
			Target: "i/db/" + strings.Repeat("x", rnd.IntN(2000)), Outcome: "ok", Status: n + 1}
		a.Write(t.Context(), r)
		all = append(all, r)
		switch n {
		case 100:
			damage(`{"time":"2026-` + "\n")
		case 200:
			damage(strings.Repeat("y", 3<<20) + "\n")
		case 300, 600:
			to := map[int]string{300: path + "-20261101", 600: path + ".1"}[n]
			if err := os.Rename(path, to); err != nil {
				t.Fatal(err)
			}
			old := time.Now().Add(time.Duration(n-1000) * time.Hour)
			if err := os.Chtimes(to, old, old); err != nil {
				t.Fatal(err)
			}
			if err := a.Reopen(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{path + ".bak", filepath.Join(filepath.Dir(path), "census.json")} {
		if err := os.WriteFile(name, []byte("{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Reverse(all)
	for name, c := range map[string]struct {
		q    httpd.AuditQuery
		fits func(httpd.AuditRecord) bool
	}{
		"all":     {httpd.AuditQuery{}, func(httpd.AuditRecord) bool { return true }},
		"who":     {httpd.AuditQuery{Who: "BO"}, func(r httpd.AuditRecord) bool { return r.User == "Bob" }},
		"action":  {httpd.AuditQuery{Action: "backup.delete"}, func(r httpd.AuditRecord) bool { return r.Action == "backup.delete" }},
		"actions": {httpd.AuditQuery{Action: "backup"}, func(r httpd.AuditRecord) bool { return strings.HasPrefix(r.Action, "backup.") }},
		"two":     {httpd.AuditQuery{Action: "document, backup.create"}, func(r httpd.AuditRecord) bool { return r.Action == "document.read" || r.Action == "backup.create" }},
		"target":  {httpd.AuditQuery{Target: "DB/XXXX"}, func(r httpd.AuditRecord) bool { return len(r.Target) >= 9 }},
		"project": {httpd.AuditQuery{Project: "q"}, func(r httpd.AuditRecord) bool { return r.Project == "q" }},
		"times": {httpd.AuditQuery{Since: begin.Add(100 * time.Minute), Until: begin.Add(700 * time.Minute)},
			func(r httpd.AuditRecord) bool {
				return !r.Time.Before(begin.Add(100*time.Minute)) && r.Time.Before(begin.Add(700*time.Minute))
			}},
		"nothing": {httpd.AuditQuery{Who: "eve"}, func(httpd.AuditRecord) bool { return false }},
	} {
		want := slices.DeleteFunc(slices.Clone(all), func(r httpd.AuditRecord) bool { return !c.fits(r) })
		for _, limit := range []int{1, 7, 50, 300, 900, 1000} {
			c.q.Limit = limit
			got, unreadable := readAll(t, a, c.q)
			if !slices.Equal(got, want) {
				t.Errorf("%s by %d: got %d records, want %d, or others", name, limit, len(got), len(want))
			}
			if name == "all" && unreadable != torn {
				t.Errorf("by %d: %d lines can't be read, want %d", limit, unreadable, torn)
			}
		}
	}
}

// A page goes on where it was, though the file was renamed meanwhile and another begun; by copytruncate too.
func TestAuditReadRotated(t *testing.T) {
	for name, rotate := range map[string]func(path string) error{
		"renamed": func(path string) error { return os.Rename(path, path+".1") },
		"copied": func(path string) error {
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path+".1", b, 0o600)
			}
			if err == nil {
				err = os.Truncate(path, 0)
			}
			return err
		},
	} {
		a, path := openAudit(t)
		for n := range 10 {
			a.Write(t.Context(), httpd.AuditRecord{User: "ann", Action: fmt.Sprint("a", n)})
		}
		p, err := a.Read(t.Context(), httpd.AuditQuery{Limit: 3})
		if err != nil || len(p.Records) != 3 || p.Records[2].Action != "a7" || !p.Complete {
			t.Fatalf("%s: %+v, %v", name, p, err)
		}
		if err := rotate(path); err != nil {
			t.Fatal(err)
		}
		if err := a.Reopen(); err != nil {
			t.Fatal(err)
		}
		a.Write(t.Context(), httpd.AuditRecord{User: "ann", Action: "new"})
		got, _ := readAll(t, a, httpd.AuditQuery{Limit: 3, Before: p.Next})
		if len(got) != 7 || got[0].Action != "a6" || got[6].Action != "a0" {
			t.Errorf("%s: %+v", name, got)
		}
		if got, _ = readAll(t, a, httpd.AuditQuery{Limit: 3}); len(got) != 11 || got[0].Action != "new" {
			t.Errorf("%s: %+v", name, got)
		}
		if err := os.Rename(path+".1", path+".1.gz"); err != nil {
			t.Fatal(err)
		}
		if p, err := a.Read(t.Context(), httpd.AuditQuery{}); err != nil || !p.Compressed || len(p.Records) != 1 {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		for _, place := range []string{p.Next, "x", "-", "-1-1", "0000-99"} {
			if _, err := a.Read(t.Context(), httpd.AuditQuery{Before: place}); !errors.Is(err, httpd.ErrAuditPlace) {
				t.Errorf("%s: %q: %v", name, place, err)
			}
		}
	}
}

// One look goes through so much of a large log and no more; the next goes on.
func TestAuditReadIsBounded(t *testing.T) {
	a, path := openAudit(t)
	a.Write(t.Context(), httpd.AuditRecord{User: "ann", Action: "x"})
	line := []byte(`{"time":"2026-11-01T00:00:00Z","user":"bob","action":"y","target":"` + strings.Repeat("z", 4000) + `"}` + "\n")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat(line, 34<<20/len(line))); err != nil {
		t.Fatal(err)
	}
	p, err := a.Read(t.Context(), httpd.AuditQuery{Who: "ann"})
	if err != nil || len(p.Records) != 0 || p.Complete || p.Next == "" {
		t.Fatalf("%+v, %v", p, err)
	}
	if p, err = a.Read(t.Context(), httpd.AuditQuery{Who: "ann", Before: p.Next}); err != nil || len(p.Records) != 1 || !p.Complete || p.Next != "" {
		t.Fatalf("%+v, %v", p, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Read(ctx, httpd.AuditQuery{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// What is older than asked for ends the search, but not because a clock was wrong for a while.
func TestAuditReadSince(t *testing.T) {
	a, _ := openAudit(t)
	now := time.Now()
	write := func(user string, n int, at time.Time) {
		for range n {
			a.Write(t.Context(), httpd.AuditRecord{User: user, Action: "x", Time: at})
		}
	}
	write("lost", 1, now) // more than a thousand in a row are older
	write("old", 1100, now.Add(-48*time.Hour))
	write("ann", 2, now)
	write("old", 900, now.Add(-48*time.Hour)) // its clock was wrong then
	write("bob", 2, now)
	got, _ := readAll(t, a, httpd.AuditQuery{Since: now.Add(-time.Hour), Limit: 1})
	if len(got) != 4 || got[0].User != "bob" || got[3].User != "ann" {
		t.Errorf("%+v", got)
	}
}

// What is no file says so.
func TestAuditUnread(t *testing.T) {
	if _, err := (*httpd.Audit)(nil).Read(t.Context(), httpd.AuditQuery{}); !errors.Is(err, httpd.ErrAuditUnread) {
		t.Errorf("without a log: %v", err)
	}
	var log logs
	a, err := httpd.OpenAudit(os.DevNull, log.logger(), prometheus.NewRegistry())
	if err != nil {
		t.Skip(err)
	}
	defer a.Close()
	if _, err := a.Read(t.Context(), httpd.AuditQuery{}); !errors.Is(err, httpd.ErrAuditUnread) {
		t.Errorf("of no file: %v", err)
	}
}
