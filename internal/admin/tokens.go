package admin

import (
	"errors"
	"net/http"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/manifest"
)

var errKeystone = api.Refuse(http.StatusNotImplemented, "Tokens are Keystone's here: make and revoke them there.")

type newToken struct {
	Name      string `json:"name"`
	Role      string `json:"role"`
	Contents  bool   `json:"contents"`
	Project   string `json:"project"`
	ExpiresIn length `json:"expires_in"`
}

// madeToken has the text of a token, which is shown this once.
type madeToken struct {
	Token  access.Token `json:"token"`
	Secret string       `json:"secret"`
}

func (c *call) listTokens() (int, any, error) {
	if c.Auth == "keystone" {
		return 0, nil, errKeystone
	}
	list, err := c.Tokens.List(c.r.Context(), c.onlyProject())
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"tokens": nonNil(list)}, nil
}

// onlyProject is the project to list, or "" for all of them.
func (c *call) onlyProject() string {
	if c.all {
		return ""
	}
	return c.who.Project
}

func (c *call) createToken() (int, any, error) {
	if c.Auth == "keystone" {
		return 0, nil, errKeystone
	}
	var n newToken
	if err := c.read(&n); err != nil {
		return 0, nil, err
	}
	role, err := access.ParseRole(n.Role)
	if err != nil {
		return 0, nil, api.Invalid("The token needs a role: viewer, operator or admin.")
	}
	k := access.Token{Name: n.Name, Role: role, Contents: n.Contents, Project: n.Project, CreatedBy: c.who.User}
	if k.Project == "" {
		k.Project = c.who.Project
	}
	if n.ExpiresIn > 0 {
		k.Expires = time.Now().Add(time.Duration(n.ExpiresIn))
	}
	k, secret, err := c.Tokens.Create(c.r.Context(), k)
	if err != nil {
		return 0, nil, badValue(err)
	}
	c.log.Target = k.ID
	return http.StatusCreated, madeToken{k, secret.Reveal()}, nil
}

// badValue makes a refusal of an error of package access that says what is wrong with a
// value; those have no cause, other than those of the table.
func badValue(err error) error {
	if errors.Unwrap(err) != nil {
		return err
	}
	return api.Invalid("%s", api.Sentence(err.Error()))
}

func (c *call) revokeToken() (int, any, error) {
	if c.Auth == "keystone" {
		return 0, nil, errKeystone
	}
	id := c.r.PathValue("id")
	return c.revoked(id, c.Tokens.Revoke(c.r.Context(), c.onlyProject(), id))
}

func (c *call) revoked(id string, err error) (int, any, error) {
	if errors.Is(err, access.ErrNoToken) {
		err = api.NoResource(id)
	}
	return http.StatusNoContent, nil, err
}

type newJoinToken struct {
	Name      string `json:"name"`
	Project   string `json:"project"`
	ExpiresIn length `json:"expires_in"`
}

// madeJoinToken has all that a node must be told to join.
type madeJoinToken struct {
	Token       access.Join `json:"join_token"`
	Secret      string      `json:"secret"`
	URL         string      `json:"url,omitempty"`
	Fingerprint string      `json:"ca_fingerprint,omitempty"`
}

func (c *call) listJoinTokens() (int, any, error) {
	list, err := c.Tokens.ListJoins(c.r.Context(), c.onlyProject())
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"join_tokens": nonNil(list)}, nil
}

func (c *call) createJoinToken() (int, any, error) {
	var n newJoinToken
	if err := c.read(&n); err != nil {
		return 0, nil, err
	}
	if c.NATSURL == "" {
		return 0, nil, errNoAgents
	}
	if !manifest.ValidInstance(n.Name) {
		return 0, nil, api.Invalid("The node needs a name of 1 to 63 letters, digits, dots, underscores and hyphens, the first a letter or digit.")
	}
	j := access.Join{Agent: n.Name, Project: n.Project, ByAdmin: c.who.May(access.Admin), CreatedBy: c.who.User}
	if j.Project == "" {
		j.Project = c.who.Project
	}
	if j.Project != c.who.Project && !c.who.May(access.Admin) {
		return 0, nil, api.Refuse(http.StatusForbidden, "Only administrators may let an agent into another project than their own.")
	}
	c.log.Target = n.Name // of a refusal
	if err := c.Server.MayJoin(j.Agent, j.Project, j.ByAdmin); err != nil {
		return 0, nil, err
	}
	if n.ExpiresIn > 0 {
		j.Expires = time.Now().Add(time.Duration(n.ExpiresIn))
	}
	j, secret, err := c.Tokens.CreateJoin(c.r.Context(), j)
	if err != nil {
		return 0, nil, badValue(err)
	}
	c.log.Target = j.ID
	return http.StatusCreated, madeJoinToken{j, secret.Reveal(), c.URL, c.Fingerprint}, nil
}

func (c *call) revokeJoinToken() (int, any, error) {
	id := c.r.PathValue("id")
	return c.revoked(id, c.Tokens.RevokeJoin(c.r.Context(), c.onlyProject(), id))
}
