package web

import (
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/calendar"
	"github.com/slipcover/slipcover/internal/words"
)

var tokenRoutes = []route{
	{"GET /tokens", access.Admin, "", (*call).tokensPage},
	{"POST /tokens", access.Admin, "token.create", (*call).createToken},
	{"GET /tokens/{id}/revoke", access.Admin, "", (*call).askRevoke},
	{"POST /tokens/{id}/revoke", access.Admin, "token.revoke", (*call).revokeToken},
}

type tokensPage struct {
	Rows     []tokenRow
	Pager    pager
	Keystone bool
	// The form, as it was typed.
	Name, Role, Project, Expires string
	Contents                     bool
	Problem                      string
	Secret                       string // of the one that was made just now
	Made                         access.Token
}

type tokenRow struct {
	access.Token
	Over bool
	Mine bool
}

func (c *call) tokensPage() (*answer, error) {
	p, err := c.tokens()
	if err != nil {
		return nil, err
	}
	return c.page("Tokens", "tokens", p), nil
}

func (c *call) tokens() (tokensPage, error) {
	p := tokensPage{Keystone: c.o.Auth == "keystone", Role: "viewer", Project: c.who.Project}
	if p.Keystone {
		return p, nil
	}
	list, err := c.o.Tokens.List(c.r.Context(), "")
	if err != nil {
		return p, err
	}
	slices.Reverse(list) // the newest first
	var all []tokenRow
	for _, k := range list {
		all = append(all, tokenRow{k, !k.Expires.IsZero() && !c.now().Before(k.Expires), k.ID == c.who.TokenID})
	}
	p.Rows, p.Pager = paged(c, all, func(k tokenRow) string {
		return strings.Join([]string{k.Name, k.ID, k.Project, k.Role.String(), k.CreatedBy}, " ")
	})
	return p, nil
}

func (c *call) createToken() (*answer, error) {
	p, err := c.tokens()
	if err != nil {
		return nil, err
	}
	p.Name, p.Role, p.Project = strings.TrimSpace(c.r.FormValue("name")), c.r.FormValue("role"), strings.TrimSpace(c.r.FormValue("project"))
	p.Expires, p.Contents = strings.TrimSpace(c.r.FormValue("expires")), c.r.FormValue("contents") != ""
	again := func(problem string) (*answer, error) {
		p.Problem = problem
		return c.again("Tokens", "tokens", p), nil
	}
	if p.Keystone {
		return again("Tokens are Keystone's here: make them there.")
	}
	role, err := access.ParseRole(p.Role)
	if err != nil {
		return again("Choose a role.")
	}
	k := access.Token{Name: p.Name, Role: role, Project: p.Project, Contents: p.Contents, CreatedBy: c.who.User}
	if k.Project == "" {
		k.Project = c.who.Project
	}
	if p.Expires != "" {
		ends, problem := c.ends(p.Expires)
		if problem != "" {
			return again(problem)
		}
		k.Expires = ends
	}
	k, secret, err := c.o.Tokens.Create(c.r.Context(), k)
	if err != nil {
		if isUnavailable(err) {
			return nil, err
		}
		return again(words.UpperFirst(err.Error()) + ".")
	}
	c.log.Target = k.ID
	if p, err = c.tokens(); err != nil {
		return nil, err
	}
	p.Secret, p.Made = secret.Reveal(), k
	return c.page("Tokens", "tokens", p), nil
}

// ends is when something ends that is good for a time.
func (c *call) ends(text string) (time.Time, string) {
	const words = "Write for how long as 12h, 90d or 1y; leave it empty for one that is good until it is revoked."
	span, err := calendar.ParseSpan(text)
	if err != nil || span.IsZero() {
		return time.Time{}, words
	}
	return span.After(c.now()), ""
}

type revokePage struct {
	access.Token
	Confirm confirm
}

func (c *call) findToken() (*access.Token, error) {
	list, err := c.o.Tokens.List(c.r.Context(), "")
	if err != nil {
		return nil, err
	}
	for _, k := range list {
		if k.ID == c.r.PathValue("id") {
			return &k, nil
		}
	}
	return nil, noToken(access.ErrNoToken, c.r.PathValue("id"))
}

func (c *call) revocation(k *access.Token) revokePage {
	p := revokePage{Token: *k, Confirm: confirm{Action: pathOf("tokens", k.ID, "revoke"), Back: "/tokens", Word: k.Name, Do: "Revoke token",
		Head: "The token of " + k.Name + " is worth nothing from then on.",
		Points: []point{{"warn", "warn", "Who uses it is shut out at once,", "here and in the APIs; what they have open to be read is closed."},
			{"info", "info", "Schedules stay:", "they go on without it."}}}}
	if k.ID == c.who.TokenID {
		p.Confirm.Points = append([]point{{"bad", "bad", "It is yours:", "you are signed out by it."}}, p.Confirm.Points...)
	}
	return p
}

func (c *call) askRevoke() (*answer, error) {
	k, err := c.findToken()
	if err != nil {
		return nil, err
	}
	return c.page("Revoke token", "token-revoke", c.revocation(k)), nil
}

func (c *call) revokeToken() (*answer, error) {
	k, err := c.findToken()
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(c.r.FormValue("word")) != strings.TrimSpace(k.Name) {
		p := c.revocation(k)
		p.Confirm.Wrong = "That is not the token's name. Nothing was revoked."
		return c.again("Revoke token", "token-revoke", p), nil
	}
	if err := c.o.Tokens.Revoke(c.r.Context(), "", k.ID); err != nil {
		return nil, noToken(err, k.ID)
	}
	return c.see("/tokens", "The token of "+k.Name+" was revoked."), nil
}
