package agent

import (
	"cmp"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/job"
)

// What a server may have an agent do is bounded by the node's own settings: whoever has
// taken over a server can't have the node's data stored where nobody here said, nor
// encrypted to a reader of his own, nor have what he made up restored here.

// acceptsPlace refuses the place of a job that the node's settings don't name. Where they
// name none at all, those in Swift accounts of callers are left to the server.
func (o *Options) acceptsPlace(in job.Repository) error {
	place := in.URL
	switch {
	case in.Storage != "":
		container, ok := strings.CutPrefix(in.URL, "swift://")
		if !ok {
			return fmt.Errorf("the job is for %s in a Swift account: that isn't a container", in.URL)
		}
		if o.RepositoryURL == "" && len(o.Accept) == 0 {
			return nil
		}
		place = strings.TrimRight(in.Storage, "/") + "/" + container
	case place == "" || o.isOwn(place):
		return nil
	}
	if slices.ContainsFunc(o.Accept, func(from string) bool { return within(from, place) }) {
		return nil
	}
	return fmt.Errorf("the job is for %s, which the settings of this node (%s) don't name: if it is right, add %s to its setting accept_storages; "+
		"if nobody asked for it, somebody else may have the server", place, o.Host, cmp.Or(strings.TrimRight(in.Storage, "/"), place))
}

// isOwn reports whether the URL of a job is that of the node's own repository but for its
// parameters, which are never the job's: they say at which endpoint a bucket is.
func (o *Options) isOwn(place string) bool {
	a, ok := placeOf(o.RepositoryURL)
	b, fine := placeOf(place)
	return ok && fine && below(a, b) && below(b, a)
}

// recipients are whom backups in an account that the server names are encrypted to: those of
// the setting, or those that the server gave at the join. None is any that it names.
func (o *Options) recipients() (list []string, from string) {
	if len(o.Backup.Recipients) > 0 {
		return o.Backup.Recipients, "its setting recipients"
	}
	return o.JoinRecipients, "what its server gave it when it joined"
}

// readers are whom a backup in an account that the server names is encrypted to: the node's
// recipients, or else those of the job.
func (o *Options) readers(in job.Repository) []string {
	if list, _ := o.recipients(); len(list) > 0 {
		return list
	}
	return in.Recipients
}

// acceptsRecipients refuses recipients that aren't the node's.
func (o *Options) acceptsRecipients(in job.Repository) error {
	list, from := o.recipients()
	if in.Storage == "" || len(list) == 0 || len(in.Recipients) == 0 || sameSet(in.Recipients, list) {
		return nil
	}
	return fmt.Errorf("the job is to be encrypted to %s, and this node (%s) encrypts to %s and no others (%s): "+
		"if the server is right, set recipients on the node to the first; if nobody changed them there, somebody else may have the server",
		strings.Join(in.Recipients, ", "), o.Host, strings.Join(list, ", "), from)
}

func sameSet(a, b []string) bool {
	in := func(list []string) func(string) bool {
		return func(s string) bool { return !slices.Contains(list, s) }
	}
	return !slices.ContainsFunc(a, in(b)) && !slices.ContainsFunc(b, in(a))
}

// within reports whether a place is another one or below it: of the same scheme, user and
// host, with the same parameters, and all parts of its path. What could be read in two ways
// is within nothing.
func within(outer, inner string) bool {
	a, ok := placeOf(outer)
	b, fine := placeOf(inner)
	return ok && fine && below(a, b) && a.Query().Encode() == b.Query().Encode()
}

// below reports whether inner is outer or below it, whatever their parameters.
func below(outer, inner *url.URL) bool {
	if outer.Scheme != inner.Scheme || !strings.EqualFold(outer.Host, inner.Host) || outer.User.Username() != inner.User.Username() {
		return false
	}
	return outer.Path == "/" || inner.Path == outer.Path || strings.HasPrefix(inner.Path, outer.Path+"/")
}

// placeOf reads the URL or the path of a place, into one that begins with a slash and ends
// with none.
func placeOf(text string) (*url.URL, bool) {
	if strings.HasPrefix(text, "/") {
		text = "file://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Opaque != "" || u.Fragment != "" {
		return nil, false
	}
	clean := path.Clean("/" + strings.TrimPrefix(u.Path, "/"))
	if strings.Contains(u.Path, `\`) || clean != "/"+strings.Trim(u.Path, "/") || strings.Contains(strings.ToLower(u.EscapedPath()), "%2f") {
		return nil, false
	}
	u.Path = clean
	return u, true
}
