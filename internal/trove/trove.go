package trove

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/server"
)

// Options configure the API. Server, Checker and Log must be there.
type Options struct {
	Server  *server.Server
	Checker access.Checker
	Log     *slog.Logger
	// Keystone is the URL to which clients without a good token are sent; empty without
	// Keystone.
	Keystone string
	// URL is what links in answers begin with, such as https://db.example.org:8779; empty:
	// what the request was sent to.
	URL string
	// Region of all instances; RegionOne if empty.
	Region string
	// Callers limits the requests of each caller, whatever they are; nil doesn't. Limits
	// of addresses are the business of who stands before.
	Callers *httpd.Limiter
}

type service struct {
	Options
	routes httpd.Routes[*call]
}

// call is one request of a caller who is known.
type call struct {
	*service
	r       *http.Request
	who     *access.Caller
	allowed httpd.Allowance
	log     *httpd.Request     // what the logs are told
	kept    []server.Datastore // see datastores
}

// route is what a method and a path do. do returns the status and the body of the answer;
// without a body it is empty.
type route struct {
	pattern string
	needs   access.Role
	action  string // for the audit log; "" of what changes nothing
	do      func(*call) (status int, body any, err error)
}

var routes = []route{
	{"GET /instances", access.Viewer, "", (*call).listInstances},
	{"GET /instances/detail", access.Viewer, "", (*call).listInstancesDetail},
	{"POST /instances", access.Operator, "instance.create", (*call).createInstance},
	{"GET /instances/{id}", access.Viewer, "", (*call).showInstance},
	{"PUT /instances/{id}", access.Operator, "instance.update", (*call).updateInstance},
	{"PATCH /instances/{id}", access.Operator, "instance.update", (*call).updateInstance},
	{"DELETE /instances/{id}", access.Operator, "instance.delete", (*call).deleteInstance},
	{"POST /instances/{id}/action", access.Operator, "instance.action", (*call).actOnInstance},
	{"GET /instances/{id}/backups", access.Viewer, "", (*call).listInstanceBackups},
	{"GET /instances/{id}/databases", access.Viewer, "", (*call).listDatabases},

	{"GET /backups", access.Viewer, "", (*call).listBackups},
	{"POST /backups", access.Operator, "backup.create", (*call).createBackup},
	{"GET /backups/{id}", access.Viewer, "", (*call).showBackup},
	{"DELETE /backups/{id}", access.Operator, "backup.delete", (*call).deleteBackup},

	{"GET /backup_strategies", access.Viewer, "", (*call).listStrategies},
	{"POST /backup_strategies", access.Operator, "strategy.create", (*call).createStrategy},
	{"DELETE /backup_strategies", access.Operator, "strategy.delete", (*call).deleteStrategy},

	{"GET /datastores", access.Viewer, "", (*call).listDatastores},
	{"GET /datastores/{datastore}", access.Viewer, "", (*call).showDatastore},
	// {datastore}/versions or versions/{version}, which the mux can't tell apart.
	{"GET /datastores/{a}/{b}", access.Viewer, "", (*call).showVersionsOrVersion},
	{"GET /datastores/{datastore}/versions/{version}", access.Viewer, "", (*call).showVersion},
	{"GET /datastores/{datastore}/versions/{version}/flavors", access.Viewer, "", (*call).listVersionFlavors},
	{"GET /flavors", access.Viewer, "", (*call).listFlavors},
	{"GET /flavors/{id}", access.Viewer, "", (*call).showFlavor},
	{"GET /limits", access.Viewer, "", (*call).listLimits},

	{"GET /mgmt/instances", access.Admin, "", (*call).listAllInstances},
	{"GET /mgmt/instances/{id}", access.Admin, "", (*call).showAnyInstance},
	{"POST /mgmt/instances/{id}/action", access.Admin, "instance.action", (*call).actOnAnyInstance},
	{"GET /mgmt/quotas/{project}", access.Admin, "", (*call).showQuotas},
	{"PUT /mgmt/quotas/{project}", access.Admin, "quota.update", (*call).updateQuotas},

	{"POST /instances/{id}/databases", access.Operator, "database.create", unsupportedOn("Databases are made and deleted in CouchDB itself.")},
	{"DELETE /instances/{id}/databases/{name}", access.Operator, "database.delete", unsupportedOn("Databases are made and deleted in CouchDB itself.")},
}

// foreign is what Trove has and we don't, with everything below it.
var foreign = []struct{ path, message string }{
	{"/instances/{id}/users", "Users are managed in CouchDB itself."},
	{"/instances/{id}/root", "Administrators are managed in CouchDB itself."},
	{"/instances/{id}/configuration", "CouchDB's configuration is managed in CouchDB itself."},
	{"/instances/{id}/modules", "Modules are not supported."},
	{"/instances/{id}/log", "Logs of instances are not supported."},
	{"/instances/{id}/metadata", "Metadata of instances is not supported."},
	{"/configurations", "Configuration groups are not supported."},
	{"/clusters", "Clusters are not supported: each node is an instance."},
	{"/modules", "Modules are not supported."},
	{"/volume-types", "Volume types are not supported."},
	{"/security-groups", "Security groups are not supported."},
	{"/security-group-rules", "Security groups are not supported."},
	{"/mgmt/instances/{id}/root", "Administrators are managed in CouchDB itself."},
	{"/mgmt/clusters", "Clusters are not supported: each node is an instance."},
	{"/mgmt/configurations", "Configuration groups are not supported."},
	{"/mgmt/datastores", "Datastore versions are what CouchDB's are, and can't be changed."},
	{"/mgmt/datastore-versions", "Datastore versions are what CouchDB's are, and can't be changed."},
	{"/mgmt/hosts", "Hosts are not supported."},
	{"/mgmt/accounts", "Accounts are not supported."},
	{"/mgmt/storage", "Storage devices are not supported."},
}

// New returns the API. Its paths are /, /v1.0/... and /auth/v1.0.
func New(o Options) http.Handler {
	if o.Region == "" {
		o.Region = "RegionOne"
	}
	o.URL = strings.TrimSuffix(o.URL, "/")
	a := &service{Options: o, routes: httpd.Routes[*call]{Refuse: refuse}}
	for _, r := range routes {
		method, p, _ := strings.Cut(r.pattern, " ")
		a.routes.Handle(method+" /v1.0/{t}"+p, r.serve)
	}
	for _, f := range foreign {
		do := unsupported(f.message)
		if strings.HasPrefix(f.path, "/instances/{id}/") {
			do = unsupportedOn(f.message)
		}
		to := route{f.path, access.Viewer, "unsupported", do}
		a.routes.Handle("/v1.0/{t}"+f.path, to.serve)
		a.routes.Handle("/v1.0/{t}"+f.path+"/{rest...}", to.serve)
	}
	return a
}

// ServeHTTP lets nobody into a project's paths without a token for that project, not
// even to learn which paths there are, and nobody at all before the catalog is read.
func (a *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := r.URL.EscapedPath()
	if p == "/" || p == "/v1.0" || p == "/v1.0/" {
		a.versions(w, r, p == "/")
		return
	}
	if err := a.Server.Loaded(); err != nil {
		w.Header().Set("Retry-After", "1")
		a.fault(w, r, err)
		return
	}
	switch {
	case p == "/auth/v1.0":
		a.logIn(w, r)
	case strings.HasPrefix(p, "/v1.0/"):
		a.project(w, r)
	default:
		a.fault(w, r, notFound)
	}
}

// project serves the paths of a project.
func (a *service) project(w http.ResponseWriter, r *http.Request) {
	who, err := a.Checker.Check(r.Context(), access.TokenOf(r))
	if err == nil {
		project, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1.0/"), "/")
		who, err = who.For(project)
	}
	if err != nil {
		a.fault(w, r, err)
		return
	}
	log, allowed := api.Admit(r, who, a.Callers)
	if !allowed.OK {
		TooMany(w, r, allowed)
		return
	}
	a.routes.Serve(w, r, &call{service: a, who: who, allowed: allowed, log: log})
}

// serve is what all routes have in common.
func (to route) serve(w http.ResponseWriter, r *http.Request, c *call) {
	c.r, c.log.Action, c.log.Target = r, to.action, r.PathValue("id")
	changes := r.Method != http.MethodGet && r.Method != http.MethodHead
	if !c.who.May(to.needs) || changes && !c.who.May(access.Operator) {
		refuse(w, http.StatusForbidden, "The role "+c.who.Role.String()+" does not allow this.")
		return
	}
	status, body, err := to.do(c)
	if err == nil {
		err = httpd.SendJSON(w, status, body)
	}
	if err != nil {
		c.fault(w, r, err)
	}
}

type link struct {
	Rel  string `json:"rel"`
	Href string `json:"href"`
}

// base is what links begin with.
func (a *service) base(r *http.Request) string {
	switch {
	case a.URL != "":
		return a.URL
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// links are those of an instance, flavor, datastore or version; Trove's bookmark has no
// version in its path.
func (c *call) links(of ...string) []link {
	p := strings.Join(escape(of), "/")
	return []link{
		{"self", c.base(c.r) + "/v1.0/" + url.PathEscape(c.who.Project) + "/" + p},
		{"bookmark", c.base(c.r) + "/" + p},
	}
}

func escape(segments []string) []string {
	out := make([]string, len(segments))
	for i, s := range segments {
		out[i] = url.PathEscape(s)
	}
	return out
}

// unsupportedOn is unsupported of an instance. As in Trove it is said first if that isn't
// there, or is busy: who waits for it asks again, and learns what is not to be had only
// from one that is free.
func unsupportedOn(message string) func(*call) (int, any, error) {
	return func(c *call) (int, any, error) {
		id, err := api.ID(c.r)
		if err != nil {
			return 0, nil, err
		}
		find := c.Server.Idle
		if c.r.Method == http.MethodGet || c.r.Method == http.MethodHead {
			find = c.Server.Instance
		}
		if _, err := find(c.r.Context(), c.who, id); err != nil {
			return 0, nil, err
		}
		return unsupported(message)(c)
	}
}

func unsupported(message string) func(*call) (int, any, error) {
	return func(*call) (int, any, error) {
		return 0, nil, api.Refuse(http.StatusNotImplemented, message)
	}
}
