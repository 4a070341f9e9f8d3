package trove_test

import (
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// A backup of a whole set can't be deleted alone through Trove; one of a set that is partial can.
func TestBackupOfASet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.Token(project, access.Operator)
	nodes := []string{"couchdb@a", "couchdb@b"}
	players := []*player{w.join("db1", project), w.join("db2", project)}
	for n, p := range players {
		p.mu.Lock()
		p.hello.Instances = []job.Seen{{Up: true, Version: "3.5.0", Member: &job.Member{Node: nodes[n], Nodes: nodes}}}
		p.mu.Unlock()
		p.greet(t.Context())
	}
	who := &access.Caller{Project: project, User: "u", Role: access.Operator}
	made := func(fails bool) *server.SetInfo {
		t.Helper()
		i, err := w.Server.CreateSet(t.Context(), who, server.NewSet{Cluster: "a", Name: "n"})
		if err != nil {
			t.Fatal(err)
		}
		for n, p := range players {
			p.mu.Lock()
			if p.fault = ""; fails && n == 1 {
				p.fault = "the disk is full"
			}
			p.mu.Unlock()
			p.free <- struct{}{}
			w.idle(p.instance, token)
		}
		if i, err = w.Server.Set(t.Context(), who, i.ID); err != nil {
			t.Fatal(err)
		}
		return i
	}
	i := made(false)
	if i.State != server.SetWhole {
		t.Fatalf("the set: %+v", i)
	}
	for _, b := range i.Backups {
		a := w.do("DELETE", "/v1.0/"+project+"/backups/"+b.ID, token, "")
		if key, message := isFault(t, a); a.Status != 409 || key != "conflict" || !strings.Contains(message, i.ID) || !strings.Contains(message, "sets delete") {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
		w.into(w.do("GET", "/v1.0/"+project+"/backups/"+b.ID, token, ""), 200, "backup", &struct{ ID string }{})
	}
	i = made(true)
	if i.State != server.SetPartial {
		t.Fatalf("the set: %+v", i)
	}
	isStatus(t, w.do("DELETE", "/v1.0/"+project+"/backups/"+i.Backups[0].ID, token, ""), 202)
	close(players[0].free)
	servertest.Eventually(t, "it is gone", func() bool {
		i, err := w.Server.Set(t.Context(), who, i.ID)
		return err == nil && i.Backups[0] == nil && i.Lacks(0) == "it was deleted"
	})
}
