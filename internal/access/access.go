// Package access says who asks, and what they may do.
//
// A Checker turns the token of a request into a Caller: a project and a role in it.
// There are three: Keystone asks OpenStack's identity service, Tokens knows tokens of
// our own, and None lets everybody in.
//
// Nothing here prints a token: not a Caller, not a record, not an error.
package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/config"
)

var (
	// ErrUnauthorized is of a token that is missing, malformed, unknown, expired or
	// revoked: who asks must log in (again).
	ErrUnauthorized = errors.New("the token is missing, unknown, expired or revoked; log in again")
	// ErrForbidden is of a token that is good for something, but not for this: it has
	// no role here, no project, or another one.
	ErrForbidden = errors.New("not allowed")
	// ErrUnavailable is the answer when it can't be found out now whether a token is
	// good.
	ErrUnavailable = errors.New("tokens can't be checked now")
	// ErrNoTrust is of a trust that Keystone doesn't honour: it was deleted, or whoever gave
	// it was disabled or has lost one of his roles.
	ErrNoTrust = errors.New("Keystone doesn't honour the trust")
	// ErrNoSwiftRole is of a caller who has none of the roles that may be lent. It is
	// ErrForbidden too.
	ErrNoSwiftRole = fmt.Errorf("%w: the token has none of the roles that agents are lent", ErrForbidden)
	// ErrNoToken is of an id that no token has, or one of another project.
	ErrNoToken = errors.New("no such token")
)

// Role is what a caller may do in a project. Each may do what those below it may; the
// zero value may do nothing.
type Role int

const (
	Viewer   Role = iota + 1 // looks
	Operator                 // makes, changes, deletes
	Admin                    // the same in all projects, quotas and other settings included
)

var roleNames = []string{"none", "viewer", "operator", "admin"}

// ParseRole returns the role of that name: viewer, operator or admin.
func ParseRole(name string) (Role, error) {
	if i := slices.Index(roleNames, name); i > 0 {
		return Role(i), nil
	}
	return 0, fmt.Errorf("no role %q: use viewer, operator or admin", name)
}

// String returns the role's name, "none" for the zero value.
func (r Role) String() string {
	if r < 0 || int(r) >= len(roleNames) {
		return "none"
	}
	return roleNames[r]
}

// MarshalText is String.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRole.
func (r *Role) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRole(string(text))
	return err
}

// Caller is who asks. It is shared by all requests with one token: don't change it.
type Caller struct {
	UserID, User string
	// Project is the identifier of the project that the token is for. It is empty with
	// None until For.
	Project, ProjectName string
	Role                 Role
	// Contents says that a viewer may read what is in backups too; see MayRead.
	Contents bool
	// Token is the Keystone token, with which the caller's Swift is used; else empty.
	Token config.Secret
	// SwiftURL is the endpoint of the caller's account, as https://HOST/v1/AUTH_x; empty
	// if the catalog of the token has none, and with tokens of our own.
	SwiftURL string
	// Credential says that Token is one by an application credential, which gives no trust.
	Credential bool
	// Lent says that Token is one by a trust, made for others to use.
	Lent    bool
	Expires time.Time // zero: never
	// TokenID names a token of our own in lists and in the audit log; it is no secret.
	TokenID string
}

// Format prints who it is, whatever the verb. Without it a pointer to a Caller inside
// of something else, printed with the wrong verb, would show the Token: there package
// fmt leaves out the methods that hide it.
func (c Caller) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "%s (%s), %s in project %s", c.User, c.UserID, c.Role, c.Project)
}

// LogValue is who it is, for log/slog.
func (c Caller) LogValue() slog.Value {
	return slog.GroupValue(slog.String("user", c.User), slog.String("user_id", c.UserID), slog.String("project", c.Project), slog.String("role", c.Role.String()))
}

// May says whether the caller may do what needs role r.
func (c *Caller) May(r Role) bool { return r > 0 && c.Role >= r }

// MayRead says whether the caller may read documents out of backups: who may restore them
// anyway, and viewers who were allowed to.
func (c *Caller) MayRead() bool { return c.May(Operator) || c.May(Viewer) && c.Contents }

// For returns the caller of a request whose URL names a project, or ErrForbidden if
// the token is for another one. That goes for administrators too, as in Trove: what
// concerns other projects has URLs of its own.
func (c *Caller) For(project string) (*Caller, error) {
	switch {
	case c.Project == project && project != "":
		return c, nil
	case c.Project == "" && ValidProject(project): // None
		d := *c
		d.Project, d.ProjectName = project, project
		return &d, nil
	}
	return nil, fmt.Errorf("%w: the token is for another project than the URL", ErrForbidden)
}

// Checker knows whose a token is.
type Checker interface {
	// Check returns the caller, or an error that is ErrUnauthorized, ErrForbidden or
	// ErrUnavailable, or the context's own.
	Check(ctx context.Context, token string) (*Caller, error)
}

// None is the Checker for a server that only its own machine reaches: whoever asks,
// with any token or without, is an administrator of the project in the URL.
type None struct{}

// Check returns a Caller without a project.
func (None) Check(context.Context, string) (*Caller, error) {
	return &Caller{UserID: "anyone", User: "anyone", Role: Admin}, nil
}

// TokenOf returns the token of a request: that of X-Auth-Token or, without it, of
// "Authorization: Bearer"; empty if there is none.
func TokenOf(r *http.Request) string {
	if token := r.Header.Get("X-Auth-Token"); token != "" {
		return token
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return ""
}

// LogIn checks the log-in that the trove command makes without Keystone, in Swift's
// version 1 form: X-Auth-User is any name, X-Auth-Key a token of our own. The answer
// to it carries the token to use from then on, which is the same one.
func LogIn(r *http.Request, c Checker) (*Caller, config.Secret, error) {
	key := r.Header.Get("X-Auth-Key")
	if key == "" {
		return nil, "", ErrUnauthorized
	}
	caller, err := c.Check(r.Context(), key)
	if err != nil {
		return nil, "", err
	}
	return caller, config.Secret(key), nil
}

// ValidProject says whether text can be a project's identifier: 1 to 64 letters,
// digits, dots, underscores and hyphens, not only dots.
func ValidProject(text string) bool {
	return len(text) <= 64 && strings.Trim(text, ".") != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !isAlnum(r) && r != '.' && r != '_' && r != '-'
	})
}

func isAlnum(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

type callerKey struct{}

// With returns a context that carries the caller.
func With(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// From returns the caller that With put there. Without one it is a Caller who may do
// nothing.
func From(ctx context.Context) *Caller {
	if c, ok := ctx.Value(callerKey{}).(*Caller); ok {
		return c
	}
	return &Caller{}
}
