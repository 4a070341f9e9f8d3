package admin

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/httpd"
)

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
	status, message := api.Broken(httpd.Of(r.Context()).ID)
	refuse(w, status, message)
}

// fault answers with what went wrong.
func (a *service) fault(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, access.ErrUnauthorized):
		w.Header().Set("WWW-Authenticate", `Bearer realm="slipcover"`)
		refuse(w, http.StatusUnauthorized, "The token is missing, unknown, expired or revoked.")
	case errors.Is(err, access.ErrForbidden):
		refuse(w, http.StatusForbidden, "The token is good for nothing here: it has no project, or no role that counts.")
	default:
		status, message := api.Fault(r, a.Log, err)
		refuse(w, status, message)
	}
}
