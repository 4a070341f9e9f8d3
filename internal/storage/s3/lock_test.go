package s3_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/testenv"
)

func TestObjectLock(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	admin := client(t, server)
	for _, mode := range []string{"governance", "compliance"} {
		t.Run(mode, func(t *testing.T) {
			bucket := newBucket()
			if err := admin.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
				t.Fatal(err)
			}
			s := open(t, bucketURL(server, bucket+"/some/prefix", "part_size=5MiB", "object_lock_mode="+mode))
			defer s.Close()
			bodies := map[storage.Key]string{"small": "small", "large": strings.Repeat("large", 3<<20)}
			until := time.Now().Add(time.Hour)
			for key, body := range bodies {
				if err := put(s, key, body, storage.PutOptions{IfAbsent: true, RetainUntil: until}); err != nil {
					t.Fatalf("put %s: %v", key, err)
				}
				wantRetained(t, admin, bucket, key, mode, until)
				for op, err := range map[string]error{
					"replace":     put(s, key, "other", storage.PutOptions{}),
					"delete":      s.Delete(t.Context(), key),
					"delete many": s.DeleteAll(t.Context(), []storage.Key{key, "none"}),
				} {
					if !errors.Is(err, storage.ErrRetained) {
						t.Errorf("%s %s: got %v, want ErrRetained", op, key, err)
					}
				}
				if got, err := get(s, key); got != body || err != nil {
					t.Errorf("%s: got %d bytes, %v", key, len(got), err)
				}
			}
			// It is made longer, never shorter.
			later := until.Add(time.Hour)
			for _, to := range []time.Time{later, until, time.Now()} {
				if err := s.Retain(t.Context(), "small", to); err != nil {
					t.Errorf("retain until %v: %v", to, err)
				}
				wantRetained(t, admin, bucket, "small", mode, later)
			}
			if err := s.Retain(t.Context(), "none", until); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("retain what isn't there: got %v, want ErrNotExist", err)
			}
			// What isn't protected, or no longer, goes as ever.
			if err := put(s, "free", "free", storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := s.Retain(t.Context(), "free", time.Now().Add(-time.Hour)); err != nil {
				t.Errorf("retain until a time that is over: %v", err)
			}
			if err := s.Delete(t.Context(), "free"); err != nil {
				t.Errorf("delete what isn't protected: %v", err)
			}
		})
	}
	t.Run("bucket without", func(t *testing.T) {
		s := open(t, bucketURL(server, newBucket()))
		defer s.Close()
		if err := put(s, "a", "body", storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		for op, err := range map[string]error{
			"put":    put(s, "b", "body", storage.PutOptions{RetainUntil: time.Now().Add(time.Hour)}),
			"retain": s.Retain(t.Context(), "a", time.Now().Add(time.Hour)),
		} {
			if err == nil || !strings.Contains(err.Error(), "make one with Object Lock") {
				t.Errorf("%s: got %v, want advice", op, err)
			}
		}
	})
}

// wantRetained asks for the head, as the answer to ?retention of versitygw has a
// name that the client doesn't know.
func wantRetained(t *testing.T, admin *minio.Client, bucket string, key storage.Key, mode string, until time.Time) {
	t.Helper()
	info, err := admin.StatObject(t.Context(), bucket, "some/prefix/"+string(key), minio.StatObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err != nil || got.Before(until) || got.Sub(until) > time.Second {
		t.Errorf("%s: retained until %v, want %v; %v", key, got, until, err)
	}
	if got := info.Metadata.Get("X-Amz-Object-Lock-Mode"); !strings.EqualFold(got, mode) {
		t.Errorf("%s: mode %s, want %s", key, got, mode)
	}
}

func TestVersions(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	admin := client(t, server)
	bucket := newBucket()
	if err := admin.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := admin.EnableVersioning(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	s := open(t, bucketURL(server, bucket))
	defer s.Close()
	versions := func() (n int) {
		for v := range admin.ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{WithVersions: true, Recursive: true}) {
			if v.Err != nil {
				t.Fatal(v.Err)
			}
			n++
		}
		return n
	}
	for _, body := range []string{"1", "2", "3"} {
		if err := put(s, "a", body, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := versions(); n != 1 {
		t.Errorf("after three puts: %d versions, want 1", n)
	}
	// Versions and a mark that others have made, and a name that begins alike.
	for range 2 {
		if _, err := admin.PutObject(t.Context(), bucket, "a", strings.NewReader("x"), 1, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.RemoveObject(t.Context(), bucket, "a", minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := put(s, "a.b", "stays", storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := versions(); n != 5 {
		t.Fatalf("before delete: %d versions, want 5", n)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if _, err := get(s, "a"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("get what was deleted: got %v, want ErrNotExist", err)
	}
	if n := versions(); n != 1 {
		t.Errorf("after delete: %d versions, want 1", n)
	}
	if got, err := get(s, "a.b"); got != "stays" || err != nil {
		t.Errorf("a.b: got %q, %v", got, err)
	}
}
