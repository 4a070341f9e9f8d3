package agent_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/agent"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/testenv"
)

// The caller's own Swift account is reached with his token, which comes sealed.
func TestSwiftToken(t *testing.T) {
	t.Parallel()
	swift := testenv.Swift(t)
	token := swiftToken(t, swift)
	account := swift.Vars["SWIFT_STORAGE_URL"]
	reader, err := age.GenerateX25519Identity()
	must(t, err)
	s, w := newServer(t), newWorld(t)
	w.identity = reader
	c := newCopies(t, w, "far")
	a := s.start(w, copyFixture(t), c.options, func(o *agent.Options) { o.RepositoryURL = "" })
	j := backupJob(t)
	j.Spec.Sealed = s.seal(job.Secrets{Token: token})
	j.Spec.Repository = job.Repository{URL: "swift://agent-" + strings.ToLower(j.Backup) + "/couch", Storage: account, Recipients: []string{reader.Recipient().String()}}
	r := s.do(j)
	want := account + "/agent-" + j.Backup + "/couch/backups/node1/" + j.Backup + "/manifest.json.zst.age"
	if r.Result.LocationRef != want || r.Repository.Storage != account || r.Repository.ID == "" {
		t.Errorf("got %q, want %q; %+v", r.Result.LocationRef, want, r.Repository)
	}
	if c.opened.Load() > 0 || len(c.ids("far")) > 0 {
		t.Error("a backup in a caller's own account was copied")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.Result.LocationRef, nil)
	must(t, err)
	req.Header.Set("X-Auth-Token", token)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); resp.StatusCode != http.StatusOK || n == 0 || err != nil {
		t.Errorf("%s: %s, %d bytes", want, resp.Status, n)
	}
	spec := job.Spec{RepoName: nodeName, RepoID: r.Result.RepoID, Repository: *r.Repository}
	s.fail(job.Job{Kind: job.KindDeleteBackup, Spec: spec}, "no token")
	spec.Sealed = s.seal(job.Secrets{Token: "stale-" + token})
	s.fail(job.Job{Kind: job.KindAdopt, Spec: spec}, "permission denied")
	spec.Sealed = s.seal(job.Secrets{Token: token})
	s.do(job.Job{Kind: job.KindAdopt, Spec: spec})
	s.do(job.Job{Kind: job.KindDeleteBackup, Spec: spec})
	if strings.Contains(a.said(), token) {
		t.Error("the log has the token")
	}
}

// A server that was taken over names an account of its own and a reader of its own. The
// node's settings name others: nothing is read there, and nothing stored.
func TestServerTakenOver(t *testing.T) {
	swift := testenv.Swift(t)
	token := swiftToken(t, swift)
	account := swift.Vars["SWIFT_STORAGE_URL"]
	evil, err := age.GenerateX25519Identity()
	must(t, err)
	s, w := newServer(t), newWorld(t)
	own := w.identity.Recipient().String()
	box := "evil-" + strings.ToLower(newID(t))
	taken := job.Repository{URL: "swift://" + box, Storage: account, Recipients: []string{evil.Recipient().String()}}
	for what, test := range map[string]struct {
		change func(*agent.Options)
		in     job.Repository
		fault  string
	}{
		"another storage":                 {func(*agent.Options) {}, job.Repository{URL: taken.URL, Storage: account, Recipients: []string{own}}, "accept_storages"},
		"another reader":                  {func(o *agent.Options) { o.RepositoryURL, o.Backup.Recipients = "", []string{own} }, taken, evil.Recipient().String()},
		"another reader than at the join": {func(o *agent.Options) { o.RepositoryURL, o.JoinRecipients = "", []string{own} }, taken, "when it joined"},
	} {
		a := s.start(w, copyFixture(t), test.change)
		j := backupJob(t)
		j.Spec.Sealed, j.Spec.Repository = s.seal(job.Secrets{Token: token}), test.in
		if r := s.fail(j, test.fault); strings.Contains(r.Fault, token) {
			t.Errorf("%s: %s", what, r.Fault)
		}
		if test.fault == "accept_storages" {
			spec := job.Spec{RepoName: nodeName, RepoID: newID(t), Repository: test.in, Sealed: j.Spec.Sealed}
			for _, kind := range []job.Kind{job.KindCreate, job.KindProve, job.KindDeleteBackup, job.KindAdopt} {
				s.fail(job.Job{Kind: kind, Instance: newID(t), Backup: newID(t), Spec: spec}, test.fault)
			}
			spec.Repository = job.Repository{URL: "file:///etc"}
			s.fail(job.Job{Kind: job.KindDeleteBackup, Backup: newID(t), Spec: spec}, test.fault)
		}
		a.stop()
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, account+"/"+box, nil)
	must(t, err)
	req.Header.Set("X-Auth-Token", token)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("the container of who took the server over: %s", resp.Status)
	}

	// What the settings name is done, encrypted to whom they name, if the server names nobody.
	s.start(w, copyFixture(t), func(o *agent.Options) { o.Accept, o.Backup.Recipients = []string{account}, []string{own} })
	j := backupJob(t)
	j.Spec.Sealed = s.seal(job.Secrets{Token: token})
	j.Spec.Repository = job.Repository{URL: "swift://good-" + strings.ToLower(j.Backup), Storage: account}
	s.do(j)
}

func swiftToken(t *testing.T, s *testenv.SwiftServer) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Vars["ST_AUTH"], nil)
	must(t, err)
	req.Header.Set("X-Auth-User", s.Vars["ST_USER"])
	req.Header.Set("X-Auth-Key", s.Vars["ST_KEY"])
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	return resp.Header.Get("X-Auth-Token")
}
