// Package api is what the APIs of the service do alike with a request, whatever form their answers have: note who asks,
// read its body and ids, and find the status and the words of an answer that is an error.
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/server"
)

// Refusal is an answer that is an error of who asked, in a sentence.
type Refusal struct {
	Status  int // of HTTP
	Message string
}

func (e *Refusal) Error() string { return e.Message }

// Refuse returns a Refusal.
func Refuse(status int, message string) error { return &Refusal{status, message} }

// Invalid refuses what can't be meant, with status 400.
func Invalid(format string, args ...any) error {
	return &Refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// NoResource refuses an id of nothing, in the words of package server.
func NoResource(id string) error {
	return &Refusal{http.StatusNotFound, fmt.Sprintf("Resource %.100s cannot be found.", id)}
}

// Admit notes for the logs who asks, and counts the request against the limit of the caller in the project.
func Admit(r *http.Request, who *access.Caller, callers *httpd.Limiter) (*httpd.Request, httpd.Allowance) {
	log := httpd.Of(r.Context())
	log.User, log.UserID, log.Project, log.Role = who.User, who.UserID, who.Project, who.Role.String()
	return log, callers.Allow(who.Project + "/" + who.UserID)
}

// Body reads the body of a request that is to be JSON, of at most so many bytes, or refuses it; see httpd.ReadJSON.
func Body(r *http.Request, limit int64) ([]byte, error) { return httpd.ReadJSON(r, limit, Refuse) }

// Decode reads the one value of a JSON text, or refuses it. A type that reads itself may return a Refusal of its own.
func Decode(d *json.Decoder, to any) error {
	err := d.Decode(to)
	if own := (*Refusal)(nil); errors.As(err, &own) {
		return own
	}
	if err != nil {
		return Invalid("%s.", httpd.JSONFault("The body", err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Invalid("The body is more than one JSON value.")
	}
	return nil
}

// ID returns the UUID that the path of a request has as {id}. What isn't one is the id of nothing.
func ID(r *http.Request) (string, error) {
	text := r.PathValue("id")
	if id, ok := ParseID(text); ok {
		return id, nil
	}
	return "", NoResource(text)
}

// ParseID returns a UUID in small letters, of which only the usual form is one.
func ParseID(text string) (string, bool) {
	u, err := uuid.Parse(text)
	return strings.ToLower(text), err == nil && len(text) == len(u.String())
}

// Fault returns the status and the message of the answer to a request that went wrong; of whose fault it is not the
// caller's, the cause goes to the log. What is no refusal is a fault of ours: it is logged under an id, which is all that
// the client is told. What access has against a token is for each API to say in its own form.
func Fault(r *http.Request, log *slog.Logger, err error) (status int, message string) {
	ctx := r.Context()
	var own *Refusal
	var theirs *server.Error
	switch {
	case errors.As(err, &own):
		return own.Status, own.Message
	case errors.As(err, &theirs) && theirs.Kind.Status() != 0:
		if theirs.Cause != nil {
			log.WarnContext(ctx, "request refused", "route", r.Pattern, "status", theirs.Kind.Status(), "err", theirs.Cause)
		}
		return theirs.Kind.Status(), theirs.Message
	case errors.Is(err, access.ErrUnavailable), errors.Is(err, server.ErrUnavailable), errors.Is(err, context.Canceled),
		errors.Is(err, context.DeadlineExceeded):
		log.WarnContext(ctx, "request could not be served", "route", r.Pattern, "err", err)
		return http.StatusServiceUnavailable, "The service is not available now: try again later."
	}
	id := cmp.Or(httpd.Of(ctx).ID, uuid.NewString())
	log.ErrorContext(ctx, "request failed", "route", r.Pattern, "fault", id, "err", err)
	return Broken(id)
}

// Broken returns the status and the message of a fault of ours that is in the log under an id.
func Broken(id string) (status int, message string) {
	return http.StatusInternalServerError, "Internal error. Its cause is in the server's log under " + id + "."
}

// Sentence makes one of an error's text.
func Sentence(text string) string {
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}
