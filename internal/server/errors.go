package server

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/slipcover/slipcover/internal/bus"
)

// Kind says what kind of refusal an Error is.
type Kind int

// The kinds, each with the HTTP status that Trove gives it.
const (
	Invalid     Kind = iota + 1 // 400: what was asked for can't be meant
	Forbidden                   // 403
	NotFound                    // 404: isn't there, or is another project's
	Conflict                    // 409
	OverQuota                   // 413
	Busy                        // 422: the instance or backup is in no state for it
	Unsupported                 // 501
	Unavailable                 // 503
)

// Status is that HTTP status; 0 of what is none of them.
func (k Kind) Status() int {
	switch k {
	case Invalid:
		return http.StatusBadRequest
	case Forbidden:
		return http.StatusForbidden
	case NotFound:
		return http.StatusNotFound
	case Conflict:
		return http.StatusConflict
	case OverQuota:
		return http.StatusRequestEntityTooLarge
	case Busy:
		return http.StatusUnprocessableEntity
	case Unsupported:
		return http.StatusNotImplemented
	case Unavailable:
		return http.StatusServiceUnavailable
	}
	return 0
}

// ErrUnavailable is of what could not be stored or read now; as an Unavailable it is 503.
var ErrUnavailable = bus.ErrUnavailable

// Error is a refusal, in a sentence for whoever asked. The cause is for the log.
type Error struct {
	Kind    Kind
	Message string
	Cause   error
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Cause }

func refuse(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

// notFound has Trove's words.
func notFound(id string) error { return refuse(NotFound, "Resource %s cannot be found.", id) }

// isKind reports whether err is a refusal of that kind.
func isKind(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}
