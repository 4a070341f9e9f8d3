//go:build !windows

package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// owner is who files are given to; -1 leaves a part as it is.
type owner struct {
	set      bool
	uid, gid int
}

// parseOwner reads USER, USER:GROUP or :GROUP, names or numbers. Without a group
// it is the user's. What can't be done here is a warning: restored files of the
// wrong owner are better than none.
func parseOwner(spec string) (o owner, warning string, err error) {
	if spec == "" {
		return owner{}, "", nil
	}
	name, group, hasGroup := strings.Cut(spec, ":")
	if name == "" && group == "" || hasGroup && group == "" {
		return owner{}, "", fmt.Errorf("%w: --owner %q is not USER, USER:GROUP or :GROUP", ErrOptions, spec)
	}
	o = owner{set: true, uid: -1, gid: -1}
	if name != "" {
		u, err := lookUser(name)
		if err != nil {
			return owner{}, fmt.Sprintf("the files belong to %s, since this machine has no user %q: give them to CouchDB's user before it starts", self(), name), nil
		}
		o.uid, _ = strconv.Atoi(u.Uid)
		if !hasGroup {
			o.gid, _ = strconv.Atoi(u.Gid)
		}
	}
	if hasGroup {
		g, err := lookGroup(group)
		if err != nil {
			return owner{}, fmt.Sprintf("the files belong to %s, since this machine has no group %q: give them to CouchDB's user before it starts", self(), group), nil
		}
		o.gid, _ = strconv.Atoi(g)
	}
	if euid := os.Geteuid(); euid != 0 {
		if o.uid == euid || o.uid == -1 {
			return owner{}, "", nil
		}
		return owner{}, fmt.Sprintf("the files belong to %s and not to %s, since only root can give files away: run `chown -R %s` on them before CouchDB starts", self(), spec, spec), nil
	}
	return o, "", nil
}

// runsAsRoot says in a sentence that root makes a CouchDB of an owner that isn't there, so
// that it runs as root; "" if it doesn't.
func runsAsRoot(spec string, root bool) string {
	name, group, hasGroup := strings.Cut(spec, ":")
	_, noUser := lookUser(name)
	_, noGroup := lookGroup(group)
	why := ""
	switch {
	case !root || spec == "": // which leaves them as they are
		return ""
	case name != "" && noUser != nil:
		why = "this machine has no user " + name + " as the setting owner says"
	case hasGroup && noGroup != nil:
		why = "this machine has no group " + group + " as the setting owner says"
	default:
		return ""
	}
	return "CouchDB runs as root, and its files are root's: " + why + ". Make that user, or set owner to another one, and make the instance again"
}

func self() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "user " + strconv.Itoa(os.Geteuid())
}

// lookUser finds a user by name, or takes a number for its id.
func lookUser(name string) (*user.User, error) {
	u, err := user.Lookup(name)
	if err == nil {
		return u, nil
	}
	if _, nerr := strconv.Atoi(name); nerr != nil {
		return nil, err
	}
	if u, err = user.LookupId(name); err == nil {
		return u, nil
	}
	return &user.User{Uid: name, Gid: "-1"}, nil
}

func lookGroup(name string) (gid string, err error) {
	g, err := user.LookupGroup(name)
	if err == nil {
		return g.Gid, nil
	}
	if _, nerr := strconv.Atoi(name); nerr != nil {
		return "", errors.Join(err, nerr)
	}
	return name, nil
}

func (o owner) file(f *os.File) error {
	if !o.set {
		return nil
	}
	return f.Chown(o.uid, o.gid)
}

func (o owner) path(path string) error {
	if !o.set {
		return nil
	}
	return os.Lchown(path, o.uid, o.gid)
}

// OwnerOf returns whose a file is, as Options.Owner has it; ok if this process can make such files.
func OwnerOf(path string) (owner string, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return "", false
	}
	st, is := info.Sys().(*syscall.Stat_t)
	if !is {
		return "", false
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid), os.Geteuid() == 0 || os.Geteuid() == int(st.Uid)
}

// deviceOf is the file system that a path is on.
func deviceOf(path string) (uint64, error) {
	st := syscall.Stat_t{}
	if err := syscall.Stat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return uint64(st.Dev), nil //nolint:unconvert,gosec // int32 elsewhere
}
