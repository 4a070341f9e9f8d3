package s3_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/retry"
	"github.com/slipcover/slipcover/internal/storage/s3"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// useKeys makes a server's keys those of the environment, and takes away what the
// developer's own environment says.
func useKeys(t *testing.T, s *testenv.S3Server) {
	t.Helper()
	clearEnv(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretKey)
}

func clearEnv(t *testing.T) {
	t.Helper()
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION",
		"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	home := t.TempDir()
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(home, "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(home, "credentials"))
}

// bucketURL returns the URL of a place in a bucket with more parameters.
func bucketURL(s *testenv.S3Server, place string, params ...string) string {
	return "s3://" + place + "?" + strings.Join(append([]string{"endpoint=" + s.Endpoint}, params...), "&")
}

var buckets atomic.Int64

// newBucket returns a name that no other test has.
func newBucket() string { return fmt.Sprintf("bucket-%d", buckets.Add(1)) }

func open(t *testing.T, url string) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), url, s3.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// retried is for the contract's checks with many writers: versitygw may answer with
// the bytes of one put and the ETag of the next, or lose a folder to a delete.
func retried(t *testing.T, s storage.Store) storage.Store {
	return retry.New(s, retry.Options{For: 20 * time.Second, OnRetry: func(op string, key storage.Key, err error, _ time.Duration) {
		t.Logf("again: %s %s: %v", op, key, err)
	}})
}

func put(s storage.Store, key storage.Key, body string, opts storage.PutOptions) error {
	return s.Put(context.Background(), key, strings.NewReader(body), opts)
}

func get(s storage.Store, key storage.Key) (string, error) {
	var b []byte
	err := s.Get(context.Background(), key, 0, -1, func(r io.Reader) (err error) {
		b, err = io.ReadAll(r)
		return err
	})
	return string(b), err
}

// client is for what the driver doesn't do.
func client(t *testing.T, s *testenv.S3Server) *minio.Client {
	t.Helper()
	c, err := minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: s.Region, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContract(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	admin := client(t, server)
	tests := []struct {
		name    string
		params  []string
		prepare func(t *testing.T, bucket string)
		also    []string // what matters here beside RunFew's checks; nil: all
	}{
		{name: "plain"},
		{name: "parts", params: []string{"part_size=5MiB"}, also: []string{"cancel in the middle", "bad bodies"}},
		{name: "if absent without the server", params: []string{"if_absent=check"}, also: []string{"valid keys"}},
		{name: "versions", also: []string{"delete many at once", "put and delete, concurrently"}, prepare: func(t *testing.T, bucket string) {
			if err := admin.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := admin.EnableVersioning(t.Context(), bucket); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "object lock", also: []string{"protected objects", "delete many at once"}, prepare: func(t *testing.T, bucket string) {
			if err := admin.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			open := func(t *testing.T) storage.Store {
				bucket := newBucket()
				if tt.prepare != nil {
					tt.prepare(t, bucket)
				}
				return retried(t, open(t, bucketURL(server, bucket, append([]string{"timeout=10m"}, tt.params...)...)))
			}
			if tt.also == nil {
				storagetest.Run(t, open)
			} else {
				storagetest.RunFew(t, open, tt.also...)
			}
		})
	}
}
