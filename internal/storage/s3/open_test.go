package s3_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/s3"
	"github.com/slipcover/slipcover/internal/testenv"
)

func TestURLs(t *testing.T) {
	clearEnv(t)
	tests := []struct{ url, want string }{
		{"s3://", "not a bucket's name"},
		{"s3://Bucket_1", "not a bucket's name"},
		{"s3://key:topsecret@bucket/x", "an s3 URL holds no keys"},
		{"s3://bucket/a b", "the prefix must be elements of the characters"},
		{"s3://bucket/a//b", "the prefix must be elements"},
		{"s3://bucket/../b", "the prefix must be elements"},
		{"s3://bucket/a#topsecret", "not a valid s3 URL"},
		{"s3://bucket/%zztopsecret", "not a valid s3 URL"},
		{"s3://bucket?%zz=topsecret", "parameters of the s3 URL can't be read"},
		{"s3://bucket?secret_key=topsecret", `there is no parameter "secret_key"; there are endpoint, if_absent, object_lock_mode, part_size, path_style, region, sse, storage_class, timeout`},
		{"s3://bucket?region=a&region=b", "region is there more than once"},
		{"s3://bucket?region=", "parameter region: it must be a word"},
		{"s3://bucket?region=a%0Atopsecret", "parameter region: it must be a word"},
		{"s3://bucket?endpoint=host:9000", "endpoint must be http://host:port"},
		{"s3://bucket?endpoint=http://key:topsecret@host", "endpoint must be http://host:port"},
		{"s3://bucket?endpoint=http://host/path", "endpoint must be http://host:port"},
		{"s3://bucket?path_style=yes", "path_style: it must be one of auto, true, false"},
		{"s3://bucket?if_absent=no", "if_absent: it must be one of auto, check"},
		{"s3://bucket?part_size=1MiB", "part_size: it must be a size from 5MiB to 5GiB"},
		{"s3://bucket?part_size=9999999999GiB", "part_size: it must be a size"},
		{"s3://bucket?part_size=MiB", "part_size: it must be a size"},
		{"s3://bucket?timeout=5", "timeout: it must be a time"},
		{"s3://bucket?timeout=1ms", "timeout: it must be a time"},
		{"s3://bucket?sse=aws:kms=", "sse: it must be AES256, aws:kms or aws:kms=KEY_ID"},
		{"s3://bucket?sse=rot13", "sse: it must be AES256"},
		{"s3://bucket?storage_class=", "storage_class: it must be a word"},
		{"s3://bucket?object_lock_mode=off", "object_lock_mode: it must be one of governance, compliance"},
		{"s3://bucket", "no keys found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"},
	}
	for _, tt := range tests {
		s, err := s3.Open(t.Context(), tt.url, s3.Options{})
		if err == nil || s != nil {
			t.Errorf("%s: got %v, want an error", tt.url, s)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: got %q, want %q", tt.url, err, tt.want)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL", "http://key:topsecret@host")
	if _, err := s3.Open(t.Context(), "s3://bucket", s3.Options{}); err == nil || !strings.Contains(err.Error(), "AWS_ENDPOINT_URL must be") || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("endpoint of the environment: got %v", err)
	}
}

func TestOpen(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	bucket := newBucket()
	url := bucketURL(server, bucket+"/a/b")
	_, err := s3.Open(t.Context(), url, s3.Options{})
	if want := "there is no bucket " + bucket; !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), want) {
		t.Errorf("no bucket: got %v, want %q", err, want)
	}
	for range 2 { // the second finds it
		s := open(t, url)
		if s.URL() != url {
			t.Errorf("URL: got %s, want %s", s.URL(), url)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	tests := []struct {
		name, env, value, params, want string
		kind                           error
	}{
		{"wrong secret", "AWS_SECRET_ACCESS_KEY", "topsecret", "", "the secret key is wrong", storage.ErrDenied},
		{"unknown key", "AWS_ACCESS_KEY_ID", "nobody", "", "No user exists", storage.ErrDenied},
		{"wrong region", "AWS_REGION", "eu-west-9", "", "write region=eu-test-1", nil},
		{"wrong region in the URL", "AWS_REGION", server.Region, "&region=eu-west-9", "write region=eu-test-1", nil},
		{"half a pair", "AWS_SECRET_ACCESS_KEY", "", "", "must both be set", storage.ErrDenied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(tt.env, tt.value)
			_, err := s3.Open(t.Context(), url+tt.params, s3.Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.kind != nil && !errors.Is(err, tt.kind) || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("got %v, want %q of the kind %v", err, tt.want, tt.kind)
			}
		})
	}
	t.Run("all from the environment", func(t *testing.T) {
		t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
		t.Setenv("AWS_ENDPOINT_URL_S3", server.Endpoint)
		t.Setenv("AWS_REGION", server.Region)
		s, err := s3.Open(t.Context(), "s3://"+bucket, s3.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	})
	t.Run("bucket removed", func(t *testing.T) {
		s := open(t, bucketURL(server, "removed"))
		defer s.Close()
		if err := client(t, server).RemoveBucket(t.Context(), "removed"); err != nil {
			t.Fatal(err)
		}
		_, statErr := s.Stat(t.Context(), "a")
		_, getErr := get(s, "a")
		for op, err := range map[string]error{
			"stat": statErr, "get": getErr, "put": put(s, "a", "x", storage.PutOptions{}), "delete": s.Delete(t.Context(), "a"),
			"list": s.List(t.Context(), "", func(storage.Info) error { return nil }),
		} {
			if !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrNotExist) {
				t.Errorf("%s: got %v, want ErrUnavailable", op, err)
			}
		}
	})
}

// Two stores in one bucket don't see each other.
func TestPrefix(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	bucket := newBucket()
	a, ab, root := open(t, bucketURL(server, bucket+"/a")), open(t, bucketURL(server, bucket+"/a.b/c/")), open(t, bucketURL(server, bucket))
	for _, s := range []*s3.Store{a, ab} {
		defer s.Close()
		if err := put(s, "x/y", s.URL(), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	defer root.Close()
	for s, want := range map[*s3.Store]string{a: "x/y", ab: "x/y", root: "a.b/c/x/y a/x/y"} {
		var keys []string
		if err := s.List(t.Context(), "", func(i storage.Info) error { keys = append(keys, string(i.Key)); return nil }); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("%s: lists %q, want %q", s.URL(), got, want)
		}
	}
	if err := a.DeleteAll(t.Context(), []storage.Key{"x/y"}); err != nil {
		t.Fatal(err)
	}
	if got, err := get(ab, "x/y"); got != ab.URL() || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCredentials(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	url := bucketURL(server, newBucket())
	open(t, url).Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	try := func() error {
		s, err := s3.Open(t.Context(), url, s3.Options{})
		if err == nil {
			s.Close()
		}
		return err
	}
	file := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n[half]\naws_access_key_id = topsecret\n", server.AccessKey, server.SecretKey)
	if err := os.WriteFile(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	for profile, want := range map[string]string{
		"": "", "default": "", "none": `the profile that AWS_PROFILE names: section "none" does not exist`, "half": "partial static credentials",
	} {
		t.Setenv("AWS_PROFILE", profile)
		err := try()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, storage.ErrDenied)) {
			t.Errorf("profile %q: got %v, want %q", profile, err, want)
		}
	}
	t.Setenv("AWS_PROFILE", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
	if err := try(); err == nil || !strings.Contains(err.Error(), "no keys found") {
		t.Errorf("nothing set: got %v", err)
	}
	// The service that machines at Amazon have.
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/latest/api/token":
			io.WriteString(w, "token")
		case "/latest/meta-data/iam/security-credentials/":
			io.WriteString(w, "role")
		case "/latest/meta-data/iam/security-credentials/role":
			fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":%q,"Expiration":%q}`,
				server.AccessKey, server.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer metadata.Close()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.URL+"/")
	if err := try(); err != nil {
		t.Errorf("role of the machine: %v", err)
	}
}

// zeros is a body that takes no memory.
type zeros struct{ size int64 }

func (z zeros) Size() int64 { return z.size }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	return len(p), nil
}

// Memory doesn't grow with the body, put at once or in parts, nor with what is read.
func TestMemory(t *testing.T) {
	server := testenv.Versitygw(t)
	useKeys(t, server)
	const size, limit = 256 << 20, 24 << 20
	for _, partSize := range []string{"1GiB", "16MiB"} {
		s := open(t, bucketURL(server, newBucket(), "part_size="+partSize))
		defer s.Close()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := s.Put(t.Context(), "a", zeros{size}, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		err := s.Get(t.Context(), "a", 0, -1, func(r io.Reader) error {
			n, err := io.Copy(io.Discard, r)
			if n != size {
				t.Errorf("got %d bytes, want %d", n, size)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > limit {
			t.Errorf("parts of %s: %d bytes allocated for %d, want at most %d", partSize, got, size, limit)
		} else {
			t.Logf("parts of %s: %d bytes allocated", partSize, got)
		}
	}
}
