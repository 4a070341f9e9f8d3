package mango

import (
	"fmt"
	"net/http"
)

// Error is what a client is told: {"error": Name, "reason": Reason}.
type Error struct {
	Status       int
	Name, Reason string
}

func (e *Error) Error() string { return e.Name + ": " + e.Reason }

func bad(name, format string, args ...any) *Error {
	return &Error{http.StatusBadRequest, name, fmt.Sprintf(format, args...)}
}

// broken is what CouchDB answers when its own code fails on what a client asked for.
func broken(reason string) *Error {
	return &Error{http.StatusInternalServerError, "unknown_error", reason}
}
