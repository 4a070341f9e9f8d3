package chttpd

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/mrargs"
	"github.com/slipcover/slipcover/internal/serve"
)

func (h *Handler) welcome(r *request) error {
	if r.method != http.MethodGet {
		return methods("GET,HEAD")
	}
	return r.json(http.StatusOK, ejson.Object{
		{Name: "couchdb", Value: "Welcome"},
		{Name: "version", Value: Version},
		{Name: "git_sha", Value: "slipcover"},
		{Name: "uuid", Value: h.node.Manifest.Identity.ServerUUID},
		{Name: "features", Value: []string{"partitioned", "pluggable-storage-engines", "reshard", "scheduler"}},
		{Name: "vendor", Value: ejson.Object{{Name: "name", Value: "Slipcover"}, {Name: "version", Value: h.o.Vendor}}},
	})
}

func (h *Handler) up(r *request) error {
	if r.method != http.MethodGet {
		return methods("GET,HEAD")
	}
	return r.json(http.StatusOK, ejson.Object{{Name: "status", Value: "ok"}, {Name: "seeds", Value: ejson.Object{}}})
}

// allDBs lists databases in the order of the shard map, which is that of their names' bytes.
func (h *Handler) allDBs(r *request) error {
	if r.method != http.MethodGet {
		return methods("GET,HEAD")
	}
	names, err := h.databasesOf(r)
	if err != nil {
		return err
	}
	r.w.beginJSON(http.StatusOK)
	_, err = r.w.Write(ejson.Append(nil, names))
	return err
}

// databasesOf are the databases that a query with keys, limit and skip asks for.
func (h *Handler) databasesOf(r *request) ([]string, error) {
	args, err := mrargs.ForAllDocs(r.query, nil, false)
	if err != nil {
		return nil, err
	}
	if err := args.CheckAllDocs(false); err != nil {
		return nil, err
	}
	rg := rangeOf(args)
	names := slices.DeleteFunc(h.node.Databases(), func(n string) bool { return !rg.has(n) })
	if args.Descending {
		slices.Reverse(names)
	}
	names = names[min(args.Skip, int64(len(names))):]
	return append([]string{}, names[:min(args.Limit, int64(len(names)))]...), nil
}

func (h *Handler) dbsInfo(r *request) error {
	var names []string
	switch r.method {
	case http.MethodGet:
		var err error
		if names, err = h.databasesOf(r); err != nil {
			return err
		}
	case http.MethodPost:
		o, err := r.posted()
		if err != nil {
			return err
		}
		keys, ok := o.Get("keys")
		list, isList := keys.(ejson.Array)
		switch {
		case !ok:
			return badRequest("`keys` member must exist.")
		case !isList:
			return badRequest("`keys` member must be an array.")
		case len(list) > 100:
			return badRequest("too_many_keys")
		}
		for _, k := range list {
			s, _ := k.(string)
			names = append(names, s)
		}
	default:
		return methods("GET,HEAD,POST")
	}
	r.w.beginJSON(http.StatusOK)
	if err := r.w.writeString("["); err != nil {
		return err
	}
	for i, name := range names {
		row := ejson.Object{{Name: "key", Value: name}}
		info, err := h.infoOf(name)
		switch {
		case errors.Is(err, serve.ErrNoDatabase):
			row = append(row, ejson.Member{Name: "error", Value: "not_found"})
		case err != nil:
			return err
		default:
			row = append(row, ejson.Member{Name: "info", Value: info})
		}
		b := ejson.Append(nil, row)
		if i > 0 {
			b = append([]byte(","), b...)
		}
		if _, err := r.w.Write(b); err != nil {
			return err
		}
	}
	return r.w.writeString("]")
}

func (h *Handler) infoOf(name string) (ejson.Object, error) {
	d, err := h.node.Database(name)
	if err != nil {
		return nil, err
	}
	return h.info(d)
}

func (h *Handler) uuids(r *request) error {
	if r.method != http.MethodGet {
		return methods("GET")
	}
	n := 1
	if v, ok := r.query.Get("count"); ok {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			return badRequest("count must be an integer")
		}
	}
	if n > 1000 {
		return badRequest("count parameter too large")
	}
	out := []string{}
	for range n {
		out = append(out, uuid())
	}
	r.w.w.Header().Set("Cache-Control", "no-cache")
	return r.json(http.StatusOK, ejson.Object{{Name: "uuids", Value: out}})
}

// uuid makes a random name that nothing else has.
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// nodeName is that of the node that was backed up.
func (h *Handler) nodeName() string { return h.node.Manifest.NodeName }

func (h *Handler) membership(r *request) error {
	if r.method != http.MethodGet {
		return methods("GET")
	}
	nodes := map[string]bool{h.nodeName(): true}
	for _, name := range h.node.Databases() {
		d, err := h.node.Database(name)
		if err != nil {
			return err
		}
		for n := range d.Map.ByNode {
			nodes[n] = true
		}
	}
	return r.json(http.StatusOK, ejson.Object{{Name: "all_nodes", Value: []string{h.nodeName()}}, {Name: "cluster_nodes", Value: slices.Sorted(maps.Keys(nodes))}})
}

func (h *Handler) activeTasks(r *request) error {
	if r.method != http.MethodGet {
		return methods("GET,HEAD")
	}
	return r.json(http.StatusOK, ejson.Array{})
}

// nodeInfo answers what CouchDB's web interface asks of a node. Its settings aren't shown: they hold secrets.
func (h *Handler) nodeInfo(r *request) error {
	switch {
	case len(r.parts) == 2 && r.method == http.MethodGet:
		return r.json(http.StatusOK, ejson.Object{{Name: "name", Value: h.nodeName()}})
	case len(r.parts) > 2 && r.parts[2] == "_config" && r.method == http.MethodGet:
		if len(r.parts) == 3 {
			return r.json(http.StatusOK, ejson.Object{})
		}
		return notFound("unknown_config_value")
	case len(r.parts) == 3 && r.parts[2] == "_prometheus" && r.method == http.MethodGet:
		h.counts.shown.ServeHTTP(r.w.w, r.Request)
		return nil
	case r.method != http.MethodGet:
		return errReadOnly
	}
	return errMissing
}

// scheduler lists no replications: what is served runs none.
func (h *Handler) scheduler(r *request) error {
	if r.method != http.MethodGet || len(r.parts) < 2 {
		return methods("GET,HEAD")
	}
	switch r.parts[1] {
	case "jobs":
		return r.json(http.StatusOK, ejson.Object{{Name: "total_rows", Value: 0}, {Name: "offset", Value: 0}, {Name: "jobs", Value: ejson.Array{}}})
	case "docs":
		return r.json(http.StatusOK, ejson.Object{{Name: "total_rows", Value: 0}, {Name: "offset", Value: 0}, {Name: "docs", Value: ejson.Array{}}})
	}
	return errMissing
}

func (h *Handler) clusterSetup(r *request) error {
	if r.method != http.MethodGet {
		return errReadOnly
	}
	return r.json(http.StatusOK, ejson.Object{{Name: "state", Value: "cluster_finished"}})
}

func (h *Handler) dbUpdates(*request) error {
	return notImplemented("A backup's databases don't change, so that there are no updates of them.")
}

// refused is of all that would change something.
func (h *Handler) refused(r *request) error {
	if r.method == http.MethodGet {
		return errMissing
	}
	return errReadOnly
}

func (h *Handler) favicon(*request) error { return errMissing }

// utils shows the files of CouchDB's web interface, which are CouchDB's and come from where the user says.
func (h *Handler) utils(r *request) error {
	if r.method != http.MethodGet {
		return methods("GET,HEAD")
	}
	if h.o.Utils == "" {
		return notFound("The web interface isn't served; --utils DIR names the folder with its files.")
	}
	at := strings.TrimPrefix(r.URL.Path, r.h.o.Prefix)
	if at == "/_utils" {
		http.Redirect(r.w.w, r.Request, r.h.o.Prefix+"/_utils/", http.StatusMovedPermanently)
		return nil
	}
	root, err := os.OpenRoot(h.o.Utils)
	if err != nil {
		return fmt.Errorf("web interface: %w", err)
	}
	defer func() { _ = root.Close() }()
	name := strings.TrimPrefix(path.Clean(at), "/_utils")
	name = strings.TrimPrefix(name, "/")
	if name == "" || name == "." {
		name = "index.html"
	}
	f, err := root.Open(name)
	if err != nil {
		return errMissing
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.IsDir() {
		return errMissing
	}
	hd := r.w.w.Header()
	hd.Set("Cache-Control", "private, must-revalidate")
	hd.Set("Content-Security-Policy", "child-src 'self' data: blob:; default-src 'self'; img-src 'self' data:; font-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline';")
	http.ServeContent(r.w.w, r.Request, name, st.ModTime(), f)
	return nil
}
