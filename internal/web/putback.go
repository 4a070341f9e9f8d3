package web

import (
	"net/http"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
)

var putBackRoutes = []route{
	{"POST /instances/{id}/restore-doc", access.Operator, "document.preview", (*call).previewPutBack},
	{"GET /instances/{id}/restore-doc", access.Operator, "document.read", (*call).putBackPage},
	{"POST /instances/{id}/restore-doc/confirm", access.Operator, "document.restore", (*call).confirmPutBack},
}

// writing is whether documents can be put back into an instance.
type writing struct {
	May bool   // the reader may ask for it
	Why string // it can't be done; "" if it can
	Ask bool   // a user of CouchDB must be named
}

func (c *call) writing(x *subject) writing {
	w := writing{May: c.who.May(access.Operator)}
	i, err := c.o.Server.Instance(c.r.Context(), x.who, x.ID)
	if err != nil {
		w.Why = "The instance is gone from this server."
		return w
	}
	as, why := c.o.Server.Writes(i)
	w.Why, w.Ask = why, !as
	return w
}

// previewPutBack has the agent look what putting back would do.
func (c *call) previewPutBack() (*answer, error) {
	x, err := c.subject()
	if err != nil {
		return nil, err
	}
	f := func(name string) string { return c.r.PostFormValue(name) }
	c.log.Target = contents.Target(x.ID, f("db"), f("doc"))
	from, err := c.stateIn(f("s"))
	if err != nil {
		return nil, err
	}
	n := server.NewDocuments{User: f("user"), Password: f("password"), Documents: job.Documents{DB: f("db"), Doc: f("doc"), Rev: f("rev"), DryRun: true}}
	n.FromBackup, n.From = stateRef(from)
	if f("doc") == "" {
		until, err := c.stateIn(f("until"))
		if err != nil {
			return nil, err
		}
		var ref job.StateRef
		n.UntilBackup, ref = stateRef(until)
		n.Until = &ref
	}
	return c.putBack(x, n)
}

// stateRef is a state as package server takes it.
func stateRef(s states.State) (backup string, ref job.StateRef) {
	return s.Backup, job.StateRef{At: s.At}
}

func (c *call) putBack(x *subject, n server.NewDocuments) (*answer, error) {
	id, err := c.o.Server.RestoreDocuments(c.r.Context(), x.who, x.ID, n)
	if err != nil {
		return nil, err
	}
	return c.see(x.to("restore-doc", "job", id), ""), nil
}

// putBackData is what the page of such a job shows.
type putBackData struct {
	*subject
	Job   *job.Job
	Docs  *job.Documents
	Done  *job.DocumentsDone // nil until it has ended
	State string             // which backup or moment it is out of, in words
	One   *job.DocumentDone  // of a single document
	Pill  pill
	Word  string // to be typed
	Wrong string
	Write writing
	Back  string
	// SeenLive says that the revision which wins in CouchDB is known here: Newest, which Diff compares.
	SeenLive bool
	Diff     sideBySide
	Writes   int // documents that would be written, or were
}

func (c *call) putBackJob(x *subject, id string) (*putBackData, error) {
	list := c.o.Server.Jobs(x.who)
	i := slices.IndexFunc(list, func(j *job.Job) bool { return j.ID == id && j.Kind == job.KindDocuments && j.Instance == x.ID })
	if i < 0 || list[i].Spec.Documents == nil {
		return nil, api.NoResource(id)
	}
	j := list[i]
	d := &putBackData{subject: x, Job: j, Docs: j.Spec.Documents, Pill: jobPill(j), Write: c.writing(x)}
	d.Word = d.Docs.DB
	d.Back = x.to("changes", "db", d.Docs.DB)
	if d.Docs.Doc != "" {
		d.Word = d.Docs.Doc
		d.Back = x.to("document", "db", d.Docs.DB, "doc", d.Docs.Doc)
	}
	if !j.State.Ended() || j.Documents == nil {
		return d, nil
	}
	d.Done, d.State = j.Documents, c.withWhen(j.Documents.State)
	d.Writes = d.Done.Counts["written"]
	if d.Docs.Doc != "" && len(d.Done.Documents) == 1 {
		d.One = &d.Done.Documents[0]
	}
	return d, nil
}

func (c *call) putBackPage() (*answer, error) {
	x, err := c.subject()
	if err != nil {
		return nil, err
	}
	d, err := c.putBackJob(x, c.r.URL.Query().Get("job"))
	if err != nil {
		return nil, err
	}
	if err := c.looked(x, d.Docs.DB, d.Docs.Doc); err != nil {
		return nil, err
	}
	c.fillLive(d)
	title := "Put back " + d.Word
	return c.livePage(title, "putback", "putback.live", d), nil
}

// fillLive compares what is live with what would be written, if a backup or moment has the revision that is live.
func (c *call) fillLive(d *putBackData) {
	if d.One == nil || d.One.From == "" || d.One.Was == "" || d.One.WasDeleted || d.One.Outcome != "written" {
		return
	}
	ctx := c.r.Context()
	now, err := c.reader.Document(ctx, d.who, d.ID, states.State{}, d.Docs.DB, d.Docs.Doc, d.One.Was)
	if err != nil || now.Gone {
		return
	}
	from := states.State{At: d.Docs.From.At, Backup: d.Docs.From.RepoID}
	old, err := c.reader.Document(ctx, d.who, d.ID, from, d.Docs.DB, d.Docs.Doc, d.One.From)
	if err != nil || old.Gone {
		return
	}
	d.SeenLive, d.Diff = true, compare(now.Document, old.Document, false)
}

// confirmPutBack writes what a preview told of. What others wrote since then is not overwritten.
func (c *call) confirmPutBack() (*answer, error) {
	x, err := c.subject()
	if err != nil {
		return nil, err
	}
	d, err := c.putBackJob(x, c.r.PostFormValue("job"))
	if err != nil {
		return nil, err
	}
	c.log.Target = contents.Target(x.ID, d.Docs.DB, d.Docs.Doc)
	if d.Done == nil || !d.Docs.DryRun {
		return nil, &api.Refusal{Status: http.StatusConflict, Message: "Look first what it would change: the preview isn't there yet."}
	}
	if word := c.r.PostFormValue("word"); strings.TrimSpace(word) != strings.TrimSpace(d.Word) {
		d.Wrong = "That is another name. Nothing was written."
		c.fillLive(d)
		return c.again("Put back "+d.Word, "putback", d), nil
	}
	n := server.NewDocuments{User: c.r.PostFormValue("user"), Password: c.r.PostFormValue("password"), Documents: *d.Docs}
	n.DryRun = false
	if d.One != nil {
		was := d.One.Was
		n.On = &was
	}
	if ref := n.From; ref.RepoID != "" {
		n.FromBackup, n.From = ref.RepoID, job.StateRef{}
	}
	if n.Until != nil && n.Until.RepoID != "" {
		n.UntilBackup, n.Until = n.Until.RepoID, &job.StateRef{}
	}
	if n.FromBackup, err = c.catalogued(x, n.FromBackup); err == nil {
		n.UntilBackup, err = c.catalogued(x, n.UntilBackup)
	}
	if err != nil {
		return nil, err
	}
	return c.putBack(x, n)
}

// catalogued is the id in the catalog of a backup by that in its repository.
func (c *call) catalogued(x *subject, repoID string) (string, error) {
	if repoID == "" {
		return "", nil
	}
	list, _ := c.o.Server.Backups(x.who, server.BackupFilter{Instance: x.ID, Limit: 1 << 30})
	for _, b := range list {
		if b.RepoID == repoID {
			return b.ID, nil
		}
	}
	return "", &api.Refusal{Status: http.StatusConflict, Message: "The backup that it comes out of is gone: look again which there are."}
}
