package trove_test

import (
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// A pinned backup is deleted through Trove as little as anywhere else, and the refusal says how it can be.
func TestPinnedBackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.Token(project, access.Operator)
	p := w.join("db1", project)
	close(p.free)
	who := &access.Caller{Project: project, User: "u", Role: access.Operator}
	b, err := w.Server.CreateBackup(t.Context(), who, server.NewBackup{Name: "n", Instance: p.instance})
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1.0/" + project + "/backups/" + b.ID
	is := func(what string, pinned bool) {
		t.Helper()
		servertest.Eventually(t, what, func() bool {
			now, err := w.Server.Backup(t.Context(), who, b.ID)
			return err == nil && now.Status.Usable() && now.Pinning == "" && (now.Pin != nil) == pinned
		})
	}
	is("the backup ends", false)
	if _, err := w.Server.Pin(t.Context(), who, b.ID, "legal hold"); err != nil {
		t.Fatal(err)
	}
	is("it is pinned", true)
	a := w.do("DELETE", path, token, "")
	if key, message := isFault(t, a); a.Status != 409 || key != "conflict" || !strings.Contains(message, "legal hold") || !strings.Contains(message, "slipcover unpin "+b.ID) {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
	var shown struct{ Status string }
	if w.into(w.do("GET", path, token, ""), 200, "backup", &shown); shown.Status != "COMPLETED" {
		t.Errorf("it is %s", shown.Status)
	}
	if _, err := w.Server.Unpin(t.Context(), who, b.ID); err != nil {
		t.Fatal(err)
	}
	is("it is unpinned", false)
	isStatus(t, w.do("DELETE", path, token, ""), 202)
}
