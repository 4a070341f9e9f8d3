package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/localhost"
)

// server asks a running CouchDB about itself.
type server struct {
	base           *url.URL // without user and password
	user, password string
	client         *http.Client
}

// direct is how servers are asked, which must be on this machine.
var direct = localhost.Direct()

// fromURL asks the server for its directories. It answers with what its ini
// files say, so a relative directory is of use only if one of the usual
// configuration directories is that of the same server, by its uuid.
func fromURL(ctx context.Context, o Options) (*Node, error) {
	s, err := newServer(o)
	if err != nil {
		return nil, err
	}
	if err := s.isLocal(ctx); err != nil {
		return nil, err
	}
	var welcome struct{ CouchDB, Version, UUID string }
	if err := s.get(ctx, "/", &welcome); err != nil {
		return nil, err
	}
	if welcome.CouchDB == "" {
		return nil, fmt.Errorf("what answers at %s is not a CouchDB: check the URL", s.base)
	}
	name, err := s.nodeName(ctx)
	if err != nil {
		return nil, err
	}
	settings, err := s.settings(ctx, name)
	if err != nil {
		return nil, err
	}
	welcome.UUID = cmp.Or(welcome.UUID, settings["uuid"]) // CouchDB before 2.2 doesn't welcome with it
	n := &Node{Settings: Ini{"couchdb": settings}}
	for _, dir := range o.Usual {
		same, err := fromConfigDir(ctx, dir, o.Getenv("COUCHDB_ARGS_FILE"))
		if err == nil && same.UUID != "" && same.UUID == welcome.UUID {
			n = same
			for key, value := range settings { // the running server knows best
				n.Settings.merge(Ini{"couchdb": {key: value}})
			}
			break
		}
	}
	n.UUID, n.NodeName = welcome.UUID, name
	if welcome.Version != "" {
		n.Version = welcome.Version
	}
	data := settings["database_dir"]
	if data != "" && !filepath.IsAbs(data) && n.ReleaseDir == "" {
		return nil, fmt.Errorf("the server at %s says that its data is in %q, which is relative to where CouchDB is installed: pass --config-dir or --data-dir", s.base, data)
	}
	if n.Served, err = s.served(ctx); err != nil {
		return nil, err
	}
	return finish(n, nil, s.base.String())
}

// nodeName asks what the server's node is called. It is empty for a CouchDB 2 that other
// nodes are connected to: that says which there are, and not which of them answers.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_node.erl, handle_node_req; 2.1.2 and 2.3.1,
// src/chttpd/src/chttpd_misc.erl, handle_node_req (400, "Incomplete path to _node request")
// and src/mem3/src/mem3_httpd.erl, handle_membership_req (itself and who is connected).
func (s *server) nodeName(ctx context.Context) (string, error) {
	var local struct{ Name string }
	err := s.get(ctx, "/_node/_local", &local)
	if !errors.Is(err, errNotThere) {
		return local.Name, err
	}
	var nodes struct {
		All []string `json:"all_nodes"`
	}
	if err := s.get(ctx, "/_membership", &nodes); err != nil || len(nodes.All) != 1 {
		return "", err
	}
	return nodes.All[0], nil
}

// settings asks for the section couchdb of the server's configuration. CouchDB 2.0 knows its
// own node by its name alone.
func (s *server) settings(ctx context.Context, node string) (map[string]string, error) {
	const path = "/_node/%s/_config/couchdb"
	out := map[string]string{}
	err := s.get(ctx, fmt.Sprintf(path, "_local"), &out)
	if errors.Is(err, errNotThere) && node != "" {
		err = s.get(ctx, fmt.Sprintf(path, url.PathEscape(node)), &out)
	}
	return out, err
}

// served asks what the server's own shard map is.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_db.erl, get_db_info (uuid); 2.x has no
// /_node/_local/<db>.
func (s *server) served(ctx context.Context) (*Served, error) {
	out := &Served{URL: s.base.String()}
	var info struct{ UUID string }
	err := s.get(ctx, "/_node/_local/_dbs", &info)
	if err == nil && info.UUID != "" {
		out.MapUUID = info.UUID
		return out, nil
	}
	if err != nil && !errors.Is(err, errNotThere) {
		return nil, err
	}
	return out, s.get(ctx, fmt.Sprintf("/_all_dbs?limit=%d", namesPage), &out.Databases)
}

// errNotThere is the answer 404, or 400: both are what an older CouchDB says to a path that
// it doesn't have.
var errNotThere = errors.New("not found")

func newServer(o Options) (*server, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("the URL of the server must look like http://127.0.0.1:5984") // without the URL: it may hold a password
	}
	s := &server{user: o.User, password: o.Password, client: o.HTTP}
	if u.User != nil && s.user == "" {
		s.user = u.User.Username()
		s.password, _ = u.User.Password()
	}
	s.base = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
	if s.client == nil {
		s.client = &http.Client{Timeout: 10 * time.Second, Transport: direct}
	}
	c := *s.client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	s.client = &c
	return s, nil
}

// isLocal refuses a server on another machine: directories of the same name here
// would be backed up as if they were its own.
func (s *server) isLocal(ctx context.Context) error {
	host := s.base.Hostname()
	if localhost.Is(host) {
		return nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return fmt.Errorf("find the server at %s: %w", s.base, err)
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list the addresses of this machine: %w", err)
	}
	for _, ip := range ips {
		ip = ip.Unmap().WithZone("")
		if ip.IsLoopback() || slices.ContainsFunc(own, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.Equal(ip.AsSlice())
		}) {
			return nil
		}
	}
	return fmt.Errorf("the server at %s is not on this machine, and its files are needed: run Slipcover there, or pass --data-dir", s.base)
}

// answerLimit bounds an answer; the couchdb section has some 2 kB.
const answerLimit = 1 << 20

func (s *server) get(ctx context.Context, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.String()+path, nil)
	if err != nil {
		return err
	}
	return s.do(req, v)
}

// do sends a request and decodes the answer into v.
func (s *server) do(req *http.Request, v any) error {
	u := req.URL.String()
	req.Header.Set("Accept", "application/json")
	if s.user != "" {
		req.SetBasicAuth(s.user, s.password)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted:
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the server refuses %s (%s): pass the name and password of a server admin (couch_user, couch_password_file)", u, resp.Status)
	case http.StatusNotFound, http.StatusBadRequest:
		return fmt.Errorf("the server answers %s with %s: check the URL%w", u, resp.Status, quiet{errNotThere})
	default:
		return fmt.Errorf("the server answers %s with %s: check the URL", u, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerLimit)).Decode(v); err != nil {
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			return fmt.Errorf("what answers at %s is not a CouchDB: check the URL", s.base)
		}
		return fmt.Errorf("read the server's answer to %s: %w", u, err)
	}
	return nil
}

// quiet is an error that a message is of the kind of without saying so.
type quiet struct{ error }

func (quiet) Error() string   { return "" }
func (q quiet) Unwrap() error { return q.error }
