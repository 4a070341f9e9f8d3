package web

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/api"
	"github.com/slipcover/slipcover/internal/httpd"
	"github.com/slipcover/slipcover/internal/server"
)

// fault is what an error page says.
type fault struct {
	Status  int
	Head    string
	Message string // what is wrong, in a sentence
	Next    string // what to do
	To      string // where the one step leads
	Step    string // and what it is called
}

// fail answers with an error page that says what to do; who must sign in (again) gets
// there, and back.
func (c *call) fail(err error) {
	if errors.Is(err, errNoSession) || errors.Is(err, errEnded) || errors.Is(err, access.ErrUnauthorized) {
		c.toLogin(!errors.Is(err, errNoSession))
		return
	}
	f := c.faultOf(err)
	c.set0()
	v := &view{Title: f.Head, Page: "fault", Data: f}
	text, rerr := c.render(v)
	if rerr != nil {
		c.o.Log.ErrorContext(c.r.Context(), "an error page can't be made", "err", rerr)
		http.Error(c.w, f.Head+". "+f.Message, f.Status)
		return
	}
	c.write(f.Status, text)
}

// set0 makes sure that there are templates, of whatever zone.
func (c *call) set0() {
	if c.set == nil {
		for _, c.set = range c.sets {
			return
		}
	}
}

func (c *call) faultOf(err error) fault {
	switch {
	case errors.Is(err, errTooMany):
		return fault{http.StatusTooManyRequests, "Too many requests", "You asked for more pages than the setting rate_limit allows.", "Wait a minute, then load the page again.", "/", "Overview"}
	case errors.Is(err, access.ErrForbidden):
		return fault{http.StatusForbidden, "Your token is good for nothing here", "It has no project, or no role that counts.", "Sign out, and sign in with another one.", "/login", "Sign in"}
	}
	status, message := api.Fault(c.r, c.o.Log, err)
	f := fault{Status: status, Message: message, To: "/", Step: "Overview"}
	switch status {
	case http.StatusNotFound:
		f.Head, f.Message, f.Next = "There is nothing here", "It was deleted, it belongs to another project, or the address is wrong.", "Look for it in the overview."
	case http.StatusForbidden:
		f.Head, f.Next = "You may not do this", "Ask whoever manages this server for a token with more rights."
	case http.StatusServiceUnavailable:
		f.Head, f.Next, f.To, f.Step = "Not available now", "Load the page again in a moment. Backups go on by themselves meanwhile.", c.r.URL.RequestURI(), "Try again"
		if c.r.Method != http.MethodGet {
			f.To, f.Step = "/", "Overview"
		}
	case http.StatusInternalServerError:
		f.Head, f.Next = "Something is broken in the server", "Read that line of the log. Nothing was lost by it."
	default:
		f.Head, f.Next = "That did not work", "Go back, change what is named here, and try again."
	}
	return f
}

// toLogin sends a browser to the log-in, from where it comes back.
func (c *call) toLogin(ended bool) {
	if streams(c.r) { // nobody sees it: the cookie stays, so that the next page says that the session has ended
		c.w.WriteHeader(http.StatusNoContent) // which tells a browser not to ask again
		return
	}
	q := url.Values{}
	if c.r.Method == http.MethodGet && local(c.r.URL.RequestURI()) && c.r.URL.RequestURI() != "/" {
		q.Set("to", c.r.URL.RequestURI())
	} else if ref, err := url.Parse(c.r.Referer()); err == nil && ref.Host == c.r.Host && local(ref.RequestURI()) {
		q.Set("to", ref.RequestURI()) // what was in the form is lost, the page isn't
	}
	if ended {
		q.Set("ended", "1")
		http.SetCookie(c.w, c.cookie(c.r, "", c.now()))
	}
	to := "/login"
	if len(q) > 0 {
		to += "?" + q.Encode()
	}
	c.send(&answer{status: http.StatusSeeOther, to: to})
}

// isUnavailable says that nobody knows now.
func isUnavailable(err error) bool {
	return errors.Is(err, access.ErrUnavailable) || errors.Is(err, server.ErrUnavailable)
}

// TooMany answers that an address has asked too often.
func (s *Site) TooMany(w http.ResponseWriter, _ *http.Request, a httpd.Allowance) {
	a.SetHeader(w)
	w.Header().Set("Content-Security-Policy", policy)
	http.Error(w, "Too many requests: wait a moment, then load the page again.", http.StatusTooManyRequests)
}

// Broken answers in place of a handler that panicked.
func (s *Site) Broken(w http.ResponseWriter, r *http.Request) {
	status, message := api.Broken(httpd.Of(r.Context()).ID)
	w.Header().Set("Content-Security-Policy", policy)
	http.Error(w, message, status)
}

// asRefusal returns the status of a refusal of package server or api; false of what is none.
func asRefusal(err error) (int, bool) {
	var own *api.Refusal
	var theirs *server.Error
	switch {
	case errors.As(err, &own):
		return own.Status, true
	case errors.As(err, &theirs) && theirs.Kind.Status() != 0:
		return theirs.Kind.Status(), true
	}
	return 0, false
}
