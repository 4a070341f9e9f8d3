package web_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
	"github.com/slipcover/slipcover/internal/web"
)

// Who looks at the overview is told when a repository will be full, and the pages of space and repositories how much room is left.
func TestRoomLeft(t *testing.T) {
	t.Parallel()
	var off atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	w := newWorldOf(t, server.Config{Quota: job.Quota{Instances: -1, Backups: -1, Volumes: -1}, Now: now, Sweep: 24 * 365 * time.Hour}, func(o *web.Options) { o.Now = now })
	p := w.play("db1")
	p.backup()
	const gb = int64(1e9)
	tell := func(free int64) {
		t.Helper()
		if err := servertest.Ask(t.Context(), p.link, job.VerbHello, job.Hello{Session: agentIs, Version: "slipcover test", Host: "h", Recipient: p.Recipient(), Repository: job.Repository{URL: "file:///backups", ID: "r1"},
			Instances: []job.Seen{{Up: true, Version: "3.5.0", UsedBytes: 1 << 20, Databases: 3}},
			Rooms:     []job.Room{{URL: "file:///backups", Repository: "r1", FreeBytes: 500 * gb, TotalBytes: 1000 * gb}, {URL: "file:///mnt/vault%20<b>", Copy: true, FreeBytes: free, TotalBytes: 200 * gb}}}, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.Server.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	free := 35 * gb
	tell(free)
	b := w.as(access.Viewer)
	b.get("/").hasNot("Soon: ", "vault")
	a := b.get("/space")
	a.has(200, "Room left", "35.0 GB in /mnt/vault <b>", "what is stored now, by when it was added")
	for range 7 {
		off.Add(int64(24 * time.Hour))
		free -= 2 * gb
		tell(free)
	}
	b = w.as(access.Viewer) // the session is over
	a = b.get("/")
	a.has(200, "Soon: the copy in /mnt/vault <b> is full in about 1", "21.0 GB of 200 GB left, used by db1. ", "make room, or keep fewer", "Look at space")
	a.hasNot("<b>", "the repository in /backups")
	b.get("/space").has(200, "21.0 GB in /mnt/vault <b>, full in about 1", "Full soon", "500 GB", "1.00 TB", "what was stored each day since")
	b.get("/repositories").has(200, "Room left", "Full soon", "full in about 1", "/backups db1 –")
	tell(3 * gb)
	b.get("/").has(200, "is full in about 1 day", "3.00 GB of 200 GB left")
	b.get("/repositories").has(200, "Almost full")
}
