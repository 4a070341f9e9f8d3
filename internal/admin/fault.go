package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/server"
)

// refusal is an answer that is an error of who asked.
type refusal struct {
	status  int
	message string
}

func (e *refusal) Error() string { return e.message }

func refused(status int, message string) error { return &refusal{status, message} }

func invalid(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// noResource has the words of package server.
func noResource(id string) error {
	return &refusal{http.StatusNotFound, fmt.Sprintf("Resource %.100s cannot be found.", id)}
}

// codes are what programs read.
var codes = map[int]string{
	http.StatusBadRequest:            "invalid",
	http.StatusUnauthorized:          "unauthorized",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "not_found",
	http.StatusMethodNotAllowed:      "method_not_allowed",
	http.StatusConflict:              "conflict",
	http.StatusRequestEntityTooLarge: "over_limit",
	http.StatusUnsupportedMediaType:  "unsupported_media_type",
	http.StatusUnprocessableEntity:   "busy",
	http.StatusTooManyRequests:       "too_many_requests",
	http.StatusInternalServerError:   "internal",
	http.StatusNotImplemented:        "unsupported",
	http.StatusServiceUnavailable:    "unavailable",
}

type faultBody struct {
	Error faultError `json:"error"`
}

type faultError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func refuse(w http.ResponseWriter, status int, message string) {
	_ = httpd.SendJSON(w, status, faultBody{faultError{codes[status], message}}) // strings always can be sent
}

// TooMany answers that a limit on requests was reached.
func TooMany(w http.ResponseWriter, _ *http.Request, a httpd.Allowance) {
	a.SetHeader(w)
	refuse(w, http.StatusTooManyRequests, fmt.Sprintf("Too many requests: try again in %d s.", int(a.Wait.Seconds())))
}

// Broken answers in place of a handler that panicked.
func Broken(w http.ResponseWriter, r *http.Request) {
	refuse(w, http.StatusInternalServerError, internal(httpd.Of(r.Context()).ID))
}

func internal(id string) string {
	return "Internal error. Its cause is in the server's log under " + id + "."
}

// fault answers with what went wrong. What is no refusal is a fault of ours: it goes to
// the log under an id, which is all that the client is told.
func (a *api) fault(w http.ResponseWriter, r *http.Request, err error) {
	var own *refusal
	var theirs *server.Error
	switch {
	case errors.As(err, &own):
		refuse(w, own.status, own.message)
	case errors.As(err, &theirs) && theirs.Kind.Status() != 0:
		if theirs.Cause != nil {
			a.Log.WarnContext(r.Context(), "request refused", "route", r.Pattern, "status", theirs.Kind.Status(), "err", theirs.Cause)
		}
		refuse(w, theirs.Kind.Status(), theirs.Message)
	case errors.Is(err, access.ErrUnauthorized):
		w.Header().Set("WWW-Authenticate", `Bearer realm="slipcover"`)
		refuse(w, http.StatusUnauthorized, "The token is missing, unknown, expired or revoked.")
	case errors.Is(err, access.ErrForbidden):
		refuse(w, http.StatusForbidden, "The token is good for nothing here: it has no project, or no role that counts.")
	case errors.Is(err, access.ErrUnavailable), errors.Is(err, server.ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		a.Log.WarnContext(r.Context(), "request could not be served", "route", r.Pattern, "err", err)
		refuse(w, http.StatusServiceUnavailable, "The service is not available now: try again later.")
	default:
		id := cmp.Or(httpd.Of(r.Context()).ID, uuid.NewString())
		a.Log.ErrorContext(r.Context(), "request failed", "route", r.Pattern, "fault", id, "err", err)
		refuse(w, http.StatusInternalServerError, internal(id))
	}
}
