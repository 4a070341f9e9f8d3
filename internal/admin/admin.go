// Package admin is our own REST API beside Trove's, for what that lacks: tokens,
// agents, schedules, restore tests, and all that is known of a backup. Its paths are
// under /slipcover/v1/; docs/service-api.md describes its requests and answers, which
// are stable: fields are added, none changes its meaning.
package admin

import (
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/looks"
	"github.com/slipcover/slipcover/internal/opened"
	"github.com/slipcover/slipcover/internal/server"
)

// Options configure the API. Server, Checker, Tokens and Log must be there.
type Options struct {
	Server  *server.Server
	Checker access.Checker
	// Tokens makes join tokens, and where Auth isn't keystone the tokens of callers.
	Tokens *access.Tokens
	Log    *slog.Logger
	// Auth is the setting: token, keystone or none.
	Auth string
	// URL is where clients reach the server; empty if that isn't known here.
	URL string
	// NATSURL is where agents reach the bus; a host of 0.0.0.0 or :: stands for the one
	// that the agent joined at. Empty: no agents of other machines can join.
	NATSURL string
	// CA has the certificates in PEM that sign that of the bus; empty: the system knows
	// them, or the bus speaks no TLS.
	CA string
	// Recipients returns the age recipients that an agent which joins encrypts its
	// repository to if it has none of its own; without any, or as nil, it must have some.
	Recipients func() []string
	// Fingerprint is that of the authority which the server made for its APIs; empty
	// without one.
	Fingerprint string
	// Serves are the backups that this server has open; nil: it opens none.
	Serves *opened.Set
	// Callers limits the requests of each caller; nil doesn't. Limits of addresses are
	// the business of who stands before.
	Callers *httpd.Limiter
	// Audit is the audit log, to be read by administrators; nil: there is none.
	Audit *httpd.Audit
}

const prefix = "/slipcover/v1"

// defaultProject is that of callers who have none and name none, without log-in.
const defaultProject = "default"

type service struct {
	Options
	routes  httpd.Routes[*call]
	origins *http.CrossOriginProtection
	joins   joins

	contents *looks.Reader
}

// call is one request of a caller who is known.
type call struct {
	*service
	r   *http.Request
	w   http.ResponseWriter
	who *access.Caller // in the project that the request is about
	// all says that an administrator named no project.
	all bool
	log *httpd.Request // what the logs are told
}

// route is what a method and a path do. do returns the status and the body of the
// answer; without a body it is empty.
type route struct {
	pattern string
	needs   access.Role
	action  string // for the audit log; "" of what changes nothing
	do      func(*call) (status int, body any, err error)
}

var routes = []route{
	{"GET /whoami", access.Viewer, "", (*call).whoAmI},

	{"GET /tokens", access.Admin, "", (*call).listTokens},
	{"POST /tokens", access.Admin, "token.create", (*call).createToken},
	{"DELETE /tokens/{id}", access.Admin, "token.revoke", (*call).revokeToken},
	{"GET /join-tokens", access.Operator, "", (*call).listJoinTokens},
	{"POST /join-tokens", access.Operator, "join_token.create", (*call).createJoinToken},
	{"DELETE /join-tokens/{id}", access.Operator, "join_token.revoke", (*call).revokeJoinToken},

	{"GET /instances", access.Viewer, "", (*call).listInstances},
	{"POST /instances", access.Operator, "instance.create", (*call).createInstance},
	{"GET /instances/{id}/ship", access.Viewer, "", (*call).showShipping},
	{"PUT /instances/{id}/ship", access.Operator, "ship.update", (*call).setShipping},
	{"GET /instances/{id}/retention", access.Viewer, "", (*call).showInstanceRetention},
	{"GET /agents", access.Viewer, "", (*call).listAgents},
	{"DELETE /agents/{id}", access.Admin, "agent.remove", (*call).removeAgent},

	{"GET /schedules", access.Viewer, "", (*call).listSchedules},
	{"POST /schedules", access.Operator, "schedule.create", (*call).createSchedule},
	{"GET /schedules/firings", access.Viewer, "", (*call).showFirings},
	{"GET /schedules/{id}", access.Viewer, "", (*call).showSchedule},
	{"GET /schedules/{id}/retention", access.Viewer, "", (*call).showRetention},
	{"PATCH /schedules/{id}", access.Operator, "schedule.update", (*call).updateSchedule},
	{"DELETE /schedules/{id}", access.Operator, "schedule.delete", (*call).deleteSchedule},
	{"POST /schedules/{id}/run", access.Operator, "schedule.run", (*call).runSchedule},

	{"GET /audit", access.Admin, "audit.read", (*call).showAudit},
	{"GET /space", access.Viewer, "", (*call).showSpace},
	{"GET /clusters", access.Viewer, "", (*call).listClusters},
	{"GET /clusters/{id}", access.Viewer, "", (*call).showCluster},
	{"POST /clusters/{id}/backup", access.Operator, "cluster.backup", (*call).backUpCluster},
	{"GET /sets", access.Viewer, "", (*call).listSets},
	{"GET /sets/{id}", access.Viewer, "", (*call).showSet},
	{"DELETE /sets/{id}", access.Operator, "set.delete", (*call).deleteSet},

	{"GET /backups/{id}", access.Viewer, "", (*call).showBackup},
	{"POST /backups/{id}/prove", access.Operator, "backup.prove", (*call).prove},
	{"POST /backups/{id}/pin", access.Operator, "backup.pin", (*call).pin},
	{"POST /backups/{id}/unpin", access.Operator, "backup.unpin", (*call).unpin},
	{"POST /backups/{id}/serve", access.Operator, "serve.open", (*call).openServe},
	{"GET /serves", access.Viewer, "", (*call).listServes},
	{"DELETE /serves/{id}", access.Operator, "serve.close", (*call).closeServe},
	{"POST /restores", access.Operator, "restore.start", (*call).startRestore},
	{"GET /restores", access.Viewer, "", (*call).listRestores},
	{"GET /restores/{id}", access.Viewer, "", (*call).showRestore},
	{"DELETE /restores/{id}", access.Operator, "restore.cancel", (*call).cancelRestore},
	{"GET /jobs", access.Viewer, "", (*call).listJobs},
	{"GET /jobs/{id}", access.Viewer, "", (*call).showJob},
	{"DELETE /jobs/{id}", access.Operator, "job.cancel", (*call).cancelJob},
}

// New returns the API.
func New(o Options) http.Handler {
	o.URL = strings.TrimSuffix(o.URL, "/")
	a := &service{Options: o, routes: httpd.Routes[*call]{Refuse: refuse}, origins: http.NewCrossOriginProtection(),
		contents: looks.New(o.Serves, o.Server)}
	for _, r := range routes {
		method, p, _ := strings.Cut(r.pattern, " ")
		a.routes.Handle(method+" "+prefix+p, r.serve)
	}
	return a
}

// ServeHTTP lets nobody in without a good token, not even to learn which paths there
// are, but for an agent that joins, and nobody at all before the catalog is read.
func (a *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := a.origins.Check(r); err != nil {
		refuse(w, http.StatusForbidden, "Pages of other sites may not send this.")
		return
	}
	if err := a.Server.Loaded(); err != nil {
		w.Header().Set("Retry-After", "1")
		a.fault(w, r, err)
		return
	}
	if r.URL.EscapedPath() == prefix+"/join" && r.Method == http.MethodPost {
		r.Pattern = "POST " + prefix + "/join"
		status, body, err := a.join(r)
		a.answer(w, r, status, body, err)
		return
	}
	who, err := a.Checker.Check(r.Context(), access.TokenOf(r))
	if err != nil {
		a.fault(w, r, err)
		return
	}
	log, allowed := api.Admit(r, who, a.Callers)
	c := &call{service: a, r: r, who: who, log: log}
	if !allowed.OK {
		TooMany(w, r, allowed)
		return
	}
	if err := c.chooseProject(); err != nil {
		a.fault(w, r, err)
		return
	}
	c.log.Project = c.who.Project
	a.routes.Serve(w, r, c)
}

// chooseProject finds the project that the request is about: the caller's own, or the
// one of the query, which only administrators may choose freely.
func (c *call) chooseProject() error {
	project := c.r.URL.Query().Get("project")
	c.all = project == "" && c.who.May(access.Admin)
	if c.who.Project == "" { // no log-in
		if project == "" {
			project = c.r.Header.Get("X-Project-Id")
		}
		if project == "" {
			project = defaultProject
		}
	}
	switch {
	case project == "" || project == c.who.Project:
		return nil
	case !access.ValidProject(project):
		return api.Invalid("The project's id must be 1 to 64 letters, digits, dots, underscores and hyphens.")
	case !c.who.May(access.Admin):
		return api.Refuse(http.StatusForbidden, "Only administrators may name another project than that of their token.")
	}
	d := *c.who
	d.Project, d.ProjectName = project, project
	d.Token, d.SwiftURL = "", "" // of the caller's own project
	c.who = &d
	return nil
}

// serve is what all routes have in common.
func (to route) serve(w http.ResponseWriter, r *http.Request, c *call) {
	c.r, c.w, c.log.Action, c.log.Target = r, w, to.action, r.PathValue("id")
	if !to.allows(c.who) {
		refuse(w, http.StatusForbidden, "The role "+c.who.Role.String()+" does not allow this: it needs "+to.needs.String()+".")
		return
	}
	status, body, err := to.do(c)
	c.answer(w, r, status, body, err)
}

func (a *service) answer(w http.ResponseWriter, r *http.Request, status int, body any, err error) {
	if _, done := body.(sent); done && err == nil {
		return
	}
	if err == nil {
		err = httpd.SendJSON(w, status, body)
	}
	if err != nil {
		a.fault(w, r, err)
	}
}

// who am I

type whoAmI struct {
	User     string    `json:"user"`
	UserID   string    `json:"user_id"`
	Project  string    `json:"project"`
	Role     string    `json:"role"`
	Contents bool      `json:"contents,omitempty"` // may read what is in backups
	Expires  time.Time `json:"expires,omitzero"`   // of the token
	TokenID  string    `json:"token_id,omitempty"`
	Auth     string    `json:"auth"`
}

func (c *call) whoAmI() (int, any, error) {
	w := c.who
	return http.StatusOK, whoAmI{w.User, w.UserID, w.Project, w.Role.String(), w.MayRead(), w.Expires, w.TokenID, c.Auth}, nil
}
