package web

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/diverge"
	"github.com/slipcover/slipcover/internal/server"
)

// One cluster: its nodes, what their newest backups hold together, and what the copies disagree about.

var clusterRoutes = []route{
	{"GET /clusters/{project}/{name}", access.Viewer, "documents.list", (*call).clusterPage},
}

// clusterData is what the page of a cluster shows.
type clusterData struct {
	*clusterRow
	home    string
	Verdict string
	Well    bool
	Nodes   []clusterNodeRow
	Sets    []*setRow

	Cannot    string // why nothing is said of databases
	Held      *contents.ClusterDatabases
	Prefix    string
	Prev      string
	Next      string
	From, To  int
	MayRead   bool
	Compare   bool   // copies are compared
	DB, At    string // as typed
	Command   string // that compares all of it
	NotSo     string // why nothing is compared
	Compared  *contents.Divergence
	Sum       string
	Apart     time.Duration // between the first and the last cut
	Ranges    []divergedRange
	GoOn      string // the next page
	NodesRead int
}

// clusterNodeRow is a node of a cluster.
type clusterNodeRow struct {
	Node  string
	Home  string                // of its instance; "" if no instance of the project is it
	State *state                // nil of none
	Read  *contents.ClusterNode // nil if nothing of the cluster could be read
}

// divergedRange is a range whose copies disagree.
type divergedRange struct {
	*cluster.Divergence
	Head   string
	Kinds  []string // heads of the columns of Copies
	Copies []divergedCopy
	Names  []divergedName
	Lines  []string // what else there is to be told
}

type divergedCopy struct {
	Node   string
	Counts []uint64 // the first one of documents
}

// divergedName is a document that a copy has otherwise than others.
type divergedName struct {
	Node, What string
	ID, To     string
	Revs       string
}

func (c *call) clusterPage() (*answer, error) {
	name := c.r.PathValue("name")
	who, ok := c.own(c.r.PathValue("project"))
	if !ok {
		return nil, api.NoResource(name)
	}
	k, err := c.o.Server.Cluster(who, name)
	if err != nil {
		return nil, err
	}
	d := &clusterData{clusterRow: c.clusterRow(k), home: pathOf("clusters", k.Project, k.Name), Prefix: c.r.FormValue("p"), DB: c.r.FormValue("db"), At: c.r.FormValue("at"),
		Compare: c.r.FormValue("compare") != "", MayRead: c.who.MayRead()}
	offset, _ := strconv.Atoi(c.r.FormValue("o"))
	offset = max(0, offset)
	d.Held, err = c.reader.ClusterDatabases(c.r.Context(), who, name, contents.DatabasesQuery{Prefix: d.Prefix, Page: contents.Page{Offset: offset, Limit: databasesPerPage}})
	if d.Cannot, err = cannot(err); err != nil {
		return nil, err
	}
	c.fillNodes(d, k)
	if h := d.Held; h != nil {
		d.From, d.To = min(offset+1, h.Total), offset+len(h.Databases)
		if offset > 0 {
			d.Prev = d.to("p", d.Prefix, "o", strconv.Itoa(max(0, offset-databasesPerPage)))
		}
		if h.More {
			d.Next = d.to("p", d.Prefix, "o", strconv.Itoa(offset+databasesPerPage))
		}
	}
	d.Verdict, d.Well = holdsWords(d.Held)
	for _, i := range c.o.Server.Sets(who, server.SetFilter{Cluster: name}) {
		if d.Sets = append(d.Sets, c.setRow(i)); len(d.Sets) == 5 {
			break
		}
	}
	if d.Compare && d.MayRead {
		if err := c.looked(&subject{ID: name}, d.DB, ""); err != nil {
			return nil, err
		}
		if err := c.compareCopies(d, who, name); err != nil {
			return nil, err
		}
	}
	d.Command = "slipcover cluster compare " + shell(name)
	if d.DB != "" {
		d.Command += " --db " + shell(d.DB)
	}
	return c.page("Cluster "+name, "cluster", d), nil
}

// to is the page with other parameters: pairs of names and values, of which empty values are left out.
func (d *clusterData) to(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return d.home
	}
	return d.home + "?" + v.Encode()
}

// Home is the page.
func (d *clusterData) Home() string { return d.home }

// Of compares the copies of one database.
func (d *clusterData) Of(db string) string {
	return d.to("compare", "1", "db", db, "p", d.Prefix) + "#disagree"
}

func (c *call) fillNodes(d *clusterData, k *server.Cluster) {
	states := map[string]*state{}
	for _, s := range c.states() {
		states[s.ID] = s
	}
	for n, node := range k.Nodes {
		row := clusterNodeRow{Node: node.Node}
		if node.Instance != nil {
			row.Home, row.State = pathOf("instances", node.Instance.ID), states[node.Instance.ID]
		}
		if d.Held != nil && n < len(d.Held.Nodes) {
			if row.Read = &d.Held.Nodes[n]; row.Read.Why == "" {
				d.NodesRead++
			}
		}
		d.Nodes = append(d.Nodes, row)
	}
}

// holdsWords says what the backups of all nodes hold together.
func holdsWords(h *contents.ClusterDatabases) (text string, well bool) {
	if h == nil {
		return "", false
	}
	var without []string
	for _, n := range h.Nodes {
		if n.Why != "" {
			without = append(without, n.Node)
		}
	}
	switch {
	case h.Gaps > 0:
		text = "Of " + plural(h.Gaps, "database", "databases") + " a range is in no node’s newest backup: it can’t be had back from these."
	case len(without) > 0:
		return "The newest backups hold every range of all databases, without " + strings.Join(without, " and ") + ".", false
	default:
		return "The newest backups of the nodes hold every range of all databases.", true
	}
	if len(without) > 0 {
		text += " There is no backup to be read of " + strings.Join(without, " and ") + "."
	}
	return text, false
}

func (c *call) compareCopies(d *clusterData, who *access.Caller, name string) error {
	at, err := c.stateIn(d.At)
	if err == nil && at.Backup != "" {
		err = api.Invalid("%.60q is no time: write 2026-11-22 10:32, yesterday 18:00 or 90m ago, or leave it out for the newest backups.", d.At)
	}
	if err == nil {
		when := at.At
		if strings.TrimSpace(d.At) == "now" {
			when = c.now()
		}
		d.Compared, err = c.reader.Divergence(c.r.Context(), who, name, contents.DivergenceQuery{Databases: strings.TrimSpace(d.DB), At: when, After: c.r.FormValue("after"), Limit: rangesPerPage})
	}
	var refused *server.Error
	if errors.As(err, &refused) && refused.Kind == server.NotFound { // what was typed
		err = api.Invalid("%s", refused.Message)
	}
	if d.NotSo, err = cannot(err); err != nil || d.Compared == nil {
		return err
	}
	x := d.Compared
	var from, until time.Time
	homes := map[string]*contents.ClusterNode{}
	for i := range x.Nodes {
		n := &x.Nodes[i]
		homes[n.Node] = n
		if n.From.IsZero() {
			continue
		}
		if from.IsZero() || n.From.Before(from) {
			from = n.From
		}
		if n.Until.After(until) {
			until = n.Until
		}
	}
	d.Apart = until.Sub(from)
	d.Sum = sumWords(x)
	for _, r := range x.Ranges {
		d.Ranges = append(d.Ranges, divergedOf(r, homes))
	}
	if x.Next != "" {
		d.GoOn = d.to("compare", "1", "db", d.DB, "at", d.At, "p", d.Prefix, "after", x.Next) + "#disagree"
	}
	return nil
}

// rangesPerPage is of how many ranges a page tells what differs.
const rangesPerPage = 20

// sumWords says what a comparison came to.
func sumWords(x *contents.Divergence) string {
	n := x.Counts
	text := "Compared " + plural(int(n.Documents), "document", "documents") + " in " + plural(n.Ranges, "range", "ranges") + " of " + plural(n.Databases, "database", "databases") + ": "
	switch {
	case n.Ranges == 0:
		return "Nothing is left to be compared."
	case n.Agree == n.Ranges:
		return text + "all copies agree."
	case n.Different == 0:
		text += "what was compared of documents agrees"
	case n.Different == 1:
		text += "1 differs"
	default:
		text += Number(n.Different) + " differ"
	}
	if n.Incomplete > 0 {
		text += ", and of " + plural(n.Incomplete, "range", "ranges") + " not all copies were compared"
	}
	return text + "."
}

// divergedKinds are what a copy may have otherwise than others, with what the table calls it.
var divergedKinds = []struct {
	head, what string
	list       func(*diverge.CopyReport) diverge.List
}{
	{"Lacks", "lacks it", func(c *diverge.CopyReport) diverge.List { return c.Missing }},
	{"Behind", "lacks revisions", func(c *diverge.CopyReport) diverge.List { return c.Behind }},
	{"Purged here", "purged here alone", func(c *diverge.CopyReport) diverge.List { return c.Purged }},
	{"Only here", "only here", func(c *diverge.CopyReport) diverge.List { return c.Only }},
	{"Lacks local", "lacks it", func(c *diverge.CopyReport) diverge.List { return c.LocalMissing }},
	{"Local differs", "has another one", func(c *diverge.CopyReport) diverge.List { return c.LocalDiffers }},
}

// namesPerKind is how many documents of each kind are named of a copy.
const namesPerKind = 10

func divergedOf(d *cluster.Divergence, nodes map[string]*contents.ClusterNode) divergedRange {
	r := divergedRange{Divergence: d, Head: "not compared"}
	for _, n := range d.NotCompared {
		r.Lines = append(r.Lines, "The copy of "+n.Node+" was not compared: "+n.Why+".")
	}
	rep := d.Report
	if rep == nil {
		return r
	}
	r.Head = Number(rep.Different) + " of " + Number(rep.Documents) + " documents differ"
	if rep.Different == 0 && rep.Local.Different > 0 {
		r.Head = Number(rep.Local.Different) + " of " + Number(rep.Local.Documents) + " local documents differ"
	}
	r.Kinds = []string{"Documents"}
	shown := []int{}
	for i, k := range divergedKinds {
		if (k.head != "Only here" || len(rep.Copies) > 2) && slices.ContainsFunc(rep.Copies, func(c diverge.CopyReport) bool { return k.list(&c).Count > 0 }) { // of two the other one lacks them
			r.Kinds, shown = append(r.Kinds, k.head), append(shown, i)
		}
	}
	unread := rep.Unread > 0 || rep.Local.Unread > 0
	if unread {
		r.Kinds = append(r.Kinds, "Can’t be read")
	}
	for i := range rep.Copies {
		one := &rep.Copies[i]
		row := divergedCopy{one.Node, []uint64{one.Documents}}
		for _, n := range shown {
			k := divergedKinds[n]
			list := k.list(one)
			row.Counts = append(row.Counts, list.Count)
			for _, doc := range list.First[:min(len(list.First), namesPerKind)] {
				r.Names = append(r.Names, divergedName{one.Node, k.what, doc.ID, holder(d, nodes, one.Node, doc.ID), strings.Join(doc.Revs, ", ")})
			}
			if more := list.Count - uint64(min(len(list.First), namesPerKind)); more > 0 {
				r.Names = append(r.Names, divergedName{Node: one.Node, What: k.what, Revs: "and " + Number(more) + " more"})
			}
		}
		if unread {
			row.Counts = append(row.Counts, one.Unread)
		}
		r.Copies = append(r.Copies, row)
		for _, x := range one.Damage[:min(len(one.Damage), namesPerKind)] {
			r.Lines = append(r.Lines, "Of the copy of "+one.Node+" "+x.Part+" can’t be read: "+x.Error+".")
		}
	}
	for _, s := range rep.Settings {
		var has []string
		for i, v := range s.Values {
			has = append(has, rep.Copies[i].Node+" has "+cmp.Or(string(v), "what can’t be read"))
		}
		r.Lines = append(r.Lines, "Its "+s.Name+" differs: "+strings.Join(has, "; ")+".")
	}
	if at := rep.Reached; at != nil {
		r.Lines = append(r.Lines, "The time was over within its "+at.Part+afterWords(at.After)+": what is behind that was not compared.")
	}
	return r
}

func afterWords(key string) string {
	if key == "" {
		return ""
	}
	return fmt.Sprintf(", behind %.80q", key)
}

// holder is the page of a document where a copy has it that node lacks; "" if none can be told.
func holder(d *cluster.Divergence, nodes map[string]*contents.ClusterNode, node, id string) string {
	lacks := func(c *diverge.CopyReport) bool {
		return slices.ContainsFunc(slices.Concat(c.Missing.First, c.Behind.First, c.Purged.First, c.LocalMissing.First), func(doc diverge.Document) bool { return doc.ID == id })
	}
	for i := range d.Report.Copies {
		one := &d.Report.Copies[i]
		n := nodes[one.Node]
		if n == nil || n.Instance == "" || lacks(one) {
			continue
		}
		x := &subject{ID: n.Instance}
		s := n.Backup
		if n.From.Equal(n.Until) { // a moment
			s = name(contents.State{State: n.From})
		}
		return x.to("document", "db", d.Database, "doc", id, "s", s)
	}
	return ""
}
