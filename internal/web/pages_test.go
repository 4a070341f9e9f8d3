package web_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/server/servertest"
)

// evil is a name that would run if it weren't escaped.
const evil = `<script>alert(1)</script>"'><img src=x>`

// All pages show names as they are, load nothing from elsewhere, and have no script or
// style inside; who may only look is offered nothing else, and can do nothing else.
func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.play("db1")
	ctx := t.Context()
	first := p.backup()
	second := p.backup(func(r *job.Report) { r.Result.Damage, r.Result.Notes = 2, []string{evil} })
	p.free <- job.Report{State: job.Failed, Fault: evil}
	failed, err := w.Server.CreateBackup(ctx, caller(), server.NewBackup{Name: evil, Description: evil, Instance: p.Instance})
	if err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "it fails", func() bool {
		b, err := w.Server.Backup(ctx, caller(), failed.ID)
		return err == nil && b.Status == job.BackupFailed && w.job(failed.Job).State.Ended() // which is known after that
	})
	s, err := w.Server.CreateSchedule(ctx, caller(), &job.Schedule{Name: evil, Instance: p.Instance, Enabled: true, Cron: "30 2 * * *", ProveCron: "0 5 * * sun"})
	if err != nil {
		t.Fatal(err)
	}
	running, err := w.Server.CreateBackup(ctx, caller(), server.NewBackup{Name: "running", Instance: p.Instance})
	if err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the agent says how far it is", func() bool { return w.job(running.Job).At.BytesDone > 0 })
	admin, viewer := w.as(access.Admin), w.as(access.Viewer)
	agents := admin.get("/agents")
	agent := regexp.MustCompile(`/agents/([-0-9a-f]{36})/remove`).FindStringSubmatch(agents.body)
	if agent == nil {
		t.Fatalf("no agent can be removed: %s", agents.text())
	}
	tokens := regexp.MustCompile(`/tokens/([a-z2-7]{12})/revoke`).FindStringSubmatch(admin.get("/tokens").body)
	jobPath := "/jobs/" + running.Job
	may := map[string]bool{} // which pages a viewer has
	for path, words := range map[string][]string{
		"/":                                   {"db1", "damaged", "Next backup", "Backing up"},
		"/jobs":                               {"Running and waiting", "Backup of db1", "Failed"},
		"/jobs?f=bad":                         {evil},
		jobPath:                               {"Backup of db1", "40 %"},
		jobPath + "/cancel":                   {"Cancel the job"},
		"/backups":                            {"nightly", evil, "db1"},
		"/backups?q=nightly":                  {"1 to 2 of 2"},
		"/backups/new?instance=" + p.Instance: {"Create backup"},
		"/backups/" + first:                   {"nightly", "db1"},
		"/backups/" + second:                  {evil, "2 findings"},
		"/backups/" + failed.ID:               {evil},
		"/backups/" + failed.ID + "/delete":   {evil, "Delete backup"},
		"/agents":                             {"db1", "Online"},
		"/agents/join":                        {"Make the command"},
		"/agents/" + agent[1] + "/remove":     {"Remove agent"},
		"/repositories":                       {"file:///backups"},
		"/tokens":                             {"operator", "New token"},
		"/tokens/" + tokens[1] + "/revoke":    {"Revoke token"},
		"/schedules":                          {evil, "30 2 * * *"},
		"/schedules/new":                      {"New schedule", "Next five firings"},
		"/schedules/" + s.ID:                  {evil, "Next five firings", "the newest backup is proven"},
		"/schedules/" + s.ID + "/delete":      {evil},
		"/schedules/firings?cron=61+*+*+*+*":  {"must be five fields"},
		"/find?q=" + url.QueryEscape(evil):    {evil, "Schedules", "Backups"},
		"/find?q=db1":                         {"Instances", "nightly"},
		"/restore":                            {"Restore: what", "db1"},
		"/restore?what=all&of=" + p.Instance:  {"Restore: when", "nightly"},
		"/find":                               {"Type a name or an id above."},
	} {
		a := admin.get(path)
		a.has(http.StatusOK, words...)
		a.hasNot("<script>alert", "<img", "<style", " style=", "javascript:", "http://", "//cdn")
		v := viewer.get(path)
		may[path] = v.status == http.StatusOK
		if v.status != http.StatusOK && v.status != http.StatusForbidden {
			t.Errorf("%s for a viewer: %d", path, v.status)
		}
		if v.status == http.StatusForbidden {
			v.has(http.StatusForbidden, "Your role, viewer, does not allow this")
		}
		for _, form := range regexp.MustCompile(`<form[^>]* method="post" action="([^"]*)"|<form[^>]* action="([^"]*)"[^>]* method="post"`).FindAllStringSubmatch(v.body, -1) {
			if to := form[1] + form[2]; !strings.HasPrefix(to, "/logout") && v.status == http.StatusOK && !strings.HasPrefix(to, "/schedules/") {
				t.Errorf("%s offers a viewer %s", path, to)
			}
		}
	}
	for _, path := range []string{"/tokens", "/backups/new", "/agents/join", "/schedules/new", jobPath + "/cancel"} {
		if may[path] {
			t.Errorf("a viewer gets %s", path)
		}
	}
	for _, path := range []string{"/", "/jobs", "/backups", "/agents", "/schedules", "/schedules/" + s.ID} {
		if !may[path] {
			t.Errorf("a viewer does not get %s", path)
		}
	}
	for _, path := range []string{"/tokens", "/backups/new", "/agents/join", "/schedules/new", jobPath + "/cancel", "/backups/" + first + "/delete", "/backups/" + first + "/prove",
		"/restore?what=all&where=new&of=" + p.Instance + "&s=" + first, "/schedules/" + s.ID, "/schedules/" + s.ID + "/run", "/schedules/" + s.ID + "/pause", "/schedules/" + s.ID + "/delete", "/agents/" + agent[1] + "/remove"} {
		viewer.post(path, "word", "nightly", "name", "x").has(http.StatusForbidden)
	}
	stranger := w.open()
	stranger.signIn(w.Token("other", access.Operator))
	for _, path := range []string{"/backups/" + first, "/backups/" + first + "/delete", jobPath, "/schedules/" + s.ID} {
		stranger.get(path).has(http.StatusNotFound)
	}
	stranger.post("/backups/"+first+"/delete", "word", "nightly").has(http.StatusNotFound)
	stranger.post(jobPath + "/cancel").has(http.StatusNotFound)
	stranger.get("/").hasNot("db1")
}

// What a form does is done, is in the audit log, and is said on the next page.
func TestActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.play("db1")
	old := p.backup()
	b := w.as(access.Operator)

	b.post("/backups/new", "instance", "nothing").has(422, "Choose an instance.")
	a := b.post("/backups/new", "instance", p.Instance, "name", "before the move")
	made := strings.TrimPrefix(a.header.Get("Location"), "/backups/")
	b.follow(a).has(200, "The backup was begun.", "before the move")
	b.get("/backups/" + made).hasNot("The backup was begun.")
	b.post("/backups/new", "instance", p.Instance).has(422, "not currently available")
	job1 := regexp.MustCompile(`/jobs/([-0-9a-f]{36})`).FindStringSubmatch(b.get("/backups/" + made).body)
	if job1 == nil {
		t.Fatal("a backup that is being made has no job")
	}
	b.follow(b.post("/jobs/"+job1[1]+"/cancel")).has(200, "The job was cancelled.", "Cancelled", "Cancelled by test")
	b.post("/jobs/"+job1[1]+"/cancel").has(409, "has ended already")
	b.get("/").has(200, "The instance is safe.") // who cancels something need not be told
	p.free <- job.Report{State: job.Done}        // which nobody hears

	b.follow(b.post("/backups/"+old+"/prove")).has(200, "The restore test was begun.", "Proof of a backup of db1")
	b.post("/backups/"+old+"/delete", "word", "yes").has(422, "That is not the name of the backup. Nothing was deleted.")
	b.follow(b.post("/backups/"+old+"/delete", "word", "nightly")).has(200, "The backup nightly is being deleted.")
	b.get("/backups/" + old).has(404)
	b.follow(b.get("/backups/"+made+"/restore")).has(200, "Nothing of db1 is stored yet that could be restored.")

	b.post("/schedules/new", "instance", p.Instance, "name", "n", "cron", "61 * * * *").has(422, "The schedule's cron line can't be used")
	b.post("/schedules/new", "instance", p.Instance, "name", "n", "cron", "@daily", "jitter", "soon").has(422, "Jitter: write it as")
	a = b.post("/schedules/new", "instance", p.Instance, "name", "n", "cron", "30 2 * * *", "zone", "Europe/Berlin", "daily", "14", "window", "3h", "catchup", "1")
	at := a.header.Get("Location")
	b.follow(a).has(200, "The schedule is stored", "Europe/Berlin")
	id := strings.TrimPrefix(at, "/schedules/")
	b.follow(b.post(at, "name", "m", "cron", "30 3 * * *", "zone", "Europe/Berlin", "daily", "7")).has(200, "Saved.")
	s, err := w.Server.Schedule(t.Context(), caller(), id)
	if err != nil || s.Name != "m" || s.Keep.Daily != 7 || s.Window != 0 || s.CatchUp || !s.Enabled {
		t.Errorf("got %+v, %v", s, err)
	}
	b.follow(b.post(at+"/pause")).has(200, "The schedule is paused.", "Paused")
	b.follow(b.post(at+"/pause", "enabled", "1")).has(200, "The schedule goes on.")
	b.follow(b.post(at+"/delete", "word", "m")).has(200, "was deleted")

	audit := w.Audited()
	for _, action := range []string{"backup.create", "job.cancel", "backup.prove", "backup.delete", "schedule.create", "schedule.update", "schedule.delete"} {
		if !strings.Contains(audit, `"action":"`+action+`"`) {
			t.Errorf("%s is not in the audit log", action)
		}
	}
	if !strings.Contains(audit, `"action":"backup.create","target":"`+made+`","outcome":"ok"`) || !strings.Contains(audit, `"action":"backup.delete","target":"`+old+`","outcome":"failed","status":422`) {
		t.Errorf("audit log: %s", audit)
	}
}

// A token is made and shown once, and a node joins by what is pasted.
func TestTokensAndJoining(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.as(access.Admin)
	b.post("/tokens", "name", "ci", "role", "king").has(422, "Choose a role.")
	b.post("/tokens", "name", "ci", "role", "viewer", "expires", "soon").has(422, "Write for how long")
	a := b.post("/tokens", "name", "ci", "role", "viewer", "expires", "90d", "contents", "1")
	a.has(200, "which is shown this once", "may read documents")
	secret := regexp.MustCompile(`slc_[a-z2-7]+_[a-z2-7]+`).FindString(a.body)
	who, err := w.Tokens.Check(t.Context(), secret)
	if err != nil || who.Role != access.Viewer || !who.MayRead() || who.Project != project {
		t.Fatalf("the token is of %v, %v", who, err)
	}
	b.get("/tokens").hasNot(secret)
	b.post("/tokens/"+who.TokenID+"/revoke", "word", "no").has(422, "Nothing was revoked.")
	b.follow(b.post("/tokens/"+who.TokenID+"/revoke", "word", "ci")).has(200, "was revoked")
	if _, err := w.Tokens.Check(t.Context(), secret); err == nil {
		t.Error("the token still counts")
	}

	b.post("/agents/join", "name", "-").has(422, "The node needs a name")
	a = b.post("/agents/join", "name", "db1")
	a.has(200, "Paste this on db1", "sudo slipcover agent --server-url http://127.0.0.1", "--join slj_", "Waiting for db1")
	if !strings.Contains(a.body, `data-stream="/agents/join?name=db1"`) {
		t.Error("nothing waits for it")
	}
	b.get("/agents").has(200, "Join tokens that are still good", "db1")
	w.play("db1")
	b.get("/agents/join?name="+url.QueryEscape("db1")).has(200, "db1 is here")
	id := regexp.MustCompile(`/agents/join/([a-z2-7]{12})/revoke`).FindStringSubmatch(b.get("/agents").body)
	b.follow(b.post("/agents/join/"+id[1]+"/revoke")).has(200, "was revoked")
	agent := regexp.MustCompile(`/agents/([-0-9a-f]{36})/remove`).FindStringSubmatch(b.get("/agents").body)
	b.post("/agents/"+agent[1]+"/remove", "word", "db2").has(422, "Nothing was removed.")
	b.follow(b.post("/agents/"+agent[1]+"/remove", "word", "db1")).has(200, "was removed")
}

// Lists are paged, searched, and say where they are.
func TestPaging(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 51 {
		if _, _, err := w.Tokens.Create(t.Context(), access.Token{Name: "ci-" + string(rune('a'+n%26)) + string(rune('a'+n/26)), Role: access.Viewer, Project: project}); err != nil {
			t.Fatal(err)
		}
	}
	b := w.as(access.Admin)
	a := b.get("/tokens")
	a.has(200, "1 to 50 of 52")
	next := regexp.MustCompile(`href="(/tokens\?page=2)"`).FindStringSubmatch(a.body)
	if next == nil {
		t.Fatal("no second page")
	}
	b.get(next[1]).has(200, "51 to 52 of 52")
	b.get("/tokens?page=99").has(200, "51 to 52 of 52")
	b.get("/tokens?page=no").has(200, "1 to 50 of 52")
	b.get("/tokens?q=CI-aa").has(200, "1 to 1 of 1")
	b.get("/tokens?q="+url.QueryEscape(evil)).has(200, "Nothing is found for")
	b.get("/tokens?q=" + url.QueryEscape(evil)).hasNot("<script>alert")
}
