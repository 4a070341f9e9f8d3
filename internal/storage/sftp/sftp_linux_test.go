package sftp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/sftp"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// urlOf returns a URL with the parameters name, value, ….
func urlOf(d *testenv.SSHDServer, user, root string, params ...string) string {
	q := url.Values{"identity_file": {d.Identity}, "known_hosts": {d.KnownHosts}}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
		if params[i+1] == "" {
			q.Del(params[i])
		}
	}
	return (&url.URL{Scheme: "sftp", User: url.User(user), Host: d.Addr, Path: root, RawQuery: q.Encode()}).String()
}

func open(t *testing.T, url string) *sftp.Store {
	t.Helper()
	s, err := sftp.Open(t.Context(), url, sftp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(ctx context.Context, s storage.Store, key storage.Key, body string) error {
	return s.Put(ctx, key, strings.NewReader(body), storage.PutOptions{})
}

func get(ctx context.Context, s storage.Store, key storage.Key) (string, error) {
	var b []byte
	err := s.Get(ctx, key, 0, -1, func(r io.Reader) (err error) {
		b, err = io.ReadAll(r)
		return err
	})
	return string(b), err
}

func TestContract(t *testing.T) {
	d := testenv.SSHD(t)
	storagetest.Run(t, func(t *testing.T) storage.Store {
		root := t.TempDir()
		t.Cleanup(func() {
			err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
				if path != root && path != filepath.Join(root, ".tmp~") {
					t.Errorf("left behind: %s", path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
		return open(t, urlOf(d, d.Users[0], root))
	})
}

// The room is that of the server's file system.
func TestRoom(t *testing.T) {
	d := testenv.SSHD(t)
	root := t.TempDir()
	free, total, err := storage.Roomer(open(t, urlOf(d, d.Users[0], root))).Room(t.Context())
	var want unix.Statfs_t
	if serr := unix.Statfs(root, &want); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	left := int64(want.Bavail) * want.Bsize
	if off := free - left; off < -1<<30 || off > 1<<30 || total < free || total > int64(want.Blocks)*want.Bsize {
		t.Errorf("%d of %d are free, df says %d of %d", free, total, left, int64(want.Blocks)*want.Bsize)
	}
}

func TestCreate(t *testing.T) {
	d := testenv.SSHD(t)
	root := filepath.Join(t.TempDir(), "a", "b c")
	url := urlOf(d, d.Users[0], root)
	if _, err := sftp.Open(t.Context(), url, sftp.Options{}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("open of no folder: got %v, want ErrUnavailable", err)
	}
	for range 2 {
		s, err := sftp.Open(t.Context(), url, sftp.Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		want := "sftp://" + d.Users[0] + "@" + d.Addr + filepath.Dir(root) + "/b%20c"
		if s.URL() != want {
			t.Errorf("URL: got %s, want %s", s.URL(), want)
		}
		if err := put(t.Context(), s, "x/y", "1"); err != nil {
			t.Error(err)
		}
		s.Close()
		if err := put(t.Context(), s, "x/z", "1"); err == nil {
			t.Error("put after close: no error")
		}
	}
	for path, want := range map[string]os.FileMode{"": os.ModeDir | 0o700, "x": os.ModeDir | 0o700, ".tmp~": os.ModeDir | 0o700, "x/y": 0o600} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("mode of %q: got %v, want %v", path, info.Mode(), want)
		}
	}
	if _, err := sftp.Open(t.Context(), urlOf(d, d.Users[0], root+"/x/y"), sftp.Options{}); err == nil {
		t.Error("open of a file: no error")
	}
}

// A host that isn't known, or has another key, is refused with what to do; a known
// key is found whichever kind the server would rather use.
func TestHostKey(t *testing.T) {
	d := testenv.SSHD(t)
	dir := t.TempDir()
	line, err := os.ReadFile(d.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := strings.Cut(string(line), " ")
	stranger, err := os.ReadFile(d.Stranger + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	rsa, err := os.ReadFile(filepath.Join(filepath.Dir(d.KnownHosts), "host_rsa.pub"))
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := fingerprintOf(t, filepath.Join(filepath.Dir(d.KnownHosts), "host.pub"))
	tests := []struct {
		name, file string
		want       []string // nil = opens
	}{
		{"no line", "# nothing\n", []string{fingerprint, "which is not known", "add this line to", strings.TrimSpace(string(line[:len(host)+20]))}},
		{"another key", host + " " + string(stranger), []string{fingerprint, "line 1 of", "has another one"}},
		{"the key", string(line), nil},
		{"the other kind of key", host + " " + string(rsa), nil},
		{"revoked", "@revoked " + string(line), []string{"revoked"}},
		{"not such a file", "nonsense\n", []string{"known hosts can't be read"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(tt.name, " ", "-"))
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			wantOpen(t, urlOf(d, d.Users[0], dir, "known_hosts", path), tt.want)
		})
	}
	wantOpen(t, urlOf(d, d.Users[0], dir, "known_hosts", dir+"/none"), []string{"which is not known", dir + "/none"})
}

func wantOpen(t *testing.T, url string, want []string) {
	t.Helper()
	s, err := sftp.Open(t.Context(), url, sftp.Options{})
	if want == nil {
		if err != nil {
			t.Error(err)
			return
		}
		s.Close()
		return
	}
	if err == nil {
		s.Close()
		t.Errorf("opened, want an error with %q", want)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got %q, want %q in it", err, w)
		}
	}
}

func fingerprintOf(t *testing.T, public string) string {
	t.Helper()
	out, err := exec.Command(testenv.Tool(t, "ssh-keygen"), "-lf", public).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[1]
}

func TestLogIn(t *testing.T) {
	d := testenv.SSHD(t)
	dir := t.TempDir()
	me := d.Users[0]
	locked := filepath.Join(dir, "locked")
	if out, err := exec.Command(testenv.Tool(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "secret", "-f", locked).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	wantOpen(t, urlOf(d, me, dir), nil)
	wantOpen(t, urlOf(d, me, dir, "identity_file", d.Stranger), []string{"permission denied", "doesn't accept the key", "authorized_keys"})
	wantOpen(t, urlOf(d, me, dir, "identity_file", locked), []string{"has a passphrase", "SSH agent"})
	wantOpen(t, urlOf(d, me, dir, "identity_file", d.KnownHosts), []string{"not a private key"})
	wantOpen(t, urlOf(d, me, dir, "identity_file", dir+"/none"), []string{"no such file"})
	wantOpen(t, urlOf(d, me, dir, "identity_file", ""), []string{"no key to log in with", "SSH_AUTH_SOCK", "identity_file"})

	startAgent(t, dir)
	wantOpen(t, urlOf(d, me, dir, "identity_file", ""), []string{"doesn't accept the key"}) // it has none
	if out, err := exec.Command(testenv.Tool(t, "ssh-add"), "-q", d.Identity).CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v: %s", err, out)
	}
	wantOpen(t, urlOf(d, me, dir, "identity_file", ""), nil)
}

// startAgent starts an SSH agent for the test.
func startAgent(t *testing.T, dir string) {
	t.Helper()
	socket := filepath.Join(dir, "agent")
	cmd := exec.Command(testenv.Tool(t, "ssh-agent"), "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for began := time.Now(); ; {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal("the agent made no socket")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Setenv("SSH_AUTH_SOCK", socket)
}

func TestURLs(t *testing.T) {
	tests := []struct{ url, want string }{
		{"sftp://user:secret@host/path", "holds no password"},
		{"sftp://host", "no absolute folder"},
		{"sftp:///path", "not a URL of an SFTP storage"},
		{"sftp:secret", "not a URL of an SFTP storage"},
		{"sftp://host:secret/path", "not a URL of an SFTP storage"},
		{"sftp://host/path#secret", "not a URL of an SFTP storage"},
		{"sftp://host/path?pasword=secret", `no parameter "pasword"`},
		{"sftp://host/path?known_hosts=a&known_hosts=b", "more than once"},
		{"sftp://host/path?%zz", "can't be read"},
		{"sftp://host/a%00b", "no absolute folder"},
	}
	for _, tt := range tests {
		s, err := sftp.Open(t.Context(), tt.url, sftp.Options{Create: true})
		if err == nil {
			s.Close()
			t.Errorf("%s: opened, want an error", tt.url)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %q, want %q and no secret", tt.url, err, tt.want)
		}
	}
}

// body is 8 MiB of which the middle is a moment to do something.
type body struct {
	once   func()
	called bool
}

func (b *body) Size() int64 { return 8 << 20 }

func (b *body) ReadAt(p []byte, off int64) (int, error) {
	if off >= b.Size()/2 && !b.called {
		b.called = true
		b.once()
	}
	return len(p), nil
}

// A connection that is cut is ErrUnavailable, nothing half is seen, and the next call
// connects anew; a server that is gone is ErrUnavailable until it is back.
func TestCutConnection(t *testing.T) {
	d := testenv.SSHD(t)
	root := t.TempDir()
	s := open(t, urlOf(d, d.Users[0], root))
	ctx := t.Context()
	if err := s.Put(ctx, "whole", bytes.NewReader(make([]byte, 8<<20)), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, ifAbsent := range []bool{false, true} {
		err := s.Put(ctx, "half", &body{once: d.Cut}, storage.PutOptions{IfAbsent: ifAbsent})
		if !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("put whose connection is cut: got %v, want ErrUnavailable", err)
		}
		if _, err := s.Stat(ctx, "half"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("stat after it, on a new connection: got %v, want ErrNotExist", err)
		}
	}
	cutGet := func(swallow bool) error {
		return s.Get(ctx, "whole", 0, -1, func(r io.Reader) error {
			if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
				return err
			}
			d.Cut()
			n, err := io.Copy(io.Discard, r)
			if err == nil {
				t.Errorf("the reader ended after %d bytes without an error", n+1000)
			}
			if swallow {
				return nil
			}
			return err
		})
	}
	for _, swallow := range []bool{false, true} {
		if err := cutGet(swallow); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("get whose connection is cut, error swallowed %v: got %v, want ErrUnavailable", swallow, err)
		}
	}
	if err := put(ctx, s, "half", "now"); err != nil {
		t.Errorf("put on a new connection: %v", err)
	}
	var keys []storage.Key
	if err := s.List(ctx, "", func(i storage.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
		t.Error(err)
	}
	if want := []storage.Key{"half", "whole"}; !slices.Equal(keys, want) {
		t.Errorf("list: got %q, want %q", keys, want)
	}

	d.Stop()
	for range 2 {
		if _, err := s.Stat(ctx, "whole"); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("stat with no server: got %v, want ErrUnavailable", err)
		}
	}
	if err := s.List(ctx, "", func(storage.Info) error { return nil }); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("list with no server: got %v, want ErrUnavailable", err)
	}
	d.Start()
	if got, err := get(ctx, s, "half"); err != nil || got != "now" {
		t.Errorf("get with the server back: got %q, %v", got, err)
	}
}

// Where a user may not write, ErrDenied says so, and reading works.
func TestReadOnlyFolder(t *testing.T) {
	d := testenv.SSHD(t)
	root := t.TempDir()
	if err := os.Chmod(filepath.Dir(root), 0o755); err != nil {
		t.Fatal(err)
	}
	user := d.Users[len(d.Users)-1] // not root
	for name, mode := range map[string]os.FileMode{"a": 0o644, "secret": 0o000} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o555); err != nil {
		t.Fatal(err)
	}
	s := open(t, urlOf(d, user, root))
	ctx := t.Context()
	if got, err := get(ctx, s, "a"); err != nil || got != "a" {
		t.Errorf("get: got %q, %v", got, err)
	}
	_, secretErr := get(ctx, s, "secret")
	for name, err := range map[string]error{
		"put":                put(ctx, s, "b", "x"),
		"put below":          put(ctx, s, "c/d", "x"),
		"delete":             s.Delete(ctx, "a"),
		"get without rights": secretErr,
	} {
		if !errors.Is(err, storage.ErrDenied) {
			t.Errorf("%s: got %v, want ErrDenied", name, err)
		}
	}
	if _, err := sftp.Open(ctx, urlOf(d, user, root+"/new"), sftp.Options{Create: true}); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("create: got %v, want ErrDenied", err)
	}
}

// mount gives a file system of its own of 1 MiB, or skips.
func mount(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("slipcover-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("can't mount a tmpfs, which takes root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFull(t *testing.T) {
	root := mount(t)
	d := testenv.SSHD(t)
	s := open(t, urlOf(d, d.Users[0], root))
	ctx := t.Context()
	if err := put(ctx, s, "old", "old"); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 2<<20)
	for _, opts := range []storage.PutOptions{{}, {IfAbsent: true}} {
		if err := s.Put(ctx, "d/new", strings.NewReader(large), opts); !errors.Is(err, storage.ErrFull) {
			t.Errorf("put %+v on a disk that gets full: got %v, want ErrFull", opts, err)
		}
	}
	if err := put(ctx, s, "old", large); !errors.Is(err, storage.ErrFull) {
		t.Errorf("replace: got %v, want ErrFull", err)
	}
	if got, err := get(ctx, s, "old"); got != "old" || err != nil {
		t.Errorf("after a replace that found no room: got %q, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Join(root, ".tmp~")); err != nil || len(left) > 0 {
		t.Errorf("temporary files: got %v, %v, want none", left, err)
	}
	if err := put(ctx, s, "d/new", large[:300<<10]); err != nil {
		t.Errorf("put of what there is room for: %v", err)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	root := mount(t)
	d := testenv.SSHD(t)
	s := open(t, urlOf(d, d.Users[0], root))
	ctx := t.Context()
	if err := put(ctx, s, "a/b", "x"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"put": put(ctx, s, "a/c", "x"), "delete": s.Delete(ctx, "a/b")} {
		if !errors.Is(err, storage.ErrDenied) {
			t.Errorf("%s: got %v, want ErrDenied", name, err)
		}
	}
	if got, err := get(ctx, s, "a/b"); err != nil || got != "x" {
		t.Errorf("get: got %q, %v", got, err)
	}
}

// A root that goes away is not an empty storage.
func TestRootGone(t *testing.T) {
	d := testenv.SSHD(t)
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, urlOf(d, d.Users[0], root))
	ctx := t.Context()
	if err := put(ctx, s, "a/b", "x"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root, root+"-away"); err != nil {
		t.Fatal(err)
	}
	_, statErr := s.Stat(ctx, "a/b")
	_, getErr := get(ctx, s, "a/b")
	for name, err := range map[string]error{
		"put": put(ctx, s, "a/c", "x"), "put below": put(ctx, s, "d/e", "x"), "delete": s.Delete(ctx, "a/b"), "stat": statErr, "get": getErr,
		"list": s.List(ctx, "", func(storage.Info) error { return nil }),
	} {
		if !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: got %v, want ErrUnavailable", name, err)
		}
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("the root was made again")
	}
	if err := os.Rename(root+"-away", root); err != nil {
		t.Fatal(err)
	}
	if got, err := get(ctx, s, "a/b"); err != nil || got != "x" {
		t.Errorf("with the root back: got %q, %v", got, err)
	}
}

// What crashes leave is removed after a day and shown never, and a folder that another
// process has removed is made again.
func TestLeftovers(t *testing.T) {
	d := testenv.SSHD(t)
	root := t.TempDir()
	s := open(t, urlOf(d, d.Users[0], root))
	ctx := t.Context()
	temp := filepath.Join(root, ".tmp~")
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "new": 23 * time.Hour} {
		path := filepath.Join(temp, name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(ctx, s, "a/b", "x"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "new" {
		t.Errorf("temporary files: got %v, want the new one", entries)
	}
	for _, gone := range []string{"a", ".tmp~"} {
		if err := os.RemoveAll(filepath.Join(root, gone)); err != nil {
			t.Fatal(err)
		}
	}
	for i, opts := range []storage.PutOptions{{}, {IfAbsent: true}} {
		key := storage.Key(fmt.Sprintf("a/c%d", i))
		if err := s.Put(ctx, key, strings.NewReader("x"), opts); err != nil {
			t.Errorf("put where the folder was removed: %v", err)
		}
		if err := os.RemoveAll(filepath.Join(root, "a")); err != nil {
			t.Fatal(err)
		}
	}
	// Not even the folder of temporary files is sure to stay.
	err = s.Put(ctx, "b/c", &body{once: func() {
		if err := os.RemoveAll(temp); err != nil {
			t.Error(err)
		}
	}}, storage.PutOptions{})
	if !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("put whose temporary file is removed: got %v, want ErrUnavailable", err)
	}
	n := 0
	if err := s.List(ctx, "", func(storage.Info) error { n++; return nil }); err != nil || n != 0 {
		t.Errorf("list: got %d objects, %v", n, err)
	}
}
