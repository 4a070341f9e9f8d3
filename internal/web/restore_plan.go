package web

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/topology"
	"github.com/slipcover/slipcover/internal/words"
)

// place is somewhere that a state can go.
type place struct {
	Value, Short string // in the address, and in the list of steps
	Name, Text   string
	Why          string // it is closed
	Command      string // that does it nevertheless
	To, ToText   string // where the reader should rather go
	Chosen       bool
}

// placeFields is what belongs to a place, in the address: name, agent and volume of new; nodename and nodeagent, one of each for
// each node, of onto; into and as of beside.
type placeFields struct {
	Name, Agent, Volume string
	Needs               int // GB
	Agents              []server.AgentInfo
	Into, As            string
	Targets             []ofChoice
	Nodes               []nodeField
	Onto                []ontoAgent
}

// nodeField is where what was a node comes back.
type nodeField struct{ Old, Name, Agent string }

// ontoAgent is one that may be chosen for a node.
type ontoAgent struct {
	Name, Text string
	Why        string // it can't be
}

// restorePlan is what will be done and what that means.
type restorePlan struct {
	Rows    []pair
	Points  []point
	Refused string // nothing can be begun
	Text    string // as topology.Parse reads it; "" of a new instance
	Cluster string // of the text
	Agents  []pair // of the plan's nodes
	Paste   bool   // the reader writes the plan
	Typed   string // NODE=AGENT lines, of that
	Head    string // of the confirmation
	Word    string
	WordOf  string
	Do      string
	Replace bool // something living goes out of its place
	Wrong   string
	// Made is when it was made, and Until for how long it can be confirmed; Backup is the id of the one that a new instance is made of.
	Made, Until time.Time
	Backup      string
	// Stale says that another one was confirmed than this, and Changed what is otherwise in this one.
	Stale   string
	Changed []string
}

// planFor is how long a plan can be confirmed; then it is made anew.
const planFor = 15 * time.Minute

// Lines are what a plan says, as far as it matters whether it still says so.
func (p *restorePlan) Lines() (out []string) {
	for _, r := range p.Rows {
		out = append(out, r.Name+": "+r.Value)
	}
	for _, x := range p.Points {
		if (x.Level == "warn" || x.Level == "bad") && !strings.Contains(x.Head, changesLeave) { // which grows by itself
			out = append(out, x.Head)
		}
	}
	if p.Refused != "" {
		out = append(out, p.Refused)
	}
	return out
}

// made sets when a plan was made.
func (p *restorePlan) made(at time.Time) { p.Made, p.Until = at, at.Add(planFor) }

// confirmed holds the plan that a form confirms against the one that would be made now, and reports whether it still holds.
func (c *call) confirmed(p *restorePlan) bool {
	now := c.now()
	p.made(now)
	seconds, err := strconv.ParseInt(c.r.PostFormValue("made"), 10, 64)
	made := time.Unix(seconds, 0)
	switch {
	case err != nil || made.After(now.Add(time.Minute)) || made.Add(planFor).Before(now):
		p.Stale = "The plan was older than " + Duration(planFor) + " and was made anew. Nothing was begun."
	case p.Backup != c.r.PostFormValue("backup"):
		p.Stale = "Another backup is the newest by now, so the plan was made anew. Nothing was begun."
	default:
		p.made(made)
		return true
	}
	seen, is := c.r.PostForm["seen"], p.Lines()
	for _, line := range is {
		if !slices.Contains(seen, line) {
			p.Changed = append(p.Changed, "Now: "+line)
		}
	}
	for _, line := range seen[:min(len(seen), 50)] {
		if !slices.Contains(is, line) {
			p.Changed = append(p.Changed, "No longer: "+line)
		}
	}
	return false
}

func topologyID(b *job.Backup) manifest.BackupID { return manifest.BackupID(b.RepoID) }

// fillWhere says where the state can go, and makes the plan if that was chosen.
func (c *call) fillWhere(w *wizard) {
	o, v := w.origin, w.values
	w.Keep = w.keep("where", "name", "agent", "volume", "into", "as", "nodename", "nodeagent")
	w.Fields = placeFields{Name: strings.TrimSpace(v.Get("name")), Agent: v.Get("agent"), Volume: strings.TrimSpace(v.Get("volume")), Into: v.Get("into"), As: strings.TrimSpace(v.Get("as"))}
	switch {
	case w.What == "db":
		w.Where = []place{c.placeBeside(w), c.placePlace(w)}
	case o.Cluster != nil:
		w.Where = []place{c.placeOnto(w), {Value: "plan", Short: "by a plan", Name: "By a plan of your own", Text: "on more or fewer nodes, with other copies or zones"}, c.placePlace(w),
			{Value: "new", Name: "As a new instance", Why: "A new instance is one node. Choose one of the cluster’s instances for that."}}
	default:
		w.Where = []place{c.placeNew(w), c.placeOnto(w), c.placePlace(w)}
	}
	for n := range w.Where {
		if p := &w.Where[n]; p.Value == v.Get("where") && p.Why == "" {
			p.Chosen, w.Step = true, 4
			switch p.Value {
			case "new":
				w.Plan = c.planNew(w)
			case "onto":
				w.Plan = c.planOnto(w)
			case "beside":
				w.Plan = c.planBeside(w)
			case "place":
				w.Plan = c.planPlace(w)
			case "plan": // which has no end: the reader writes it
				w.Plan = &restorePlan{Paste: true, Do: "Restore by this plan", Head: "Restore by a plan of your own", WordOf: "the plan’s cluster"}
			}
		}
	}
	if w.Plan != nil {
		w.Plan.made(c.now())
	}
	if w.Plan == nil && v.Get("where") != "" {
		w.Wrong = "That is closed: choose another place."
	}
}

// plainWord is what a shell takes as it is.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9._/:+@-]+$`)

// shell is a text as one word of a command.
func shell(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// stateFlags name the state of an instance in a command.
func stateFlags(k *chosen, id string) string {
	of := " --instance " + shell(k.Backup.RepoName)
	if k.Moment {
		return of + " --at " + k.At.UTC().Format(time.RFC3339)
	}
	return of + id + shell(k.Backup.RepoID)
}

func (c *call) placeNew(w *wizard) place {
	k, b := w.State, w.State.Backup
	p := place{Value: "new", Short: "a new instance", Name: "As a new instance, beside it", Text: "nobody notices; look first, exchange later"}
	w.Fields.Needs = int((max(b.Size, 1)-1)>>30) + 1
	for _, a := range c.o.Server.Agents() {
		if a.Online && a.Hello.CanCreate && (!k.Moment || a.Hello.Moments) && (a.Project == b.Project || a.Project == "") && (b.Repository.Storage != "" || a.Hello.Repository.ID == b.Repository.ID) {
			w.Fields.Agents = append(w.Fields.Agents, a)
		}
	}
	ofMoments := ": give one the setting instances_dir"
	if k.Moment {
		ofMoments = " of moments" + ofMoments + ", or the newest version"
	}
	switch {
	case k.Moment && b.Repository.Storage != "":
		p.Why = "Its backup is in a caller’s own Swift account, and agents have moments out of their own repository alone. On a machine with the key:"
		p.Command = "slipcover create " + shell(w.Name+"-copy") + stateFlags(k, " --backup ")
		p.To, p.ToText = w.link("s", b.ID), "Take the backup before it"
	case len(w.Fields.Agents) == 0:
		p.Why = "No agent that is online and has that repository makes instances" + ofMoments + ". By hand:"
		p.Command = "slipcover create " + shell(w.Name+"-copy") + stateFlags(k, " --backup ")
	}
	return p
}

func (c *call) placeOnto(w *wizard) place {
	o, k := w.origin, w.State
	p := place{Value: "onto", Short: "onto other nodes", Name: "Onto other nodes, by their agents", Text: "as many as there were; all together"}
	if o.Cluster == nil {
		p.Short, p.Name, p.Text = "onto another node", "Onto another node, by its agent", "a machine on which no CouchDB runs; it takes the place of this one"
	}
	p.Why = planWhy(o, k)
	if o.Gone && p.Why != "" && o.Cluster == nil {
		p.Command = "slipcover restore" + stateFlags(k, " ") + " --to /opt/couchdb/data"
	}
	if o.In != "" && p.Why == "" {
		p.Why = w.Name + " is one node of a cluster: with its files alone the others’ ranges are missing."
		p.To, p.ToText = w.link("of", o.In, "s", "newest"), "Restore the cluster"
	}
	for _, a := range c.o.Server.Agents() {
		if a.Project != o.who.Project {
			continue
		}
		w.Fields.Onto = append(w.Fields.Onto, c.ontoAgent(&a, k))
	}
	if p.Why == "" && !slices.ContainsFunc(w.Fields.Onto, func(a ontoAgent) bool { return a.Why == "" }) {
		p.Why = "No agent can take it: "
		var why []string
		for _, a := range w.Fields.Onto {
			why = append(why, a.Name+": "+a.Why)
		}
		p.Why += strings.Join(why[:min(len(why), 5)], "; ") + ". Stop CouchDB there or join a machine, then this opens by itself."
	}
	return p
}

// planWhy says why a state can't be restored by a plan; "" if it can.
func planWhy(o *origin, k *chosen) string {
	for _, b := range k.list {
		if b.Repository.Storage != "" {
			return "Its backups are in a caller’s own Swift account, and agents restore by plans out of their own repository alone."
		}
	}
	for _, b := range k.Backups {
		if b.Node == "" {
			if o.Gone {
				return o.Name + " is gone here, and with its agent what its node was called. Join a machine under the name " + o.Name + ", or, on one with the key:"
			}
			return "The agent of " + o.Name + " doesn’t say what its node is called: give it the setting node_name."
		}
	}
	return ""
}

func (c *call) ontoAgent(a *server.AgentInfo, k *chosen) ontoAgent {
	out := ontoAgent{Name: a.Name, Text: a.Name}
	running := false
	for _, s := range a.Hello.Instances {
		running = running || s.Up && !c.o.Server.IsMade(s.Instance)
	}
	switch {
	case !a.Online:
		out.Why = "it is silent"
	case a.RefusesRestores(false) != "":
		out.Why = "it " + a.RefusesRestores(false)
	case running:
		out.Why = "CouchDB runs there"
	case a.Hello.Repository.ID != k.list[0].Repository.ID:
		out.Why = "it has another repository"
	}
	if out.Why != "" {
		out.Text += " (" + out.Why + ")"
	}
	return out
}

// rows are those that all plans have.
func (w *wizard) rows(c *call, into string) []pair {
	k := w.State
	what := "All of the instance " + w.Name
	switch {
	case w.What == "db":
		what = "The database " + w.Database + " of " + w.Name + ", with design documents, local documents and its security object"
	case w.origin.Cluster != nil:
		what = "All of the cluster " + w.Name
	}
	repository := ""
	for _, b := range k.list {
		if u := cmp.Or(b.Repository.URL, b.Repository.Storage); !strings.Contains(repository, u) {
			repository += " " + u
		}
	}
	from := k.Words
	if k.Moment {
		from = "the newest backups before it and what was shipped"
		if k.Backup != nil {
			from = "the backup of " + when(k.Backup.MadeAt(), c.now(), c.set.zone) + " and what was shipped behind it"
		}
	}
	asOf := k.At.In(c.set.zone).Format("Mon 2 Jan 2006, 15:04:05")
	if k.Moment {
		asOf += ", exact to the second"
	}
	rows := []pair{{"Restore", what}, {"As of", asOf}, {"From", from + ", in" + cmp.Or(repository, " the agents’ repository")}, {"Into", into}}
	if k.Size > 0 && w.What != "db" {
		rows = append(rows, pair{"Needs", Bytes(k.Size) + " in all, by the backups"})
	}
	return rows
}

// common are the consequences that all plans have: those that need thought first.
func (w *wizard) common(c *call) (out []point) {
	k := w.State
	for _, why := range k.Lacking {
		out = append(out, point{"warn", "warn", "Not every node comes back.", why + ". What only it held is not restored."})
	}
	if k.Note != "" {
		out = append(out, point{"warn", "warn", "It is not to the second.", k.Note})
	}
	if k.Damage > 0 {
		out = append(out, point{"warn", "damaged", "The backup holds damage of its source: " + plural(k.Damage, "finding", "findings") + ".", "What could not be read there is not in it; all else is."})
	}
	if !k.At.IsZero() && w.values.Get("where") != "place" { // which says more of it
		out = append(out, point{"info", "info", "What was written in the " + short(c.now().Sub(k.At)) + " since then is not in it.", "Single documents of later moments can be brought back afterwards."})
	}
	bad, good := "", 0
	for _, b := range k.list {
		if b.Proof != nil && !b.Proof.OK {
			bad = b.Proof.Problem
		} else if b.Proof != nil {
			good++
		}
	}
	switch {
	case bad != "":
		out = append([]point{{"bad", "bad", "A restore test of this backup failed.", words.UpperFirst(strings.TrimSuffix(bad, ".")) + ". Take another one."}}, out...)
	case k.Moment:
	case good == len(k.list):
		out = append(out, point{"ok", "proven", "It was proven by a restore.", ""})
	default:
		out = append(out, point{"info", "info", "It was not proven by a restore.", "“Prove now” on the page of the backup tries it without touching anything."})
	}
	return out
}

func (c *call) planNew(w *wizard) *restorePlan {
	f, k, b := &w.Fields, w.State, w.State.Backup
	f.Name = cmp.Or(f.Name, w.Name+"-copy")
	p := &restorePlan{Backup: b.ID, Do: "Restore to a new instance", Word: f.Name, WordOf: "the new instance’s name", Head: "Confirm: make the instance " + f.Name}
	free, on := int64(-1), ""
	for _, a := range f.Agents {
		if (f.Agent == "" || f.Agent == a.ID) && a.Hello.FreeBytes > free {
			free, on = a.Hello.FreeBytes, a.Name
		}
	}
	volume := f.Needs
	if f.Volume != "" {
		volume, _ = strconv.Atoi(f.Volume)
	}
	switch {
	case on == "":
		p.Refused = "The agent that was chosen makes no instances now: choose another one."
	case !words.IsName(f.Name, 255):
		p.Refused = "The new instance needs a name of 1 to 255 characters in one line."
	case volume < 1 || volume > 1<<20:
		p.Refused = "The volume is a whole number of GB, or empty for what the backup needs."
	case volume < f.Needs:
		p.Refused = fmt.Sprintf("The backup needs %d GB, and the volume has %d.", f.Needs, volume)
	case b.Size > free:
		p.Refused = "Refused before anything was written. " + Bytes(b.Size) + " needed on " + on + ", " + Bytes(free) + " free. Free " + Bytes(b.Size-free) + " there, or choose another agent."
	}
	p.Rows = w.rows(c, "A new instance, "+f.Name+", on "+on+", which has "+Bytes(max(free, 0))+" free")
	p.Points = append(w.common(c),
		c.replicationsPoint(w, "new"),
		point{"info", "info", "Its password is in the file admin-password", "in its directory there; its address is on its page."},
		point{"ok", "ok", w.Name + " stays as it is.", "A CouchDB of its own is made beside it; no replication and no client notices."},
		point{"ok", "ok", "It can be cancelled", "until it is done. What is there then is a failed instance, which you delete to free its space."})
	if k.Damage == 0 && p.Refused == "" {
		p.Points = append(p.Points, point{"ok", "ok", "There is room.", Bytes(b.Size) + " of " + Bytes(free) + "."})
	}
	return p
}

// text makes the plan of the state on nodes of some names.
func (w *wizard) text(p *restorePlan, old, names []string) {
	plan := topology.New(w.Name, w.State.Backups, old, names)
	if w.State.Moment {
		plan.At = w.State.At.UTC().Truncate(time.Millisecond)
	}
	p.Cluster = plan.Cluster
	err := plan.Check()
	var text []byte
	if err == nil {
		text, err = plan.YAML()
	}
	if err != nil && p.Refused == "" {
		p.Refused = words.UpperFirst(err.Error()) + "."
	}
	p.Text = string(text)
}

func (c *call) planOnto(w *wizard) *restorePlan {
	o, f := w.origin, &w.Fields
	p := &restorePlan{Do: "Restore onto these nodes", WordOf: "the name of what is restored", Word: w.Name, Head: "Confirm: restore " + w.Name + " onto other nodes"}
	old := o.nodes()
	names, taken := []string{}, map[string]bool{}
	for n, node := range old {
		at := nodeField{Old: node}
		if list := w.values["nodename"]; n < len(list) {
			at.Name = strings.TrimSpace(list[n])
		}
		if list := w.values["nodeagent"]; n < len(list) {
			at.Agent = list[n]
		}
		at.Name = cmp.Or(at.Name, node)
		f.Nodes = append(f.Nodes, at)
		names = append(names, at.Name)
		p.Agents = append(p.Agents, pair{at.Name, at.Agent})
		on := slices.IndexFunc(f.Onto, func(a ontoAgent) bool { return a.Name == at.Agent })
		switch {
		case p.Refused != "":
		case at.Agent == "":
			p.Refused = "Choose the agent that restores " + node + "."
		case on < 0:
			p.Refused = "There is no agent " + at.Agent + "."
		case f.Onto[on].Why != "":
			p.Refused = "Refused: " + at.Agent + " can’t take it: " + f.Onto[on].Why + "."
		case taken[at.Agent]:
			p.Refused = "The agent " + at.Agent + " can be one node only."
		}
		taken[at.Agent] = true
	}
	if p.Refused == "" || strings.HasPrefix(p.Refused, "Choose") {
		was := p.Refused
		w.text(p, old, names)
		p.Refused = cmp.Or(was, p.Refused)
	}
	p.Rows = w.rows(c, "The data directories of "+strings.Join(names, ", ")+", which must be missing or empty")
	p.Points = ontoPoints(append([]point{c.replicationsPoint(w, "onto")}, w.common(c)...))
	return p
}

func ontoPoints(common []point) []point {
	return append(append([]point{{"warn", "warn", "Every replication and phone starts over.", "The databases get a new history, so that none misses what changed since; what they hold that is newer, they bring back."},
		{"warn", "warn", "Keep them from the old nodes.", "Nodes that reach each other and have one Erlang cookie join, whatever their names: give the new ones another."}}, common...),
		point{"info", "info", "Each node’s own slipcover.yml decides:", "accept_restores, data_dir, repository and identity_file. What is not so is said before anything is written."},
		point{"info", "info", "CouchDB is not started.", "Start it on all nodes once all are restored; “slipcover restore-check” then tells whether each has what it should."},
		point{"ok", "ok", "Nothing is written until all nodes have looked:", "at their room, their data directory and the backups."})
}

// restoreTarget is a CouchDB that runs, into which a database can come.
type restoreTarget struct {
	key, name string
	agents    []pair // node and agent
	why       string // it can't
	keeps     string // why none can come in the place of another one
}

// targets are those of the origin's project.
func (c *call) targets(o *origin) (out []restoreTarget) {
	in := map[string]bool{}
	clusters := c.o.Server.Clusters(o.who, false)
	for n := range clusters {
		k := &clusters[n]
		t := restoreTarget{key: clusterKey(k), name: "the cluster " + k.Name, why: k.Unclear}
		for _, node := range k.Nodes {
			if node.Instance == nil {
				t.why = cmp.Or(t.why, "No instance here is its node "+node.Node+".")
				continue
			}
			in[node.Instance.ID] = true
			t.add(c, node.Node, node.Instance)
		}
		out = append(out, t)
	}
	for _, i := range c.o.Server.Instances(o.who, false) {
		if in[i.ID] || i.Made {
			continue
		}
		t := restoreTarget{key: i.ID, name: i.Name}
		t.add(c, c.nodeName(i), i)
		out = append(out, t)
	}
	return out
}

func (t *restoreTarget) add(c *call, node string, i *job.Instance) {
	s, a := c.seen(i)
	switch {
	case a == nil || !a.Online:
		t.why = cmp.Or(t.why, "The agent of "+i.Name+" is silent.")
	case node == "":
		t.why = cmp.Or(t.why, "The agent of "+i.Name+" doesn’t say what its node is called: give it the setting node_name.")
	case s == nil || !s.Up:
		t.why = cmp.Or(t.why, "CouchDB does not answer on "+i.Name+": all nodes must run.")
	case a.RefusesRestores(false) != "":
		t.why = cmp.Or(t.why, "The agent of "+i.Name+" "+a.RefusesRestores(false)+".")
	}
	if a != nil {
		if why := a.RefusesRestores(true); why != "" && a.Online {
			t.keeps = cmp.Or(t.keeps, "The agent of "+i.Name+" "+why)
		}
		t.agents = append(t.agents, pair{node, a.Name})
	}
}

func (c *call) placeBeside(w *wizard) place {
	o := w.origin
	p := place{Value: "beside", Short: "beside what is there", Name: "Into a running CouchDB, beside what is there", Text: "by files, with its indexes; there as a whole or not at all"}
	p.Why = planWhy(o, w.State)
	if o.In != "" && p.Why == "" {
		p.Why = w.Name + " is one node of a cluster, and has not every range of the database."
		p.To, p.ToText = w.link("of", o.In, "s", "newest"), "Take it out of the cluster"
	}
	open, own := 0, ""
	f := &w.Fields
	for _, t := range c.targets(o) {
		if t.key == o.Key {
			own = t.why
		}
		if t.why != "" {
			continue
		}
		open++
		if f.Into == "" && t.key == o.Key {
			f.Into = t.key
		}
		f.Targets = append(f.Targets, ofChoice{t.key, t.name, t.key == f.Into})
	}
	if p.Why == "" && open == 0 {
		p.Why = cmp.Or(own, "No CouchDB runs here that could take it.") + " Then this opens by itself."
	}
	return p
}

func (c *call) planBeside(w *wizard) *restorePlan {
	o, f, k := w.origin, &w.Fields, w.State
	if f.Into == "" && len(f.Targets) > 0 {
		f.Into, f.Targets[0].Chosen = f.Targets[0].Key, true
	}
	f.As = cmp.Or(f.As, w.Database+"-"+k.At.In(c.set.zone).Format("20060102"))
	p := &restorePlan{Do: "Restore beside", Word: f.As, WordOf: "the new database’s name", Head: "Confirm: make the database " + f.As}
	var to restoreTarget
	for _, t := range c.targets(o) {
		if t.key == f.Into {
			to = t
		}
	}
	switch {
	case to.key == "":
		p.Refused = "That CouchDB is not here any more: choose another one."
	case to.why != "":
		p.Refused = "Refused: " + to.why
	case strings.HasPrefix(f.As, "_"):
		p.Refused = f.As + " is a system database: bring it back over HTTP, by slipcover restore-db."
	case !shard.ValidDB(f.As):
		p.Refused = "CouchDB gives no database such a name."
	}
	var names []string
	for _, a := range to.agents {
		names = append(names, a.Name)
	}
	slices.Sort(names)
	p.Agents = to.agents
	old := o.nodes()
	if p.Refused == "" {
		w.text(p, old, names)
	}
	p.Rows = w.rows(c, "The database "+f.As+" of "+cmp.Or(to.name, "–")+", on "+strings.Join(names, ", "))
	p.Points = append(w.common(c),
		c.replicationsPoint(w, "beside"),
		point{"info", "info", "It has a new history.", "No phone knows it; whoever is pointed at it reads it from the start. Who may read it is as it was then."},
		point{"info", "info", "Each node’s own slipcover.yml decides:", "accept_restores, couch_user, repository and identity_file. What is not so is said before anything is written."},
		point{"ok", "ok", "CouchDB goes on running, and nothing that is there is touched.", "A database of that name is refused."},
		point{"ok", "ok", "It is there as a whole or not at all.", "Where a node fails before the map is written, the files go again on all."})
	return p
}

// startRestore begins what the page showed.
func (c *call) startRestore() (*answer, error) {
	w, _, err := c.wizard()
	if err != nil {
		return nil, err
	}
	if w.origin != nil {
		c.log.Target = w.origin.Key
	}
	if w.Plan == nil {
		w.Wrong = cmp.Or(w.Wrong, "Choose first what is restored, of when, and where to.")
		return c.again(w.title(), "restore", w), nil
	}
	p := w.Plan
	wrong := func(text string) (*answer, error) {
		p.Wrong = text
		return c.again(w.title(), "restore", w), nil
	}
	word := strings.TrimSpace(c.r.PostFormValue("word"))
	if !p.Paste && p.Refused == "" && !c.confirmed(p) {
		return wrong("")
	}
	if w.values.Get("where") == "new" {
		c.log.Action = "instance.create"
		switch {
		case p.Refused != "":
			return wrong("Nothing was begun.")
		case word != strings.TrimSpace(p.Word):
			return wrong("That is not " + p.WordOf + ". Nothing was begun.")
		}
		return c.startNew(w, wrong)
	}
	// browsers send the ends of lines as those of Windows
	q := server.RestoreRequest{Plan: strings.ReplaceAll(c.r.PostFormValue("plan"), "\r\n", "\n"), Agents: map[string]string{}, Replace: p.Replace}
	if p.Paste {
		p.Text, p.Typed = q.Plan, c.r.PostFormValue("agents")
		if text, err := c.readPasted(p, &q); text != "" || err != nil {
			return wrong(text)
		}
	} else {
		plan, err := topology.Parse(strings.NewReader(q.Plan))
		if err != nil || p.Refused != "" {
			return wrong("Nothing was begun.")
		}
		p.Text, p.Cluster = q.Plan, plan.Cluster // what the reader saw
		for _, a := range p.Agents {
			q.Agents[a.Name] = a.Value
		}
		if w.What == "db" {
			if q.DB = w.Database; !p.Replace {
				q.As = w.Fields.As
			}
		}
	}
	if p.Paste && word == "" { // he sees first what it means
		return wrong("")
	}
	if word != p.Word {
		return wrong("That is not " + p.WordOf + ". Nothing was begun.")
	}
	r, err := c.o.Server.StartRestore(c.r.Context(), w.origin.who, q)
	if problem, ok := theirs(err); ok {
		return wrong(problem)
	}
	if err != nil {
		return nil, err
	}
	c.log.Target = r.ID
	return c.see(pathOf("restores", r.ID), "The restore was begun."), nil
}

// readPasted reads a plan that the reader wrote, and which agent is which of its nodes. The sentence says what is wrong.
func (c *call) readPasted(p *restorePlan, q *server.RestoreRequest) (string, error) {
	plan, err := topology.Parse(strings.NewReader(q.Plan))
	if err != nil {
		text, _, _ := strings.Cut(err.Error(), "\n")
		return words.UpperFirst(text) + ".", nil
	}
	p.Cluster, p.Word = plan.Cluster, plan.Cluster
	for line := range strings.Lines(p.Typed) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		node, agent, ok := strings.Cut(line, "=")
		if !ok {
			return "Write each agent as NODE=AGENT, one a line.", nil
		}
		q.Agents[strings.TrimSpace(node)] = strings.TrimSpace(agent)
	}
	p.Rows = nil
	for _, b := range plan.Backups {
		p.Rows = append(p.Rows, pair{"From", b.Node + ": backup " + string(b.ID) + " of " + b.Instance})
	}
	if !plan.At.IsZero() {
		p.Rows = append(p.Rows, pair{"As of", c.second(plan.At)})
	}
	for _, n := range plan.Nodes {
		into := n.Name + ", by the agent " + cmp.Or(q.Agents[n.Name], "–")
		if n.As != "" {
			into += ", in the place of " + n.As
		}
		p.Rows = append(p.Rows, pair{"Into", into})
	}
	p.Points = ontoPoints([]point{{"warn", "warn", "Its replications go on", "as _replicator has them, as soon as CouchDB is started."}})
	return "", nil
}

func (c *call) startNew(w *wizard, wrong func(string) (*answer, error)) (*answer, error) {
	volume, _ := strconv.Atoi(w.Fields.Volume) // planNew has looked
	n := server.NewInstance{Name: w.Fields.Name, Flavor: "1", VolumeGB: volume, Backup: w.State.Backup.ID, Agent: w.Fields.Agent}
	if w.State.Moment {
		n.At = w.State.At
	}
	i, err := c.o.Server.CreateInstance(c.r.Context(), w.origin.who, n)
	if problem, ok := theirs(err); ok {
		return wrong(problem)
	}
	if err != nil {
		return nil, err
	}
	c.log.Target = i.ID
	return c.see(pathOf("jobs", i.Job), "The new instance "+i.Name+" is being made."), nil
}

// restoring is a restore by several agents, in words.
type restoring struct {
	*job.Restore
	What   string
	Pill   pill
	To     string
	Phases []phase
	Parts  []restoringPart
	Head   string // "31 % restored, about 23 min left"
	Lines  shownLog
	Cancel bool   // it can be cancelled, by the reader
	Closed bool   // it can't be, by nobody
	Stops  string // what cancelling leaves, or why it can't be cancelled; and what happens where a node fails
	Again  bool   // the same request goes on, or begins anew
	Progress
}

// phase is a step with how far it is: done, now or later.
type phase struct{ Class, Icon, Text string }

type restoringPart struct {
	job.RestoreNode
	Pill pill
	Progress
}

// restorings are the restores by several agents that the caller sees, the newest first: a few of them.
func (c *call) restorings() (out []*restoring) {
	for _, who := range c.callers() {
		for _, r := range c.o.Server.Restores(who) {
			out = append(out, c.restoring(r))
		}
	}
	slices.SortStableFunc(out, func(a, b *restoring) int { return b.Updated.Compare(a.Updated) })
	return out[:min(len(out), 5)]
}

// callers are the caller in each project that he sees.
func (c *call) callers() []*access.Caller {
	out := []*access.Caller{c.who}
	for _, i := range c.o.Server.Instances(c.who, c.all()) {
		if who, ok := c.own(i.Project); ok && !slices.ContainsFunc(out, func(o *access.Caller) bool { return o.Project == i.Project }) {
			out = append(out, who)
		}
	}
	return out
}

func whatRestore(r *job.Restore) string {
	switch {
	case r.Replace:
		return "Restore in place of " + cmp.Or(r.DB, r.Cluster)
	case r.DB == "":
		return "Restore of " + r.Cluster
	case r.As != r.DB:
		return "Restore of " + r.DB + " as " + r.As
	}
	return "Restore of " + r.DB
}

// stepWords names a step.
func stepWords(s job.Step) string {
	switch s {
	case job.StepCheck:
		return "looking whether it can be done"
	case job.StepFiles:
		return "copying files"
	case job.StepMap:
		return "writing the shard map"
	case job.StepAnswer:
		return "asking each node for it"
	case job.StepUndo:
		return "taking the files away again"
	}
	return string(s)
}

func (c *call) restoring(r *job.Restore) *restoring {
	v := &restoring{Restore: r, What: whatRestore(r), To: pathOf("restores", r.ID), Pill: pill{"run", "Running"}}
	switch {
	case r.State == job.Done && slices.ContainsFunc(r.Nodes, func(n job.RestoreNode) bool { return len(n.Problems) > 0 }):
		v.Pill = pill{"warn", "Done, with notes"}
	case r.State == job.Done:
		v.Pill = pill{"ok", "Done"}
	case r.WasCancelled():
		v.Pill = pill{"cancel", "Cancelled"}
	case r.State == job.Failed:
		v.Pill = pill{"bad", "Failed"}
	case r.Cancelled != "":
		v.Pill = pill{"run", "Being cancelled"}
	}
	why := server.CancellableRestore(r)
	v.Lines, v.Cancel, v.Closed = c.shownLog(r.Log), why == "" && c.who.May(access.Operator), why != ""
	v.Again = r.State == job.Failed && c.who.May(access.Operator)
	steps := []job.Step{job.StepCheck, job.StepFiles}
	switch {
	case r.Step == job.StepUndo:
		steps = append(steps, job.StepUndo)
	case r.DB != "":
		steps = append(steps, job.StepMap, job.StepAnswer)
	}
	at := slices.Index(steps, r.Step)
	for n, s := range steps {
		p := phase{"", "never", words.UpperFirst(stepWords(s))}
		switch {
		case n < at || r.State == job.Done:
			p.Class, p.Icon = "done", "ok"
		case n == at && r.State == job.Failed:
			p.Class, p.Icon = "now", "bad"
		case n == at:
			p.Class, p.Icon = "now", "run"
		}
		v.Phases = append(v.Phases, p)
	}
	jobs := map[string]*job.Job{}
	for _, j := range c.jobs() {
		jobs[j.ID] = j
	}
	sum := job.Job{State: job.Running, Created: c.now()}
	for _, n := range r.Nodes {
		part := restoringPart{RestoreNode: n, Pill: pill{"queued", "Waits for its agent"}}
		switch {
		case n.State == job.Running:
			part.Pill = pill{"run", "Running"}
		case n.State == job.Failed:
			part.Pill = pill{"bad", "Failed"}
		case n.State == job.Done && len(n.Problems) > 0:
			part.Pill = pill{"warn", plural(len(n.Problems), "problem", "problems")}
		case n.State == job.Done:
			part.Pill = pill{"ok", "Done"}
		}
		if j := jobs[n.Job]; j != nil {
			shown := *j
			shown.At, shown.State = n.At, n.State
			part.Progress = c.progress(&shown, n.Name)
			if j.Created.Before(sum.Created) {
				sum.Created = j.Created
			}
		}
		sum.At.Bytes, sum.At.BytesDone = sum.At.Bytes+n.At.Bytes, sum.At.BytesDone+n.At.BytesDone
		sum.At.Files, sum.At.FilesDone = sum.At.Files+n.At.Files, sum.At.FilesDone+n.At.FilesDone
		v.Parts = append(v.Parts, part)
	}
	switch r.State {
	case job.Running:
		v.Head = words.UpperFirst(stepWords(r.Step))
		if sum.At.Bytes > 0 || sum.At.Files > 0 {
			v.Progress = c.progress(&sum, v.What)
			v.Head += ", " + Number(v.Percent) + " %"
		}
		v.Stops = cmp.Or(why, restoreLeaves(r))
	case job.Done:
		v.Head = "All is restored"
	case job.Failed:
		if v.Head = "It failed"; r.WasCancelled() {
			v.Head = "It was cancelled"
		}
	}
	return v
}

// restoreLeaves is what is there after a restore by several agents was cancelled.
func restoreLeaves(r *job.Restore) string {
	switch {
	case r.Step == job.StepCheck:
		return "Nothing is written yet, and nothing will be if you cancel. It ends by itself if one node refuses."
	case r.DB != "":
		return "If you cancel, the files go again on all nodes, and nothing of the restored database is left; so it is too where a node fails. It can be cancelled until the shard map is written, which makes the database be there: nothing is taken back after that."
	}
	if r.Replace {
		return "If you cancel, what was restored by then stays in the nodes’ data directories, and what was there before in a directory beside each, with .before- and a time behind its name: the same restore goes on, or move that back. Between the two CouchDB has nothing to start on."
	}
	return "If you cancel, what was restored by then stays in the nodes’ data directories: the same restore goes on with it, or remove it there. A node that fails ends it the same way."
}

func (c *call) askCancelRestore() (*answer, error) {
	v, _, err := c.findRestoring()
	if err != nil {
		return nil, err
	}
	if !v.Cancel {
		return c.see(v.To, v.Stops), nil
	}
	return c.page("Cancel: "+v.What, "cancel-restore", v), nil
}

func (c *call) cancelRestore() (*answer, error) {
	v, who, err := c.findRestoring()
	if err != nil {
		return nil, err
	}
	_, err = c.o.Server.CancelRestore(c.r.Context(), who, v.ID)
	if problem, ok := theirs(err); ok {
		return c.see(v.To, problem), nil
	}
	if err != nil {
		return nil, err
	}
	return c.see(v.To, "It is being cancelled."), nil
}

func (c *call) findRestoring() (v *restoring, who *access.Caller, err error) {
	id, err := api.ID(c.r)
	if err != nil {
		return nil, nil, err
	}
	for _, who = range c.callers() {
		var r *job.Restore
		if r, err = c.o.Server.Restore(c.r.Context(), who, id); err == nil {
			return c.restoring(r), who, nil
		}
	}
	return nil, nil, err
}

func (c *call) restoringPage() (*answer, error) {
	v, _, err := c.findRestoring()
	if err != nil {
		return nil, err
	}
	title := v.What
	if v.Known {
		title = Number(v.Percent) + " %: " + title
	}
	return c.livePage(title, "restoring", "restoring.live", v), nil
}

// restoreAgain sends the same request again: it goes on where it was, or begins anew.
func (c *call) restoreAgain() (*answer, error) {
	v, who, err := c.findRestoring()
	if err != nil {
		return nil, err
	}
	q := server.RestoreRequest{Plan: v.Plan, Agents: map[string]string{}, DB: v.DB, Replace: v.Replace}
	if v.As != v.DB {
		q.As = v.As
	}
	for _, n := range v.Nodes {
		q.Agents[n.Name] = n.AgentName
	}
	_, err = c.o.Server.StartRestore(c.r.Context(), who, q)
	if problem, ok := theirs(err); ok {
		return c.see(v.To, problem), nil
	}
	if err != nil {
		return nil, err
	}
	return c.see(v.To, "It was begun again."), nil
}

// setPill is how a set of a cluster's backups is, and why it isn't whole.
func setPill(i *server.SetInfo) (pill, string) {
	var lacks []string
	for n := range i.Members {
		if why := i.Lacks(n); why != "" {
			lacks = append(lacks, i.Members[n].Node+": "+why)
		}
	}
	switch {
	case i.State == server.SetRunning:
		return pill{"run", "Being made"}, fmt.Sprintf("%d of %d nodes", i.Usable(), len(i.Members))
	case i.State == server.SetGoing:
		return pill{"queued", "Being deleted"}, ""
	case i.State == server.SetPartial:
		return pill{"warn", "Partial"}, strings.Join(lacks, "; ")
	case i.Proven():
		return pill{"proven", "Whole, proven"}, ""
	}
	return pill{"ok", "Whole"}, ""
}

func setSize(i *server.SetInfo) (n int64) {
	for _, b := range i.Backups {
		if b != nil {
			n += b.Size
		}
	}
	return n
}

// restoreOf is the wizard with an instance chosen; s is the state, "" if the reader is to choose it.
func restoreOf(id, s string) string {
	v := url.Values{"of": {id}}
	if s != "" {
		v.Set("s", s)
	}
	return "/restore?" + v.Encode()
}
