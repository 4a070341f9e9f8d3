package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"golang.org/x/sync/singleflight"

	"github.com/slipcover/slipcover/internal/config"
)

const (
	keystoneTimeout = 15 * time.Second // of one check, a log-in of our own included
	refusedFor      = 5 * time.Second  // how long a bad token isn't asked about again
	loginPause      = 10 * time.Second // after a refused log-in of our own, which may count towards a lock-out
	maxToken        = 8 << 10          // bytes; Fernet tokens have some 200
)

// KeystoneOptions say which Keystone to ask, and how.
type KeystoneOptions struct {
	// URL is that of the Identity API; /v3 is added if it doesn't end in it.
	URL string
	// Service is the service user who checks tokens. Without User and CredentialID each
	// token is asked about in its own name, which Keystone allows.
	Service ServiceUser
	// Region and Interface choose the object-store endpoint of the catalog. Region empty:
	// the first one. Interface: public (default), internal or admin.
	Region, Interface string
	// Roles gives each of Keystone's role names, which have no case, a role of ours. The
	// highest counts. Nil: DefaultRoles.
	Roles map[string]Role
	// SwiftRoles are the names of those roles, which have no case, that may be lent to
	// agents: of the caller's, those that are among them. Empty: DefaultSwiftRoles.
	SwiftRoles []string
	// ContentsRoles are the names of those roles, which have no case, with which a viewer may read documents out of backups;
	// see Caller.MayRead. Empty: viewers may not.
	ContentsRoles []string
	// CacheFor is how long an answer is kept, and thereby how long a revoked token may go
	// on; 0 means 30 s, less than 0 not at all.
	CacheFor time.Duration
	// Transport sends the requests; nil: that of net/http.
	Transport http.RoundTripper
}

// ServiceUser logs in with a password or with an application credential.
type ServiceUser struct {
	User, UserDomain       string // UserDomain is an identifier; empty: default
	Password               config.Secret
	Project, ProjectDomain string // ProjectDomain as UserDomain

	CredentialID     string
	CredentialSecret config.Secret
}

// DefaultRoles are the roles that Keystone makes itself, and those of older releases.
func DefaultRoles() map[string]Role {
	return map[string]Role{"admin": Admin, "manager": Operator, "member": Operator, "_member_": Operator, "reader": Viewer}
}

// DefaultSwiftRoles are those that Swift takes on most sites as its operator_roles, but for
// those of administrators.
func DefaultSwiftRoles() []string { return []string{"member", "_member_", "swiftoperator"} }

// Keystone is a Checker that asks OpenStack's Keystone, version 3.
//
// Source: Identity API v3, "Validate and show information for token".
type Keystone struct {
	o      KeystoneOptions
	http   http.Client
	now    func() time.Time
	flight singleflight.Group
	good   cache[*Caller]
	// Bad tokens have a cache of their own, so that they can't push out the good ones.
	bad cache[error]

	// trusted are the tokens by which the service user acts for others, by trust.
	trusted cache[byTrust]
	// lent are the ids of the trusts that Lend made, by user and project.
	lent cache[string]

	mu      sync.Mutex
	own     string    // token of the service user; guarded by mu
	ownID   string    // of the service user, as long as own; guarded by mu
	refused error     // of the last log-in; guarded by mu
	until   time.Time // refused is the answer until then; guarded by mu
}

// NewKeystone doesn't ask anything yet, so it works while Keystone is down.
func NewKeystone(o KeystoneOptions) (*Keystone, error) {
	if !strings.HasPrefix(o.URL, "http://") && !strings.HasPrefix(o.URL, "https://") {
		return nil, fmt.Errorf("no Keystone URL %q: give one such as https://keystone.example.org:5000/v3", o.URL)
	}
	o.URL = strings.TrimSuffix(o.URL, "/")
	if !strings.HasSuffix(o.URL, "/v3") {
		o.URL += "/v3"
	}
	s := &o.Service
	if s.User != "" && s.CredentialID != "" {
		return nil, errors.New("the service user has a name and an application credential: give one of them")
	}
	if s.User != "" && s.Project == "" {
		return nil, errors.New("the service user has no project: give the one in which it may check tokens, such as service")
	}
	s.UserDomain, s.ProjectDomain = cmp.Or(s.UserDomain, "default"), cmp.Or(s.ProjectDomain, "default")
	o.Interface = strings.TrimSuffix(cmp.Or(o.Interface, "public"), "URL") // publicURL: the old form
	if o.Interface != "public" && o.Interface != "internal" && o.Interface != "admin" {
		return nil, fmt.Errorf("no interface %q: use public, internal or admin", o.Interface)
	}
	roles := map[string]Role{}
	if o.Roles == nil {
		o.Roles = DefaultRoles()
	}
	for name, role := range o.Roles {
		roles[strings.ToLower(name)] = role
	}
	o.Roles = roles
	if len(o.SwiftRoles) == 0 {
		o.SwiftRoles = DefaultSwiftRoles()
	}
	o.CacheFor = cmp.Or(o.CacheFor, 30*time.Second)
	return &Keystone{o: o, now: time.Now, http: http.Client{
		Timeout:   keystoneTimeout,
		Transport: o.Transport,
		// A redirect would carry tokens to where nobody configured that they go.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Check asks Keystone, or remembers its answer. Many checks of one token at once are
// one question. While Keystone is down, the answers that are remembered go on until
// their time is over.
func (k *Keystone) Check(ctx context.Context, token string) (*Caller, error) {
	if !plausible(token) {
		return nil, ErrUnauthorized
	}
	key, now := hash(sha256.Sum256([]byte(token))), k.now()
	if c, ok := k.good.get(key, now); ok {
		return c, nil
	}
	if err, ok := k.bad.get(key, now); ok {
		return nil, err
	}
	// Who asked first may go away; the others still want to know.
	answer := k.flight.DoChan(string(key[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keystoneTimeout)
		defer cancel()
		if c, ok := k.good.get(key, k.now()); ok { // since it was looked for
			return c, nil
		}
		return k.check(ctx, key, token)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-answer:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Caller), nil
	}
}

// check asks and remembers. Answers are kept from the moment at which they were asked
// for, so none is older than CacheFor.
func (k *Keystone) check(ctx context.Context, key hash, token string) (*Caller, error) {
	asked := k.now()
	c, err := k.ask(ctx, token)
	switch now := k.now(); {
	case errors.Is(err, ErrUnauthorized), errors.Is(err, ErrForbidden):
		k.bad.put(key, err, now.Add(refusedFor), now)
	case err == nil && k.o.CacheFor > 0:
		until := asked.Add(k.o.CacheFor)
		if c.Expires.Before(until) {
			until = c.Expires
		}
		k.good.put(key, c, until, now)
	}
	return c, err
}

// answer is what Keystone says of a token.
type answer struct {
	Expires time.Time             `json:"expires_at"`
	User    tokens.User           `json:"user"`
	Project tokens.Project        `json:"project"`
	Roles   []tokens.Role         `json:"roles"`
	Catalog []tokens.CatalogEntry `json:"catalog"`
	// Credential is that by which it was had; nil of one by a password.
	Credential *struct{ ID string } `json:"application_credential"`
	Trust      struct {
		ID      string              `json:"id"`
		Trustee struct{ ID string } `json:"trustee_user"`
	} `json:"OS-TRUST:trust"`
}

// ask asks Keystone who a token is of.
func (k *Keystone) ask(ctx context.Context, token string) (*Caller, error) {
	a, err := k.about(ctx, token)
	if err != nil {
		return nil, err
	}
	c, err := k.caller(a, token)
	switch {
	case err != nil:
		return nil, err
	case c.Role == 0:
		return nil, fmt.Errorf("%w: none of the token's roles counts here", ErrForbidden)
	case k.isLent(a): // an agent has no business here
		return nil, fmt.Errorf("%w: the token was lent to an agent", ErrForbidden)
	}
	return c, nil
}

// about asks Keystone about a token, in the name of the service user or of the token
// itself.
func (k *Keystone) about(ctx context.Context, token string) (a *answer, err error) {
	status := 0
	get := func(own string) (int, error) {
		a, status, err = k.get(ctx, own, token)
		return status, err
	}
	if !k.hasService() {
		_, err = get(token)
		switch status {
		case http.StatusUnauthorized, http.StatusNotFound:
			return nil, ErrUnauthorized
		case http.StatusForbidden:
			return nil, fmt.Errorf("%w: Keystone doesn't let a token ask about itself; give the server a service user", ErrUnavailable)
		}
		return a, err
	}
	err = k.asService(ctx, get)
	switch status {
	case http.StatusNotFound:
		return nil, ErrUnauthorized
	case http.StatusForbidden:
		return nil, fmt.Errorf("%w: Keystone doesn't let the service user check tokens; give it the role admin or service in its project", ErrUnavailable)
	}
	return a, err
}

// asService does something with the service user's token, and again with a new one if
// Keystone doesn't take that any more. do returns the status of Keystone's answer too.
func (k *Keystone) asService(ctx context.Context, do func(own string) (status int, err error)) error {
	ended := ""
	for {
		own, err := k.logIn(ctx, ended)
		if err != nil {
			return err
		}
		status, err := do(own)
		if status != http.StatusUnauthorized || ended != "" {
			return err
		}
		ended = own
	}
}

func (k *Keystone) hasService() bool { return k.o.Service.User != "" || k.o.Service.CredentialID != "" }

// get asks about a token in the name of own. Without an answer of status 200 there
// is an error, which is ErrUnavailable; status is 0 if there was no answer.
func (k *Keystone) get(ctx context.Context, own, token string) (*answer, int, error) {
	r := tokens.Get(ctx, k.client(own), token)
	if r.Err != nil {
		status, err := failure(r.Err)
		return nil, status, err
	}
	a, err := k.read(r)
	if err != nil {
		return nil, 0, err
	}
	return a, http.StatusOK, nil
}

// read reads what Keystone says of a token. An error is ErrUnavailable.
func (k *Keystone) read(r interface{ ExtractInto(any) error }) (*answer, error) {
	a := &answer{}
	if err := r.ExtractInto(a); err != nil {
		return nil, fmt.Errorf("%w: read Keystone's answer: %w", ErrUnavailable, err)
	}
	if a.User.ID == "" || a.Expires.IsZero() {
		return nil, fmt.Errorf("%w: what answers at %s is no Keystone", ErrUnavailable, k.o.URL)
	}
	return a, nil
}

func (k *Keystone) client(token string) *gophercloud.ServiceClient {
	p := &gophercloud.ProviderClient{TokenID: token, HTTPClient: k.http}
	p.UserAgent.Prepend("slipcover")
	return &gophercloud.ServiceClient{ProviderClient: p, Endpoint: k.o.URL + "/"}
}

// failure returns the status that Keystone answered with, 0 if it didn't, and an
// error that is ErrUnavailable. It leaves out what came with the status, which can
// be the token: "Could not find token: …".
func failure(err error) (int, error) {
	var code gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &code) {
		return code.Actual, fmt.Errorf("%w: Keystone answers %d", ErrUnavailable, code.Actual)
	}
	return 0, fmt.Errorf("%w: ask Keystone: %w", ErrUnavailable, err)
}

// logIn returns the service user's token: the one that there is, unless that is the
// one that ended.
func (k *Keystone) logIn(ctx context.Context, ended string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.own != "" && k.own != ended {
		return k.own, nil
	}
	if k.now().Before(k.until) {
		return "", k.refused
	}
	s := k.o.Service
	o := &tokens.AuthOptions{ApplicationCredentialID: s.CredentialID, ApplicationCredentialSecret: s.CredentialSecret.Reveal()}
	if s.CredentialID == "" {
		// Scope takes a project's name with the domain's identifier.
		o = k.password(tokens.Scope{ProjectName: s.Project, DomainID: s.ProjectDomain})
	}
	own, a, status, err := k.newToken(ctx, o)
	if err != nil {
		if status == http.StatusUnauthorized || status == http.StatusForbidden {
			err = fmt.Errorf("%w: Keystone refuses the service user's log-in (%d); its name, password, project or domain is wrong", ErrUnavailable, status)
			k.refused, k.until = err, k.now().Add(loginPause)
		}
		return "", err
	}
	k.own, k.ownID = own, a.User.ID
	return k.own, nil
}

// password is the service user's log-in with a password.
func (k *Keystone) password(scope tokens.Scope) *tokens.AuthOptions {
	s := k.o.Service
	return &tokens.AuthOptions{Username: s.User, DomainID: s.UserDomain, Password: s.Password.Reveal(), Scope: scope}
}

// newToken logs in. An error and the status are as those of failure.
func (k *Keystone) newToken(ctx context.Context, o *tokens.AuthOptions) (token string, a *answer, status int, err error) {
	r := tokens.Create(ctx, k.client(""), o)
	if r.Err != nil {
		status, err = failure(r.Err)
		return "", nil, status, err
	}
	if token = r.Header.Get("X-Subject-Token"); token == "" {
		return "", nil, 0, fmt.Errorf("%w: Keystone's answer to the log-in has no token", ErrUnavailable)
	}
	a, err = k.read(r)
	return token, a, 0, err
}

// caller is who has a token. The Role is 0 if none of the token's counts here.
func (k *Keystone) caller(a *answer, token string) (*Caller, error) {
	if !k.now().Before(a.Expires) {
		return nil, ErrUnauthorized
	}
	if a.Project.ID == "" {
		return nil, fmt.Errorf("%w: the token is for no project; log in with one", ErrForbidden)
	}
	return &Caller{
		UserID: a.User.ID, User: a.User.Name, Project: a.Project.ID, ProjectName: a.Project.Name,
		Role: k.role(a), Contents: k.mayRead(a), Token: config.Secret(token), SwiftURL: k.swift(a.Catalog), Expires: a.Expires, Credential: a.Credential != nil,
	}, nil
}

// role is the highest of a token's roles; 0 if none counts here.
func (k *Keystone) role(a *answer) (role Role) {
	for _, r := range a.Roles {
		role = max(role, k.o.Roles[strings.ToLower(r.Name)])
	}
	return role
}

// mayRead says that a token has one of ContentsRoles.
func (k *Keystone) mayRead(a *answer) bool {
	return slices.ContainsFunc(a.Roles, func(r tokens.Role) bool {
		return slices.ContainsFunc(k.o.ContentsRoles, func(name string) bool { return strings.EqualFold(name, r.Name) })
	})
}

// isLent reports whether a token is one that an agent was lent.
func (k *Keystone) isLent(a *answer) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return a.Trust.ID != "" && k.ownID != "" && a.Trust.Trustee.ID == k.ownID
}

func (k *Keystone) swift(catalog []tokens.CatalogEntry) string {
	for _, service := range catalog {
		if service.Type != "object-store" {
			continue
		}
		for _, e := range service.Endpoints {
			if e.Interface == k.o.Interface && (k.o.Region == "" || k.o.Region == e.RegionID || k.o.Region == e.Region) {
				return strings.TrimSuffix(e.URL, "/")
			}
		}
	}
	return ""
}

// plausible says whether a token can be one at all: such that fits in a header, and
// that Keystone need not be troubled with otherwise.
func plausible(token string) bool {
	return token != "" && len(token) <= maxToken && !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}
