package chttpd

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve"
)

const (
	// mostLocals is how many checkpoints are kept: the first go when there are more.
	mostLocals = 1000
	// mostLocal is how large a checkpoint may be, in bytes.
	mostLocal = 1 << 20
)

// locals are local documents that clients wrote, in memory: checkpoints of replications. They lie over those of the backup.
type locals struct {
	mu    sync.Mutex
	docs  map[localKey]localDoc // guarded by mu, like order
	order []localKey            // as they came
}

type localKey struct{ db, id string }

type localDoc struct {
	rev  int64
	body ejson.Object // nil if it was deleted
}

func (l *locals) get(k localKey) (localDoc, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, ok := l.docs[k]
	return d, ok
}

// put keeps a document that replaces one with a revision.
func (l *locals) put(k localKey, was int64, d localDoc) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, ok := l.docs[k]
	if ok && old.rev != was {
		return false
	}
	if !ok {
		if len(l.order) == mostLocals {
			delete(l.docs, l.order[0])
			l.order = l.order[1:]
		}
		l.order = append(l.order, k)
	}
	if l.docs == nil {
		l.docs = map[localKey]localDoc{}
	}
	l.docs[k] = d
	return true
}

// localJSON reads a local document, in memory or the backup's.
func (h *Handler) localJSON(d *serve.Database, id string) ([]byte, int64, error) {
	if doc, ok := h.locals.get(localKey{d.Name, id}); ok {
		if doc.body == nil {
			return nil, doc.rev, errMissing
		}
		o := append(ejson.Object{{Name: "_id", Value: id}, {Name: "_rev", Value: fmt.Sprintf("0-%d", doc.rev)}}, doc.body...)
		return ejson.Append(nil, o), doc.rev, nil
	}
	db, err := h.find(d, id)
	if err != nil {
		return nil, 0, err
	}
	doc, err := db.LocalDoc(id)
	if errors.Is(err, couchfile.ErrNotFound) {
		return nil, 0, errMissing
	}
	if err != nil {
		return nil, 0, err
	}
	b, err := doc.JSON()
	return b, localRev(doc.Rev), err
}

// localRev is the number of a local document's revision, 0-N.
func localRev(rev string) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(rev, "0-"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (h *Handler) readLocal(r *request, d *serve.Database, id string, q docQuery) error {
	if q.open || q.rev != nil {
		return badRequest("local documents have no revisions")
	}
	b, rev, err := h.localJSON(d, id)
	if err != nil {
		return err
	}
	if r.etag(fmt.Sprintf(`"0-%d"`, rev)) {
		return nil
	}
	return r.raw(http.StatusOK, b)
}

// writeLocal keeps a checkpoint.
func (h *Handler) writeLocal(r *request, d *serve.Database, id string) error {
	o, err := r.objectBody()
	if err != nil {
		return err
	}
	_, rev, err := h.localJSON(d, id)
	var f fail
	if err != nil && !errors.As(err, &f) {
		return err
	}
	var body ejson.Object
	given := ""
	for _, m := range o {
		switch {
		case m.Name == "_rev":
			given, _ = m.Value.(string)
		case strings.HasPrefix(m.Name, "_"):
		default:
			body = append(body, m)
		}
	}
	if v, ok := r.query.Get("rev"); ok {
		given = v
	}
	exists := err == nil
	if exists && given != fmt.Sprintf("0-%d", rev) {
		return errConflict
	}
	if len(ejson.Append(nil, body)) > mostLocal {
		return fail{status: http.StatusRequestEntityTooLarge, name: "document_too_large", reason: id}
	}
	if body == nil {
		body = ejson.Object{}
	}
	next := int64(1)
	if exists {
		next = rev + 1
	}
	if !h.locals.put(localKey{d.Name, id}, rev, localDoc{next, body}) {
		return errConflict
	}
	r.w.w.Header().Set("Location", r.absolute(r.URL.EscapedPath()))
	return r.json(http.StatusCreated, ejson.Object{{Name: "ok", Value: true}, {Name: "id", Value: id}, {Name: "rev", Value: fmt.Sprintf("0-%d", next)}})
}

func (h *Handler) deleteLocal(r *request, d *serve.Database, id string) error {
	_, rev, err := h.localJSON(d, id)
	if err != nil {
		return err
	}
	if v, _ := r.query.Get("rev"); v != fmt.Sprintf("0-%d", rev) || !h.locals.put(localKey{d.Name, id}, rev, localDoc{rev, nil}) {
		return errConflict
	}
	return r.json(http.StatusOK, ejson.Object{{Name: "ok", Value: true}, {Name: "id", Value: id}, {Name: "rev", Value: "0-0"}})
}

// ids are those of the documents that clients wrote to a database.
func (l *locals) ids(db string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for k := range l.docs {
		if k.db == db {
			out = append(out, k.id)
		}
	}
	return out
}
