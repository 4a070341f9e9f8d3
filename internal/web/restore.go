package web

import (
	"cmp"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/topology"
)

// The restore wizard. All that was chosen is in the address, so that each step can be shared, reloaded and gone back to:
//
//	of        the id of an instance, or cluster/PROJECT/NAME
//	what      all, db or docs
//	database  of db and docs
//	s         the state: of an instance as stateIn reads it, of a cluster "newest", the id of a set or a time
//	where     new, onto or beside, and what belongs to it: see restore_plan.go
//	step      shows an earlier step again
//
// What is begun is what the page showed: the form that confirms it has the plan.

var restoreRoutes = []route{
	{"GET /restore", access.Operator, "", (*call).restorePage},
	{"POST /restore", access.Operator, "restore.start", (*call).startRestore},
	{"GET /restores/{id}", access.Viewer, "", (*call).restoringPage},
	{"POST /restores/{id}/again", access.Operator, "restore.start", (*call).restoreAgain},
	{"GET /restores/{id}/cancel", access.Operator, "", (*call).askCancelRestore},
	{"POST /restores/{id}/cancel", access.Operator, "restore.cancel", (*call).cancelRestore},
}

// wizard is what its page shows.
type wizard struct {
	Step  int // 1 what, 2 when, 3 where, 4 the plan
	Steps []wizardStep
	Keep  []pair // the choices, for forms
	Wrong string // with what was chosen in this step

	Of        []ofChoice
	What      string
	Database  string
	Databases []string // that the newest state has, as far as this server can say
	origin    *origin
	Name      string // of the origin
	Home      string // its page
	Newest    string // a link: the newest backup of each node of a cluster

	S     string
	Typed string
	State *chosen
	Line  *lineData
	Rows  []momentRow // backups or sets
	Pager pager

	Where  []place
	Fields placeFields
	Plan   *restorePlan
	Lately []*restoring

	values url.Values
}

// pair is a name with its value.
type pair struct{ Name, Value string }

// wizardStep is one in the list of them.
type wizardStep struct {
	N             int
	Text, To      string
	Done, Current bool
}

// ofChoice is what can be restored.
type ofChoice struct {
	Key, Name string
	Chosen    bool
}

// origin is what is restored: an instance, which may be gone, or a cluster.
type origin struct {
	Key, Name string
	ID        string          // of the instance; "" of a cluster
	Cluster   *server.Cluster // nil of an instance
	In        string          // the cluster that the instance is a node of; "" if it is alone
	Node      string          // Erlang's name of the instance's node; "" if its agent doesn't say
	Gone      bool            // the instance is; its backups are there
	repo      string          // its name in repositories; "" of a cluster
	who       *access.Caller
}

// nodes are the names of what was backed up together.
func (o *origin) nodes() []string {
	if o.Cluster == nil {
		return []string{o.Node}
	}
	out := make([]string, len(o.Cluster.Nodes))
	for n := range o.Cluster.Nodes {
		out[n] = o.Cluster.Nodes[n].Node
	}
	return out
}

func clusterKey(k *server.Cluster) string {
	return "cluster/" + url.PathEscape(k.Project) + "/" + url.PathEscape(k.Name)
}

// originOf finds what a key names.
func (c *call) originOf(key string) (*origin, error) {
	clusters := c.o.Server.Clusters(c.who, c.all())
	if rest, ok := strings.CutPrefix(key, "cluster/"); ok {
		for n := range clusters {
			k := &clusters[n]
			if clusterKey(k) != key {
				continue
			}
			who, ok := c.own(k.Project)
			if !ok {
				break
			}
			return &origin{Key: key, Name: k.Name, Cluster: k, who: who}, nil
		}
		return nil, api.NoResource(rest)
	}
	who, err := c.as(key)
	if err != nil {
		return nil, err
	}
	o := &origin{Key: key, ID: key, who: who}
	i, err := c.o.Server.Instance(c.r.Context(), who, key)
	if err != nil { // it may be gone: its backups count
		list, _ := c.o.Server.Backups(who, server.BackupFilter{Instance: key, Limit: 1})
		if len(list) == 0 || list[0].Instance != key {
			return nil, err
		}
		o.Name, o.Gone, o.repo = list[0].RepoName, true, list[0].RepoName
		return o, nil
	}
	o.Name, o.Node, o.repo = i.Name, c.nodeName(i), i.RepoName
	for n := range clusters {
		for _, node := range clusters[n].Nodes {
			if node.Instance != nil && node.Instance.ID == key {
				o.Node = node.Node
				if len(clusters[n].Nodes) > 1 {
					o.In = clusterKey(&clusters[n])
				}
			}
		}
	}
	return o, nil
}

// seen is what the agent of an instance says of its CouchDB.
func (c *call) seen(i *job.Instance) (*job.Seen, *server.AgentInfo) {
	for _, a := range c.o.Server.Agents() {
		if a.ID != i.Agent {
			continue
		}
		for n := range a.Hello.Instances {
			if s := &a.Hello.Instances[n]; s.Instance == i.ID || s.Instance == "" && !i.Made {
				return s, &a
			}
		}
		return nil, &a
	}
	return nil, nil
}

func (c *call) nodeName(i *job.Instance) string {
	if s, _ := c.seen(i); s != nil && s.Member != nil {
		return s.Member.Node
	}
	return ""
}

// chosen is the state that is restored.
type chosen struct {
	S       string
	Words   string    // "the backup of today 02:34"
	At      time.Time // what is restored is the state then
	Moment  bool      // out of what was shipped
	Backup  *job.Backup
	Backups []topology.Backup // of each node
	list    []*job.Backup     // the same
	Lacking []string          // why nodes come back from no backup
	Note    string
	Size    int64
	Damage  int
}

// usableOf are the backups of an instance that can be restored, the newest first.
func (c *call) usableOf(who *access.Caller, id string) []*job.Backup {
	list, _ := c.o.Server.Backups(who, server.BackupFilter{Instance: id, Limit: math.MaxInt32})
	list = slices.DeleteFunc(slices.Clone(list), func(b *job.Backup) bool { return b.Instance != id || !b.Status.Usable() })
	slices.SortStableFunc(list, func(a, b *job.Backup) int { return b.MadeAt().Compare(a.MadeAt()) })
	return list
}

// shippedAt reports whether a moment of an instance can be had to the second.
func (c *call) shippedAt(who *access.Caller, id string, at time.Time) bool {
	if m, err := c.reader.Moments(c.r.Context(), who, id, contents.MomentsQuery{From: at.Add(-time.Minute), To: at.Add(time.Minute)}); err == nil {
		for _, w := range m.Windows {
			if w.Kind == "shipped" && !at.Before(w.From) && !at.After(w.To) {
				return true
			}
		}
	}
	for _, st := range c.o.Server.Standings(who, false) {
		if s := st.Ship; st.ID == id && s != nil && s.Reported && !s.Window.IsZero() {
			return !at.Before(s.Window) && !at.After(s.Newest)
		}
	}
	return false
}

// pick finds the state that a text means. The sentence says why there is none.
func (c *call) pick(o *origin, text string) (*chosen, string, error) {
	if o.Cluster != nil {
		return c.pickCluster(o, text)
	}
	at, err := c.stateIn(text)
	if wrong, err := cannot(err); wrong != "" || err != nil {
		return nil, wrong, err
	}
	list := c.usableOf(o.who, o.ID)
	if len(list) == 0 {
		return nil, "Nothing of " + o.Name + " is stored yet that could be restored.", nil
	}
	k := &chosen{S: text}
	switch {
	case at.Backup == "latest" || at == states.State{}:
		k.Backup = list[0]
	case at.Backup != "":
		n := slices.IndexFunc(list, func(b *job.Backup) bool { return b.ID == at.Backup })
		if n < 0 {
			return nil, "That is no backup of " + o.Name + " that can be restored.", nil
		}
		k.Backup = list[n]
	case at.At.After(c.now()):
		return nil, "That is still to come.", nil
	default:
		list = slices.DeleteFunc(list, func(b *job.Backup) bool { return b.RepoName != o.repo }) // of another one that was taken in
		if len(list) == 0 {
			return nil, "Nothing is stored of that moment: the only backups here are of other instances, taken in.", nil
		}
		n := slices.IndexFunc(list, func(b *job.Backup) bool { return !b.MadeAt().After(at.At) })
		if n < 0 {
			return nil, "Nothing is stored of that moment: the first backup is of " + when(list[len(list)-1].MadeAt(), c.now(), c.set.zone) + ".", nil
		}
		k.Backup = list[n]
		if k.Moment = c.shippedAt(o.who, o.ID, at.At); !k.Moment {
			k.Note = "Nothing was shipped of " + c.second(at.At) + ", so it is the backup before it, " + short(at.At.Sub(k.Backup.MadeAt())) + " older."
		}
	}
	k.At = k.Backup.MadeAt()
	k.Words = "the backup of " + when(k.At, c.now(), c.set.zone)
	if k.Moment {
		k.At = at.At
		k.Words = c.second(k.At) + ", exact to the second"
	}
	k.add(o.Node, k.Backup)
	return k, "", nil
}

// second is a time to the second, in the reader's zone.
func (c *call) second(t time.Time) string { return t.In(c.set.zone).Format("Mon 2 Jan, 15:04:05") }

func (k *chosen) add(node string, b *job.Backup) {
	k.Backups = append(k.Backups, topology.Backup{Node: node, Instance: b.RepoName, ID: topologyID(b)})
	k.list = append(k.list, b)
	k.Size += b.Size
	k.Damage += b.Damage
}

func (c *call) pickCluster(o *origin, text string) (*chosen, string, error) {
	k := &chosen{S: text}
	if id, ok := api.ParseID(text); ok {
		set, err := c.o.Server.Set(c.r.Context(), o.who, id)
		if err != nil || set.Cluster != o.Name {
			return nil, "That is no set of the cluster " + o.Name + ".", nil
		}
		for n, m := range set.Members {
			if b := set.Backups[n]; b != nil && b.Status.Usable() {
				k.add(m.Node, b)
			} else {
				k.Lacking = append(k.Lacking, m.Node+": "+cmp.Or(set.Lacks(n), "its backup is being made"))
			}
		}
		k.Words, k.At = "the set "+set.Name, set.Created
		return k.orNothing(o)
	}
	var at time.Time
	if text != "newest" {
		s, err := c.stateIn(text)
		if wrong, err := cannot(err); wrong != "" || err != nil {
			return nil, wrong, err
		}
		if at = s.At; at.After(c.now()) {
			return nil, "That is still to come.", nil
		}
	}
	var oldest time.Time
	for _, n := range o.Cluster.Nodes {
		var b *job.Backup
		if n.Instance != nil {
			b = c.o.Server.Newest(o.who, n.Instance.ID)
		}
		switch {
		case n.Instance == nil:
			k.Lacking = append(k.Lacking, n.Node+": no instance here is that node")
		case b == nil:
			k.Lacking = append(k.Lacking, n.Node+": it has no good backup")
		case !at.IsZero() && !c.shippedAt(o.who, n.Instance.ID, at):
			k.Lacking = append(k.Lacking, n.Node+": nothing was shipped of that moment")
		default:
			k.add(n.Node, b)
			if oldest.IsZero() || b.MadeAt().Before(oldest) {
				oldest = b.MadeAt()
			}
		}
	}
	k.Words, k.At = "the newest good backup of each node", oldest
	if !at.IsZero() {
		k.Moment, k.At, k.Words = true, at, c.second(at)+", exact to the second on each node"
	}
	return k.orNothing(o)
}

func (k *chosen) orNothing(o *origin) (*chosen, string, error) {
	if len(k.list) == 0 {
		return nil, "No node of " + o.Name + " can be had back so: " + strings.Join(k.Lacking, "; ") + ".", nil
	}
	return k, "", nil
}

// link is the wizard with some choices changed; an empty value leaves one out.
func (w *wizard) link(change ...string) string {
	v := url.Values{}
	for name, value := range w.values {
		v[name] = value
	}
	for n := 0; n < len(change); n += 2 {
		if v.Set(change[n], change[n+1]); change[n+1] == "" {
			v.Del(change[n])
		}
	}
	return "/restore?" + v.Encode()
}

// keep makes the choices but for some the hidden fields of a form.
func (w *wizard) keep(but ...string) (out []pair) {
	for _, name := range []string{"of", "what", "database", "s", "where", "name", "agent", "volume", "into", "as", "nodename", "nodeagent"} {
		for _, value := range w.values[name] {
			if !slices.Contains(but, name) && value != "" {
				out = append(out, pair{name, value})
			}
		}
	}
	return out
}

func (c *call) restorePage() (*answer, error) {
	w, to, err := c.wizard()
	if err != nil || to != "" {
		if err != nil {
			return nil, err
		}
		return &answer{status: http.StatusSeeOther, to: to}, nil
	}
	if w.Step < 3 {
		return c.page(w.title(), "restore", w), nil
	}
	return c.livePage(w.title(), "restore", "restore.live", w), nil // what is closed opens by itself
}

func (w *wizard) title() string {
	return [...]string{"", "Restore: what", "Restore: when", "Restore: where", "Restore: the plan"}[w.Step]
}

// wizard reads the choices, as far as they go. Documents have a page of their own: then it returns where.
func (c *call) wizard() (w *wizard, to string, err error) {
	q := c.r.URL.Query()
	w = &wizard{values: url.Values{}, What: q.Get("what"), Database: strings.TrimSpace(q.Get("database")), S: strings.TrimSpace(q.Get("s"))}
	for name, value := range q {
		if !slices.Contains([]string{"step", "from", "to", "at", "q", "page", "db"}, name) {
			w.values[name] = value
		}
	}
	if key := q.Get("of"); key != "" {
		if w.origin, err = c.originOf(key); err != nil {
			return nil, "", err
		}
		if w.Name, w.Home = w.origin.Name, pathOf("instances", w.origin.ID); w.origin.Cluster != nil {
			w.Home = "/restore?of=" + url.QueryEscape(key)
		}
	}
	step := c.chooseWhat(w)
	if q.Get("step") == "1" {
		w.Wrong = ""
	} else if step > 1 && w.What == "docs" {
		v := url.Values{"db": {w.Database}}
		if w.S != "" {
			v.Set("s", w.S)
		}
		return nil, pathOf("instances", w.origin.ID, "moment") + "?" + v.Encode(), nil
	}
	if step > 1 {
		if step = 2; w.S != "" {
			if w.State, w.Wrong, err = c.pick(w.origin, w.S); err != nil {
				return nil, "", err
			}
			if w.State != nil {
				step = 3
			}
		}
	}
	if back := q.Get("step"); back >= "1" && back <= "3" && len(back) == 1 && int(back[0]-'0') < max(step, 2) && step > 1 {
		step = int(back[0] - '0')
	}
	w.Step = step
	switch w.Step {
	case 1:
		c.fillWhat(w)
	case 2:
		c.fillWhen(w)
	default:
		c.fillWhere(w)
	}
	w.steps(c)
	return w, "", nil
}

// chooseWhat holds the first step's choices against each other; it returns 2 if they are all made.
func (c *call) chooseWhat(w *wizard) int {
	o := w.origin
	if o == nil {
		return 1
	}
	switch w.What {
	case "all":
		w.Database = ""
		return 2
	case "db", "docs":
		switch {
		case o.Cluster != nil && w.What == "docs":
			w.Wrong = "Documents are looked at on one node: choose one of the cluster’s instances."
		case w.Database == "" && c.r.URL.Query().Has("database"):
			w.Wrong = "Name the database."
		case w.Database == "":
		case !shard.ValidDB(w.Database):
			w.Wrong = "CouchDB gives no database such a name."
		default:
			return 2
		}
	}
	return 1
}

// mostOffered is how many databases a field offers.
const mostOffered = 500

func (c *call) fillWhat(w *wizard) {
	clusters := c.o.Server.Clusters(c.who, c.all())
	chosen := w.values.Get("of")
	add := func(key, name string) {
		w.Of = append(w.Of, ofChoice{key, name, key == chosen})
	}
	for n := range clusters {
		k := &clusters[n]
		add(clusterKey(k), "the cluster "+k.Name+", "+plural(len(k.Nodes), "node", "nodes"))
	}
	found := false
	for _, i := range c.o.Server.Instances(c.who, c.all()) {
		add(i.ID, i.Name)
		found = found || i.ID == chosen
	}
	if o := w.origin; o != nil && o.Cluster == nil && !found {
		add(o.ID, o.Name+", which is gone")
	}
	slices.SortStableFunc(w.Of, func(a, b ofChoice) int {
		return strings.Compare(strings.TrimPrefix(a.Name, "the cluster "), strings.TrimPrefix(b.Name, "the cluster "))
	})
	w.What = cmp.Or(w.What, "all")
	if id := w.nodeToRead(); id != "" {
		if list, err := c.reader.Databases(c.r.Context(), w.origin.who, id, states.State{Backup: "latest"}, contents.DatabasesQuery{Page: contents.Page{Limit: mostOffered}}); err == nil {
			for _, d := range list.Databases {
				w.Databases = append(w.Databases, d.Name)
			}
		}
	}
	w.Lately = c.restorings()
	w.Keep = w.keep("of", "what", "database")
}

// nodeToRead is an instance whose backups tell which databases there are; "" if there is none.
func (w *wizard) nodeToRead() string {
	switch {
	case w.origin == nil:
		return ""
	case w.origin.Cluster == nil:
		return w.origin.ID
	}
	for _, n := range w.origin.Cluster.Nodes {
		if n.Instance != nil {
			return n.Instance.ID
		}
	}
	return ""
}

// momentRow is a state that can be chosen.
type momentRow struct {
	At         time.Time
	State      pill
	Name, Note string
	Size       int64
	To         string
}

func (c *call) fillWhen(w *wizard) {
	o := w.origin
	w.Keep, w.Typed = w.keep("s"), w.S
	if w.State != nil {
		w.Typed = w.State.At.In(c.set.zone).Format("2006-01-02 15:04:05")
	}
	if o.Cluster != nil {
		w.Newest = w.link("s", "newest")
		var rows []momentRow
		for _, i := range c.o.Server.Sets(o.who, server.SetFilter{Cluster: o.Name}) {
			if i.Usable() > 0 && i.State != server.SetGoing {
				p, note := setPill(i)
				rows = append(rows, momentRow{At: i.Created, State: p, Name: i.Name, Note: note, Size: setSize(i), To: w.link("s", i.ID)})
			}
		}
		w.Rows, w.Pager = pagedBy(c, rows, "q", "page", 10, func(r momentRow) string { return r.Name + " " + r.State.Text })
		return
	}
	list := c.usableOf(o.who, o.ID)
	var rows []momentRow
	for _, b := range list {
		rows = append(rows, momentRow{At: b.MadeAt(), State: backupPill(b), Name: b.Name, Size: b.Size, To: w.link("s", b.ID)})
	}
	w.Rows, w.Pager = pagedBy(c, rows, "q", "page", 10, func(r momentRow) string { return r.Name + " " + r.State.Text })
	all := c.states()
	if at := slices.IndexFunc(all, func(s *state) bool { return s.ID == o.ID }); at >= 0 && len(list) > 0 {
		d := &instanceData{state: all[at]}
		d.fillBackups(list)
		d.RestoreAt = w.link("s", "") + "&s="
		c.fillLine(d, o.who, list, nil)
		w.Line = d.Line
		w.Line.More, w.Line.Keep = "", w.Keep
	}
}

// steps is the list of the steps, each of which leads back to it.
func (w *wizard) steps(c *call) {
	what, at, where := "What", "When", "Where"
	if w.Step > 1 {
		what = "What: " + cmp.Or(w.Database, w.Name)
		if w.Database != "" {
			what += " of " + w.Name
		}
	}
	if w.State != nil && w.Step > 2 {
		at = "When: " + when(w.State.At, c.now(), c.set.zone)
	}
	for _, p := range w.Where {
		if p.Chosen && w.Step > 3 {
			where = "Where: " + p.Short
		}
	}
	for n, text := range []string{what, at, where, "Plan", "Restore"} {
		s := wizardStep{N: n + 1, Text: text, Done: n+1 < w.Step, Current: n+1 == w.Step}
		if s.Done && n < 2 {
			s.To = w.link("step", string(rune('1'+n)))
		}
		w.Steps = append(w.Steps, s)
	}
}
