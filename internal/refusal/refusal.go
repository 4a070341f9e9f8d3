// Package refusal is why something isn't done, in a sentence for whoever asked. Servers and agents refuse in the same way, and an
// agent's refusal reaches who asked a server.
package refusal

import (
	"fmt"
	"net/http"
)

// Kind says what kind of refusal an Error is.
type Kind int

// The kinds, each with the HTTP status that Trove gives it. Their numbers go between servers and agents of different versions, and
// never change.
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

// Error is a refusal. The cause is for the log.
type Error struct {
	Kind    Kind
	Message string
	Cause   error
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Cause }

// New refuses without a cause.
func New(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}
