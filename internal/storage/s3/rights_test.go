package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/s3"
	"github.com/slipcover/slipcover/internal/testenv"
)

// TestRights: a user who lacks just one right is told which, and where: by the server, as
// Amazon's and versitygw's answers do, or by us, where the server says no more than no.
func TestRights(t *testing.T) {
	const user, secret = "user", "the secret of the user"
	users := t.TempDir()
	list := fmt.Sprintf(`{"accessAccounts": {%q: {"access": %q, "secret": %q, "role": "user"}}}`, user, user, secret)
	if err := os.WriteFile(filepath.Join(users, "users.json"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	server := testenv.Versitygw(t, "--iam-dir", users)
	useKeys(t, server)
	curt, now := between(t, server)
	curtly := hook(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		said := record(r, next)
		if said.Body.Len() > 0 {
			said.Header().Del("Content-Length")
		}
		replay(w, said, regexp.MustCompile(`<Message>User: [^<]*</Message>`).ReplaceAll(said.Body.Bytes(), []byte("<Message>Access Denied.</Message>")))
	})
	now.Store(&curtly)
	admin := client(t, server)
	ctx := context.Background()
	large := strings.Repeat("large", 2<<20) // 10 MiB: two parts
	later := time.Now().Add(time.Hour)
	absent := storage.PutOptions{IfAbsent: true}
	read := func(s *s3.Store, off, n int64) error {
		return s.Get(ctx, "there", off, n, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err })
	}
	on := func(action string) string { return action + " on BUCKET/some/prefix/*" }
	ofBucket := func(action string) string { return action + " on the bucket BUCKET" }
	for _, tt := range []struct {
		op, denied, want string
		locking          bool // the bucket has Object Lock, and so versions
		do               func(*s3.Store) error
	}{
		{op: "open", denied: "GetBucketVersioning", want: ofBucket("s3:GetBucketVersioning")},
		{op: "put", denied: "PutObject", want: on("s3:PutObject"), do: func(s *s3.Store) error { return put(s, "new", "x", storage.PutOptions{}) }},
		{op: "replace", denied: "PutObject", want: on("s3:PutObject"), do: func(s *s3.Store) error { return put(s, "there", "x", storage.PutOptions{}) }},
		{op: "put if absent", denied: "PutObject", want: on("s3:PutObject"), do: func(s *s3.Store) error { return put(s, "new", "x", absent) }},
		{op: "put if absent, look", denied: "GetObject", want: on("s3:GetObject"), do: func(s *s3.Store) error { return put(s, "there", "x", absent) }},
		{op: "put in parts", denied: "PutObject", want: on("s3:PutObject"), do: func(s *s3.Store) error { return put(s, "new", large, storage.PutOptions{}) }},
		{op: "get", denied: "GetObject", want: on("s3:GetObject"), do: func(s *s3.Store) error { return read(s, 0, -1) }},
		{op: "get a range", denied: "GetObject", want: on("s3:GetObject"), do: func(s *s3.Store) error { return read(s, 1, 2) }},
		{op: "get nothing", denied: "GetObject", want: on("s3:GetObject"), do: func(s *s3.Store) error { return read(s, 0, 0) }},
		{op: "stat", denied: "GetObject", want: on("s3:GetObject"), do: func(s *s3.Store) error { _, err := s.Stat(ctx, "there"); return err }},
		{op: "list", denied: "ListBucket", want: ofBucket("s3:ListBucket"), do: func(s *s3.Store) error {
			return s.List(ctx, "", func(storage.Info) error { return nil })
		}},
		{op: "delete", denied: "DeleteObject", want: on("s3:DeleteObject"), do: func(s *s3.Store) error { return s.Delete(ctx, "there") }},
		{op: "delete many", denied: "DeleteObject", want: on("s3:DeleteObject"), do: func(s *s3.Store) error {
			return s.DeleteAll(ctx, []storage.Key{"there", "none"})
		}},
		{op: "replace a version", locking: true, denied: "GetObject", want: on("s3:GetObject"), do: func(s *s3.Store) error {
			return put(s, "there", "x", storage.PutOptions{})
		}},
		{op: "delete, find the versions", locking: true, denied: "ListBucketVersions", want: ofBucket("s3:ListBucketVersions"), do: func(s *s3.Store) error {
			return s.Delete(ctx, "there")
		}},
		{op: "delete a version", locking: true, denied: "DeleteObjectVersion", want: on("s3:DeleteObjectVersion"), do: func(s *s3.Store) error {
			return s.Delete(ctx, "there")
		}},
		{op: "delete many versions", locking: true, denied: "DeleteObjectVersion", want: on("s3:DeleteObjectVersion"), do: func(s *s3.Store) error {
			return s.DeleteAll(ctx, []storage.Key{"there"})
		}},
		{op: "protect, look", locking: true, denied: "GetBucketObjectLockConfiguration", want: ofBucket("s3:GetBucketObjectLockConfiguration"), do: func(s *s3.Store) error {
			return put(s, "new", "x", storage.PutOptions{RetainUntil: later})
		}},
		{op: "protect", locking: true, denied: "PutObjectRetention", want: on("s3:PutObject and s3:PutObjectRetention"), do: func(s *s3.Store) error {
			return put(s, "new", "x", storage.PutOptions{IfAbsent: true, RetainUntil: later})
		}},
		{op: "protect parts", locking: true, denied: "PutObjectRetention", want: on("s3:PutObject and s3:PutObjectRetention"), do: func(s *s3.Store) error {
			return put(s, "new", large, storage.PutOptions{IfAbsent: true, RetainUntil: later})
		}},
		{op: "protect for longer", locking: true, denied: "PutObjectRetention", want: on("s3:PutObjectRetention"), do: func(s *s3.Store) error {
			return s.Retain(ctx, "there", later)
		}},
	} {
		t.Run(tt.op, func(t *testing.T) {
			bucket := newBucket()
			if err := admin.MakeBucket(ctx, bucket, minio.MakeBucketOptions{ObjectLocking: tt.locking}); err != nil {
				t.Fatal(err)
			}
			const there = "some/prefix/there"
			if _, err := admin.PutObject(ctx, bucket, there, strings.NewReader("body"), 4, minio.PutObjectOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := admin.SetBucketPolicy(ctx, bucket, allBut(user, bucket, tt.denied)); err != nil {
				t.Fatal(err)
			}
			t.Setenv("AWS_ACCESS_KEY_ID", user)
			t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
			try := func(server *testenv.S3Server) error {
				s, err := s3.Open(ctx, bucketURL(server, bucket+"/some/prefix", "part_size=5MiB"), s3.Options{})
				if err != nil || tt.do == nil {
					return err
				}
				defer s.Close()
				return tt.do(s)
			}
			want := "the keys may lack the right " + strings.ReplaceAll(tt.want, "BUCKET", bucket)
			if err := try(curt); !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), want) {
				t.Errorf("without s3:%s: got %v, want ErrDenied and %s", tt.denied, err, want)
			}
			if err := try(server); !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), "s3:"+tt.denied) || !strings.Contains(err.Error(), bucket) {
				t.Errorf("without s3:%s: got %v, want ErrDenied that names it and %s", tt.denied, err, bucket)
			}
		})
	}
}

// allBut is a bucket's policy by which a user may do all but one action.
func allBut(user, bucket, action string) string {
	const statement = `{"Effect": %q, "Principal": {"AWS": [%q]}, "Action": %q, "Resource": [%s]}`
	arn := "arn:aws:s3:::" + bucket
	both := fmt.Sprintf("%q, %q", arn, arn+"/*")
	of := fmt.Sprintf("%q", arn)
	if strings.Contains(action, "Object") && !strings.HasPrefix(action, "GetBucket") {
		of = fmt.Sprintf("%q", arn+"/*")
	}
	return `{"Version": "2012-10-17", "Statement": [` + fmt.Sprintf(statement, "Allow", user, "s3:*", both) + ", " +
		fmt.Sprintf(statement, "Deny", user, "s3:"+action, of) + "]}"
}
