package backups_test

import (
	"bytes"
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A node backs up to a folder and a real Swift, from there a copy goes to a real
// S3, and what is restored from each is the same, byte by byte.
func TestCopyFromFolderToSwiftToS3(t *testing.T) {
	swift, s3 := testenv.Swift(t), testenv.Versitygw(t)
	for name, value := range swift.Vars {
		t.Setenv(name, value)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", s3.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3.SecretKey)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	dir := t.TempDir()
	folder, identity, data := dir+"/repo", dir+"/id.txt", dir+"/data"
	remote := []string{"swift://copies/couchdb", "s3://copies/couchdb?endpoint=" + s3.Endpoint + "&region=" + s3.Region}
	if err := os.CopyFS(data, os.DirFS("../../../testdata/couchdb-3.5.0/data")); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		env := &core.Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Now: time.Now, Environ: append(testenv.Environ(),
			"SLIPCOVER_CONFIG="+os.DevNull, "SLIPCOVER_STATE_DIR="+dir+"/state", "SLIPCOVER_REPOSITORY=file://"+folder,
			"SLIPCOVER_REPOSITORIES="+remote[0], "SLIPCOVER_INSTANCE=db1", "SLIPCOVER_DATA_DIR="+data, "SLIPCOVER_OWNER=")}
		if code := cli.Run(context.WithoutCancel(t.Context()), env, args); code != 0 {
			t.Fatalf("%q: code %d: %s", args, code, stderr.String())
		}
		return stdout.String()
	}
	run("init", "--identity-out", identity)
	for _, url := range remote {
		run("init", "--repo", url, "--recipient", recipientOf(t, identity))
	}
	run("backup", "create", "--name", "first")
	shards := data + "/shards/00000000-7fffffff/"
	b, err := os.ReadFile(shards + "deletions.1795334388.couch")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(shards+"deletions.1795334389.couch", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run("backup", "create", "--name", "second"); !strings.Contains(out, "incremental") {
		t.Errorf("second: %s", out)
	}
	if out := run("copy", "--from", remote[0], "--to", remote[1], "--identity", identity); strings.Count(out, "copied") != 2 {
		t.Errorf("copy: %s", out)
	}
	if out := run("check", "--read-data", "--repo", remote[1], "--identity", identity); !strings.Contains(out, "checked 2 backups") {
		t.Errorf("check: %s", out)
	}
	for _, name := range []string{"first", "second"} {
		run("restore", name, "--to", dir+"/folder-"+name, "--keep-history", "--identity", identity)
		want := readTree(t, dir+"/folder-"+name)
		for i, url := range remote {
			to := filepath.Join(dir, name+string(rune('a'+i)))
			run("restore", name, "--repo", url, "--to", to, "--keep-history", "--identity", identity)
			if got := readTree(t, to); len(got) == 0 || !maps.Equal(got, want) {
				t.Errorf("%s from %s is not what the folder gives", name, url)
			}
		}
	}
}

func recipientOf(t *testing.T, identity string) string {
	t.Helper()
	f, err := os.Open(identity)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ids, err := age.ParseIdentities(f)
	if err != nil {
		t.Fatal(err)
	}
	return ids[0].(*age.X25519Identity).Recipient().String()
}

// readTree returns the files below dir by their paths.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, path))
		out[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
