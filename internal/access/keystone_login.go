package access

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/slipcover/slipcover/internal/config"
)

// PasswordLogIn is a user's log-in at Keystone with a password.
type PasswordLogIn struct {
	User     string
	Password config.Secret
	Domain   string // name of the user's domain; "" is Default
	// Project is the name of a project in that domain; "" gives a token without
	// one, which is good for choosing a project only.
	Project string
}

// Project is one that a user may choose.
type Project struct{ ID, Name string }

// LogIn asks Keystone for a token. The error is ErrUnauthorized if it refuses the user, the
// password or the project.
func (k *Keystone) LogIn(ctx context.Context, in PasswordLogIn) (string, error) {
	if in.Domain == "" {
		in.Domain = "Default"
	}
	o := tokens.AuthOptions{Username: in.User, Password: in.Password.Reveal(), DomainName: in.Domain}
	if in.Project == "" {
		return k.userToken(ctx, &o)
	}
	o.Scope = tokens.Scope{ProjectName: in.Project, DomainName: in.Domain}
	return k.userToken(ctx, &o)
}

// Choose exchanges a token for one in a project, by its id.
func (k *Keystone) Choose(ctx context.Context, token, project string) (string, error) {
	return k.userToken(ctx, &tokens.AuthOptions{TokenID: token, Scope: tokens.Scope{ProjectID: project}})
}

func (k *Keystone) userToken(ctx context.Context, o *tokens.AuthOptions) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, keystoneTimeout)
	defer cancel()
	r := tokens.Create(ctx, k.client(""), o)
	if r.Err != nil {
		status, err := failure(r.Err)
		switch status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest, http.StatusNotFound:
			return "", ErrUnauthorized
		}
		return "", err
	}
	token := r.Header.Get("X-Subject-Token")
	if token == "" {
		return "", fmt.Errorf("%w: Keystone's answer to the log-in has no token", ErrUnavailable)
	}
	return token, nil
}

// Projects returns the projects that the user of a token may choose, by name.
func (k *Keystone) Projects(ctx context.Context, token string) ([]Project, error) {
	ctx, cancel := context.WithTimeout(ctx, keystoneTimeout)
	defer cancel()
	pages, err := projects.ListAvailable(k.client(token)).AllPages(ctx)
	if err != nil {
		status, err := failure(err)
		if status == http.StatusUnauthorized {
			return nil, ErrUnauthorized
		}
		return nil, err
	}
	list, err := projects.ExtractProjects(pages)
	if err != nil {
		return nil, fmt.Errorf("%w: read Keystone's answer: %w", ErrUnavailable, err)
	}
	var out []Project
	for _, p := range list {
		if p.Enabled {
			out = append(out, Project{p.ID, strings.TrimSpace(p.Name)})
		}
	}
	return out, nil
}
