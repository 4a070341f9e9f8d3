package service

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipcover/slipcover/internal/cli/core"
)

func newTokens(env *core.Env, g *core.Global) *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the tokens of a server",
		Long: `Make, list and revoke the tokens of a server: those that callers log in with, each with a role in a project, and one-time
tokens with which agents join. Only an administrator makes tokens for callers; with Keystone, Keystone makes them.`,
	}
	core.AsGroup(c)
	c.AddCommand(newTokenCreate(env, g), newTokenList(env, g), newTokenRevoke(env, g), newTokenJoin(env, g))
	return c
}

type tokenCreateOptions struct {
	name, role, project, expires string
	contents                     bool
}

func newTokenCreate(env *core.Env, g *core.Global) *cobra.Command {
	o := &tokenCreateOptions{}
	c := &cobra.Command{
		Use:   "create --name NAME --role ROLE",
		Short: "Make a token for a caller, and print it once",
		Long: `Make a token for a caller and print it. It is shown this once only: the server keeps just its hash. A viewer can look, an
operator can also make, change and delete, and an admin can do so in all projects, and manage tokens, agents and quotas.
With --contents a viewer may also read documents out of backups, which operators and admins may anyway.`,
		Args: core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return runTokenCreate(ctx, env, c, o)
		}),
	}
	f := c.Flags()
	f.StringVar(&o.name, "name", "", "`NAME` of who or what uses it")
	f.StringVar(&o.role, "role", "", "viewer, operator or admin")
	f.BoolVar(&o.contents, "contents", false, "a viewer with it may read documents out of backups")
	projectFlag(f, &o.project, "that it is for")
	f.StringVar(&o.expires, "expires", "", "how long it is good for, such as 12h, 90d or 1y (default: until it is revoked)")
	serviceFlags(f)
	return c
}

// tokenJSON is a token's record, or with Agent that of a join token.
type tokenJSON struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Agent    string    `json:"agent"`
	Role     string    `json:"role"`
	Project  string    `json:"project"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	LastUsed time.Time `json:"last_used"`
	Used     time.Time `json:"used"`
}

func runTokenCreate(ctx context.Context, env *core.Env, c *serviceClient, o *tokenCreateOptions) error {
	if o.name == "" || o.role == "" {
		return core.Usage("token create needs --name and --role: viewer, operator or admin")
	}
	text := map[string]string{"name": o.name, "role": o.role}
	addText(text, "project", o.project)
	addText(text, "expires_in", o.expires)
	in := map[string]any{}
	for key, value := range text {
		in[key] = value
	}
	if o.contents {
		in["contents"] = true
	}
	return request(ctx, env, c, http.MethodPost, "tokens", in, func(m *madeToken) string {
		return unseen(m.Token.ID, "slipcover token revoke ")
	}, func(m *madeToken) error { return m.print(env) })
}

// unseen is what was done when a token's secret, which the server shows once, couldn't be
// printed. Revoke is the command, without the id.
func unseen(id, revoke string) string {
	return fmt.Sprintf("token %s was made, and its secret is lost: revoke it with `%s%s` and make another", id, revoke, id)
}

type madeToken struct {
	Token  tokenJSON `json:"token"`
	Secret string    `json:"secret"`
}

func (m *madeToken) print(env *core.Env) error {
	k := m.Token
	until := "until it is revoked"
	if !k.Expires.IsZero() {
		until = "until " + core.When(k.Expires) + " UTC"
	}
	fmt.Fprintf(env.Stderr, "token %s of %s: %s in project %s, %s; it is not shown again:\n", k.ID, core.Clean(k.Name),
		k.Role, k.Project, until)
	_, err := fmt.Fprintln(env.Stdout, m.Secret)
	return err
}

// addText sets what is given.
func addText(in map[string]string, key, value string) {
	if value != "" {
		in[key] = value
	}
}

type tokenOptions struct {
	project string
	join    bool
}

// path is that of tokens, or of one.
func (o *tokenOptions) path(id string) string {
	p := "tokens"
	if o.join {
		p = "join-tokens"
	}
	if id != "" {
		p += "/" + url.PathEscape(id)
	}
	return inProject(p, o.project)
}

func newTokenList(env *core.Env, g *core.Global) *cobra.Command {
	o := &tokenOptions{}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, oldest first, without their secrets",
		Args:  core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, _ []string) error {
			return show(ctx, env, c, o.path(""), func(l *tokenListJSON) error { return l.print(env, o.join) })
		}),
	}
	f := c.Flags()
	f.BoolVar(&o.join, "join", false, "list the one-time tokens with which agents join")
	f.StringVar(&o.project, "project", "", "`ID` of the project whose tokens to list (default: all)")
	serviceFlags(f)
	return c
}

type tokenListJSON struct {
	Tokens []tokenJSON `json:"tokens"`
	Joins  []tokenJSON `json:"join_tokens"`
}

func (l *tokenListJSON) print(env *core.Env, join bool) error {
	var rows [][]string
	if join {
		for _, k := range l.Joins {
			rows = append(rows, []string{k.ID, k.Agent, k.Project, moment(k.Created), moment(k.Expires), moment(k.Used)})
		}
		return core.Table(env.Stdout, []string{"ID", "NODE", "PROJECT", "CREATED (UTC)", "EXPIRES", "USED"}, rows)
	}
	for _, k := range l.Tokens {
		rows = append(rows, []string{k.ID, k.Name, k.Role, k.Project, moment(k.Created), moment(k.Expires),
			moment(k.LastUsed)})
	}
	return core.Table(env.Stdout, []string{"ID", "NAME", "ROLE", "PROJECT", "CREATED (UTC)", "EXPIRES", "LAST USED"}, rows)
}

func newTokenRevoke(env *core.Env, g *core.Global) *cobra.Command {
	o := &tokenOptions{}
	c := &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a token: it ends at once",
		Args:  core.Arguments(1, 1, "one token's ID"),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, _ *core.Settings, args []string) error {
			return c.remove(ctx, env, o.path(args[0]), args[0], "revoked", "token "+core.Clean(args[0])+" is revoked")
		}),
	}
	c.Flags().BoolVar(&o.join, "join", false, "it is a one-time token with which an agent joins")
	serviceFlags(c.Flags())
	return c
}

type tokenJoinOptions struct{ name, project, expires string }

func newTokenJoin(env *core.Env, g *core.Global) *cobra.Command {
	o := &tokenJoinOptions{}
	c := &cobra.Command{
		Use:   "join --name NAME",
		Short: "Let a node's agent join: prints the command to run there",
		Long: `Make a one-time token with which an agent can join, and print the command to run on the node. The name is the node's
name in the service and in repositories. If the project has an agent of that name, an administrator's token replaces it and
keeps its instance and backups; other tokens are refused. Where backups go into callers' own Swift accounts, only
administrators can make these tokens.`,
		Args: core.Arguments(0, 0, ""),
		RunE: serviceCommand(env, g, func(ctx context.Context, c *serviceClient, s *core.Settings, _ []string) error {
			return runTokenJoin(ctx, env, c, s, o)
		}),
	}
	f := c.Flags()
	f.StringVar(&o.name, "name", "", "`NAME` of the node: letters, digits, dot, underscore and dash, at most 63")
	projectFlag(f, &o.project, "that the node belongs to")
	f.StringVar(&o.expires, "expires", "", "how long it is good for, such as 30m or 1d (default: 1h)")
	serviceFlags(f)
	return c
}

type madeJoin struct {
	Token       tokenJSON `json:"join_token"`
	Secret      string    `json:"secret"`
	URL         string    `json:"url"`
	Fingerprint string    `json:"ca_fingerprint"`
}

func runTokenJoin(ctx context.Context, env *core.Env, c *serviceClient, s *core.Settings, o *tokenJoinOptions) error {
	if o.name == "" {
		return core.Usage("token join needs --name, that of the node")
	}
	in := map[string]string{"name": o.name}
	addText(in, "project", o.project)
	addText(in, "expires_in", o.expires)
	var text json.RawMessage
	if err := c.call(ctx, http.MethodPost, "join-tokens", in, &text); err != nil {
		return err
	}
	var made madeJoin
	if err := c.decode(text, &made); err != nil {
		return err
	}
	env.Done("%s", unseen(made.Token.ID, "slipcover token revoke --join "))
	at := made.URL
	if at == "" {
		at = c.base
	}
	u, err := url.Parse(at)
	if err != nil {
		return err
	}
	command := "slipcover agent --server-url " + at
	switch {
	case u.Scheme == "https" && made.Fingerprint != "":
		command += " --ca-fingerprint " + made.Fingerprint
	case u.Scheme == "https" && s.CAFile != "":
		command += " --ca-file ca.crt"
	}
	command += " --join " + made.Secret
	if env.JSON {
		var all map[string]any
		if err := c.decode(text, &all); err != nil {
			return err
		}
		all["command"] = command
		return core.PrintJSON(env.Stdout, all)
	}
	fmt.Fprintf(env.Stderr, "run this on the node %s until %s UTC; it works once, and the token is not shown again:\n",
		core.Clean(made.Token.Agent), core.When(made.Token.Expires))
	if _, err := fmt.Fprintln(env.Stdout, command); err != nil {
		return err
	}
	if onThisMachine(u) {
		fmt.Fprintf(env.Stderr, "note: %s is this machine; on another one name the server by an address that is reached from there\n", u.Host)
	}
	if u.Scheme == "https" && made.Fingerprint == "" && s.CAFile != "" {
		fmt.Fprintf(env.Stderr, "note: ca.crt stands for a copy of %s there\n", s.CAFile)
	}
	return nil
}
