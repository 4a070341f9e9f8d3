package chttpd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/serve"
)

// Version is the CouchDB that is answered as.
const Version = "3.5.0"

const (
	// mostBody is how large the body of a request may be, in bytes.
	mostBody = 16 << 20
	// mostURI is how long the path and query of a request may be.
	mostURI = 64 << 10
)

// Options are the options of New.
type Options struct {
	Auth   Auth
	Vendor string // what the welcome calls the server's version
	// Utils is a folder with CouchDB's web interface, to be shown at /_utils/; "" for none.
	Utils string
	// Prefix is the path below which the node is, such as /here/is/it: it begins with a slash and ends without one. Of paths
	// of requests it is cut off, in cookies and addresses of answers it is there. "" for none.
	Prefix string
	// Metrics are shown to administrators at _node/_local/_prometheus, beside counts of requests.
	Metrics []prometheus.Collector
	Log     *slog.Logger
	// Done is closed when feeds that wait for changes must end.
	Done <-chan struct{}
}

// Handler answers the requests of one node.
type Handler struct {
	node *serve.Node
	// ctx is for as long as the node is read.
	ctx      context.Context
	o        Options
	locals   locals
	sessions sessions
	all      chan struct{} // for requests, those that wait for changes too
	slots    chan struct{} // for those that walk whole databases
	large    chan struct{} // for those that put attachments into JSON
	secure   sync.Map      // security objects by database
	counts   *counts
}

// How many requests at once there may be.
const (
	mostRequests = 1024
	walkers      = 64 // each reads by itself
	inliners     = 4  // each has whole attachments in memory
)

// New returns a handler of a node, which is read for as long as ctx lasts.
func New(ctx context.Context, n *serve.Node, o Options) *Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Handler{node: n, ctx: ctx, o: o, all: make(chan struct{}, mostRequests), slots: make(chan struct{}, walkers), large: make(chan struct{}, inliners), counts: newCounts(o.Metrics)}
}

// request is a request as CouchDB's handlers see it.
type request struct {
	*http.Request
	w      *answer
	h      *Handler
	method string   // GET for HEAD
	parts  []string // of the path, decoded
	query  mrargs.Query
	user   User
	obj    ejson.Object // the body, once objectBody has read it
	read   bool
	before []string // headers that whoever called had set
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	count := h.counts.begin(w)
	defer count.end()
	w = count
	a := &answer{w: w, head: hr.Method == http.MethodHead}
	r := &request{Request: hr, w: a, h: h, method: hr.Method, before: slices.Collect(maps.Keys(w.Header()))}
	w.Header()["Server"] = []string{"CouchDB/" + Version + " (Slipcover)"}
	w.Header().Set("X-Couch-Request-Id", requestID(hr))
	w.Header().Set("X-Couchdb-Body-Time", "0")
	select {
	case h.all <- struct{}{}:
		defer func() { <-h.all }()
	default:
		r.failed(fail{status: http.StatusServiceUnavailable, name: "service unavailable", reason: "Too many requests are under way; try again later."})
		return
	}
	err := r.parse()
	if err == nil {
		err = h.serve(r)
	}
	if err == nil {
		err = a.finish()
	}
	if err != nil {
		r.failed(err)
	}
}

func requestID(r *http.Request) string {
	id := r.Header.Get("X-Couch-Request-Id")
	ok := id != "" && len(id) <= 36
	for _, c := range id {
		ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_')
	}
	if ok {
		return id
	}
	var b [5]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// parse reads the path and the query.
func (r *request) parse() error {
	if len(r.RequestURI) > mostURI {
		return fail{status: http.StatusRequestURITooLong, name: "too_long", reason: "the request uri is too long"}
	}
	switch r.method {
	case http.MethodHead:
		r.method = http.MethodGet
	case http.MethodPost:
		if o := r.Header.Get("X-Http-Method-Override"); slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "DELETE", "COPY"}, o) {
			r.method = o
		}
	}
	raw, below := strings.CutPrefix(r.URL.EscapedPath(), r.h.o.Prefix)
	if !below || raw != "" && raw[0] != '/' {
		return errMissing
	}
	for p := range strings.SplitSeq(raw, "/") {
		if p == "" {
			continue
		}
		s, err := url.QueryUnescape(p) // CouchDB takes + for a space there too
		if err != nil {
			return badRequest("invalid_url_encoding")
		}
		r.parts = append(r.parts, s)
	}
	if _, err := url.QueryUnescape(r.RequestURI); err != nil { // the query, too
		return badRequest("invalid_url_encoding")
	}
	r.query = mrargs.ParseQuery(r.URL.RawQuery)
	return nil
}

// is reports whether a parameter has a value.
func (r *request) is(name, value string) bool {
	v, _ := r.query.Get(name)
	return v == value
}

// serve finds out who asks and who answers.
func (h *Handler) serve(r *request) error {
	if err := h.authenticate(r); err != nil {
		return err
	}
	if err := h.authorize(r); err != nil {
		return err
	}
	first := ""
	if len(r.parts) > 0 {
		first = r.parts[0]
	}
	if f := topLevel[first]; f != nil {
		return f(h, r)
	}
	return h.database(r)
}

// topLevel are the functions of paths that are no database's.
var topLevel = map[string]func(*Handler, *request) error{
	"": (*Handler).welcome, "_up": (*Handler).up, "_all_dbs": (*Handler).allDBs, "_dbs_info": (*Handler).dbsInfo, "_uuids": (*Handler).uuids,
	"_session": (*Handler).session, "_membership": (*Handler).membership, "_active_tasks": (*Handler).activeTasks, "_utils": (*Handler).utils,
	"_node": (*Handler).nodeInfo, "_scheduler": (*Handler).scheduler, "_replicate": (*Handler).refused, "_reshard": (*Handler).refused,
	"_db_updates": (*Handler).dbUpdates, "_cluster_setup": (*Handler).clusterSetup, "favicon.ico": (*Handler).favicon,
}

// walk waits for a place among those who walk whole databases, and as inline does.
func (h *Handler) walk(r *request, attachments bool) (leave func(), err error) {
	walked, err := enter(r, h.slots)
	if err != nil {
		return nil, err
	}
	inlined, err := h.inline(r, attachments)
	if err != nil {
		walked()
		return nil, err
	}
	return func() { inlined(); walked() }, nil
}

// inline waits for a place among those who put attachments into JSON, if a request does.
func (h *Handler) inline(r *request, attachments bool) (leave func(), err error) {
	if !attachments {
		return func() {}, nil
	}
	return enter(r, h.large)
}

func enter(r *request, slots chan struct{}) (leave func(), err error) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}
