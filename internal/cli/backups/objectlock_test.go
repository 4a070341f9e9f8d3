package backups_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/testenv"
)

// A real S3 with Object Lock keeps a backup, and the key that it needs, from who has
// all credentials; no rule of retention removes it before its time.
func TestObjectLock(t *testing.T) {
	s3 := testenv.Versitygw(t)
	client, err := minio.New(strings.TrimPrefix(s3.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(s3.AccessKey, s3.SecretKey, ""), Region: s3.Region})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.MakeBucket(t.Context(), "locked", minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(want int, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		env := &core.Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Now: time.Now, Environ: append(testenv.Environ(),
			"SLIPCOVER_CONFIG="+os.DevNull, "SLIPCOVER_STATE_DIR="+dir+"/state", "SLIPCOVER_REPOSITORY=s3://locked/couchdb?endpoint="+s3.Endpoint+"&region="+s3.Region,
			"SLIPCOVER_INSTANCE=db1", "SLIPCOVER_DATA_DIR=../../../testdata/couchdb-3.5.0/data", "SLIPCOVER_IMMUTABLE_FOR=30d", "SLIPCOVER_OWNER=")}
		if code := cli.Run(t.Context(), env, args); code != want {
			t.Fatalf("%q: code %d, want %d: %s", args, code, want, stderr.String())
		}
		return stdout.String() + stderr.String()
	}
	t.Setenv("AWS_ACCESS_KEY_ID", s3.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3.SecretKey)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	run(0, "init", "--identity-out", dir+"/id.txt")
	run(0, "backup", "create", "--name", "first")
	run(0, "backup", "create", "--name", "second")
	if out := run(11, "backup", "delete", "first", "--yes"); !strings.Contains(out, "protects the object until a later date") {
		t.Errorf("delete: %s", out)
	}
	if out := run(0, "prune", "--keep-last", "1"); !strings.Contains(out, "protected by the storage until") || !strings.Contains(out, "0 backups") {
		t.Errorf("prune: %s", out)
	}
	// The thief removes every version that the storage lets go.
	kept := 0
	for o := range client.ListObjects(t.Context(), "locked", minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if strings.HasSuffix(o.Key, "/slipcover.json") {
			continue // can be written anew, and holds no secret
		}
		if client.RemoveObject(t.Context(), "locked", o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID}) != nil {
			kept++
		}
	}
	if kept < 2*3+1 { // records, manifests, segments, a key
		t.Errorf("%d objects are protected", kept)
	}
	// The key's object is gone, which is told, and its protected copy serves.
	if out := run(4, "check", "--read-data", "--identity", dir+"/id.txt"); !strings.Contains(out, "is gone, and a second copy of it is there") || !strings.Contains(out, "1 problem in the repository") {
		t.Errorf("check: %s", out)
	}
	run(0, "restore", "second", "--to", dir+"/out", "--identity", dir+"/id.txt")
}
