package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/trusts"

	"github.com/slipcover/slipcover/internal/config"
)

// The trusts of Lend end by themselves, and one is used again as long as jobs that begin
// with it have a day.
const (
	lentFor = 36 * time.Hour
	lendFor = 24 * time.Hour
)

// Trust lets the service user, who must have a password, act for the caller: in the
// caller's project, with those roles of his token that are among SwiftRoles, without an
// end. The id of the trust is no secret, since it is good for the service user alone.
//
// Keystone lets neither application credentials give trusts nor those who act by one:
// that is ErrForbidden. Of a caller with no such role it is ErrNoSwiftRole. Other errors are
// ErrUnauthorized and ErrUnavailable.
//
// Source: Identity API v3, extension OS-TRUST.
func (k *Keystone) Trust(ctx context.Context, c *Caller) (id string, err error) {
	return k.trust(ctx, c, nil)
}

// Lend returns a token that an agent may have to do something in the caller's Swift
// account: with the roles of Trust alone, by a trust that ends within two days. It is good
// for three quarters of a token's time, or more. One by a trust is returned as it is.
// Errors are those of Trust.
func (k *Keystone) Lend(ctx context.Context, c *Caller) (config.Secret, error) {
	switch {
	case c.Lent:
		return c.Token, nil
	case c.Credential: // it may have fewer roles than what its user has lent before
		return "", fmt.Errorf("%w: an application credential gives no trust", ErrForbidden)
	}
	key := hash(sha256.Sum256([]byte(c.UserID + "/" + c.Project)))
	if id, ok := k.lent.get(key, k.now()); ok {
		by, err := k.ByTrust(ctx, id)
		if err == nil {
			return by.Token, nil
		}
		if !errors.Is(err, ErrNoTrust) {
			return "", err
		} // else the next one says why
	}
	now := k.now()
	end := now.Add(lentFor)
	id, err := k.trust(ctx, c, &end)
	if err != nil {
		return "", err
	}
	by, err := k.ByTrust(ctx, id)
	if err != nil {
		return "", err
	}
	k.lent.put(key, id, now.Add(lentFor-lendFor), now)
	return by.Token, nil
}

func (k *Keystone) trust(ctx context.Context, c *Caller, end *time.Time) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, keystoneTimeout)
	defer cancel()
	token := c.Token.Reveal()
	a, err := k.about(ctx, token)
	if err != nil {
		return "", err
	}
	k.mu.Lock()
	trustee := k.ownID
	k.mu.Unlock()
	o := trusts.CreateOpts{TrustorUserID: a.User.ID, TrusteeUserID: trustee, ProjectID: a.Project.ID, ExpiresAt: end}
	for _, r := range a.Roles {
		if slices.ContainsFunc(k.o.SwiftRoles, func(name string) bool { return strings.EqualFold(name, r.Name) }) {
			o.Roles = append(o.Roles, trusts.Role{ID: r.ID})
		}
	}
	if len(o.Roles) == 0 {
		return "", ErrNoSwiftRole
	}
	r := trusts.Create(ctx, k.client(token), o)
	if r.Err != nil {
		status, err := failure(r.Err)
		switch status {
		case http.StatusUnauthorized:
			return "", ErrUnauthorized
		case http.StatusForbidden, http.StatusNotFound: // not found is a role that he has in another way, as by a federation
			return "", fmt.Errorf("%w: Keystone lets this token give no trust", ErrForbidden)
		}
		return "", err
	}
	t, err := r.Extract()
	if err != nil || t == nil || t.ID == "" {
		return "", fmt.Errorf("%w: Keystone's answer has no trust", ErrUnavailable)
	}
	return t.ID, nil
}

// byTrust is a token of the service user's by a trust.
type byTrust struct {
	caller  *Caller
	checked time.Time // when Keystone said last that it is good
	until   time.Time // when it is replaced
}

// ByTrust returns the service user as who acts by a trust: an Operator of its project
// whose token is good for three quarters of a token's time, or more. He is an Admin if the
// trust has the role of one, as those that versions before SwiftRoles made. Errors are
// ErrNoTrust and ErrUnavailable.
func (k *Keystone) ByTrust(ctx context.Context, id string) (*Caller, error) {
	ctx, cancel := context.WithTimeout(ctx, keystoneTimeout)
	defer cancel()
	key := hash(sha256.Sum256([]byte(id)))
	if t, ok := k.trusted.get(key, k.now()); ok && k.stillGood(ctx, key, t) {
		return t.caller, nil
	} // else the log-in says why
	if _, err := k.logIn(ctx, ""); err != nil { // with a password that is wrong it isn't tried here too
		return nil, err
	}
	token, a, status, err := k.newToken(ctx, k.password(tokens.Scope{TrustID: id}))
	switch status {
	case http.StatusForbidden, http.StatusNotFound:
		return nil, ErrNoTrust
	case http.StatusUnauthorized: // of a trust that isn't there, too
		return nil, k.lookFor(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	c, err := k.caller(a, token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTrust, err)
	}
	c.Role, c.Lent = max(c.Role, Operator), true // no fewer rights than backups need
	now := k.now()
	k.trusted.put(key, byTrust{c, now, now.Add(c.Expires.Sub(now) / 4)}, now.Add(c.Expires.Sub(now)/4), now)
	return c, nil
}

// stillGood asks Keystone whether a token by a trust is good, unless it said so just now.
func (k *Keystone) stillGood(ctx context.Context, key hash, t byTrust) bool {
	now := k.now()
	if now.Before(t.checked.Add(k.o.CacheFor)) {
		return true
	}
	if _, err := k.about(ctx, t.caller.Token.Reveal()); err != nil {
		return false
	}
	t.checked = now
	k.trusted.put(key, t, t.until, now)
	return true
}

// lookFor returns ErrNoTrust if a trust isn't there, by which the service user was
// refused with the status 401.
func (k *Keystone) lookFor(ctx context.Context, id string) error {
	return k.asService(ctx, func(own string) (int, error) {
		r := trusts.Get(ctx, k.client(own), id)
		if r.Err == nil {
			return 0, fmt.Errorf("%w: Keystone refuses the service user's log-in by a trust (401)", ErrUnavailable)
		}
		status, err := failure(r.Err)
		if status == http.StatusNotFound {
			err = ErrNoTrust
		}
		return status, err
	})
}

// Untrust ends a trust. That takes its giver, or a service user who is an administrator:
// otherwise the error is ErrForbidden. One that isn't there is no error.
func (k *Keystone) Untrust(ctx context.Context, c *Caller, id string) error {
	ctx, cancel := context.WithTimeout(ctx, keystoneTimeout)
	defer cancel()
	end := func(token string) (int, error) {
		r := trusts.Delete(ctx, k.client(token), id)
		if r.Err == nil {
			return 0, nil
		}
		status, err := failure(r.Err)
		switch status {
		case http.StatusNotFound:
			err = nil
		case http.StatusForbidden:
			err = fmt.Errorf("%w: only who gave a trust may end it, and administrators", ErrForbidden)
		}
		return status, err
	}
	if c.Token != "" {
		if _, err := end(c.Token.Reveal()); err == nil {
			return nil
		}
	}
	return k.asService(ctx, end)
}
