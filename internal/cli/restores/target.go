package restores

import (
	"context"
	"fmt"
	"net/url"

	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/userfile"
)

// target is a living CouchDB on the command line.
type target struct {
	url          string
	passwordFile string
}

func (t *target) flags(f *pflag.FlagSet, flag, what string) {
	f.StringVar(&t.url, flag, "", what)
	f.StringVar(&t.passwordFile, "password-file", "", "`FILE` with the password of the user in that URL (default: the setting couch_password, or it is asked for)")
}

// open finds the server, and the database if the URL names one. Who asks is the URL's user or else the setting couch_user.
func (t *target) open(ctx context.Context, env *core.Env, s *core.Settings) (srv *takeout.Server, db string, err error) {
	u, err := url.Parse(t.url)
	if err != nil || u.Host == "" {
		return nil, "", core.Usage("the URL of the server looks like https://admin@db.example.org:6984") // without it: it may hold a password
	}
	if _, told := u.User.Password(); told {
		return nil, "", core.Usage("the URL has a password in it, which lists of processes show: write it into a file and pass --password-file, or set COUCHDB_PASSWORD")
	}
	user, password := u.User.Username(), ""
	u.User = nil
	switch {
	case t.passwordFile != "":
		if password, err = userfile.ReadSecret(t.passwordFile); err != nil {
			return nil, "", core.FileError("read the password", err)
		}
	case user == "" || s.CouchUser == "" || user == s.CouchUser:
		if err := s.Need("couch_password_file"); err != nil {
			return nil, "", err
		}
		password = s.CouchPassword.Reveal()
	}
	if user == "" {
		user = s.CouchUser
	}
	switch {
	case user == "" || password != "":
	case env.StdinTerminal:
		if password, err = env.ReadPassword(fmt.Sprintf("Password of %s at %s: ", user, u.Host)); err != nil {
			return nil, "", err
		}
	default:
		return nil, "", core.Usage("no password is known of the user %s: pass --password-file, or set COUCHDB_PASSWORD", user)
	}
	return takeout.Open(ctx, u.String(), user, password)
}
