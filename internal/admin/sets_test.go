package admin_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// sayNode makes a player's hellos those of a node of a cluster.
func (p *player) sayNode(node string, nodes ...string) {
	p.w.t.Helper()
	p.member.Store(&job.Member{Node: node, Nodes: nodes})
	servertest.Eventually(p.w.t, "a hello is answered", func() bool { return p.greet(context.Background()) == nil })
}

type shownSet struct {
	ID, Name, Project, Cluster, State string
	Members                           []struct{ Node, Instance, Backup, Status, Lacks string }
}

// A cluster is seen, backed up and its set deleted by its own project's callers alone, each as far as the role goes.
func TestSets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	operator, viewer := w.Token(project, access.Operator), w.Token(project, access.Viewer)
	other, otherAdmin := w.Token("other", access.Operator), w.Token("other", access.Admin)
	nodes := []string{"couchdb@a", "couchdb@b"}
	var players []*player
	for n, node := range nodes {
		p := w.play(operator, fmt.Sprintf("db%d", n+1))
		p.sayNode(node, nodes...)
		players = append(players, p)
	}
	var clusters []struct {
		Name, Project, Problem string
		Nodes                  []struct {
			Name, Instance string
			Online         bool
		}
		Newest, Whole *struct{ ID, State string }
	}
	servertest.Eventually(t, "the cluster is known", func() bool {
		w.into(w.do("GET", "/clusters", viewer, ""), 200, "clusters", &clusters)
		return len(clusters) == 1 && clusters[0].Problem == "" && len(clusters[0].Nodes) == 2 && clusters[0].Nodes[0].Instance != "" && clusters[0].Nodes[1].Instance != ""
	})
	cluster := "/clusters/" + clusters[0].Name + "/backup"
	var none []any
	for _, path := range []string{"/clusters", "/sets", "/restores"} {
		if w.into(w.do("GET", path, other, ""), 200, strings.TrimPrefix(path, "/"), &none); len(none) != 0 {
			t.Errorf("another project's %s: %v", path, none)
		}
	}
	w.refused(w.do("POST", cluster, viewer, ""), http.StatusForbidden, "forbidden", "operator")
	w.refused(w.do("POST", cluster, other, ""), http.StatusNotFound, "not_found", "No instance of project other")
	w.refused(w.do("POST", cluster, operator, `{"title":"x"}`), http.StatusBadRequest, "invalid", "title")
	w.refused(w.do("POST", cluster, operator, `{"name":"a\nb"}`), http.StatusBadRequest, "invalid", "name")

	var s shownSet
	w.into(w.do("POST", cluster, operator, ""), http.StatusAccepted, "set", &s)
	if s.State != "running" || len(s.Members) != 2 || s.Members[0].Node != nodes[0] || s.Members[0].Instance != players[0].Instance || !strings.HasPrefix(s.Name, s.Cluster+" ") || s.Project != project {
		t.Errorf("begun: %+v", s)
	}
	w.refused(w.do("POST", cluster, operator, ""), http.StatusUnprocessableEntity, "busy", "No node of the cluster")
	w.refused(w.do("DELETE", "/sets/"+s.ID, operator, ""), http.StatusUnprocessableEntity, "busy", "is running")
	for n, p := range players {
		p.free <- job.Report{State: job.Done, Result: &job.Result{RepoID: fmt.Sprintf("0199aaaa-0000-7000-8000-00000000000%d", n), Size: 10}, Repository: &job.Repository{ID: "r1", URL: "file:///backups"}}
	}
	path := "/sets/" + s.ID
	servertest.Eventually(t, "the set is whole", func() bool {
		w.into(w.do("GET", path, viewer, ""), 200, "set", &s)
		return s.State == "whole"
	})
	for _, token := range []string{other, otherAdmin} {
		w.refused(w.do("GET", path, token, ""), http.StatusNotFound, "not_found", "")
		w.refused(w.do("DELETE", path, token, "", "X-Project-Id", project), http.StatusNotFound, "not_found", "")
	}
	w.refused(w.do("DELETE", path, viewer, ""), http.StatusForbidden, "forbidden", "operator")
	var list []shownSet
	if w.into(w.do("GET", "/sets?cluster=elsewhere", viewer, ""), 200, "sets", &list); len(list) != 0 {
		t.Errorf("sets of no cluster: %+v", list)
	}
	if w.into(w.do("GET", "/sets?cluster="+s.Cluster, viewer, ""), 200, "sets", &list); len(list) != 1 || list[0].ID != s.ID {
		t.Errorf("sets: %+v", list)
	}

	// While it is being restored it stays, and nobody else may see or begin that.
	target := w.play(operator, "target")
	plan := fmt.Sprintf("cluster: a\nbackups:\n- node: couchdb@a\n  instance: db1\n  backup: %s\nnodes:\n- name: couchdb@x\n", "0199aaaa-0000-7000-8000-000000000000")
	body := func(agent string) string {
		return fmt.Sprintf(`{"plan":%q,"agents":{"couchdb@x":%q}}`, plan, agent)
	}
	w.refused(w.do("POST", "/restores", viewer, body("target")), http.StatusForbidden, "forbidden", "operator")
	w.refused(w.do("POST", "/restores", other, body("target")), http.StatusNotFound, "not_found", "no agent")
	w.refused(w.do("POST", "/restores", operator, body("nobody")), http.StatusNotFound, "not_found", "no agent")
	w.refused(w.do("POST", "/restores", operator, `{"plan":"x: 1","agents":{}}`), http.StatusBadRequest, "invalid", "")
	var r struct {
		ID, State, Step string
		Nodes           []struct{ Name, Agent string }
	}
	w.into(w.do("POST", "/restores", operator, body("target")), http.StatusAccepted, "restore", &r)
	if r.State != "running" || r.Step != "check" || len(r.Nodes) != 1 || r.Nodes[0].Agent != "target" {
		t.Errorf("the restore: %+v", r)
	}
	w.refused(w.do("GET", "/restores/"+r.ID, other, ""), http.StatusNotFound, "not_found", "")
	w.refused(w.do("DELETE", path, operator, ""), http.StatusUnprocessableEntity, "busy", "being restored")
	target.free <- job.Report{State: job.Failed, Fault: "it lets no server restore onto it"}
	servertest.Eventually(t, "the restore has failed", func() bool {
		w.into(w.do("GET", "/restores/"+r.ID, viewer, ""), 200, "restore", &r)
		return r.State == "failed"
	})

	w.into(w.do("DELETE", path, operator, ""), http.StatusAccepted, "", nil)
	if w.into(w.do("GET", path, viewer, ""), 200, "set", &s); s.State != "going" {
		t.Errorf("while it goes: %+v", s)
	}
	for _, p := range players {
		p.free <- job.Report{State: job.Done}
	}
	servertest.Eventually(t, "the set is gone", func() bool {
		if err := w.Server.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		return w.do("GET", path, viewer, "").Status == http.StatusNotFound
	})
	for _, action := range []string{"cluster.backup", "restore.start", "set.delete"} {
		if !strings.Contains(w.Audited(), action) {
			t.Errorf("the audit log has no %s", action)
		}
	}
}
