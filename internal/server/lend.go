package server

import (
	"context"
	"errors"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

// An agent that works in a caller's Swift account needs a token for it, and whoever has the
// agent has that token. So it is the least that can be had: one by a trust, with the roles
// that Swift needs, see access.Keystone.Lend. An administrator's own token never goes to an
// agent.

// lend puts a token for the caller's Swift account into secrets.
func (s *Server) lend(ctx context.Context, who *access.Caller, secrets *job.Secrets) error {
	if s.cfg.Keystone == nil {
		return s.giveOwn(who, secrets, nil)
	}
	token, err := s.cfg.Keystone.Lend(ctx, who)
	switch {
	case err == nil:
		secrets.Token = token.Reveal()
		return nil
	case errors.Is(err, access.ErrForbidden): // an application credential, or who has another role
		return s.giveOwn(who, secrets, err)
	case errors.Is(err, access.ErrUnauthorized):
		return err
	}
	return &Error{Kind: Unavailable, Message: "Keystone can't be asked now for the token that the agent needs; try again later.", Cause: err}
}

// giveOwn puts the caller's own token into secrets, unless it is an administrator's. why is
// the cause that there is nothing less.
func (s *Server) giveOwn(who *access.Caller, secrets *job.Secrets, why error) error {
	if !who.May(access.Admin) || who.Lent {
		secrets.Token = who.Token.Reveal()
		return nil
	}
	if errors.Is(why, access.ErrNoSwiftRole) {
		return s.noSwiftRole(who, why)
	}
	if why != nil {
		return &Error{Kind: Forbidden, Message: "The agent would get your token, which is an administrator's: Keystone lets it give no trust, which would leave that out. " +
			"Log in with a user's name and password, not with an application credential or a trust; or ask as a member of the project.", Cause: why}
	}
	return refuse(Forbidden, "The agent would get your token, which is an administrator's: give the server the settings keystone_user and keystone_password, "+
		"so that it can lend agents less; or ask as a member of the project.")
}

// noSwiftRole refuses a caller who has no role that may be lent.
func (s *Server) noSwiftRole(who *access.Caller, why error) error {
	return &Error{Kind: Forbidden, Message: "Agents are lent no role of an administrator, and you have none of those that they are lent in project " + who.Project +
		": take one of them there (the server's setting swift_roles), or ask as a member of the project.", Cause: why}
}
