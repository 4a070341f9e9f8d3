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
