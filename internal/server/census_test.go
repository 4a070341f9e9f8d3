package server_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// catalog is one on a disk, which a test stops, harms and starts.
type catalog struct {
	t      *testing.T
	dir    string
	census string
	bus    *bus.Bus
	s      *service
}

func newCatalog(t *testing.T) *catalog {
	dir := t.TempDir()
	return &catalog{t: t, dir: dir, census: filepath.Join(dir, "census.json")}
}

func (c *catalog) open() {
	c.t.Helper()
	c.bus = servertest.OpenBus(c.t, bus.Options{Dir: c.dir})
	c.s = start(c.t, c.bus, server.Config{Census: c.census})
}

// end stops the server, as a whole or, if it is killed, without a last word.
func (c *catalog) end(killed bool) {
	c.t.Helper()
	was, err := os.ReadFile(c.census)
	c.s.stop()
	if killed && err == nil {
		err = os.WriteFile(c.census, was, 0o600)
	}
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	if err := c.bus.Close(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *catalog) backups() *bus.Table {
	c.t.Helper()
	table, err := c.bus.Table(c.t.Context(), "backups")
	if err != nil {
		c.t.Fatal(err)
	}
	return table
}

// has waits until the server knows so many backups.
func (c *catalog) has(n int) {
	c.t.Helper()
	servertest.Eventually(c.t, fmt.Sprintf("it has %d backups", n), func() bool {
		page, _ := c.s.Backups(who("p"), server.BackupFilter{Limit: 1000})
		return len(page) == n
	})
}

func (c *catalog) fill(from, to int) {
	c.t.Helper()
	table := c.backups()
	for n := from; n < to; n++ {
		id := fmt.Sprintf("0199aaaa-0000-7000-8000-%012d", n)
		put(c.t, table, id, job.Backup{ID: id, Project: "p", Name: strings.Repeat("n", 500), Status: job.BackupCompleted})
	}
}

// harm changes the files in which NATS keeps the backups.
func (c *catalog) harm(how func(path string, text []byte) error) {
	c.t.Helper()
	found := false
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "KV_slipcover_backups") || filepath.Ext(path) != ".blk" {
			return err
		}
		found = true
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return how(path, text)
	})
	if err != nil || !found {
		c.t.Fatalf("found %v, %v", found, err)
	}
}

func (c *catalog) isDamaged(what string) {
	c.t.Helper()
	err := c.s.Ready()
	if err == nil || !strings.Contains(err.Error(), "backups") || !strings.Contains(err.Error(), "server rebuild") || !strings.Contains(err.Error(), what) {
		c.t.Errorf("ready: %v, want what is lost (%s) and what to do", err, what)
	}
}

// waitCompared waits until the server has looked at its catalog.
func (c *catalog) waitCompared() {
	c.t.Helper()
	servertest.Eventually(c.t, "the server has compared", func() bool { return server.Compared(c.s.Server) })
}

func TestADamagedCatalogIsNoticed(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func(path string, text []byte) error{
		"a byte": func(path string, text []byte) error {
			text[len(text)/2] ^= 0xff
			return os.WriteFile(path, text, 0o600)
		},
		"its end":   func(path string, text []byte) error { return os.Truncate(path, int64(len(text)/2)) },
		"all of it": func(path string, _ []byte) error { return os.Remove(path) },
		"only zeros": func(path string, text []byte) error {
			clear(text[len(text)/3:])
			return os.WriteFile(path, text, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCatalog(t)
			c.open()
			c.fill(0, 60)
			c.has(60)
			c.end(false)
			c.open()
			c.waitCompared()
			if err := c.s.Ready(); err != nil {
				t.Errorf("whole, and: %v", err)
			}
			c.end(false)
			c.harm(how)
			for range 2 { // it is told until it is rebuilt, whatever comes meanwhile
				c.open()
				c.waitCompared()
				c.isDamaged("had 60")
				c.fill(100, 200)
				c.end(false)
			}
			if err := server.ForgetCensus(c.census); err != nil {
				t.Fatal(err)
			}
			c.open()
			c.waitCompared()
			if err := c.s.Ready(); err != nil {
				t.Errorf("after it was rebuilt: %v", err)
			}
		})
	}
}

// What is deleted between the last count and the end of the power is not lost.
func TestDeletionsAreNoDamage(t *testing.T) {
	t.Parallel()
	c := newCatalog(t)
	c.open()
	c.fill(0, 40)
	c.has(40)
	c.end(false)
	for range 2 {
		c.open()
		table := c.backups()
		for n := range 40 {
			if err := table.Delete(t.Context(), fmt.Sprintf("0199aaaa-0000-7000-8000-%012d", n), 0); err != nil {
				t.Fatal(err)
			}
		}
		c.has(0)
		c.fill(0, 5)
		c.has(5)
		c.end(true)
		c.open()
		c.waitCompared()
		if err := c.s.Ready(); err != nil {
			t.Errorf("%v", err)
		}
		c.fill(5, 40)
		c.has(40)
		c.end(false)
	}
}

// A document that can't be read is lost as well.
func TestADocumentThatCannotBeReadIsNoticed(t *testing.T) {
	t.Parallel()
	c := newCatalog(t)
	c.open()
	c.fill(0, 3)
	if _, err := c.backups().Put(t.Context(), "0199aaaa-0000-7000-8000-000000000002", []byte(`{"id": 5`)); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "it is noticed", func() bool { return c.s.Ready() != nil })
	c.isDamaged("1 can't be read")
	c.end(false)
	c.open()
	c.isDamaged("1 can't be read")
	if err := c.backups().Delete(t.Context(), "0199aaaa-0000-7000-8000-000000000002", 0); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "it is gone", func() bool { return c.s.Ready() == nil })
}

// The count is noted while the server runs, not only when it ends.
func TestTheCatalogIsCountedAgainAndAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := servertest.OpenBus(t, bus.Options{Dir: dir})
	census := filepath.Join(dir, "census.json")
	start(t, b, server.Config{Census: census, Sweep: time.Millisecond, Tick: time.Hour})
	servertest.Eventually(t, "it is noted", func() bool {
		_, err := os.Stat(census)
		return err == nil
	})
}
