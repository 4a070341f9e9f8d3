package chttpd

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve"
)

// User is who asks. The zero value is nobody that is known.
type User struct {
	Name    string // "" is nobody
	Roles   []string
	handler string // how that was found out: "cookie" or "default"
}

// Admin reports whether a user is an administrator of the server.
func (u User) Admin() bool { return slices.Contains(u.Roles, adminRole) }

const adminRole = "_admin"

// Auth says who may ask.
type Auth interface {
	// Check returns the roles of a user, ok if the password is right.
	Check(name, password string) (roles []string, ok bool, err error)
	// Nobody are the roles of who says no name.
	Nobody() []string
}

// Everybody lets everybody ask for everything.
type Everybody struct{}

// Check knows no users.
func (Everybody) Check(string, string) ([]string, bool, error) { return nil, false, nil }

// Nobody is an administrator, as on a CouchDB of old without any.
func (Everybody) Nobody() []string { return []string{adminRole} }

// OneUser is a user with a password, who is an administrator.
type OneUser struct{ Name, Password string }

// Check knows that user.
func (o OneUser) Check(name, password string) ([]string, bool, error) {
	a, b := sha256.Sum256([]byte(name+"\x00"+password)), sha256.Sum256([]byte(o.Name+"\x00"+o.Password))
	return []string{adminRole}, subtle.ConstantTimeCompare(a[:], b[:]) == 1, nil
}

// Nobody has no roles.
func (OneUser) Nobody() []string { return nil }

const (
	cookieName = "AuthSession"
	// cookieTime is how long a session lasts that nobody uses.
	cookieTime = 10 * time.Minute
	// mostKnown is how many right passwords are remembered, by their hashes: checking one anew takes long on purpose.
	mostKnown = 100
	// mostWrong is how many wrong passwords in a minute are checked, of all clients together.
	mostWrong = 60
)

// sessions remembers who was let in.
type sessions struct {
	once   sync.Once
	secret []byte
	checks sync.Mutex // one at a time: a check may take half a second of a CPU

	mu     sync.Mutex
	known  map[[32]byte][]string // guarded by mu, like what follows
	wrong  int
	minute time.Time
}

func (s *sessions) sign(text string) string {
	s.once.Do(func() {
		s.secret = make([]byte, 32)
		_, _ = rand.Read(s.secret)
	})
	m := hmac.New(sha256.New, s.secret)
	m.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// cookie makes the value of a session's cookie: the name, the roles, until when, and a signature.
func (s *sessions) cookie(u User, now time.Time) string {
	b, _ := json.Marshal([]any{u.Name, u.Roles, now.Add(cookieTime).Unix()}) // texts and a number
	text := base64.RawURLEncoding.EncodeToString(b)
	return text + "." + s.sign(text)
}

// user reads a cookie.
func (s *sessions) user(value string, now time.Time) (u User, renew, ok bool) {
	text, mac, _ := strings.Cut(value, ".")
	if subtle.ConstantTimeCompare([]byte(mac), []byte(s.sign(text))) != 1 {
		return u, false, false
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return u, false, false
	}
	var until int64
	if err := json.Unmarshal(b, &[]any{&u.Name, &u.Roles, &until}); err != nil {
		return u, false, false
	}
	left := time.Unix(until, 0).Sub(now)
	u.handler = "cookie"
	return u, left < cookieTime*9/10, left > 0
}

var errWrongPassword = fail{status: http.StatusUnauthorized, name: "unauthorized", reason: "Name or password is incorrect."}

// check checks a password. Right ones are remembered; after many wrong ones none is checked for a while.
func (h *Handler) check(name, password string) (User, error) {
	s := &h.sessions
	key := sha256.Sum256([]byte(name + "\x00" + password))
	s.mu.Lock()
	roles, ok := s.known[key]
	now := time.Now()
	if now.Sub(s.minute) > time.Minute {
		s.minute, s.wrong = now, 0
	}
	tooMany := s.wrong >= mostWrong
	s.mu.Unlock()
	if ok {
		return User{Name: name, Roles: roles, handler: "default"}, nil
	}
	if tooMany {
		return User{}, fail{status: http.StatusTooManyRequests, name: "too_many_requests", reason: "Too many wrong passwords; try again in a minute.", header: [2]string{"Retry-After", "60"}}
	}
	s.checks.Lock()
	roles, ok, err := h.o.Auth.Check(name, password)
	s.checks.Unlock()
	if err != nil {
		return User{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok {
		s.wrong++
		return User{}, errWrongPassword
	}
	if s.known == nil || len(s.known) >= mostKnown {
		s.known = map[[32]byte][]string{}
	}
	s.known[key] = roles
	return User{Name: name, Roles: roles, handler: "default"}, nil
}

// authenticate finds out who asks.
func (h *Handler) authenticate(r *request) error {
	r.user = User{Roles: h.o.Auth.Nobody()}
	if c, err := r.Cookie(cookieName); err == nil && c.Value != "" {
		u, renew, ok := h.sessions.user(c.Value, time.Now())
		if ok {
			r.user = u
			if renew {
				r.setCookie(h.sessions.cookie(u, time.Now()))
			}
			return nil
		}
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return nil
	}
	if _, open := h.o.Auth.(Everybody); open {
		return nil
	}
	u, err := h.check(name, password)
	r.user = u
	return err
}

// setCookie gives the client a session, or takes it away with "". Clients such as nano keep no cookie that has no date.
func (r *request) setCookie(value string) {
	c := &http.Cookie{Name: cookieName, Value: value, Path: r.h.o.Prefix + "/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode, MaxAge: -1}
	if value != "" {
		c.MaxAge, c.Expires = int(cookieTime.Seconds()), time.Now().Add(cookieTime)
	}
	http.SetCookie(r.w.w, c)
}

// session answers who asks, lets somebody in, and out.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_httpd_auth.erl, handle_session_req.
func (h *Handler) session(r *request) error {
	switch r.method {
	case http.MethodGet:
		info := ejson.Object{{Name: "authentication_handlers", Value: []string{"cookie", "default"}}}
		if r.user.handler != "" {
			info = append(info, ejson.Member{Name: "authenticated", Value: r.user.handler})
		}
		return r.json(http.StatusOK, ejson.Object{
			{Name: "ok", Value: true},
			{Name: "userCtx", Value: ejson.Object{{Name: "name", Value: orNull(r.user.Name)}, {Name: "roles", Value: append([]string{}, r.user.Roles...)}}},
			{Name: "info", Value: info},
		})
	case http.MethodPost:
		name, password, err := r.credentials()
		if err != nil {
			return err
		}
		u, err := h.check(name, password)
		if err != nil {
			r.setCookie("") // who fails to log in is logged out
			return err
		}
		r.setCookie(h.sessions.cookie(u, time.Now()))
		return r.json(http.StatusOK, ejson.Object{{Name: "ok", Value: true}, {Name: "name", Value: u.Name}, {Name: "roles", Value: append([]string{}, u.Roles...)}})
	case http.MethodDelete:
		r.setCookie("")
		return r.json(http.StatusOK, ejson.Object{{Name: "ok", Value: true}})
	}
	return methods("GET,HEAD,POST,DELETE")
}

func orNull(s string) ejson.Value {
	if s == "" {
		return nil
	}
	return s
}

// credentials reads a name and a password out of a form or JSON.
func (r *request) credentials() (name, password string, err error) {
	noName := badRequest("request body must contain a username")
	switch kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind {
	case "application/x-www-form-urlencoded":
		r.Body = http.MaxBytesReader(r.w.w, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil {
			return "", "", badRequest("the form can't be read")
		}
		for _, field := range []string{"name", "username"} {
			if r.PostForm.Has(field) {
				return r.PostForm.Get(field), r.PostForm.Get("password"), nil
			}
		}
		return "", "", noName
	case "application/json":
	default:
		return "", "", fail{status: http.StatusUnsupportedMediaType, name: "bad_content_type", reason: "Content-Type must be 'application/x-www-form-urlencoded' or 'application/json'"}
	}
	o, err := r.objectBody()
	if err != nil {
		return "", "", err
	}
	v, ok := o.Get("name")
	if !ok {
		v, _ = o.Get("username")
	}
	p, _ := o.Get("password")
	name, ok = v.(string)
	password, _ = p.(string)
	if !ok {
		return "", "", noName
	}
	return name, password, nil
}

// denied is what somebody may not do: who isn't known may log in.
func (r *request) denied(reason string) error {
	if r.user.Name == "" {
		return fail{status: http.StatusUnauthorized, name: "unauthorized", reason: reason}
	}
	return fail{status: http.StatusForbidden, name: "forbidden", reason: reason}
}

// authorize finds out whether who asks may have what is asked for.
//
// Source: CouchDB 3.5.0, src/chttpd/src/chttpd_auth_request.erl; src/couch/src/couch_db.erl, check_is_member.
func (h *Handler) authorize(r *request) error {
	if r.user.Admin() || len(r.parts) == 0 {
		return nil
	}
	first := r.parts[0]
	if slices.Contains([]string{"_up", "_uuids", "_session", "_utils", "favicon.ico"}, first) {
		return nil
	}
	if topLevel[first] != nil || first == "_dbs" {
		return errNoAdmin
	}
	second := ""
	if len(r.parts) > 1 {
		second = r.parts[1]
	}
	base := first[strings.LastIndex(first, "/")+1:]
	system := base == "_users" || base == "_replicator"
	if system && (second == "_all_docs" || second == "_changes") || second == "_purged_infos_limit" {
		return errNoAdmin
	}
	d, err := h.open(first)
	if err != nil {
		return err
	}
	member, admin, err := h.member(d, r.user)
	switch {
	case err != nil:
		return err
	case !member && r.user.Name == "":
		return r.denied("You are not authorized to access this db.")
	case !member:
		return r.denied("You are not allowed to access this db.")
	case !system || admin || len(r.parts) == 1 || second == "_security":
		return nil
	}
	// Somebody opened _users or _replicator. Users still read but their own document; of the ways to read several of them
	// none is let through, where CouchDB looks at each document.
	if base == "_users" && len(r.parts) == 2 && r.method == http.MethodGet && strings.HasPrefix(second, "org.couchdb.user:") {
		if r.user.Name != "" && second == "org.couchdb.user:"+r.user.Name {
			return nil
		}
		return errMissing
	}
	return r.denied("You are not a server admin.")
}

// member reports whether a user may read a database, and whether they are an administrator of it.
func (h *Handler) member(d *serve.Database, u User) (member, admin bool, err error) {
	b, err := h.securityOf(d)
	if err != nil {
		return false, false, err
	}
	type group struct {
		Names []string `json:"names"`
		Roles []string `json:"roles"`
	}
	var s struct {
		Admins  group `json:"admins"`
		Members group `json:"members"`
		Readers group `json:"readers"` // of CouchDB 1.0
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return false, false, fmt.Errorf("security object of %s: %w", d.Name, err)
	}
	in := func(g group) bool {
		return u.Name != "" && slices.Contains(g.Names, u.Name) || slices.ContainsFunc(u.Roles, func(r string) bool { return slices.Contains(g.Roles, r) })
	}
	members := s.Members
	if len(members.Names)+len(members.Roles) == 0 {
		members = s.Readers
	}
	admin = in(s.Admins)
	return admin || len(members.Names)+len(members.Roles) == 0 || in(members), admin, nil
}
