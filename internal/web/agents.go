package web

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/server"
)

var agentRoutes = []route{
	{"GET /agents", access.Viewer, "", (*call).agentsPage},
	{"GET /agents/join", access.Operator, "", (*call).joinPage},
	{"POST /agents/join", access.Operator, "join_token.create", (*call).makeJoin},
	{"POST /agents/join/{id}/revoke", access.Operator, "join_token.revoke", (*call).revokeJoin},
	{"GET /agents/{id}/remove", access.Admin, "", (*call).askRemoveAgent},
	{"POST /agents/{id}/remove", access.Admin, "agent.remove", (*call).removeAgent},
	{"GET /repositories", access.Viewer, "", (*call).repositoriesPage},
}

// agents are those that the caller sees, by name.
func (c *call) agents() []server.AgentInfo {
	return slices.DeleteFunc(c.o.Server.Agents(), func(a server.AgentInfo) bool { return !c.all() && a.Project != c.who.Project })
}

type agentRow struct {
	server.AgentInfo
	Pill      pill
	Instances []string
	// Accept is what its node lets a server write there, AcceptNone what stands there if that is nothing, and AcceptHow how more
	// is allowed.
	Accept                []string
	AcceptNone, AcceptHow string
}

// accepts puts into words what an agent's node accepts.
func (a *agentRow) accepts() {
	restores, writes := a.AgentInfo.Accepts()
	if restores == nil && writes == nil {
		a.AcceptNone = "it doesn’t say"
		return
	}
	a.AcceptNone = "no restores, no writes"
	var closed, what []string
	for _, x := range []struct {
		is            *bool
		what, setting string
	}{{restores, "restores", "accept_restores"}, {writes, "writes", "accept_writes"}} {
		switch {
		case x.is == nil:
		case *x.is:
			a.Accept = append(a.Accept, x.what)
		default:
			closed, what = append(closed, x.setting+": true"), append(what, x.what)
		}
	}
	if len(closed) > 0 {
		a.AcceptHow = strings.Join(closed, " and ") + " in its slipcover.yml would allow " + strings.Join(what, " and ")
	}
}

type agentsPage struct {
	Rows   []agentRow
	Pager  pager
	Silent int
	Joins  []access.Join // that are still good
	Takes  bool          // agents of other machines can join
}

func (c *call) agentsPage() (*answer, error) {
	p := agentsPage{Takes: c.o.NATSURL != ""}
	instances := map[string][]string{}
	for _, i := range c.o.Server.Instances(c.who, c.all()) {
		instances[i.Agent] = append(instances[i.Agent], i.Name)
	}
	var all []agentRow
	for _, a := range c.agents() {
		row := agentRow{AgentInfo: a, Pill: pill{"ok", "Online"}, Instances: instances[a.ID]}
		row.accepts()
		if !a.Online {
			row.Pill = pill{"late", "Silent"}
			p.Silent++
		}
		all = append(all, row)
	}
	slices.SortStableFunc(all, func(a, b agentRow) int { // silent ones first
		switch {
		case a.Online == b.Online:
			return strings.Compare(a.Name, b.Name)
		case a.Online:
			return 1
		}
		return -1
	})
	p.Rows, p.Pager = paged(c, all, func(a agentRow) string {
		return strings.Join([]string{a.Name, a.Hello.Host, a.Hello.Address, a.Hello.Repository.URL, a.Pill.Text, a.ID}, " ")
	})
	if c.who.May(access.Operator) {
		joins, err := c.goodJoins()
		if err != nil {
			return nil, err
		}
		p.Joins = joins
	}
	return c.livePage("Agents", "agents", "agents.live", p), nil
}

func (c *call) goodJoins() ([]access.Join, error) {
	project := c.who.Project
	if c.all() {
		project = ""
	}
	list, err := c.o.Tokens.ListJoins(c.r.Context(), project)
	return slices.DeleteFunc(list, func(j access.Join) bool { return !j.Used.IsZero() || !c.now().Before(j.Expires) }), err
}

// joinForm is what a join asks, and what it gives.
type joinForm struct {
	Name    string
	Project string
	Problem string
	Command string // to paste on the node; "" before there is one
	Until   time.Time
	Takes   bool
	Here    bool // the command names this machine by an address that only it has
	Joined  *joined
}

// joined is the node that was waited for.
type joined struct{ Instance, Name string }

// waits reports whether a node of a name is here, and so need not be waited for.
func (c *call) joined(name string) *joined {
	for _, a := range c.agents() {
		if a.Name != name || !a.Online {
			continue
		}
		for _, i := range c.o.Server.Instances(c.who, c.all()) {
			if i.Agent == a.ID && !i.Made {
				return &joined{i.ID, i.Name}
			}
		}
	}
	return nil
}

func (c *call) joinForm() joinForm {
	return joinForm{Name: strings.TrimSpace(c.r.FormValue("name")), Project: c.who.Project, Takes: c.o.NATSURL != ""}
}

func (c *call) joinPage() (*answer, error) {
	f := c.joinForm()
	if f.Name != "" {
		f.Joined = c.joined(f.Name)
	}
	if f.Joined == nil && !streams(c.r) { // there is nothing to wait for
		return c.page("Join a node", "join", f), nil
	}
	return c.livePage("Join a node", "join", "join.live", f), nil
}

// makeJoin makes a join token, which is shown once: in the answer to the form.
func (c *call) makeJoin() (*answer, error) {
	f := c.joinForm()
	again := func(problem string) (*answer, error) {
		f.Problem = problem
		return c.again("Join a node", "join", f), nil
	}
	c.log.Target = f.Name
	switch {
	case !f.Takes:
		return again("This server takes no agents of other machines: give it the setting nats_listen, or nats_url.")
	case !manifest.ValidInstance(f.Name):
		return again("The node needs a name of 1 to 63 letters, digits, dots, underscores and hyphens, the first a letter or digit.")
	}
	j := access.Join{Agent: f.Name, Project: c.who.Project, ByAdmin: c.who.May(access.Admin), CreatedBy: c.who.User}
	if err := c.o.Server.MayJoin(j.Agent, j.Project, j.ByAdmin); err != nil {
		if problem, ok := theirs(err); ok {
			return again(problem)
		}
		return nil, err
	}
	j, secret, err := c.o.Tokens.CreateJoin(c.r.Context(), j)
	if err != nil {
		return nil, err
	}
	c.log.Target = j.ID
	at, here := c.address()
	f.Command = "sudo slipcover agent --server-url " + at
	if strings.HasPrefix(at, "https:") && c.o.Fingerprint != "" {
		f.Command += " --ca-fingerprint " + c.o.Fingerprint
	}
	f.Command += " --join " + secret.Reveal()
	f.Until, f.Here = j.Expires, here
	a := c.livePage("Join a node", "join", "join.live", f)
	a.view.Stream = "/agents/join?name=" + url.QueryEscape(f.Name)
	return a, nil
}

// address is where nodes reach the server, and whether only this machine does.
func (c *call) address() (at string, here bool) {
	if at = c.o.URL; at == "" {
		at = "http://" + c.r.Host
		if c.r.TLS != nil {
			at = "https://" + c.r.Host
		}
	}
	u, err := url.Parse(at)
	return at, err == nil && (u.Hostname() == "localhost" || strings.HasPrefix(u.Hostname(), "127.") || u.Hostname() == "::1")
}

func (c *call) revokeJoin() (*answer, error) {
	project := c.who.Project
	if c.all() {
		project = ""
	}
	if err := c.o.Tokens.RevokeJoin(c.r.Context(), project, c.r.PathValue("id")); err != nil {
		return nil, noToken(err, c.r.PathValue("id"))
	}
	return c.see("/agents", "The join token was revoked."), nil
}

type removePage struct {
	server.AgentInfo
	Confirm confirm
}

func (c *call) findAgent() (*server.AgentInfo, error) {
	for _, a := range c.agents() {
		if a.ID == c.r.PathValue("id") {
			return &a, nil
		}
	}
	return nil, api.NoResource(c.r.PathValue("id"))
}

func (c *call) removal(a *server.AgentInfo) removePage {
	p := removePage{AgentInfo: *a}
	n := 0
	for _, i := range c.o.Server.Instances(c.who, true) {
		if i.Agent == a.ID {
			n++
		}
	}
	p.Confirm = confirm{Action: pathOf("agents", a.ID, "remove"), Back: "/agents", Word: a.Name, Do: "Remove agent",
		Head: "The agent " + a.Name + " is removed: what it has for logging in is worth nothing from then on.",
		Points: []point{
			{"warn", "warn", plural(n, "instance is", "instances are") + " let go,", "with their schedules. Nothing of them is touched, and a CouchDB that Slipcover made goes on."},
			{"ok", "ok", "Backups stay.", "They are in the repository and in this list."},
			{"info", "info", "It can join again", "by a new join token of the same name; then its instance has the same id."},
		}}
	return p
}

func (c *call) askRemoveAgent() (*answer, error) {
	a, err := c.findAgent()
	if err != nil {
		return nil, err
	}
	return c.page("Remove agent", "agent-remove", c.removal(a)), nil
}

func (c *call) removeAgent() (*answer, error) {
	a, err := c.findAgent()
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(c.r.FormValue("word")) != a.Name {
		p := c.removal(a)
		p.Confirm.Wrong = "That is not the agent's name. Nothing was removed."
		return c.again("Remove agent", "agent-remove", p), nil
	}
	if err := c.o.Server.RemoveAgent(c.r.Context(), a.ID); err != nil {
		return nil, err
	}
	return c.see("/agents", "The agent "+a.Name+" was removed."), nil
}

// repositoryRow is a repository as agents and backups tell of it.
type repositoryRow struct {
	URL     string
	Storage string
	Agents  []string
	Backups int
	Stored  int64
	Newest  time.Time
}

type repositoriesPage struct {
	Rows  []repositoryRow
	Pager pager
	Rooms []roomRow
}

func (c *call) repositoriesPage() (*answer, error) {
	rows := c.repositories()
	var p repositoriesPage
	p.Rows, p.Pager = paged(c, rows, func(r repositoryRow) string { return r.URL + " " + r.Storage + " " + strings.Join(r.Agents, " ") })
	p.Rooms = c.rooms()
	return c.page("Repositories", "repositories", p), nil
}

func noToken(err error, id string) error {
	if errors.Is(err, access.ErrNoToken) {
		return &api.Refusal{Status: http.StatusNotFound, Message: "There is no token " + id + "."}
	}
	return err
}
