package restore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/slipcover/slipcover/internal/node"
)

// inUse returns ErrInUse if a running process has .couch or .view files below dir
// open, or is a CouchDB whose data directory it is. A process of another mount
// namespace, a container, is recognised by the inodes that it has open. Processes
// of other users show their files only to root.
func inUse(ctx context.Context, dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil //nolint:nilerr // what isn't there isn't in use
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil //nolint:nilerr // no /proc, nothing to be known
	}
	p := prober{dir: real, inodes: systemInodes(real)}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		pid := e.Name()
		if pid[0] < '1' || pid[0] > '9' {
			continue
		}
		if what := p.process(ctx, "/proc/"+pid); what != "" {
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Errorf("%s: %w (process %s, %s, %s)", dir, ErrInUse, pid, bytes.TrimSpace(comm), what)
		}
	}
	return nil
}

type inode struct{ dev, ino uint64 }

// systemInodes returns the inodes of the .couch files right in dir: a running
// CouchDB always has its _dbs.couch open.
func systemInodes(dir string) map[inode]string {
	out := map[inode]string{}
	names, _ := filepath.Glob(filepath.Join(dir, "*.couch"))
	for _, name := range names {
		if i, ok := inodeOf(name); ok {
			out[i] = filepath.Base(name)
		}
	}
	return out
}

func inodeOf(path string) (inode, bool) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return inode{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return inode{st.Dev, st.Ino}, ok
}

type prober struct {
	dir    string
	inodes map[inode]string
}

// process says what the process at proc has to do with the directory, or "".
func (p prober) process(ctx context.Context, proc string) string {
	comm, err := os.ReadFile(proc + "/comm")
	if err != nil {
		return "" // it has ended
	}
	erlang := strings.HasPrefix(string(comm), "beam")
	if erlang {
		if cwd, err := os.Readlink(proc + "/cwd"); err == nil && p.below(cwd) {
			return "works in " + cwd
		}
		if p.configured(ctx, proc) {
			return "has it as its database_dir"
		}
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		return "" // another user's
	}
	for _, fd := range fds {
		link := proc + "/fd/" + fd.Name()
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, "/") {
			continue
		}
		if p.below(target) && (erlang || isCouchFile(target)) {
			return "has " + target + " open"
		}
		if erlang && strings.HasSuffix(target, ".couch") && len(p.inodes) > 0 {
			if i, ok := inodeOf(link); ok && p.inodes[i] != "" {
				return "has " + p.inodes[i] + " open"
			}
		}
	}
	return ""
}

func isCouchFile(path string) bool {
	path = strings.TrimSuffix(path, " (deleted)")
	return strings.HasSuffix(path, ".couch") || strings.HasSuffix(path, ".view") || strings.Contains(filepath.Base(path), ".compact")
}

func (p prober) below(path string) bool {
	return path == p.dir || p.dir == "/" || strings.HasPrefix(path, p.dir+"/")
}

// configured reports whether the process is a CouchDB with p.dir, or a directory
// below it, for its data or indexes. One that is idle may have few files open.
func (p prober) configured(ctx context.Context, proc string) bool {
	b, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return false
	}
	args := strings.Split(string(b), "\x00")
	var chain []string
	root := ""
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "-root":
			if i+1 < len(args) {
				root = args[i+1]
			}
		case "-couch_ini":
			for i++; i < len(args) && !strings.HasPrefix(args[i], "-") && args[i] != ""; i++ {
				chain = append(chain, args[i])
			}
			i--
		}
	}
	if root == "" || !strings.Contains(string(b), "couch") {
		return false
	}
	etc := filepath.Join(root, "etc")
	env := func(key string) string {
		if key == "COUCHDB_INI_FILES" {
			return strings.Join(chain, " ")
		}
		return ""
	}
	n, err := node.Locate(ctx, node.Options{Getenv: env, Usual: []string{etc}})
	if err != nil {
		return false
	}
	return p.below(n.DataDir) || p.below(n.IndexDir)
}
