package trove

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

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

var notFound = &refusal{http.StatusNotFound, "The resource could not be found."}

func noResource(id string) error {
	return &refusal{http.StatusNotFound, fmt.Sprintf("Resource %s cannot be found.", id)}
}

func refused(status int, message string) error { return &refusal{status, message} }

func badRequest(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// keys are Trove's names of the statuses.
var keys = map[int]string{
	http.StatusBadRequest:            "badRequest",
	http.StatusUnauthorized:          "unauthorized",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "itemNotFound",
	http.StatusMethodNotAllowed:      "badMethod",
	http.StatusConflict:              "conflict",
	http.StatusRequestEntityTooLarge: "overLimit",
	http.StatusUnsupportedMediaType:  "badMediaType",
	http.StatusUnprocessableEntity:   "unprocessableEntity",
	http.StatusInternalServerError:   "instanceFault",
	http.StatusNotImplemented:        "notImplemented",
	http.StatusServiceUnavailable:    "serviceUnavailable",
}

type faultBody struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	// Title is there without a good token, RetryAfter (seconds) at a rate limit.
	Title      string `json:"title,omitempty"`
	Details    string `json:"details,omitempty"`
	RetryAfter string `json:"retryAfter,omitempty"`
}

// TooMany answers in Trove's form that a limit on requests was reached: with the status
// 413 and when to come again.
func TooMany(w http.ResponseWriter, _ *http.Request, a httpd.Allowance) {
	a.SetHeader(w)
	after := strconv.Itoa(int(a.Wait.Seconds()))
	writeFault(w, "overLimit", faultBody{Code: http.StatusRequestEntityTooLarge, Message: "This request was rate-limited.",
		Details: "Too many requests: try again in " + after + " s.", RetryAfter: after})
}

// Broken answers in Trove's form in place of a handler that panicked.
func Broken(w http.ResponseWriter, r *http.Request) {
	refuse(w, http.StatusInternalServerError, internal(httpd.Of(r.Context()).ID))
}

func internal(id string) string {
	return "Internal error. Its cause is in the server's log under " + id + "."
}

func refuse(w http.ResponseWriter, status int, message string) {
	key, ok := keys[status]
	if !ok {
		key = "instanceFault"
	}
	writeFault(w, key, faultBody{Code: status, Message: message})
}

func writeFault(w http.ResponseWriter, key string, body faultBody) {
	_ = httpd.SendJSON(w, body.Code, map[string]faultBody{key: body}) // strings and numbers always can be sent
}

// fault answers with what went wrong. What is no refusal is a fault of ours: it goes to
// the log under an id, which is all that the client is told.
func (a *api) fault(w http.ResponseWriter, r *http.Request, err error) {
	status, message := 0, err.Error()
	var own *refusal
	var theirs *server.Error
	switch {
	case errors.As(err, &own):
		status = own.status
	case errors.As(err, &theirs):
		status = theirs.Kind.Status()
		if theirs.Cause != nil {
			a.Log.WarnContext(r.Context(), "request refused", "method", r.Method, "path", r.URL.Path, "status", status, "err", theirs.Cause)
		}
	case errors.Is(err, access.ErrUnauthorized):
		a.unauthorized(w)
		return
	case errors.Is(err, access.ErrForbidden):
		status, message = http.StatusForbidden, sentence(message)
	case errors.Is(err, access.ErrUnavailable), errors.Is(err, server.ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		a.Log.WarnContext(r.Context(), "request could not be served", "method", r.Method, "path", r.URL.Path, "err", err)
		status, message = http.StatusServiceUnavailable, "The service is not available now. Try again later."
	}
	if status == 0 {
		id := cmp.Or(httpd.Of(r.Context()).ID, uuid.NewString())
		a.Log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "fault", id, "err", err)
		status, message = http.StatusInternalServerError, internal(id)
	}
	refuse(w, status, message)
}

// unauthorized answers as Keystone's middleware before Trove does, where there is a
// Keystone: this is the one fault with another key.
func (a *api) unauthorized(w http.ResponseWriter) {
	challenge := `Bearer realm="slipcover"`
	if a.Keystone != "" {
		challenge = `Keystone uri="` + a.Keystone + `"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	writeFault(w, "error", faultBody{Code: http.StatusUnauthorized, Title: "Unauthorized", Message: "The request you have made requires authentication."})
}

// sentence makes one of an error's text.
func sentence(text string) string {
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}
