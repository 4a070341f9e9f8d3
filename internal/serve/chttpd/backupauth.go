package chttpd

import (
	"context"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/serve"
)

const (
	// mostIterations bounds what checking one password costs: CouchDB's own default is 600,000.
	mostIterations = 10_000_000
	// mostIni is how large an ini file may be.
	mostIni = 4 << 20
)

// ErrNoUsers says that a backup has neither administrators nor users, so that nobody could log in.
var ErrNoUsers = errors.New("the backup has no users: neither administrators in the ini files nor a database _users")

// backupAuth knows the administrators and the users of a backup.
type backupAuth struct {
	ctx    context.Context
	admins map[string]string // hashed passwords by name
	users  *serve.Database   // nil if there is none
}

// BackupAuth lets in who may ask the server that was backed up: the administrators of its ini files and the users of _users,
// for as long as ctx lasts. It returns ErrNoUsers if there are none; ini files of a repository without encryption have no
// passwords.
func BackupAuth(ctx context.Context, n *serve.Node) (Auth, error) {
	a := &backupAuth{ctx: ctx, admins: map[string]string{}}
	var files []*manifest.File
	for _, f := range n.Manifest.Files {
		if f.Root == manifest.EtcRoot && path.Ext(f.Path) == ".ini" {
			files = append(files, f)
		}
	}
	// CouchDB reads default.ini, default.d, local.ini and local.d in this order, and the last one counts.
	slices.SortStableFunc(files, func(a, b *manifest.File) int { return strings.Compare(iniOrder(a.Path), iniOrder(b.Path)) })
	for _, f := range files {
		if f.Size > mostIni {
			continue
		}
		b, err := n.ReadFile(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
		for name, hashed := range node.ParseIni(b)["admins"] {
			a.admins[name] = hashed
		}
	}
	d, err := n.Database("_users")
	if err == nil {
		a.users = d
	}
	if len(a.admins) == 0 && a.users == nil {
		return nil, ErrNoUsers
	}
	return a, nil
}

func iniOrder(p string) string {
	for i, prefix := range []string{"default.ini", "default.d/", "local.ini", "local.d/"} {
		if strings.HasPrefix(p, prefix) {
			return strconv.Itoa(i) + p
		}
	}
	return "4" + p
}

func (*backupAuth) Nobody() []string { return nil }

// Check checks an administrator's password, or a user's.
//
// Source: CouchDB 3.5.0, src/couch/src/couch_auth_cache.erl and couch_httpd_auth.erl, authenticate; couch_passwords.erl.
func (a *backupAuth) Check(name, password string) (roles []string, ok bool, err error) {
	if hashed, is := a.admins[name]; is {
		return []string{adminRole}, rightAdmin(hashed, password), nil
	}
	if a.users == nil || name == "" {
		return nil, false, nil
	}
	id := "org.couchdb.user:" + name
	db, err := a.users.Find(a.ctx, id)
	if err != nil {
		return nil, false, err
	}
	b, err := db.Doc(id, couchfile.DocOptions{})
	if errors.Is(err, couchfile.ErrNotFound) || errors.Is(err, couchfile.ErrDeleted) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	var u struct {
		Name       string   `json:"name"`
		Roles      []string `json:"roles"`
		Scheme     string   `json:"password_scheme"`
		PRF        string   `json:"pbkdf2_prf"`
		Key        string   `json:"derived_key"`
		Salt       string   `json:"salt"`
		Iterations int      `json:"iterations"`
		SHA        string   `json:"password_sha"`
	}
	if err := json.Unmarshal(b, &u); err != nil {
		return nil, false, nil //nolint:nilerr // no user's document
	}
	switch {
	case u.Scheme == "pbkdf2":
		ok = rightPBKDF2(u.PRF, u.Key, u.Salt, u.Iterations, password)
	case u.SHA != "" && u.Salt != "":
		ok = rightSHA(u.SHA, u.Salt, password)
	}
	// No user becomes an administrator by a role in a document.
	return slices.DeleteFunc(u.Roles, func(r string) bool { return r == adminRole }), ok, nil
}

// rightAdmin holds a password against what an ini file has: -pbkdf2-KEY,SALT,N, -pbkdf2:PRF-KEY,SALT,N or -hashed-SHA,SALT.
// A password that wasn't hashed yet stands there itself.
func rightAdmin(hashed, password string) bool {
	if rest, ok := strings.CutPrefix(hashed, "-hashed-"); ok {
		sum, salt, _ := strings.Cut(rest, ",")
		return rightSHA(sum, salt, password)
	}
	rest, ok := strings.CutPrefix(hashed, "-pbkdf2")
	if !ok {
		return subtle.ConstantTimeCompare([]byte(hashed), []byte(password)) == 1
	}
	prf, rest, _ := strings.Cut(rest, "-")
	parts := strings.Split(rest, ",")
	if len(parts) != 3 {
		return false
	}
	n, err := strconv.Atoi(strings.TrimSpace(parts[2]))
	return err == nil && rightPBKDF2(strings.TrimPrefix(prf, ":"), parts[0], parts[1], n, password)
}

func rightSHA(sum, salt, password string) bool {
	got := sha1.Sum([]byte(password + salt))
	want, err := hex.DecodeString(sum)
	return err == nil && subtle.ConstantTimeCompare(got[:], want) == 1
}

func rightPBKDF2(prf, key, salt string, n int, password string) bool {
	hashes := map[string]func() hash.Hash{"": sha1.New, "sha": sha1.New, "sha224": sha256.New224, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}
	h := hashes[prf]
	want, err := hex.DecodeString(key)
	if err != nil || h == nil || n < 1 || n > mostIterations || len(want) == 0 || len(want) > 64 {
		return false
	}
	got, err := pbkdf2.Key(h, password, []byte(salt), n, len(want))
	return err == nil && subtle.ConstantTimeCompare(got, want) == 1
}
