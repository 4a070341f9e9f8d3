package trove

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/httpd"
)

var notFound = api.Refuse(http.StatusNotFound, "The resource could not be found.")

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
	status, message := api.Broken(httpd.Of(r.Context()).ID)
	refuse(w, status, message)
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

// fault answers with what went wrong.
func (a *service) fault(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, access.ErrUnauthorized):
		a.unauthorized(w)
	case errors.Is(err, access.ErrForbidden):
		refuse(w, http.StatusForbidden, api.Sentence(err.Error()))
	default:
		status, message := api.Fault(r, a.Log, err)
		refuse(w, status, message)
	}
}

// unauthorized answers as Keystone's middleware before Trove does, where there is a
// Keystone: this is the one fault with another key.
func (a *service) unauthorized(w http.ResponseWriter) {
	challenge := `Bearer realm="slipcover"`
	if a.Keystone != "" {
		challenge = `Keystone uri="` + a.Keystone + `"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	writeFault(w, "error", faultBody{Code: http.StatusUnauthorized, Title: "Unauthorized", Message: "The request you have made requires authentication."})
}
