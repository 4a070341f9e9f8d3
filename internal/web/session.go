package web

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/bus"
)

const (
	// idleFor is how long a session lasts in which nobody asks for a page, and longest how
	// long it does in any case.
	idleFor = 8 * time.Hour
	longest = 24 * time.Hour
	// choosing is how long a log-in may wait for the choice of a project.
	choosing = 10 * time.Minute
	// usedEvery is how exact it is stored when a session was used last.
	usedEvery = 5 * time.Minute
	listFor   = 10 * time.Second
	sweepEach = time.Hour
)

// record is what the table of sessions has, under the SHA-256 of what the cookie says.
type record struct {
	UserID  string    `json:"user_id"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"used"` // exact to usedEvery
	Ends    time.Time `json:"ends"` // at the latest
	// Sealed is the caller's token, encrypted by a key that only the cookie gives: the
	// catalog holds none in clear.
	Sealed []byte `json:"sealed"`
	// Choosing says that the token is one of Keystone's without a project, which is to be
	// chosen.
	Choosing bool `json:"choosing,omitempty"`
}

// session is one that was found.
type session struct {
	record
	key      string // in the table
	revision uint64
	token    string
}

var (
	errNoSession = errors.New("there is no session")
	errEnded     = errors.New("the session has ended")
)

// sessions are those of all servers of the service.
type sessions struct {
	table *bus.Table
	now   func() time.Time
}

// secret is what a cookie says: 32 random bytes.
type secret [32]byte

func (s secret) key() string {
	sum := sha256.Sum256(s[:])
	return hex.EncodeToString(sum[:])
}

// sealer is what encrypts the token of a session.
func (s secret) sealer() (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, s[:], nil, "slipcover dashboard session", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func parseSecret(text string) (s secret, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != len(s) {
		return s, false
	}
	return secret(b), true
}

// begin stores a session and returns what its cookie says.
func (s *sessions) begin(ctx context.Context, r record, token string) (string, time.Time, error) {
	var id secret
	_, _ = rand.Read(id[:]) // never fails
	seal, err := id.sealer()
	if err != nil {
		return "", time.Time{}, err
	}
	now := s.now().UTC().Truncate(time.Second)
	r.Created, r.Used = now, now
	ends := now.Add(longest)
	if r.Choosing {
		ends = now.Add(choosing)
	}
	if r.Ends.IsZero() || ends.Before(r.Ends) {
		r.Ends = ends
	}
	r.Sealed = seal.Seal(nil, nil, []byte(token), []byte(id.key()))
	value, err := json.Marshal(r)
	if err != nil {
		return "", time.Time{}, err
	}
	if _, err := s.table.Create(ctx, id.key(), value); err != nil {
		return "", time.Time{}, fmt.Errorf("%w: store the session: %w", access.ErrUnavailable, err)
	}
	return base64.RawURLEncoding.EncodeToString(id[:]), r.Ends, nil
}

// find returns the session of a cookie. The error is errNoSession, errEnded or
// access.ErrUnavailable.
func (s *sessions) find(ctx context.Context, cookie string) (*session, error) {
	id, ok := parseSecret(cookie)
	if !ok {
		return nil, errNoSession
	}
	f := &session{key: id.key()}
	value, revision, err := s.table.Get(ctx, f.key)
	if errors.Is(err, bus.ErrNotFound) {
		return nil, errEnded // or there never was one
	}
	if err != nil {
		return nil, fmt.Errorf("%w: read the session: %w", access.ErrUnavailable, err)
	}
	f.revision = revision
	if err := json.Unmarshal(value, &f.record); err != nil {
		return nil, fmt.Errorf("read the session: %w", err)
	}
	if f.over(s.now()) {
		return nil, errEnded
	}
	seal, err := id.sealer()
	if err != nil {
		return nil, err
	}
	token, err := seal.Open(nil, nil, f.Sealed, []byte(f.key))
	if err != nil {
		return nil, fmt.Errorf("read the session: %w", err)
	}
	f.token = string(token)
	return f, nil
}

func (r *record) over(now time.Time) bool {
	return !now.Before(r.Ends) || now.Sub(r.Used) >= idleFor
}

// use notes that a session is used. If it can't be noted, another request did, or will.
func (s *sessions) use(ctx context.Context, f *session) {
	now := s.now().UTC().Truncate(time.Second)
	if now.Sub(f.Used) < usedEvery {
		return
	}
	f.Used = now
	if value, err := json.Marshal(f.record); err == nil {
		_, _ = s.table.Update(ctx, f.key, value, f.revision) // one that was ended since doesn't come back
	}
}

// end removes a session.
func (s *sessions) end(ctx context.Context, key string) error {
	if err := s.table.Delete(ctx, key, 0); err != nil && !errors.Is(err, bus.ErrNotFound) {
		return fmt.Errorf("%w: end the session: %w", access.ErrUnavailable, err)
	}
	return nil
}

// endAll removes the sessions that are of a kind.
func (s *sessions) endAll(ctx context.Context, which func(*record) bool) error {
	keys, err := s.list(ctx, which)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := s.end(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// list returns the keys of the sessions that are of a kind.
func (s *sessions) list(ctx context.Context, which func(*record) bool) (keys []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, listFor)
	defer cancel()
	found := map[string]bool{}
	ready := false
	err = s.table.Watch(ctx, func(c bus.Change) {
		var r record
		switch {
		case ready:
		case c.Ready:
			ready = true
			cancel()
		case c.Deleted:
			delete(found, c.Key)
		default:
			found[c.Key] = json.Unmarshal(c.Value, &r) != nil || which(&r) // what nobody can read is of no use
		}
	})
	if !ready {
		return nil, fmt.Errorf("%w: list the sessions: %w", access.ErrUnavailable, err)
	}
	for key, is := range found {
		if is {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// run removes sessions that are over, until ctx ends.
func (s *sessions) run(ctx context.Context, failed func(error)) {
	t := time.NewTicker(sweepEach)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := s.endAll(ctx, func(r *record) bool { return r.over(s.now()) }); err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}

// secure reports whether a browser sent a request over TLS, here or to a proxy before.
func (s *Site) secure(r *http.Request) bool {
	host, https := strings.CutPrefix(s.o.URL, "https://")
	host, _, _ = strings.Cut(host, "/")
	return r.TLS != nil || https && strings.EqualFold(host, r.Host)
}

// cookieName is that of the session. With the prefix a browser takes it from this host
// alone, over TLS.
func (s *Site) cookieName(r *http.Request) string {
	if s.secure(r) {
		return "__Host-slipcover"
	}
	return "slipcover"
}

func (s *Site) cookie(r *http.Request, value string, ends time.Time) *http.Cookie {
	c := &http.Cookie{Name: s.cookieName(r), Value: value, Path: "/", HttpOnly: true, Secure: s.secure(r), SameSite: http.SameSiteLaxMode, Expires: ends}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}
