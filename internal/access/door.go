package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"time"
)

const (
	doorRemembers = 10 * time.Minute // that a token was good
	doorWait      = time.Second      // for the turn of one that isn't remembered
)

// Door is a Checker that tells callers from strangers where an address has asked too
// often: many share one, behind a proxy or a gateway, and who has a good token must not
// suffer from who has none.
type Door struct {
	Checker
	good cache[struct{}]
	turn chan struct{}
}

// NewDoor returns a Door before a Checker.
func NewDoor(c Checker) *Door { return &Door{Checker: c, turn: make(chan struct{}, 1)} }

// Check is that of the Checker; a token that is good is remembered for a while.
func (d *Door) Check(ctx context.Context, token string) (*Caller, error) {
	who, err := d.Checker.Check(ctx, token)
	now := time.Now()
	switch key := hash(sha256.Sum256([]byte(token))); {
	case err == nil:
		d.good.put(key, struct{}{}, now.Add(doorRemembers), now)
	case errors.Is(err, ErrUnauthorized), errors.Is(err, ErrForbidden):
		d.good.drop(key)
	}
	return who, err
}

// Knows reports whether a request of an address that has asked too often has a good token.
// Those that aren't remembered are looked at one at a time, so that a flood of bad ones
// costs no more than one client that asks again and again.
func (d *Door) Knows(r *http.Request) bool {
	token := TokenOf(r)
	if token == "" {
		token = r.Header.Get("X-Auth-Key")
	}
	if token == "" {
		return false
	}
	if _, ok := d.good.get(hash(sha256.Sum256([]byte(token))), time.Now()); ok {
		return true // or was so lately: Check says it
	}
	late := time.NewTimer(doorWait)
	defer late.Stop()
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-late.C:
		return false
	case <-r.Context().Done():
		return false
	}
	_, err := d.Check(r.Context(), token)
	return err == nil
}
