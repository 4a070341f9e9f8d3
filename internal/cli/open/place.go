package open

import (
	"context"

	"github.com/slipcover/slipcover/internal/cli/core"
)

// Place is one of the repositories that a node backs up to.
type Place struct {
	URL string
	*Repository
	Err error // why it can't be used; Repository may be nil then
}

// PlaceOf opens the repository of settings; nil if its URL or its id was seen before.
func PlaceOf(ctx context.Context, env *core.Env, s *core.Settings, seen map[string]bool) *Place {
	url := s.Repository
	if seen[url] {
		return nil
	}
	seen[url] = true
	r, err := Repo(ctx, env, s, false)
	if err != nil {
		return &Place{core.Mask(url), nil, err}
	}
	id := r.Config().ID
	if seen[id] { // by another name
		r.Close()
		return nil
	}
	seen[id] = true
	return &Place{core.Mask(r.URL()), r, nil}
}

// Close closes the repository, if it is open.
func (p *Place) Close() {
	if p.Repository != nil {
		p.Repository.Close()
	}
}
