package backup_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/klauspost/compress/zstd"

	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/testenv"
)

// The claim of write-only nodes: a node of a real CouchDB backs up and increments,
// and with all that it holds, and every object of the repository, nobody opens an
// object; what is in the databases, and their names, doesn't occur in any.
func TestNodeCannotRead(t *testing.T) {
	t.Parallel()
	c := testenv.CouchDB(t, testenv.Options{})
	needles := []string{"orders-of-quokka", "id-of-wombat", "body-of-numbat"}
	put := func(n int) {
		must(t, c.Put(testenv.DBPath(needles[0], fmt.Sprintf("%s-%d", needles[1], n)), map[string]string{"v": fmt.Sprintf("%s-%d", needles[2], n)}, nil))
	}
	must(t, c.Put(testenv.DBPath(needles[0])+"?q=2", nil, nil))
	put(1)
	e := newLiveEnv(t, c.DataDir)
	reader := e.identity
	e.identity = nil // the node has the repository's recipients, which stand in it
	e.run()
	put(2)
	res := e.run()
	if res.Record.Type != manifest.Incremental {
		t.Fatalf("the second backup is %s", res.Record.Type)
	}
	objects := map[string][]byte{}
	must(t, e.store.List(t.Context(), "", func(i storage.Info) error {
		return e.store.Get(t.Context(), i.Key, 0, -1, func(r io.Reader) (err error) {
			objects[string(i.Key)], err = io.ReadAll(r)
			return err
		})
	}))
	held := nodeHolds(t, e.state)
	for key, b := range objects {
		held = append(held, b)
		for _, needle := range needles {
			if bytes.Contains(b, []byte(needle)) {
				t.Errorf("%s holds %q", key, needle)
			}
		}
	}
	ids := identitiesIn(t, held)
	if len(ids) == 0 {
		t.Fatal("not even the writer's key was tried")
	}
	sealed := 0
	for key, b := range objects {
		if !strings.HasSuffix(key, ".age") {
			continue
		}
		sealed++
		var src io.Reader = bytes.NewReader(b)
		if strings.HasPrefix(key, "keys/") || strings.HasPrefix(key, "kept/") {
			src = armor.NewReader(src)
		}
		if _, err := age.Decrypt(src, ids...); !errors.As(err, new(*age.NoIdentityMatchError)) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if sealed < 5 {
		t.Errorf("%d objects were tried", sealed)
	}

	// All of it is there for who has the identity.
	e.identity = reader
	m := e.check(res.Record)
	var plain bytes.Buffer
	rd := e.repo(e.store).NewReader(m, m.Files)
	for _, f := range m.Files {
		fmt.Fprintln(&plain, f.Path)
		must(t, rd.Stream(t.Context(), f, func(b []byte) error { plain.Write(b); return nil }))
	}
	for _, needle := range needles {
		if !bytes.Contains(plain.Bytes(), []byte(needle)) {
			t.Errorf("%q is not in the backup either", needle)
		}
	}
}

// nodeHolds returns the node's files, as they are and decompressed.
func nodeHolds(t *testing.T, dir string) (all [][]byte) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all = append(all, b)
		if err == nil && strings.HasSuffix(path, ".zst") {
			var z *zstd.Decoder
			if z, err = zstd.NewReader(nil); err == nil {
				defer z.Close()
				if b, err = z.DecodeAll(b, nil); err == nil {
					all = append(all, b)
				}
			}
		}
		return err
	}))
	return all
}

// identitiesIn returns all keys that stand in texts as age identities: age's own,
// and whatever 32 bytes are written in hex.
func identitiesIn(t *testing.T, texts [][]byte) (ids []age.Identity) {
	t.Helper()
	keys := regexp.MustCompile(`AGE-SECRET-KEY-1[A-Z0-9]+|\b[0-9a-f]{64}\b`)
	for _, b := range texts {
		for _, k := range keys.FindAllString(string(b), -1) {
			if raw, err := hex.DecodeString(k); err == nil {
				k = bech32("AGE-SECRET-KEY-", raw)
			}
			id, err := age.ParseX25519Identity(k)
			must(t, err)
			ids = append(ids, id)
		}
	}
	return ids
}

// bech32 is the text of a key of 32 bytes. Source: BIP 173.
func bech32(prefix string, raw []byte) string {
	const letters = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
	var values, sum []byte
	for _, c := range []byte(strings.ToLower(prefix)) {
		values, sum = append(values, c>>5), append(sum, c&31)
	}
	values = append(append(values, 0), sum...)
	var data []byte
	acc, bits := 0, 0
	for _, c := range raw {
		acc, bits = acc<<8|int(c), bits+8
		for bits >= 5 {
			bits -= 5
			data = append(data, byte(acc>>bits&31))
		}
		acc &= 1<<bits - 1
	}
	if bits > 0 {
		data = append(data, byte(acc<<(5-bits)&31))
	}
	poly := uint32(1)
	for _, v := range append(append(values, data...), make([]byte, 6)...) {
		top := poly >> 25
		poly = poly&0x1ffffff<<5 ^ uint32(v)
		for i, g := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				poly ^= g
			}
		}
	}
	for i := range 6 {
		data = append(data, byte((poly^1)>>(5*(5-i))&31))
	}
	text := prefix + "1"
	for _, v := range data {
		text += string(letters[v])
	}
	return text
}

// What a node does when its pin, or what it pins, isn't what it was.
func TestPinLost(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		edit func(t *testing.T, e *env, dir string)
		want error
		typ  manifest.Type
	}{
		"nothing": {func(*testing.T, *env, string) {}, nil, manifest.Incremental},
		"pin":     {func(t *testing.T, _ *env, dir string) { must(t, os.Remove(filepath.Join(dir, "pin.json"))) }, nil, manifest.Incremental},
		"key":     {func(t *testing.T, e *env, _ string) { e.remove("keys/node1/") }, nil, manifest.Incremental},
		// The node has what it put there.
		"key and its copy": {func(t *testing.T, e *env, _ string) { e.remove("keys/node1/", "kept/node1/") }, nil, manifest.Incremental},
		"pin and key": {func(t *testing.T, e *env, dir string) {
			e.remove("keys/node1/")
			must(t, os.Remove(filepath.Join(dir, "pin.json")))
		}, nil, manifest.Incremental},
		"pin, key and its copy": {func(t *testing.T, e *env, dir string) {
			e.remove("keys/node1/", "kept/node1/")
			must(t, os.Remove(filepath.Join(dir, "pin.json")))
		}, nil, manifest.Full},
		"key destroyed": {func(t *testing.T, e *env, _ string) { e.destroyKeys() }, nil, manifest.Full},
		"state, key and its copy": {func(t *testing.T, e *env, dir string) {
			e.remove("keys/node1/", "kept/node1/")
			must(t, os.RemoveAll(dir))
		}, nil, manifest.Full},
		"torn pin": {func(t *testing.T, _ *env, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "pin.json"), []byte("{"), 0o600))
		}, repo.ErrRecipients, ""},
		"id of the repository": {func(t *testing.T, e *env, dir string) {
			e.editConfig(filepath.Base(filepath.Dir(dir)), "8f14e45f-ceea-467f-a6b6-ff2ac3d1a1c4")
		}, repo.ErrRecipients, ""},
		"encryption": {func(t *testing.T, e *env, _ string) {
			e.editConfig(`"`+e.identity.Recipient().String()+`"`, "")
			e.editConfig(`"age"`, `"none"`)
		}, repo.ErrRecipients, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			id := e.repo(e.store).Config().ID
			e.run()
			test.edit(t, e, filepath.Join(e.state, id, "node1"))
			res, err := backup.Run(t.Context(), e.options(e.store))
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if test.want != nil { // the operator says that it is right
				_, err := backup.AcceptRecipients(e.state, e.repo(e.store), "node1")
				if name == "encryption" { // it never is
					if !errors.Is(err, repo.ErrRecipients) {
						t.Errorf("accepted: %v", err)
					}
					return
				}
				must(t, err)
				res, err = backup.Run(t.Context(), e.options(e.store))
				if err != nil {
					t.Fatal(err)
				}
			} else if res.Record.Type != test.typ {
				t.Errorf("%s, want %s; notes %q", res.Record.Type, test.typ, res.Notes)
			}
			e.check(res.Record)
		})
	}
}

// remove removes all objects below some prefixes.
func (e *env) remove(prefixes ...string) {
	e.t.Helper()
	for _, prefix := range prefixes {
		var keys []storage.Key
		err := e.store.List(context.Background(), prefix, func(i storage.Info) error {
			keys = append(keys, i.Key)
			return nil
		})
		if err := errors.Join(err, storage.DeleteAll(context.Background(), e.store, keys)); err != nil || len(keys) == 0 {
			e.t.Fatal(prefix, len(keys), err)
		}
	}
}

// destroyKeys destroys the keys of node1, as `slipcover key destroy` does.
func (e *env) destroyKeys() {
	e.t.Helper()
	r := e.repo(e.store)
	lock, err := r.Lock(context.Background(), "node1", "prune", "")
	if err == nil {
		_, err = r.DestroyKeys(context.Background(), lock)
		err = errors.Join(err, lock.Release(context.Background()))
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// editConfig changes slipcover.json as someone who can write there does.
func (e *env) editConfig(from, to string) {
	e.t.Helper()
	ctx := context.Background()
	var b []byte
	err := e.store.Get(ctx, "slipcover.json", 0, -1, func(r io.Reader) (err error) { b, err = io.ReadAll(r); return err })
	changed := bytes.Replace(b, []byte(from), []byte(to), 1)
	if err == nil && !bytes.Equal(b, changed) {
		err = e.store.Put(ctx, "slipcover.json", bytes.NewReader(changed), storage.PutOptions{})
	} else if err == nil {
		err = errors.New("nothing to change")
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// What an interrupted run stored under a key that is gone since isn't taken up.
func TestInterruptedUnderAKeyThatIsGone(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	opts := e.options(&cancelAfterSegment{e.store, cancel})
	if _, err := backup.Run(ctx, opts); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	e.destroyKeys()
	res := e.run()
	if res.Resumed != 0 {
		t.Errorf("%d bytes were taken up", res.Resumed)
	}
	e.check(res.Record)
}

// cancelAfterSegment is a storage whose caller is stopped once a segment is stored.
type cancelAfterSegment struct {
	storage.Store
	cancel func()
}

func (c *cancelAfterSegment) Put(ctx context.Context, key storage.Key, body storage.Body, opts storage.PutOptions) error {
	err := c.Store.Put(ctx, key, body, opts)
	if strings.HasPrefix(string(key), "segments/") {
		c.cancel()
	}
	return err
}
