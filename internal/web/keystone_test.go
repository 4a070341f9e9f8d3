package web_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/testenv"
	"github.com/slipcover/slipcover/internal/web"
)

// With Keystone a user signs in with a password, or with a token of Keystone's.
func TestSigningInAtKeystone(t *testing.T) {
	server := testenv.Keystone(t)
	k, err := access.NewKeystone(access.KeystoneOptions{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *web.Options) { o.Auth, o.Checker, o.Keystone = "keystone", k, k })
	user, password, project := server.Vars["OS_USERNAME"], server.Vars["OS_PASSWORD"], server.Vars["OS_PROJECT_NAME"]
	b := w.open()
	b.get("/login").has(200, "Keystone", "Password", "Domain", "Project")
	b.get("/login?by=token").has(200, "openstack token issue")
	a := b.post("/login", "by", "keystone", "user", user, "password", "wrong", "project", project)
	a.has(401, "Keystone refused this user and password")
	a.hasNot("wrong")
	b.post("/login", "by", "keystone", "user", user).has(401, "Type the user and the password.")
	b.follow(b.post("/login", "by", "keystone", "user", user, "password", password, "project", project)).has(200, "Nothing is backed up yet", user)
	b.get("/tokens").has(403)

	chooser := w.open()
	a = chooser.post("/login", "by", "keystone", "user", user, "password", password, "to", "/jobs")
	if strings.HasPrefix(a.header.Get("Location"), "/login/project") {
		if a := chooser.get("/"); a.status != http.StatusSeeOther {
			t.Errorf("before a project is chosen: %d", a.status)
		}
		chooser.follow(a).has(200, "Project of "+user, project)
		list, err := k.LogIn(t.Context(), access.PasswordLogIn{User: user, Password: "", Project: project})
		if err == nil {
			t.Errorf("without a password: %q", list)
		}
		a = chooser.post("/login/project", "project", server.Vars["DEMO_PROJECT_ID"], "to", "/jobs")
	}
	chooser.follow(a).has(200, "Jobs", user)
	if audit := w.Audited(); !strings.Contains(audit, `"user":"`+user+`","address":"127.0.0.1","action":"session.create","target":"dashboard","outcome":"failed"`) || strings.Contains(audit, password) {
		t.Errorf("audit log: %s", audit)
	}
}
