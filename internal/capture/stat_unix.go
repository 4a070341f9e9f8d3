//go:build unix

package capture

import (
	"io/fs"
	"os/user"
	"strconv"
	"sync"
	"syscall"
)

// owners looks up names of users and groups once.
type owners struct {
	mu     sync.Mutex
	users  map[uint32]string // guarded by mu, like groups
	groups map[uint32]string
}

// names returns owner and group of a file, as numbers where they have no names.
func (o *owners) names(info fs.FileInfo) (owner, group string) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.users == nil {
		o.users, o.groups = map[uint32]string{}, map[uint32]string{}
	}
	owner, ok = o.users[st.Uid]
	if !ok {
		owner = strconv.Itoa(int(st.Uid))
		if u, err := user.LookupId(owner); err == nil {
			owner = u.Username
		}
		o.users[st.Uid] = owner
	}
	group, ok = o.groups[st.Gid]
	if !ok {
		group = strconv.Itoa(int(st.Gid))
		if g, err := user.LookupGroupId(group); err == nil {
			group = g.Name
		}
		o.groups[st.Gid] = group
	}
	return owner, group
}

// LocalOf returns what tells that a file is unchanged.
func LocalOf(info fs.FileInfo) Local {
	l := Local{Size: info.Size(), MTime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		l.Dev, l.Ino, l.CTime = uint64(st.Dev), st.Ino, changeTime(st)
	}
	return l
}
