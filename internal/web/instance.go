package web

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/web/timeline"
)

var instanceRoutes = []route{
	{"GET /instances/{id}", access.Viewer, "", (*call).instancePage},
}

// has reports whether there is a page, by its pattern, which the caller may see.
func (c *call) has(pattern string) bool {
	need, ok := c.pages[pattern]
	return ok && c.who.May(need)
}

type instanceData struct {
	*state
	Shipped   bool // there is a window of moments
	Window    time.Duration
	BackUp    string // addresses of what can be done; "" if it can't be here
	Prove     string
	Restore   string
	RestoreAt string // the same, up to the moment itself
	Line      *lineData
	Firings   []firing
	Jobs      []jobRow
	Backups   []backupRow
	Pager     pager
	Count     int // of all backups
	Size      int64
	Unproven  bool
	Newest    *job.Backup
	Good      *job.Backup // the newest that is undamaged
	GoodAt    time.Time
	FirstBad  time.Time // since when each backup has damage; zero if the newest has none
	Damage    []damageRow
	More      int // findings that aren't shown
	Schedules []*job.Schedule
	Sets      []*setRow // of the cluster that it is a node of: the newest
}

// lineData is the time line with its panel.
type lineData struct {
	*timeline.Picture
	Facts   string // as JSON: [from, to, kind, words]
	Spans   []spanLink
	Earlier string
	Later   string
	Note    string // why only a part is known
	Databases
	Open, Restore, Changed string // addresses of the three actions, of the chosen moment
	OpenAt, ChangedAt      string // the same, up to the moment itself
	RestoreAt              string
	Keep                   []pair // what else the page's address says
}

// Databases says which of them have lanes.
type Databases struct {
	Asked bool
	More  string // address that shows them; "" if they can't be shown
	Query string
	Pager pager
}

type spanLink struct {
	Text, To string
	Seconds  int64
	Current  bool
}

type firing struct {
	At        time.Time
	What, End string
	To, Note  string
}

// backupRow is a backup in the table.
type backupRow struct {
	*job.Backup
	At     time.Time
	State  pill
	KeptBy string
	Goes   bool
	Took   time.Duration
	Open   string
	To     string
	Again  string // restores it
	More   moreMenu
}

func (c *call) instancePage() (*answer, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return nil, err
	}
	who, err := c.as(id)
	if err != nil {
		return nil, err
	}
	if _, err := c.o.Server.Instance(c.r.Context(), who, id); err != nil {
		return nil, err
	}
	all := c.states()
	at := slices.IndexFunc(all, func(s *state) bool { return s.ID == id })
	if at < 0 {
		return nil, api.NoResource(id)
	}
	d := &instanceData{state: all[at], Schedules: c.o.Server.Schedules(who, id)}
	list, _ := c.o.Server.Backups(who, server.BackupFilter{Instance: id, Limit: math.MaxInt32})
	list = slices.DeleteFunc(slices.Clone(list), func(b *job.Backup) bool { return b.Instance != id })
	slices.SortStableFunc(list, func(a, b *job.Backup) int { return b.MadeAt().Compare(a.MadeAt()) })
	d.Count = len(list)
	kept, goes, err := c.keptBy(who, d, id)
	if err != nil {
		return nil, err
	}
	d.fillBackups(list)
	row := func(b *job.Backup) backupRow { return c.backupRow(d, b, keptWords(kept[b.ID]), goes[b.ID]) }
	page, pager := pagedBy(c, list, "q", "page", 10, func(b *job.Backup) string {
		r := row(b)
		return r.Name + " " + r.ID + " " + r.State.Text + " " + r.KeptBy + " " + r.At.In(c.set.zone).Format("Mon 2 January 2006 15:04")
	})
	for _, b := range page {
		d.Backups = append(d.Backups, row(b))
	}
	d.Pager = pager
	names := c.names()
	for _, j := range c.jobs() {
		if j.Instance == id && len(d.Jobs) < 5 {
			d.Jobs = append(d.Jobs, jobRow{Job: j, What: whatJob(j, names[j.Instance]), Pill: jobPill(j)})
		}
	}
	if c.has("/backups/new") {
		d.BackUp = "/backups/new?instance=" + url.QueryEscape(id)
	}
	if d.Newest != nil && c.has("/restore") {
		d.Restore = restoreOf(id, "")
		d.RestoreAt = d.Restore + "&s="
		d.Prove = pathOf("backups", d.Newest.ID, "prove")
	}
	c.fillLine(d, who, list, goes)
	c.fillDamage(d, who)
	for _, i := range c.o.Server.Sets(who, server.SetFilter{}) {
		if len(d.Sets) < 5 && slices.ContainsFunc(i.Members, func(m job.SetMember) bool { return m.Instance == id }) {
			d.Sets = append(d.Sets, c.setRow(i))
		}
	}
	return c.page(d.Name, "instance", d), nil
}

// fillBackups finds the newest, the newest that is undamaged, and since when they are damaged.
func (d *instanceData) fillBackups(list []*job.Backup) {
	for _, b := range list {
		if !b.Status.Usable() {
			continue
		}
		if d.Newest == nil {
			d.Newest, d.Size = b, b.Size
		}
		if b.Damage == 0 {
			d.Good, d.GoodAt = b, b.MadeAt()
			break
		}
		d.FirstBad = b.MadeAt()
	}
}

// keptBy says by which rules each backup stays, what goes next, and what fires next.
func (c *call) keptBy(who *access.Caller, d *instanceData, id string) (kept map[string]server.Retained, goes map[string]bool, err error) {
	lists, rest, err := c.o.Server.InstanceRetention(c.r.Context(), who, id)
	if err != nil {
		return nil, nil, err
	}
	kept, goes = map[string]server.Retained{}, map[string]bool{}
	for _, r := range lists {
		s := r.Schedule
		for _, b := range r.Backups {
			kept[b.Backup.ID] = b
			goes[b.Backup.ID] = !b.Stays
		}
		if !s.Enabled {
			continue
		}
		note := ""
		if s.Jitter > 0 {
			note = "Up to " + Duration(s.Jitter) + " of jitter"
			if s.Window > 0 {
				note += ", may begin within " + Duration(s.Window)
			}
		}
		begins := cmpTime(r.At, s.Next)
		d.Firings = append(d.Firings, firing{At: begins, What: "Backup by " + s.Name, End: until(begins, c.now()), Note: note})
		if n, bytes := r.Frees(); n > 0 {
			to := ""
			if c.has("/space") {
				to = "/space?i=" + url.QueryEscape(id) + "#rt"
			}
			d.Firings = append(d.Firings, firing{At: begins, What: fmt.Sprintf("Retention: %s go, %s", plural(n, "backup", "backups"), Bytes(bytes)), End: "after it", To: to})
		}
		if !s.ProveNext.IsZero() {
			d.Firings = append(d.Firings, firing{At: s.ProveNext, What: "Proof: restore the newest, compare", End: until(s.ProveNext, c.now())})
		}
	}
	for _, b := range rest {
		why, _, _ := strings.Cut(b.Reasons[0], ":")
		if b.Backup.Held() {
			why = b.Reasons[0]
		}
		kept[b.Backup.ID] = server.Retained{Stays: true, Reasons: []string{why}}
	}
	slices.SortStableFunc(d.Firings, func(a, b firing) int { return a.At.Compare(b.At) })
	return kept, goes, nil
}

// keptWords says in few words why a backup stays, or goes.
func keptWords(r server.Retained) string {
	if r.Backup != nil && !r.Stays {
		return "goes next: " + strings.Join(cmpOr(r.Missed, r.Reasons), ", ")
	}
	return rulesInShort(r.Reasons)
}

func cmpTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

func cmpOr(a, b []string) []string {
	if len(a) > 0 {
		return a
	}
	return b
}

var ruleWords = regexp.MustCompile(`^the (\d+)\w\w of keep_(\w+): (\d+)`)

// rulesInShort puts the reasons of a retention into few words: "newest; daily 1".
func rulesInShort(reasons []string) string {
	var out []string
	for _, r := range reasons {
		if m := ruleWords.FindStringSubmatch(r); m != nil {
			r = m[2] + " " + m[1]
		}
		r = strings.TrimPrefix(r, "the ")
		if r == "no rule is set" {
			r = "no rule is set, so all stay"
		}
		out = append(out, r)
	}
	return strings.Join(out, "; ")
}

func (c *call) backupRow(d *instanceData, b *job.Backup, kept string, goes bool) backupRow {
	r := backupRow{Backup: b, At: b.MadeAt(), KeptBy: kept, Goes: goes}
	switch {
	case b.Status.Running():
		r.State = pill{"run", "Being made"}
	case b.Status == job.BackupDeleteFailed:
		r.State = pill{"bad", "Deletion failed"}
	case !b.Status.Usable():
		r.State = pill{"bad", "Failed"}
	case b.Damage > 0:
		r.State = pill{"damaged", plural(b.Damage, "finding", "findings")}
	case b.Proof != nil && !b.Proof.OK:
		r.State = pill{"bad", "Does not restore"}
	case b.Proof != nil:
		r.State = pill{"proven", "Whole, proven"}
	default:
		r.State = pill{"ok", "Whole"}
	}
	if b.Started != nil && b.Finished != nil {
		r.Took = b.Finished.Sub(*b.Started)
	}
	if c.has("/backups/{id}") {
		r.To = pathOf("backups", b.ID)
	}
	if !b.Status.Usable() {
		return r
	}
	if c.has("/instances/{id}/moment") {
		r.Open = pathOf("instances", d.ID, "moment") + "?s=" + url.QueryEscape(b.ID)
	}
	if c.has("/restore") {
		r.Again = restoreOf(d.ID, b.ID)
	}
	r.More = c.moreOf(b, d.Name)
	return r
}

// lanesEach is how many databases have a lane at a time.
const lanesEach = 12

// fillLine draws the recovery window.
func (c *call) fillLine(d *instanceData, who *access.Caller, list []*job.Backup, goes map[string]bool) {
	q, now := c.r.URL.Query(), c.now()
	in := timeline.Input{Name: d.Name, Now: now, Zone: c.set.zone, At: unixOf(q.Get("at"))}
	l := &lineData{}
	for _, b := range list {
		if !b.Status.Usable() {
			continue
		}
		x := timeline.Backup{At: b.MadeAt(), New: b.Stored, Damaged: b.Damage, Proven: b.Proof != nil && b.Proof.OK, Goes: goes[b.ID]}
		if b.Pin != nil {
			x.Pinned = b.Pin.Reason
		}
		if c.has("/backups/{id}") {
			x.Href = pathOf("backups", b.ID)
		}
		in.Backups = append(in.Backups, x)
	}
	if d.Newest != nil {
		in.Count = d.Newest.Databases
	}
	for _, f := range d.Firings {
		if strings.HasPrefix(f.What, "Backup") {
			in.Next = append(in.Next, f.At)
		}
	}
	l.Asked = q.Has("db")
	l.Query = q.Get("db")
	l.Note = c.fillMoments(&in, d, who, l)
	oldest := now.Add(-24 * time.Hour)
	if n := len(in.Backups); n > 0 && in.Backups[n-1].At.Before(oldest) {
		oldest = in.Backups[n-1].At
	}
	l.Spans = l.choose(&in, q, oldest, now)
	l.Picture = timeline.Draw(in)
	l.Facts = factsJSON(l.Picture.Facts)
	at := time.Unix(l.At, 0).UTC()
	home := pathOf("instances", d.ID)
	if c.has("/instances/{id}/moment") && len(in.Backups) > 0 {
		l.OpenAt = home + "/moment?s="
		l.Open = l.OpenAt + url.QueryEscape(at.Format(time.RFC3339))
		l.ChangedAt = home + "/changes?from="
		l.Changed = l.ChangedAt + url.QueryEscape(at.Format(time.RFC3339))
	}
	if l.RestoreAt = d.RestoreAt; l.RestoreAt != "" {
		l.Restore = l.RestoreAt + url.QueryEscape(at.Format(time.RFC3339))
	}
	d.Shipped = len(in.Shipped) > 0
	if d.Shipped {
		d.Window = in.Shipped[len(in.Shipped)-1].To.Sub(in.Shipped[0].From)
	}
	d.Line = l
}

func unixOf(text string) time.Time {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > 1<<35 {
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// choose sets which part of the time is drawn, and returns the links to others.
func (l *lineData) choose(in *timeline.Input, q url.Values, oldest, now time.Time) []spanLink {
	link := func(from, to time.Time) string {
		v := url.Values{"from": {strconv.FormatInt(from.Unix(), 10)}, "to": {strconv.FormatInt(to.Unix(), 10)}}
		for name, value := range q { // the moment, the lanes, and what a page chose before
			if name != "from" && name != "to" && name != "q" && name != "page" && name != "dbpage" {
				v[name] = value
			}
		}
		return "?" + v.Encode() + "#win"
	}
	end := func(w time.Duration) time.Time { return now.Add(w / 25) }
	all := now.Sub(oldest) * 107 / 100 // with what is ahead
	widths := []struct {
		text  string
		width time.Duration
	}{{"1 h", time.Hour}, {"6 h", 6 * time.Hour}, {"24 h", 24 * time.Hour}, {"7 d", 7 * 24 * time.Hour}, {"17 d", 17 * 24 * time.Hour}, {"all", all}}
	in.From, in.To = unixOf(q.Get("from")), unixOf(q.Get("to"))
	if in.From.IsZero() || in.To.Sub(in.From) < time.Minute || in.To.Sub(in.From) > 200*366*24*time.Hour {
		w := min(17*24*time.Hour, all)
		if all < 48*time.Hour {
			w = max(all, 24*time.Hour)
		}
		in.To = end(w)
		in.From = in.To.Add(-w)
		if n := len(in.Next); n > 0 && in.Next[0].Sub(now) < w/6 && in.Next[0].After(in.To) {
			in.To = in.Next[0].Add(w / 40)
		}
	}
	var out []spanLink
	current, closest := in.To.Sub(in.From), -1
	off := func(n int) float64 { return math.Abs(float64(current-widths[n].width)) / float64(widths[n].width) }
	for n, w := range widths {
		to := end(w.width)
		out = append(out, spanLink{Text: w.text, To: link(to.Add(-w.width), to), Seconds: int64(w.width.Seconds())})
		if off(n) < 0.2 && (closest < 0 || off(n) < off(closest)) {
			closest = n
		}
	}
	if closest >= 0 {
		out[closest].Current = true
	}
	half := current / 2
	if in.From.After(oldest) {
		l.Earlier = link(in.From.Add(-half), in.To.Add(-half))
	}
	if in.To.Before(now) {
		l.Later = link(in.From.Add(half), in.To.Add(half))
	}
	return out
}

// factsJSON is what the script is told of moments.
func factsJSON(facts []timeline.Fact) string {
	list := make([][]any, len(facts))
	for i, f := range facts {
		list[i] = []any{f.A, f.B, f.Kind, f.Words}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "[]"
	}
	return string(text)
}

// fillMoments reads what was shipped, and where that can't be read takes what the agent says. It returns why, if only a part
// is known.
func (c *call) fillMoments(in *timeline.Input, d *instanceData, who *access.Caller, l *lineData) string {
	if d.Ship != nil {
		in.Keep = keepWords(d.Instance.KeepMoments)
		if lag := d.Lag; lag > server.BehindAfter && !d.Ship.Newest.IsZero() {
			in.Behind, in.Why = d.Ship.Newest, "it catches up by itself"
			if !d.Online {
				in.Why = "it catches up when the agent is back"
			}
		}
	}
	said := func(why string) string {
		if d.Ship == nil {
			return ""
		}
		if from := d.Ship.Window; !from.IsZero() && d.Ship.Newest.After(from) {
			in.Shipped = []timeline.Span{{From: from, To: d.Ship.Newest}}
		}
		return why
	}
	if len(in.Backups) == 0 {
		return said("")
	}
	q := contents.MomentsQuery{}
	if l.Asked {
		q.Databases = "*"
		if l.Query != "" {
			q.Databases = "*" + strings.Trim(l.Query, "*") + "*"
		}
	}
	m, err := c.reader.Moments(c.r.Context(), who, d.ID, q)
	if err != nil {
		if d.Ship == nil {
			return "" // there are only backups, and the catalog has them
		}
		return said("What was shipped can't be read here: " + sentenceOf(err) + " Drawn is what the agent says of the time without a gap; earlier gaps and databases are not.")
	}
	for _, w := range m.Windows {
		if w.Kind == "shipped" {
			in.Shipped = append(in.Shipped, timeline.Span{From: w.From, To: w.To})
		}
	}
	if n := len(in.Shipped); n > 0 && d.Ship != nil && d.Ship.Reported && in.Behind.IsZero() && d.Ship.Newest.After(in.Shipped[n-1].To) {
		in.Shipped[n-1].To = d.Ship.Newest // it is quiet: nothing was committed since
	}
	for _, g := range m.Gaps {
		in.Gaps = append(in.Gaps, timeline.Gap{From: g.From, To: g.To, Why: g.Why})
	}
	c.lanes(in, d, l, m)
	return ""
}

// lanes are those of databases, if they are asked for.
func (c *call) lanes(in *timeline.Input, d *instanceData, l *lineData, m *contents.Moments) {
	v := c.r.URL.Query()
	v.Set("db", "")
	l.More = "?" + v.Encode() + "#win"
	if !l.Asked {
		return
	}
	var all []timeline.Database
	for _, x := range m.Databases {
		db := timeline.Database{Name: x.Name, First: x.First}
		if c.has("/instances/{id}/moment") {
			db.Href = pathOf("instances", d.ID, "moment") + "?db=" + url.QueryEscape(x.Name)
		}
		for _, e := range x.Events {
			db.Events = append(db.Events, timeline.Event{At: e.At, What: e.What, Text: e.Note})
			if e.What == "dropped" && !x.There {
				db.Gone = e.At
			}
		}
		all = append(all, db)
	}
	if l.Query == "" {
		all = timeline.Group(all)
		for i := range all {
			if all[i].Count > 0 {
				all[i].Href = "?db=" + url.QueryEscape(strings.TrimSuffix(all[i].Name, "…")) + "#win"
			}
		}
	}
	in.Databases, l.Databases.Pager = pagedBy(c, all, "", "dbpage", lanesEach, nil)
}

// keepWords is for how long moments are kept.
func keepWords(text string) string {
	span, err := calendar.ParseSpan(cmp.Or(text, "14d"))
	if err != nil || span.Longest() <= 0 {
		return "14 days"
	}
	if days := int(span.Longest().Hours() / 24); days > 0 {
		return plural(days, "day", "days")
	}
	return Duration(span.Longest())
}

// sentenceOf is an error in a sentence for the reader.
func sentenceOf(err error) string {
	if e, ok := err.(*server.Error); ok { //nolint:errorlint // what is wrapped is for the log
		return e.Message
	}
	return "it can't be read now."
}

// damageRow is a finding with where to look.
type damageRow struct {
	contents.Finding
	To, WholeTo string
}

// mostDamage is how many findings the page shows.
const mostDamage = 20

// fillDamage says what the newest backup found damaged, if it can be read here and the caller may read it.
func (c *call) fillDamage(d *instanceData, who *access.Caller) {
	if d.Damaged == 0 || !c.who.MayRead() {
		return
	}
	c.log.Looked, c.log.Action, c.log.Target = true, "documents.list", contents.Target(d.ID, "", "")
	found, err := c.reader.DamageOf(c.r.Context(), who, d.ID)
	if err != nil {
		return // the note above says that there is damage
	}
	for _, f := range found.Findings {
		if !f.Now {
			continue
		}
		if len(d.Damage) == mostDamage {
			d.More++
			continue
		}
		row := damageRow{Finding: f}
		if f.Document != "" && c.has("/instances/{id}/document") {
			row.To = pathOf("instances", d.ID, "document") + "?" + url.Values{"db": {f.Database}, "doc": {f.Document}}.Encode()
		}
		if f.Whole != nil && c.has("/backups/{id}") {
			row.WholeTo = pathOf("backups", f.Whole.Backup)
		}
		d.Damage = append(d.Damage, row)
	}
}
