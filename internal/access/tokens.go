package access

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/words"
)

// The text of a token is KIND_ID_SECRET, such as
//
//	slc_k3v7qhmw2zxa_c5o2…        12 letters of id, 26 of secret (130 bits)
//
// in the letters of base32, small. The id names the record in the table, which holds
// the SHA-256 of the secret and not the secret: that is as good as random, so it needs
// no salt and no slow hash.
const (
	kindCaller = "slc" // of someone who asks
	kindJoin   = "slj" // of an agent that joins, once

	idLetters     = 12
	secretLetters = 26
	letters       = "abcdefghijklmnopqrstuvwxyz234567"
)

const (
	joinFor   = time.Hour      // a join token is good for this long, if it isn't said
	keepJoins = 24 * time.Hour // one that is over is listed for this long
	usedEvery = time.Hour      // how exact LastUsed is
	listFor   = 10 * time.Second
)

// Token is the record of a token of our own.
type Token struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"` // who or what uses it
	Role      Role      `json:"role"`
	Contents  bool      `json:"contents,omitempty"` // see Caller
	Project   string    `json:"project"`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by,omitempty"`
	Expires   time.Time `json:"expires,omitzero"` // zero: never
	// LastUsed is exact to an hour; zero: never.
	LastUsed time.Time `json:"last_used,omitzero"`
}

// Join is the record of a join token.
type Join struct {
	ID      string `json:"id"`
	Project string `json:"project"`
	Agent   string `json:"agent"` // the name that the agent will have
	// ByAdmin says that an administrator made it: the agent may then take the place of one
	// that is there.
	ByAdmin   bool      `json:"by_admin"`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by,omitempty"`
	Expires   time.Time `json:"expires"`
	Used      time.Time `json:"used,omitzero"`
}

type record interface {
	id() string
	project() string
	created() time.Time
}

func (k Token) id() string         { return k.ID }
func (k Token) project() string    { return k.Project }
func (k Token) created() time.Time { return k.Created }
func (j Join) id() string          { return j.ID }
func (j Join) project() string     { return j.Project }
func (j Join) created() time.Time  { return j.Created }

// stored is what the table has of a Token or a Join.
type stored[T record] struct {
	Record T      `json:"record"`
	SHA256 []byte `json:"sha256"` // of the secret
}

// Tokens is a Checker of tokens of our own, which it also makes, and of join tokens.
// It asks the table each time, so a revoked token ends as soon as the table says so.
type Tokens struct {
	table *bus.Table
	now   func() time.Time
}

// NewTokens returns the Tokens of a table, in which there is nothing else: the records
// under "slc." and "slj." and their ids.
func NewTokens(table *bus.Table) *Tokens { return &Tokens{table, time.Now} }

// Check returns the caller that a token stands for.
func (t *Tokens) Check(ctx context.Context, token string) (*Caller, error) {
	r, revision, err := find[Token](ctx, t.table, kindCaller, token)
	if err != nil {
		return nil, err
	}
	now := t.now()
	if k := r.Record; !k.Expires.IsZero() && !now.Before(k.Expires) {
		return nil, ErrUnauthorized
	}
	if now.Sub(r.Record.LastUsed) >= usedEvery {
		r.Record.LastUsed = now.UTC().Truncate(time.Second)
		// If it fails, another server noted it, or the next use will. A token that was
		// revoked since doesn't come back: its revision is another.
		_, _ = put(ctx, t.table, kindCaller, r.Record.ID, r, revision)
	}
	k := r.Record
	return &Caller{UserID: k.ID, User: k.Name, Project: k.Project, ProjectName: k.Project, Role: k.Role, Contents: k.Contents, Expires: k.Expires, TokenID: k.ID}, nil
}

// Create makes a token with the Name, Role, Project, CreatedBy and Expires of k. Its
// text is returned this once, and can't be had again.
func (t *Tokens) Create(ctx context.Context, k Token) (Token, config.Secret, error) {
	now := t.now().UTC().Truncate(time.Second)
	switch {
	case !validName(k.Name):
		return Token{}, "", errors.New("a token needs a name of 1 to 255 characters that can be printed")
	case k.Role < Viewer || k.Role > Admin:
		return Token{}, "", errors.New("a token needs a role: viewer, operator or admin")
	case !ValidProject(k.Project):
		return Token{}, "", fmt.Errorf("no project %q: use 1 to 64 letters, digits, dots, underscores and hyphens", k.Project)
	case !k.Expires.IsZero() && !now.Before(k.Expires):
		return Token{}, "", fmt.Errorf("the token would end at %s, which is over", k.Expires.UTC().Format(time.RFC3339))
	}
	k.Created, k.Expires, k.LastUsed = now, k.Expires.UTC(), time.Time{}
	k.ID = newID()
	text, err := create(ctx, t.table, kindCaller, k.ID, k)
	if err != nil {
		return Token{}, "", fmt.Errorf("store the token: %w", err)
	}
	return k, text, nil
}

// List returns the tokens of a project, or all for "", the oldest first, those that
// have expired included.
func (t *Tokens) List(ctx context.Context, project string) ([]Token, error) {
	return list[Token](ctx, t.table, kindCaller, project)
}

// Revoke ends the token with that id, in that project or, for "", in any. Without
// such a one the error is ErrNoToken.
func (t *Tokens) Revoke(ctx context.Context, project, id string) error {
	return revoke[Token](ctx, t.table, kindCaller, project, id)
}

// CreateJoin makes a join token with the Project, Agent, ByAdmin, CreatedBy and Expires of
// j; without Expires it is good for an hour. It forgets join tokens that have been over for
// a day.
func (t *Tokens) CreateJoin(ctx context.Context, j Join) (Join, config.Secret, error) {
	now := t.now().UTC().Truncate(time.Second)
	if j.Expires.IsZero() {
		j.Expires = now.Add(joinFor)
	}
	switch {
	case !ValidProject(j.Project):
		return Join{}, "", fmt.Errorf("no project %q: use 1 to 64 letters, digits, dots, underscores and hyphens", j.Project)
	case !validName(j.Agent):
		return Join{}, "", errors.New("a join token needs the agent's name, of 1 to 255 characters that can be printed")
	case !now.Before(j.Expires):
		return Join{}, "", fmt.Errorf("the token would end at %s, which is over", j.Expires.UTC().Format(time.RFC3339))
	}
	j.ID, j.Created, j.Expires, j.Used = newID(), now, j.Expires.UTC(), time.Time{}
	if err := t.sweep(ctx, now); err != nil {
		return Join{}, "", fmt.Errorf("remove old join tokens: %w", err)
	}
	text, err := create(ctx, t.table, kindJoin, j.ID, j)
	if err != nil {
		return Join{}, "", fmt.Errorf("store the join token: %w", err)
	}
	return j, text, nil
}

func (t *Tokens) sweep(ctx context.Context, now time.Time) error {
	joins, err := list[Join](ctx, t.table, kindJoin, "")
	if err != nil {
		return err
	}
	for _, j := range joins {
		if now.Sub(j.Expires) < keepJoins {
			continue
		}
		if err := t.table.Delete(ctx, tableKey(kindJoin, j.ID), 0); err != nil {
			return err
		}
	}
	return nil
}

// UseJoin uses a join token up. Of several that use one at once, on any server, one
// gets the record and the others ErrUnauthorized. After ErrUnavailable, and after a
// crash of whoever called, the token may be used up: then a new one must be made.
func (t *Tokens) UseJoin(ctx context.Context, token string) (Join, error) {
	r, revision, err := find[Join](ctx, t.table, kindJoin, token)
	if err != nil {
		return Join{}, err
	}
	now := t.now()
	if !r.Record.Used.IsZero() || !now.Before(r.Record.Expires) {
		return Join{}, ErrUnauthorized
	}
	r.Record.Used = now.UTC().Truncate(time.Second)
	if _, err := put(ctx, t.table, kindJoin, r.Record.ID, r, revision); err != nil {
		_, newer, readErr := get[Join](ctx, t.table, kindJoin, r.Record.ID)
		if errors.Is(readErr, bus.ErrNotFound) || readErr == nil && newer != revision {
			return Join{}, ErrUnauthorized // another was quicker, or this went through and its answer was lost
		}
		return Join{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return r.Record, nil
}

// ListJoins is List of join tokens.
func (t *Tokens) ListJoins(ctx context.Context, project string) ([]Join, error) {
	return list[Join](ctx, t.table, kindJoin, project)
}

// RevokeJoin is Revoke of a join token.
func (t *Tokens) RevokeJoin(ctx context.Context, project, id string) error {
	return revoke[Join](ctx, t.table, kindJoin, project, id)
}

func tableKey(kind, id string) string { return kind + "." + id }

func newID() string { return strings.ToLower(rand.Text()[:idLetters]) }

// parse takes the text of a token apart.
func parse(kind, text string) (id, secret string, ok bool) {
	rest, ok := strings.CutPrefix(text, kind+"_")
	if !ok {
		return "", "", false
	}
	id, secret, ok = strings.Cut(rest, "_")
	return id, secret, ok && isLetters(id, idLetters) && isLetters(secret, secretLetters)
}

func isLetters(text string, n int) bool {
	return len(text) == n && strings.Trim(text, letters) == ""
}

// create makes a secret and stores the record with its hash.
func create[T record](ctx context.Context, table *bus.Table, kind, id string, r T) (config.Secret, error) {
	secret := strings.ToLower(rand.Text())
	sum := sha256.Sum256([]byte(secret))
	value, err := json.Marshal(stored[T]{r, sum[:]})
	if err != nil {
		return "", err
	}
	if _, err := table.Create(ctx, tableKey(kind, id), value); err != nil {
		return "", err
	}
	return config.Secret(kind + "_" + id + "_" + secret), nil
}

// find returns the record of a token if it has the right secret.
func find[T record](ctx context.Context, table *bus.Table, kind, token string) (r stored[T], revision uint64, err error) {
	id, secret, ok := parse(kind, token)
	if !ok {
		return r, 0, ErrUnauthorized
	}
	r, revision, err = get[T](ctx, table, kind, id)
	if errors.Is(err, bus.ErrNotFound) {
		return r, 0, ErrUnauthorized
	}
	if err != nil {
		return r, 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(sum[:], r.SHA256) != 1 {
		return r, 0, ErrUnauthorized
	}
	return r, revision, nil
}

func get[T record](ctx context.Context, table *bus.Table, kind, id string) (r stored[T], revision uint64, err error) {
	if !isLetters(id, idLetters) {
		return r, 0, bus.ErrNotFound
	}
	value, revision, err := table.Get(ctx, tableKey(kind, id))
	if err != nil {
		return r, 0, err
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, 0, fmt.Errorf("read the record of token %s: %w", id, err)
	}
	return r, revision, nil
}

func put[T record](ctx context.Context, table *bus.Table, kind, id string, r stored[T], revision uint64) (uint64, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	return table.Update(ctx, tableKey(kind, id), value, revision)
}

// list returns the records of a project, or all for "", the oldest first.
func list[T record](ctx context.Context, table *bus.Table, kind, project string) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, listFor)
	defer cancel()
	found := map[string]T{}
	var bad error
	ready := false
	err := table.Watch(ctx, func(c bus.Change) {
		id, ours := strings.CutPrefix(c.Key, kind+".")
		switch {
		case ready:
		case c.Ready:
			ready = true
			cancel()
		case c.Deleted:
			delete(found, id)
		case ours:
			var r stored[T]
			if err := json.Unmarshal(c.Value, &r); err != nil {
				bad = fmt.Errorf("list tokens: read the record of %s: %w", id, err)
			}
			found[id] = r.Record
		}
	})
	if !ready {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	if bad != nil {
		return nil, bad
	}
	all := slices.Collect(maps.Values(found))
	all = slices.DeleteFunc(all, func(r T) bool { return project != "" && r.project() != project })
	slices.SortFunc(all, func(a, b T) int { return cmp.Or(a.created().Compare(b.created()), cmp.Compare(a.id(), b.id())) })
	return all, nil
}

func revoke[T record](ctx context.Context, table *bus.Table, kind, project, id string) error {
	r, _, err := get[T](ctx, table, kind, id)
	if errors.Is(err, bus.ErrNotFound) || err == nil && project != "" && r.Record.project() != project {
		return ErrNoToken
	}
	if err == nil {
		err = table.Delete(ctx, tableKey(kind, id), 0) // a use that is noted meanwhile doesn't save it
	}
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	return nil
}

// validName says whether text can name a user or an agent: 1 to 255 characters that
// can be printed.
func validName(text string) bool { return words.IsName(text, 255) }
