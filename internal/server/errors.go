package server

import (
	"errors"

	"github.com/slipcover/slipcover/internal/bus"
	"github.com/slipcover/slipcover/internal/refusal"
)

// Kind says what kind of refusal an Error is.
type Kind = refusal.Kind

// The kinds, as package refusal has them.
const (
	Invalid     = refusal.Invalid
	Forbidden   = refusal.Forbidden
	NotFound    = refusal.NotFound
	Conflict    = refusal.Conflict
	OverQuota   = refusal.OverQuota
	Busy        = refusal.Busy
	Unsupported = refusal.Unsupported
	Unavailable = refusal.Unavailable
)

// ErrUnavailable is of what could not be stored or read now; as an Unavailable it is 503.
var ErrUnavailable = bus.ErrUnavailable

// Error is a refusal, in a sentence for whoever asked. The cause is for the log.
type Error = refusal.Error

func refuse(k Kind, format string, args ...any) error {
	return refusal.New(k, format, args...)
}

// notFound has Trove's words.
func notFound(id string) error { return refuse(NotFound, "Resource %s cannot be found.", id) }

// isKind reports whether err is a refusal of that kind.
func isKind(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}
