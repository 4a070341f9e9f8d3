package admin

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/looks"
	"github.com/slipcover/slipcover/internal/server"
	"github.com/slipcover/slipcover/internal/states"
)

// What was in backups and moments. Who may look at instances need not be one who may read documents: these need MayRead, and
// what is read of documents is in the audit log.
var contentsRoutes = []route{
	{"GET /instances/{id}/moments", access.Viewer, "", (*call).moments},
	{"GET /instances/{id}/databases", access.Viewer, "", (*call).databases},
	{"GET /instances/{id}/space", access.Viewer, "", (*call).databaseSpace},
	{"GET /instances/{id}/database", access.Operator, "", reading("", (*call).database)},
	{"GET /instances/{id}/documents", access.Operator, "documents.list", reading("documents.list", (*call).documents)},
	{"GET /instances/{id}/document", access.Operator, "document.read", reading("document.read", (*call).document)},
	{"GET /instances/{id}/attachment", access.Operator, "document.read", reading("document.read", (*call).attachment)},
	{"GET /instances/{id}/history", access.Operator, "document.read", reading("document.read", (*call).history)},
	{"GET /instances/{id}/diff", access.Operator, "document.read", reading("document.read", (*call).diff)},
	{"GET /instances/{id}/damage", access.Operator, "documents.list", reading("documents.list", (*call).damage)},
	{"GET /instances/{id}/changes", access.Operator, "documents.list", reading("documents.list", (*call).changes)},
	{"GET /clusters/{id}/databases", access.Viewer, "", (*call).clusterDatabases},
	{"GET /clusters/{id}/divergence", access.Operator, "documents.list", reading("documents.list", (*call).divergence)},
	{"POST /instances/{id}/restore-doc", access.Operator, "document.restore", (*call).restoreDocuments},
}

// readers are the routes that whoever MayRead may use, too.
var readers = map[string]bool{}

func init() {
	routes = append(routes, contentsRoutes...)
	for _, r := range contentsRoutes {
		if r.needs == access.Operator && strings.HasPrefix(r.pattern, "GET ") {
			readers[r.pattern] = true
		}
	}
}

// allows says whether a caller may use a route.
func (to route) allows(who *access.Caller) bool {
	if readers[to.pattern] {
		return who.MayRead()
	}
	return who.May(to.needs)
}

// reading is what routes that read documents have in common: a line of the audit log with what was looked at.
func reading(action string, do func(*call) (int, any, error)) func(*call) (int, any, error) {
	return func(c *call) (int, any, error) {
		if action != "" {
			q := c.r.URL.Query()
			c.log.Looked, c.log.Target = true, contents.Target(c.r.PathValue("id"), q.Get("db"), q.Get("doc"))
		}
		return do(c)
	}
}

// sent is the body of an answer that was sent already.
type sent struct{}

// query reads the parameters of a request; the first that can't be meant is in err.
type query struct {
	url.Values
	err error
}

func (c *call) query() *query { return &query{Values: c.r.URL.Query()} }

func (q *query) invalid(format string, args ...any) {
	if q.err == nil {
		q.err = api.Invalid(format, args...)
	}
}

// need returns a parameter that must be there.
func (q *query) need(name string) string {
	v := q.Get(name)
	if v == "" {
		q.invalid("The parameter %s is missing.", name)
	}
	return v
}

func (q *query) number(name string) int {
	text := q.Get(name)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		q.invalid("%s must be a number from 0 on.", name)
	}
	return n
}

func (q *query) yes(name string) bool {
	switch q.Get(name) {
	case "", "false":
		return false
	case "true":
		return true
	}
	q.invalid("%s is true or false.", name)
	return false
}

func (q *query) time(name string) time.Time {
	text := q.Get(name)
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		q.invalid("%s must be a time in RFC 3339, such as 2026-11-22T17:59:58Z.", name)
	}
	return t
}

// at is the state of the parameters at and backup, the newest moment without both.
func (q *query) at() states.State {
	s := states.State{Backup: q.Get("backup"), At: q.time("at")}
	if s.Backup != "" && !s.At.IsZero() {
		q.invalid("Name a moment with at, or a backup with backup, not both.")
	}
	return s
}

// state is one that a parameter names: a backup by its id, latest, a time, or now.
func (q *query) state(name, otherwise string) states.State {
	text := q.Get(name)
	if text == "" {
		text = otherwise
	}
	if text == "" {
		q.invalid("The parameter %s is missing: a backup's id, a time in RFC 3339, latest or now.", name)
	}
	if text == "now" {
		return states.State{}
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return states.State{At: t}
	}
	return states.State{Backup: text}
}

func (q *query) page() contents.Page {
	return contents.Page{Offset: q.number("offset"), Limit: q.number("limit")}
}

// instance is the id of the path. The instance may be gone: its backups count.
func (c *call) instance(q *query) string {
	id, err := api.ID(c.r)
	if err != nil && q.err == nil {
		q.err = err
	}
	return id
}

func (c *call) reader() *looks.Reader { return c.contents }

// answered is an answer, or why there is none.
func answered(body any, err error) (int, any, error) {
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, body, nil
}

func (c *call) moments() (int, any, error) {
	q := c.query()
	id := c.instance(q)
	m := contents.MomentsQuery{From: q.time("from"), To: q.time("to"), Databases: q.Get("db"), Page: q.page()}
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().Moments(c.r.Context(), c.who, id, m))
}

func (c *call) damage() (int, any, error) {
	q := c.query()
	id := c.instance(q)
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().DamageOf(c.r.Context(), c.who, id))
}

func (c *call) databases() (int, any, error) {
	q := c.query()
	id, at := c.instance(q), q.at()
	d := contents.DatabasesQuery{Prefix: q.Get("prefix"), Group: q.yes("group"), Page: q.page()}
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().Databases(c.r.Context(), c.who, id, at, d))
}

func (c *call) databaseSpace() (int, any, error) {
	q := c.query()
	id, at, db := c.instance(q), q.at(), q.need("db")
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().Space(c.r.Context(), c.who, id, at, db))
}

func (c *call) database() (int, any, error) {
	q := c.query()
	id, at, db := c.instance(q), q.at(), q.need("db")
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().Database(c.r.Context(), c.who, id, at, db))
}

func (c *call) documents() (int, any, error) {
	q := c.query()
	id, at := c.instance(q), q.at()
	d := contents.DocumentsQuery{DB: q.need("db"), Prefix: q.Get("prefix"), After: q.Get("after"), Selector: q.Get("selector"), Kind: q.Get("kind"),
		Deleted: q.yes("deleted"), Conflict: q.yes("conflicts"), Limit: q.number("limit")}
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().Documents(c.r.Context(), c.who, id, at, d))
}

func (c *call) document() (int, any, error) {
	q := c.query()
	id, at, db, doc := c.instance(q), q.at(), q.need("db"), q.need("doc")
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().Document(c.r.Context(), c.who, id, at, db, doc, q.Get("rev")))
}

// attachment sends the bytes of one.
func (c *call) attachment() (int, any, error) {
	q := c.query()
	id, at, db, doc, name := c.instance(q), q.at(), q.need("db"), q.need("doc"), q.need("name")
	if q.err != nil {
		return 0, nil, q.err
	}
	begun := false
	err := c.reader().AttachmentOf(c.r.Context(), c.who, id, at, db, doc, q.Get("rev"), name, func(a contents.Attachment, in io.Reader) error {
		begun = true
		return contents.Download(c.w, a, in)
	})
	if err != nil && begun {
		c.Log.WarnContext(c.r.Context(), "an attachment could not be sent whole", "err", err)
		panic(http.ErrAbortHandler) // whoever reads must not take it for all
	}
	return http.StatusOK, sent{}, err
}

func (c *call) history() (int, any, error) {
	q := c.query()
	id, db, doc := c.instance(q), q.need("db"), q.need("doc")
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().History(c.r.Context(), c.who, id, db, doc))
}

func (c *call) diff() (int, any, error) {
	q := c.query()
	id, db, doc := c.instance(q), q.need("db"), q.need("doc")
	from := contents.Place{At: q.state("from", ""), Rev: q.Get("from_rev")}
	to := contents.Place{At: q.state("to", "now"), Rev: q.Get("to_rev")}
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().Diff(c.r.Context(), c.who, id, db, doc, from, to))
}

func (c *call) changes() (int, any, error) {
	q := c.query()
	id := c.instance(q)
	x := contents.ChangesQuery{DB: q.need("db"), From: q.state("from", ""), To: q.state("to", "now"), Kind: q.Get("kind"), Prefix: q.Get("prefix"), Page: q.page()}
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().Changes(c.r.Context(), c.who, id, x))
}

func (c *call) clusterDatabases() (int, any, error) {
	q := c.query()
	page := q.page()
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().ClusterDatabases(c.r.Context(), c.who, c.r.PathValue("id"), contents.DatabasesQuery{Prefix: q.Get("prefix"), Page: page}))
}

func (c *call) divergence() (int, any, error) {
	q := c.query()
	x := contents.DivergenceQuery{Databases: q.Get("db"), At: q.time("at"), After: q.Get("after"), Limit: q.number("limit")}
	if q.err != nil {
		return 0, nil, q.err
	}
	return answered(c.reader().Divergence(c.r.Context(), c.who, c.r.PathValue("id"), x))
}

// restoreDocument is what restore-doc takes.
type restoreDocument struct {
	DB           string    `json:"db"`
	Target       string    `json:"target"`
	Doc          string    `json:"doc"`
	Rev          string    `json:"rev"`
	Backup       string    `json:"backup"`
	At           time.Time `json:"at,omitzero"`
	UntilBackup  string    `json:"until_backup"`
	Until        time.Time `json:"until,omitzero"`
	DeletedSince bool      `json:"deleted_since"`
	On           *string   `json:"on"`
	Replace      bool      `json:"replace"`
	DryRun       bool      `json:"dry_run"`
	User         string    `json:"user"`
	Password     string    `json:"password"`
}

func (c *call) restoreDocuments() (int, any, error) {
	id, err := api.ID(c.r)
	if err != nil {
		return 0, nil, err
	}
	var n restoreDocument
	if err := c.read(&n); err != nil {
		return 0, nil, err
	}
	c.log.Target = contents.Target(id, n.DB, n.Doc)
	if n.Backup != "" && !n.At.IsZero() || n.UntilBackup != "" && !n.Until.IsZero() {
		return 0, nil, api.Invalid("Name a backup or a time, not both.")
	}
	d := server.NewDocuments{FromBackup: n.Backup, UntilBackup: n.UntilBackup, User: n.User, Password: n.Password,
		Documents: job.Documents{DB: n.DB, Target: n.Target, From: job.StateRef{At: n.At}, Doc: n.Doc, Rev: n.Rev, DryRun: n.DryRun, On: n.On, Replace: n.Replace}}
	if n.DeletedSince && n.UntilBackup == "" {
		d.Until = &job.StateRef{At: n.Until}
	}
	j, err := c.Server.RestoreDocuments(c.r.Context(), c.who, id, d)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, map[string]any{"job": j}, nil
}
