package admin

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/nats-io/nkeys"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/server"
)

// How an agent joins. Its token is used up first, in the table that all servers share,
// and then the agent is made: a token makes one agent at most, whoever uses it and how
// often. So a server that dies in between, or before it has answered, costs a token:
// the next try is refused, a new token must be made, and an agent that nobody became
// is replaced by the next one of its name.
//
// An answer that gets lost on the way costs nothing: whoever asks once more with the
// same token and the same key gets the same answer, as long as this server runs and the
// token would have been good. And a client that hangs up doesn't stop a join halfway.

const (
	joinFor  = 30 * time.Second
	maxJoins = 1000 // answers to remember
)

var errNoAgents = api.Refuse(http.StatusConflict, "This server takes no agents of other machines: give it the setting nats_listen, or nats_url.")

// errNoRepository is of an agent that could make no backup here.
var errNoRepository = api.Refuse(http.StatusConflict, "Backups go into the agent's own repository here, and it names none: give it the setting repository. "+
	"The join token was not used.")

type joins struct {
	mu   sync.Mutex // held by a join from its beginning to its end
	done map[[sha256.Size]byte]doneJoin
}

type doneJoin struct {
	publicKey string
	answer    joined
	until     time.Time
}

type joinRequest struct {
	Token     string `json:"token"`
	PublicKey string `json:"public_key"`
	Recipient string `json:"recipient"`
	// Hello may have fields that we don't know, of an agent newer than us.
	Hello json.RawMessage `json:"hello"`
}

type joined struct {
	AgentID  string `json:"agent_id"`
	Instance string `json:"instance"`
	Name     string `json:"name"`
	Project  string `json:"project"`
	JWT      string `json:"jwt"`
	NATSURL  string `json:"nats_url"`
	NATSCA   string `json:"nats_ca"`
	// Recipients (age) are for an agent that has none of its own.
	Recipients []string `json:"recipients,omitempty"`
}

func (a *service) join(r *http.Request) (int, any, error) {
	log := httpd.Of(r.Context())
	log.Action = "agent.join"
	text, err := body(r)
	if err != nil {
		return 0, nil, err
	}
	var q joinRequest
	if err := decode(text, &q); err != nil {
		return 0, nil, err
	}
	n, err := q.joining()
	if err != nil {
		return 0, nil, err
	}
	if a.NATSURL == "" {
		return 0, nil, errNoAgents
	}
	if n.Hello.NoRepository && !a.Server.OwnSwift() {
		return 0, nil, errNoRepository
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), joinFor)
	defer cancel()
	answer, err := a.letIn(ctx, q.Token, n, log)
	if err != nil {
		return 0, nil, err
	}
	answer.NATSURL, answer.NATSCA = a.natsURL(r), a.CA
	if a.Recipients != nil {
		answer.Recipients = a.Recipients()
	}
	log.Target = answer.AgentID
	return http.StatusCreated, answer, nil
}

// joining checks all that can be checked while the token isn't used up.
func (q *joinRequest) joining() (server.Joining, error) {
	n := server.Joining{PublicKey: q.PublicKey, Recipient: q.Recipient}
	if q.Token == "" {
		return n, api.Invalid("token is missing: the join token.")
	}
	if !nkeys.IsValidPublicUserKey(q.PublicKey) {
		return n, api.Invalid("public_key must be the public key of a user of NATS.")
	}
	if _, err := age.ParseX25519Recipient(q.Recipient); err != nil {
		return n, api.Invalid("recipient must be an age recipient of the kind age1….")
	}
	if len(q.Hello) == 0 {
		return n, nil
	}
	if err := json.Unmarshal(q.Hello, &n.Hello); err != nil {
		return n, api.Invalid("%s.", httpd.JSONFault("hello", err))
	}
	return n, nil
}

// letIn uses the token up and makes the agent, one at a time.
func (a *service) letIn(ctx context.Context, token string, n server.Joining, log *httpd.Request) (*joined, error) {
	a.joins.mu.Lock()
	defer a.joins.mu.Unlock()
	key := sha256.Sum256([]byte(token))
	if d, ok := a.joins.done[key]; ok && d.publicKey == n.PublicKey && time.Now().Before(d.until) {
		log.User, log.Project = "join token", d.answer.Project
		return &d.answer, nil
	}
	// Replacing an agent revokes its key, and with that the new agent.
	if slices.ContainsFunc(a.Server.Agents(), func(i server.AgentInfo) bool { return i.PublicKey == n.PublicKey }) {
		return nil, api.Refuse(http.StatusConflict, "An agent with this public_key has joined already: make a new key, and join with a new token.")
	}
	j, err := a.Tokens.UseJoin(ctx, token)
	if errors.Is(err, access.ErrUnauthorized) {
		return nil, api.Refuse(http.StatusUnauthorized, "The join token is unknown, expired, or used already: make a new one with \"slipcover token join\".")
	}
	if err != nil {
		return nil, err
	}
	log.User, log.UserID, log.Project, log.Target = "join token", j.ID, j.Project, j.Agent
	n.Name, n.Project, n.Admin = j.Agent, j.Project, j.ByAdmin
	got, err := a.Server.Join(ctx, n)
	if err != nil {
		return nil, usedUp(err)
	}
	answer := joined{AgentID: got.AgentID, Instance: got.Instance, Name: n.Name, Project: n.Project, JWT: got.JWT}
	a.joins.remember(key, doneJoin{n.PublicKey, answer, j.Expires})
	return &answer, nil
}

// usedUp says with a refusal that the token is gone.
func usedUp(err error) error {
	var e *server.Error
	if !errors.As(err, &e) {
		return err
	}
	return &server.Error{Kind: e.Kind, Message: e.Message + " The join token is used up: make a new one.", Cause: e.Cause}
}

// remember is called with the lock held.
func (j *joins) remember(key [sha256.Size]byte, d doneJoin) {
	now := time.Now()
	for k, old := range j.done {
		if !now.Before(old.until) {
			delete(j.done, k)
		}
	}
	if j.done == nil || len(j.done) >= maxJoins {
		j.done = map[[sha256.Size]byte]doneJoin{}
	}
	j.done[key] = d
}

// natsURL is where an agent reaches the bus: a server that listens on all its addresses
// is reached at the one that the agent knows.
func (a *service) natsURL(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if u, err := url.Parse(a.URL); err == nil && u.Hostname() != "" {
		host = u.Hostname()
	}
	host = strings.Trim(host, "[]")
	var list []string
	for at := range strings.SplitSeq(a.NATSURL, ",") {
		u, err := url.Parse(strings.TrimSpace(at))
		if err == nil {
			if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
				u.Host = net.JoinHostPort(host, u.Port())
				at = u.String()
			}
		}
		list = append(list, strings.TrimSpace(at))
	}
	return strings.Join(list, ",")
}
