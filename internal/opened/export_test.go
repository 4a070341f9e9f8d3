package opened

import (
	"context"
	"time"
)

// LookEvery is how often it is looked what is to end.
const LookEvery = lookEvery

// Look ends what is to end, at a time.
func (s *Set) Look(ctx context.Context, now time.Time) { s.look(ctx, now) }
