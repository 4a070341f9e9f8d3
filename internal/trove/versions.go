package trove

import (
	"net/http"
	"net/url"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/httpd"
)

type apiVersion struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Updated string `json:"updated"` // here Trove has a zone
	Links   []link `json:"links"`
}

// versions tells everybody which version of the API there is.
func (a *service) versions(w http.ResponseWriter, r *http.Request, list bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		onlyGet(w)
		return
	}
	v := apiVersion{"v1.0", "CURRENT", "2012-08-01T00:00:00Z", []link{{"self", a.base(r) + "/v1.0/"}}}
	if list {
		_ = httpd.SendJSON(w, http.StatusOK, map[string]any{"versions": []apiVersion{v}}) // strings always can be sent
		return
	}
	_ = httpd.SendJSON(w, http.StatusOK, map[string]any{"version": v})
}

// logIn is Swift's log-in of version 1, which the trove command makes when it has no
// Keystone. It wants X-Server-Management-Url, though it then uses the URL that it was
// given.
func (a *service) logIn(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		onlyGet(w)
		return
	}
	who, token, err := access.LogIn(r, a.Checker)
	if err != nil {
		a.fault(w, r, err)
		return
	}
	project := who.Project
	if wanted := r.Header.Get("X-Auth-Project-Id"); project == "" && access.ValidProject(wanted) {
		project = wanted
	}
	h := w.Header()
	h.Set("X-Auth-Token", token.Reveal())
	h.Set("X-Server-Management-Url", a.base(r)+"/v1.0/"+url.PathEscape(project))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

func onlyGet(w http.ResponseWriter) {
	w.Header().Set("Allow", "GET, HEAD")
	refuse(w, http.StatusMethodNotAllowed, "The method is not allowed here: use GET.")
}
