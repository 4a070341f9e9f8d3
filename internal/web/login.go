package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/config"
)

var loginRoutes = []route{
	{"GET /login", 0, "", (*call).login},
	{"POST /login", 0, "session.create", (*call).signIn},
	{"GET /login/project", 0, "", (*call).chooseProject},
	{"POST /login/project", 0, "session.create", (*call).takeProject},
	{"POST /logout", access.Viewer, "session.end", (*call).signOut},
	{"POST /logout/everywhere", access.Viewer, "session.end_all", (*call).signOutEverywhere},
}

// loginPage is the log-in, with what was typed.
type loginPage struct {
	To      string // where to go on
	Ended   bool   // there was a session, which has ended
	Problem string
	Field   string // that the problem is about
	By      string // keystone or token
	// What was typed, but for the password.
	User, Domain, Project string
	Projects              []access.Project // to choose from
}

func (c *call) loginForm() loginPage {
	p := loginPage{To: c.r.FormValue("to"), Ended: c.r.FormValue("ended") != ""}
	if !local(p.To) {
		p.To = ""
	}
	p.By = "token"
	if c.o.Keystone != nil && c.r.FormValue("by") != "token" {
		p.By = "keystone"
	}
	p.User, p.Domain, p.Project = strings.TrimSpace(c.r.FormValue("user")), strings.TrimSpace(c.r.FormValue("domain")), strings.TrimSpace(c.r.FormValue("project"))
	return p
}

func (c *call) login() (*answer, error) {
	p := c.loginForm()
	if c.o.Auth == "none" {
		return c.see(orRoot(p.To), ""), nil
	}
	return c.page("Sign in", "login", p), nil
}

func orRoot(to string) string {
	if to == "" {
		return "/"
	}
	return to
}

func (c *call) signIn() (*answer, error) {
	if err := c.r.ParseForm(); err != nil {
		return nil, api.Invalid("The form can't be read.")
	}
	p := c.loginForm()
	if c.o.Auth == "none" {
		return c.see(orRoot(p.To), ""), nil
	}
	if a := c.attempts.Look(c.log.Address); !a.OK {
		a.SetHeader(c.w)
		return nil, errTooMany
	}
	if p.By == "keystone" {
		return c.withPassword(p)
	}
	token := strings.TrimSpace(c.r.PostFormValue("token"))
	c.log.Tried = tokenName(token)
	return c.withToken(p, token)
}

// withPassword signs in at Keystone.
func (c *call) withPassword(p loginPage) (*answer, error) {
	c.log.Tried = p.User
	if p.User == "" || c.r.PostFormValue("password") == "" {
		return c.refused(p, "user", "Type the user and the password."), nil
	}
	token, err := c.o.Keystone.LogIn(c.r.Context(), access.PasswordLogIn{User: p.User, Password: config.Secret(c.r.PostFormValue("password")), Domain: p.Domain, Project: p.Project})
	if errors.Is(err, access.ErrUnauthorized) {
		problem := "Keystone refused this user and password."
		if p.Project != "" {
			problem = "Keystone refused this user and password, or the project."
		}
		return c.refused(p, "user", problem), nil
	}
	if err != nil {
		return nil, err
	}
	if p.Project != "" {
		return c.withToken(p, token)
	}
	list, err := c.o.Keystone.Projects(c.r.Context(), token)
	switch {
	case err != nil:
		return nil, err
	case len(list) == 0:
		return c.refused(p, "user", "Keystone knows no project in which this user has a role."), nil
	case len(list) == 1:
		return c.choose(p, token, list[0].ID)
	}
	// The password is gone by the time of the choice: the token without a project stands for it.
	value, ends, err := c.sessions.begin(c.r.Context(), record{UserID: p.User, Choosing: true}, token)
	if err != nil {
		return nil, err
	}
	c.log.Tried = "" // that one is no log-in yet
	http.SetCookie(c.w, c.cookie(c.r, value, ends))
	to := "/login/project"
	if p.To != "" {
		to += "?to=" + url.QueryEscape(p.To)
	}
	return c.see(to, ""), nil
}

// choose goes on in a project.
func (c *call) choose(p loginPage, token, project string) (*answer, error) {
	scoped, err := c.o.Keystone.Choose(c.r.Context(), token, project)
	if errors.Is(err, access.ErrUnauthorized) {
		return c.refused(p, "user", "Keystone refused this project."), nil
	}
	if err != nil {
		return nil, err
	}
	return c.withToken(p, scoped)
}

// choosing is the session in which a project is to be chosen.
func (c *call) choosing() (*session, error) {
	cookie, err := c.r.Cookie(c.cookieName(c.r))
	if err != nil || c.o.Keystone == nil {
		return nil, errNoSession
	}
	f, err := c.sessions.find(c.r.Context(), cookie.Value)
	if err == nil && !f.Choosing {
		err = errNoSession
	}
	return f, err
}

func (c *call) chooseProject() (*answer, error) {
	f, err := c.choosing()
	if err != nil {
		return nil, err
	}
	p := c.loginForm()
	p.User = f.UserID
	if p.Projects, err = c.o.Keystone.Projects(c.r.Context(), f.token); err != nil {
		return nil, err
	}
	return c.page("Choose a project", "login-project", p), nil
}

func (c *call) takeProject() (*answer, error) {
	f, err := c.choosing()
	if err != nil {
		return nil, err
	}
	p := c.loginForm()
	c.log.Tried, p.User = f.UserID, f.UserID
	return c.choose(p, f.token, c.r.PostFormValue("project"))
}

// withToken signs in with a token.
func (c *call) withToken(p loginPage, token string) (*answer, error) {
	who, err := c.o.Checker.Check(c.r.Context(), token)
	switch {
	case errors.Is(err, access.ErrUnauthorized):
		return c.refused(p, "token", "No such token: it is unknown, expired or revoked."), nil
	case errors.Is(err, access.ErrForbidden):
		return c.refused(p, "token", "This token is good for nothing here: it has no project, or no role that counts."), nil
	case err != nil:
		return nil, err
	}
	return c.begin(who, token, p.To)
}

// begin signs a caller in.
func (c *call) begin(who *access.Caller, token, to string) (*answer, error) {
	c.log.User, c.log.UserID, c.log.Project, c.log.Role, c.log.Target = who.User, who.UserID, who.Project, who.Role.String(), "dashboard"
	value, ends, err := c.sessions.begin(c.r.Context(), record{UserID: who.UserID, Ends: who.Expires}, token)
	if err != nil {
		return nil, err
	}
	if old, err := c.r.Cookie(c.cookieName(c.r)); err == nil { // which this one takes the place of
		if id, ok := parseSecret(old.Value); ok {
			_ = c.sessions.end(c.r.Context(), id.key()) // or it is over by itself before long
		}
	}
	http.SetCookie(c.w, c.cookie(c.r, value, ends))
	return c.see(orRoot(to), ""), nil
}

// refused shows the log-in again.
func (c *call) refused(p loginPage, field, problem string) *answer {
	c.attempts.Allow(c.log.Address)
	c.log.Target = "dashboard"
	p.Field, p.Problem, p.Ended = field, problem, false
	a := c.again("Sign in", "login", p)
	a.status = http.StatusUnauthorized
	return a
}

// tokenName is what may be said of a token that was refused: its id, which is no secret.
func tokenName(token string) string {
	if parts := strings.Split(token, "_"); len(parts) == 3 && parts[0] == "slc" && len(parts[1]) <= 20 {
		return "token " + parts[1]
	}
	return "unknown"
}

func (c *call) signOut() (*answer, error) {
	if c.session == nil {
		return c.see("/", ""), nil
	}
	if err := c.sessions.end(c.r.Context(), c.session.key); err != nil {
		return nil, err
	}
	http.SetCookie(c.w, c.cookie(c.r, "", c.now()))
	c.w.Header().Set("Clear-Site-Data", `"cache"`)
	return c.see("/login", ""), nil
}

func (c *call) signOutEverywhere() (*answer, error) {
	if c.session == nil {
		return c.see("/", ""), nil
	}
	who := c.who.UserID
	if err := c.sessions.endAll(c.r.Context(), func(r *record) bool { return r.UserID == who }); err != nil {
		return nil, err
	}
	http.SetCookie(c.w, c.cookie(c.r, "", c.now()))
	return c.see("/login", ""), nil
}
