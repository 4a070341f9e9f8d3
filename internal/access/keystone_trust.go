package access

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"

	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/trusts"

	"github.com/slipcover/slipcover/internal/config"
)

// Trust lets the service user, who must have a password, act for the caller: in the
// caller's project, with the roles of his token, without an end. The id of the trust is no
// secret, since it is good for the service user alone.
//
// Keystone lets neither application credentials give trusts nor those who act by one:
// that is ErrForbidden. Other errors are ErrUnauthorized and ErrUnavailable.
//
// Source: Identity API v3, extension OS-TRUST.
func (k *Keystone) Trust(ctx context.Context, c *Caller) (id string, err error) {
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
	o := trusts.CreateOpts{TrustorUserID: a.User.ID, TrusteeUserID: trustee, ProjectID: a.Project.ID}
	for _, r := range a.Roles {
		o.Roles = append(o.Roles, trusts.Role{ID: r.ID})
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

// ByTrust returns the service user as who acts by a trust: an Operator of its project
// whose token is good for three quarters of a token's time, or more. Errors are
// ErrNoTrust and ErrUnavailable.
func (k *Keystone) ByTrust(ctx context.Context, id string) (*Caller, error) {
	ctx, cancel := context.WithTimeout(ctx, keystoneTimeout)
	defer cancel()
	key := hash(sha256.Sum256([]byte(id)))
	if token, ok := k.trusted.get(key, k.now()); ok {
		if c, err := k.Check(ctx, token.Reveal()); err == nil {
			return operator(c), nil
		} // else the log-in says why
	}
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
	now := k.now()
	k.trusted.put(key, config.Secret(token), now.Add(c.Expires.Sub(now)/4), now)
	return operator(c), nil
}

// operator is a caller with no more rights than backups need.
func operator(c *Caller) *Caller {
	d := *c
	d.Role = Operator
	return &d
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
