package swift

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
)

const (
	// claimBytes is the size up to which a body is put under a claim.
	claimBytes = 1 << 20
	// claimLife is after what time, by the server's clock, a claim counts as left by
	// a crash. A put under a claim takes a fraction of it.
	claimLife = 2 * time.Minute
	// claimRemoved is when Swift removes a claim by itself, in seconds.
	claimRemoved = "3600"

	// claimWait is how long one that isn't first waits at the beginning, and
	// claimWaitMax in the end, until it looks again.
	claimWait    = 20 * time.Millisecond
	claimWaitMax = time.Second
)

// claim is the right to put an object that isn't there. A holder has it from a
// listing that showed no other claim after its own was put, until it is released.
type claim struct {
	store *Store
	name  string
}

// claim returns the claim on an object, or ErrExist once another one has put it.
func (s *Store) claim(ctx context.Context, object string) (*claim, error) {
	sum := sha256.Sum256([]byte(object))
	folder := s.prefix + "~claims/" + hex.EncodeToString(sum[:16]) + "/"
	for wait := claimWait; ; wait = min(2*wait, claimWaitMax) {
		c := &claim{s, fmt.Sprintf("%s%s-%d", folder, s.id, s.counter.Add(1))}
		ok, err := c.try(ctx, folder)
		if err != nil {
			c.end()
			return nil, err
		}
		if ok {
			return c, nil
		}
		if err := c.remove(ctx); err != nil {
			return nil, err
		}
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
		if _, err := s.head(ctx, object); err == nil {
			return nil, storage.ErrExist
		} else if !errors.Is(err, storage.ErrNotExist) {
			return nil, err
		}
	}
}

// try puts the claim and waits until it is the only one. It returns false when
// there is one with a lesser name, which goes first.
func (c *claim) try(ctx context.Context, folder string) (bool, error) {
	c.store.claims.Store(c.name, true)
	began := time.Now()
	header := http.Header{"Content-Type": {contentType}, "X-Delete-After": {claimRemoved}}
	resp, err := c.store.do(ctx, request{method: http.MethodPut, container: c.store.place.container, name: c.name, header: header})
	if err != nil {
		return false, err
	}
	if resp.StatusCode == http.StatusNotFound {
		discard(resp)
		return false, c.store.noContainer(c.store.place.container)
	}
	if err := c.store.done(resp); err != nil {
		return false, err
	}
	for {
		least, err := c.store.leastClaim(ctx, folder, c.name)
		if err != nil {
			return false, err
		}
		if least == "" {
			return time.Since(began) < claimLife/4, nil // or others may think that it crashed
		}
		if least < c.name {
			return false, nil
		}
		if err := pause(ctx, claimWait); err != nil {
			return false, err
		}
	}
}

// leastClaim returns the least name of the claims in a folder other than mine, ""
// if there is none.
func (s *Store) leastClaim(ctx context.Context, folder, mine string) (string, error) {
	least := ""
	err := s.names(ctx, s.place.container, folder, func(e entry) error {
		if e.Name == mine || s.isLeft(folder, e) {
			return nil
		}
		if least == "" {
			least = e.Name // they come in order
		}
		return nil
	})
	return least, err
}

// isLeft reports whether a claim is one that nobody will release.
func (s *Store) isLeft(folder string, e entry) bool {
	if strings.HasPrefix(e.Name, folder+s.id+"-") {
		_, used := s.claims.Load(e.Name)
		return !used
	}
	return e.age > claimLife
}

// release gives the claim back after the put, whose error is err. When it isn't
// known what came of the put, the claim stays, so that nobody else begins while it
// may still be carried out.
func (c *claim) release(ctx context.Context, err error) {
	var answer *statusError
	if err != nil && !errors.Is(err, storage.ErrExist) && !errors.As(err, &answer) || ctx.Err() != nil {
		c.end()
		return
	}
	c.remove(ctx) //nolint:errcheck // one that stays is passed over after claimLife
}

// end says that this process doesn't use the claim any more.
func (c *claim) end() { c.store.claims.Delete(c.name) }

func (c *claim) remove(ctx context.Context) error {
	defer c.end()
	resp, err := c.store.do(ctx, request{method: http.MethodDelete, container: c.store.place.container, name: c.name})
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusNotFound {
		discard(resp)
		return nil
	}
	return c.store.done(resp)
}

// pause waits for d, or half as long again.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
