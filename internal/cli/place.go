package cli

import "context"

// place is one of the repositories that a node backs up to.
type place struct {
	url string
	*opened
	err error // why it can't be used; opened may be nil then
}

// placeOf opens the repository of settings; nil if its URL or its id was seen before.
func placeOf(ctx context.Context, env *Env, s *settings, seen map[string]bool) *place {
	url := s.Repository
	if seen[url] {
		return nil
	}
	seen[url] = true
	r, err := openRepo(ctx, env, s, false)
	if err != nil {
		return &place{mask(url), nil, err}
	}
	id := r.Config().ID
	if seen[id] { // by another name
		r.close()
		return nil
	}
	seen[id] = true
	return &place{mask(r.URL()), r, nil}
}

func (p *place) close() {
	if p.opened != nil {
		p.opened.close()
	}
}
