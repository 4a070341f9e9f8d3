package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// Server is what a running CouchDB says of itself.
type Server struct {
	URL      string // without user and password
	UUID     string
	Version  string // such as 3.5.0
	NodeName string // "" if it is a CouchDB 2 among others, which doesn't say which it is

	server *server
}

// Database is a database of a running CouchDB, with what its nodes hold together.
type Database struct {
	Name    string `json:"name"`
	Docs    uint64 `json:"docs"` // without deleted ones
	Deleted uint64 `json:"deleted_docs"`
}

// Ask asks the CouchDB at a URL, on this machine or another, who it is. The user is a
// server admin; an error says in words what is wrong, and never a password.
func Ask(ctx context.Context, url, user, password string) (*Server, error) {
	s, err := newServer(Options{URL: url, User: user, Password: password})
	if err != nil {
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
	if welcome.UUID == "" { // as before CouchDB 2.2
		settings, err := s.settings(ctx, name)
		if err != nil {
			return nil, err
		}
		welcome.UUID = settings["uuid"]
	}
	return &Server{URL: s.base.String(), UUID: welcome.UUID, Version: welcome.Version, NodeName: name, server: s}, nil
}

// Tests change these.
var (
	namesPage = 1000 // names are at most 238 bytes, so a page fits into an answer
	// infoPage is how many databases one request may ask about.
	//
	// Source: CouchDB 3.5.0, rel/overlay/etc/default.ini, max_db_number_for_dbs_info_req.
	infoPage = 100
)

// EachDatabase calls fn with the name of each database, sorted as the server does, and
// stops at fn's first error.
func (s *Server) EachDatabase(ctx context.Context, fn func(name string) error) error {
	for path := fmt.Sprintf("/_all_dbs?limit=%d", namesPage); ; {
		var names []string
		if err := s.server.get(ctx, path, &names); err != nil {
			return err
		}
		for _, name := range names {
			if err := fn(name); err != nil {
				return err
			}
		}
		if len(names) < namesPage {
			return nil
		}
		last, err := json.Marshal(names[len(names)-1])
		if err != nil {
			return err
		}
		path = fmt.Sprintf("/_all_dbs?limit=%d&skip=1&start_key=%s", namesPage, url.QueryEscape(string(last)))
	}
}

// MakeDatabase makes an empty database.
func (s *Server) MakeDatabase(ctx context.Context, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, s.server.base.String()+"/"+url.QueryEscape(name), nil)
	if err != nil {
		return err
	}
	return s.server.do(req, &struct{}{})
}

// Databases returns all databases with their counts. The server opens every shard of
// them for that, so it is not for each minute.
func (s *Server) Databases(ctx context.Context) ([]Database, error) {
	var names []string
	if err := s.EachDatabase(ctx, func(name string) error { names = append(names, name); return nil }); err != nil {
		return nil, err
	}
	out := make([]Database, 0, len(names))
	for len(names) > 0 {
		n := min(len(names), infoPage)
		page, err := s.counts(ctx, names[:n])
		if err != nil {
			return nil, err
		}
		out, names = append(out, page...), names[n:]
	}
	return out, nil
}

// counts asks about some databases; one that was deleted meanwhile is left out.
func (s *Server) counts(ctx context.Context, names []string) ([]Database, error) {
	body, err := json.Marshal(map[string][]string{"keys": names})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.server.base.String()+"/_dbs_info", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	var answer []struct {
		Key   string
		Error string
		Info  *struct {
			Docs    uint64 `json:"doc_count"`
			Deleted uint64 `json:"doc_del_count"`
		}
	}
	err = s.server.do(req, &answer)
	if errors.Is(err, errNotThere) {
		return s.countsOneByOne(ctx, names)
	}
	if err != nil {
		return nil, err
	}
	var out []Database
	for _, a := range answer {
		switch {
		case a.Info != nil:
			out = append(out, Database{a.Key, a.Info.Docs, a.Info.Deleted})
		case a.Error != "not_found":
			return nil, fmt.Errorf("the server can't count database %q: %s", a.Key, a.Error)
		}
	}
	return out, nil
}

// countsOneByOne is counts for a CouchDB before 2.2, which has no _dbs_info.
func (s *Server) countsOneByOne(ctx context.Context, names []string) ([]Database, error) {
	var out []Database
	for _, name := range names {
		var info struct {
			Docs    uint64 `json:"doc_count"`
			Deleted uint64 `json:"doc_del_count"`
		}
		err := s.server.get(ctx, "/"+url.QueryEscape(name), &info) // a "+" in a path is a space to CouchDB
		if errors.Is(err, errNotThere) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, Database{name, info.Docs, info.Deleted})
	}
	return out, nil
}
