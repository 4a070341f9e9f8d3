package takeout

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/serve"
)

// checkpointID is the local document of a database that says how far it is pushed. It goes when that is done.
const checkpointID = "_local/slipcover-restore"

// checkpointEvery is how long it isn't written while documents are.
const checkpointEvery = time.Second

// endWait is how long the server has to take it away.
const endWait = time.Minute

// PushOptions say what Push does.
type PushOptions struct {
	Server   *Server
	DB       string // its name there
	From     *serve.Database
	Q        int       // how many ranges it gets; 0 is as many as it has
	State    string    // names the state, so that only a push of the same one goes on
	Progress *Progress // may be nil
}

// Pushed is what Push did.
type Pushed struct {
	Continued bool        `json:"continued"`
	Revisions int         `json:"revisions"` // that this call wrote: winners, conflicts and deletions
	Refused   []DocResult `json:"refused"`   // by the server's validation
	Compared  int         `json:"compared"`  // documents of a sample, which the server has
	LeftOut   int         `json:"local_documents_left_out"`
}

// checkpoint is the local document.
type checkpoint struct {
	Rev   string            `json:"_rev,omitempty"`
	State string            `json:"state"`
	Seqs  map[string]uint64 `json:"seqs"` // by range
}

// push is one call of Push.
type push struct {
	PushOptions
	mu  sync.Mutex
	at  checkpoint // guarded by mu, like out and saved
	out *Pushed

	saved time.Time
}

// Push makes a database on a server and writes all documents of a state into it over HTTP, as a replication does: every leaf
// with its history, conflicts and deletions too, and their attachments. It has as many ranges as it had, or Q, and is as partitioned as it was,
// and who may read it is set before the first document. Design documents come last, so that their validation refuses none.
// Where it was stopped another call goes on. It returns ErrTaken if there is a database of the name that isn't such a beginning.
func Push(ctx context.Context, o PushOptions) (*Pushed, error) {
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	p := &push{PushOptions: o, out: &Pushed{Refused: []DocResult{}}}
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	for _, design := range []bool{false, true} {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(sendAtOnce)
		for _, s := range o.From.Shards {
			g.Go(func() error { return p.shard(gctx, s, design) })
		}
		if err := g.Wait(); err != nil {
			return p.out, err
		}
	}
	var err error
	if len(p.out.Refused) == 0 {
		if p.out.Compared, err = o.Server.compareDatabase(ctx, o.DB, o.From); err != nil {
			return p.out, err
		}
	}
	return p.out, p.end(ctx)
}

// end takes the checkpoint away. After that the database is whole, and another call would find it taken: who stops this one just now
// waits for the answer, so that the two can be told apart.
func (p *push) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWait)
	defer cancel()
	path := docPath(p.DB, checkpointID)
	err := p.Server.call(ctx, http.MethodDelete, path+"?rev="+p.at.Rev, nil, nil)
	if st := statusOf(err); st == http.StatusNotFound || st == http.StatusConflict { // the answer to another try was lost
		if gone := p.Server.call(ctx, http.MethodGet, path, nil, nil); statusOf(gone) == http.StatusNotFound {
			return nil
		}
	}
	return err
}

func (p *push) ranges() int {
	if p.Q > 0 {
		return p.Q
	}
	return len(p.From.Shards)
}

// begin makes the database, or finds out how far another call came.
func (p *push) begin(ctx context.Context) error {
	parted, err := p.From.Partitioned(ctx)
	if err != nil {
		return err
	}
	path := dbPath(p.DB) + "?q=" + strconv.Itoa(p.ranges())
	if parted {
		path += "&partitioned=true"
	}
	err = p.Server.call(ctx, http.MethodPut, path, nil, nil)
	switch {
	case statusOf(err) == http.StatusPreconditionFailed:
		if err := p.goOn(ctx); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("make the database: %w", err)
	}
	if p.at.State == "" { // before anything else, so that it is known whose the database is
		p.at = checkpoint{State: p.State, Seqs: map[string]uint64{}}
		if err := p.save(ctx); err != nil {
			return err
		}
	}
	if len(p.at.Seqs) > 0 { // it has documents, and what is set
		return nil
	}
	p.at.Seqs = map[string]uint64{}
	return p.settings(ctx)
}

// goOn takes up what another call began. A database that nothing was ever written to is one that was made just before
// it ended.
func (p *push) goOn(ctx context.Context) error {
	taken := fmt.Errorf("%w: %q; --as restores under another name", ErrTaken, p.DB)
	err := p.Server.call(ctx, http.MethodGet, docPath(p.DB, checkpointID), nil, &p.at)
	if err == nil && p.at.State != p.State {
		return fmt.Errorf("%w, in which the restore of another state was not finished; delete it first", taken)
	}
	if err == nil {
		p.out.Continued = true
		return nil
	}
	if statusOf(err) != http.StatusNotFound {
		return err
	}
	var info struct {
		Seq     string `json:"update_seq"`
		Docs    uint64 `json:"doc_count"`
		Deleted uint64 `json:"doc_del_count"`
		Cluster struct{ Q int }
	}
	if err := p.Server.call(ctx, http.MethodGet, dbPath(p.DB), nil, &info); err != nil {
		return err
	}
	if info.Docs+info.Deleted > 0 || !strings.HasPrefix(info.Seq, "0-") || info.Cluster.Q != p.ranges() {
		return taken
	}
	return nil
}

// settings gives the database what is set of it.
func (p *push) settings(ctx context.Context) error {
	if len(p.From.Shards) == 0 {
		return fmt.Errorf("%s: %w", p.From.Name, serve.ErrNoShard)
	}
	db, err := p.From.Open(ctx, p.From.Shards[0]) // all have the same
	if err != nil {
		return err
	}
	security, err := db.Security()
	if err != nil {
		return err
	}
	// Also an empty one: it lets everybody read, and a database that CouchDB 3 makes has one that lets administrators alone
	// (couch_db_updater.erl, default_security_object).
	if err := p.Server.call(ctx, http.MethodPut, dbPath(p.DB, "_security"), []byte(security), nil); err != nil {
		return fmt.Errorf("set who may read the database: %w", err)
	}
	if n := db.Header().RevsLimit; n != 0 && n != 1000 {
		return p.Server.call(ctx, http.MethodPut, dbPath(p.DB, "_revs_limit"), []byte(strconv.FormatUint(n, 10)), nil)
	}
	return nil
}

// save writes the checkpoint.
func (p *push) save(ctx context.Context) error {
	var a struct{ Rev string }
	err := p.Server.call(ctx, http.MethodPut, docPath(p.DB, checkpointID), p.at, &a)
	if statusOf(err) == http.StatusConflict { // an answer was lost
		var now checkpoint
		if err = p.Server.call(ctx, http.MethodGet, docPath(p.DB, checkpointID), nil, &now); err == nil {
			p.at.Rev = now.Rev
			err = p.Server.call(ctx, http.MethodPut, docPath(p.DB, checkpointID), p.at, &a)
		}
	}
	if err == nil {
		p.at.Rev = a.Rev
	}
	return err
}

// shard writes the documents of a shard, from where the checkpoint says on, or its design documents.
func (p *push) shard(ctx context.Context, s *serve.Shard, design bool) error {
	db, err := p.From.Open(ctx, s)
	if err != nil {
		return err
	}
	if design {
		return p.designs(ctx, db)
	}
	p.mu.Lock()
	since := p.at.Seqs[s.Range.String()]
	p.mu.Unlock()
	page := &pushPage{p: p, db: db}
	reached := func(seq uint64, end bool) error {
		if err := page.flush(ctx); err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.at.Seqs[s.Range.String()] = seq
		if !end && time.Since(p.saved) < checkpointEvery {
			return nil
		}
		p.saved = time.Now()
		return p.save(ctx)
	}
	for info, err := range db.Changes(since, false) {
		if err != nil {
			return err
		}
		if strings.HasPrefix(info.ID, "_design/") {
			continue
		}
		if err := page.add(ctx, info); err != nil {
			return err
		}
		if len(page.docs) >= pageDocs || page.size >= pageBytes {
			if err := reached(info.UpdateSeq, false); err != nil {
				return err
			}
		}
	}
	if err := reached(db.Header().UpdateSeq, true); err != nil {
		return err
	}
	n := 0
	for l, err := range db.LocalDocs("") {
		if err != nil {
			return err
		}
		if l.ID != checkpointID {
			n++
		}
	}
	p.mu.Lock()
	p.out.LeftOut += n
	p.mu.Unlock()
	return nil
}

func (p *push) designs(ctx context.Context, db *couchfile.DB) error {
	page := &pushPage{p: p, db: db}
	for info, err := range db.Docs(couchfile.DocsOptions{Start: "_design/", Deleted: true}) {
		if err != nil {
			return err
		}
		if !strings.HasPrefix(info.ID, "_design/") {
			break
		}
		if err := page.add(ctx, info); err != nil {
			return err
		}
	}
	return page.flush(ctx)
}

// pushPage is revisions that are written together.
type pushPage struct {
	p    *push
	db   *couchfile.DB
	docs []*doc
	size int
}

// add adds the leaves of a document. Those with attachments are written at once.
func (g *pushPage) add(ctx context.Context, info *couchfile.DocInfo) error {
	for _, rev := range info.Leaves() {
		if err := g.leaf(ctx, info, rev); err != nil {
			return err
		}
	}
	g.p.Progress.Docs.Add(1)
	return nil
}

func (g *pushPage) leaf(ctx context.Context, info *couchfile.DocInfo, rev couchfile.Revision) error {
	if !rev.Stored {
		return nil
	}
	atts, err := g.db.Attachments(info.ID, rev)
	if err != nil {
		return fmt.Errorf("document %q: %w", info.ID, err)
	}
	d := &doc{id: info.ID, db: g.db, info: info, rev: rev, atts: atts, res: DocResult{ID: info.ID, From: rev.String()}}
	if len(atts) > 0 {
		return g.alone(ctx, d)
	}
	if d.body, err = g.db.RevisionJSON(info, rev, couchfile.DocOptions{Revs: true}); err != nil {
		return fmt.Errorf("document %q: %w", info.ID, err)
	}
	g.docs, g.size = append(g.docs, d), g.size+len(d.body)
	return nil
}

// alone writes a revision with its attachments.
func (g *pushPage) alone(ctx context.Context, d *doc) error {
	o, err := d.object(true)
	if err != nil {
		return err
	}
	err = g.p.Server.again(ctx, func() error {
		_, err := g.p.Server.putMultipart(ctx, g.p.DB, d, o, d.atts, true, g.p.Progress)
		return err
	})
	return g.wrote([]*doc{d}, err)
}

// flush writes the revisions of the page.
func (g *pushPage) flush(ctx context.Context) error {
	err := g.bulk(ctx, g.docs)
	g.docs, g.size = nil, 0
	return err
}

func (g *pushPage) bulk(ctx context.Context, docs []*doc) error {
	if len(docs) == 0 {
		return nil
	}
	b := []byte(`{"new_edits":false,"docs":[`)
	for i, d := range docs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, d.body...)
	}
	var answers []struct{ ID, Rev, Error, Reason string }
	err := g.p.Server.call(ctx, http.MethodPost, dbPath(g.p.DB, "_bulk_docs"), append(b, "]}"...), &answers)
	if st := statusOf(err); len(docs) > 1 && (st == http.StatusRequestEntityTooLarge || st == http.StatusBadRequest) {
		half := len(docs) / 2
		if err := g.bulk(ctx, docs[:half]); err != nil {
			return err
		}
		return g.bulk(ctx, docs[half:])
	}
	if err != nil {
		return g.wrote(docs, err)
	}
	refused := map[string]*failure{}
	for _, a := range answers {
		if a.Error != "" {
			refused[a.ID+"/"+a.Rev] = &failure{Name: a.Error, Reason: a.Reason}
		}
	}
	for _, d := range docs {
		err := error(nil)
		if f := refused[d.id+"/"+d.rev.String()]; f != nil {
			err = f
		}
		if err := g.wrote([]*doc{d}, err); err != nil {
			return err
		}
	}
	return nil
}

// wrote counts revisions that were written, or notes that the server refuses them.
func (g *pushPage) wrote(docs []*doc, err error) error {
	var f *failure
	if err != nil && (!errors.As(err, &f) || f.again() || f.Status == http.StatusUnauthorized || f.Status == http.StatusNotFound) {
		return err
	}
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	for _, d := range docs {
		g.p.Progress.Bytes.Add(int64(len(d.body)))
		if err == nil {
			g.p.out.Revisions++
			continue
		}
		d.res.Outcome, d.res.Reason = Refused, f.Name+": "+f.Reason
		g.p.out.Refused = append(g.p.out.Refused, d.res)
	}
	return nil
}

// Exists reports whether the server has a database of a name.
func (s *Server) Exists(ctx context.Context, db string) (bool, error) {
	err := s.call(ctx, http.MethodGet, dbPath(db), nil, nil)
	if statusOf(err) == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}
