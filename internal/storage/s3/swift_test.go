package s3_test

import (
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
	"github.com/slipcover/slipcover/internal/testenv"
)

// swiftS3 is the S3 API of a real Swift.
func swiftS3(t *testing.T) *testenv.S3Server {
	t.Helper()
	vars := testenv.Swift(t).Vars
	s := &testenv.S3Server{Endpoint: vars["S3_ENDPOINT"], Region: vars["S3_REGION"], AccessKey: vars["AWS_ACCESS_KEY_ID"], SecretKey: vars["AWS_SECRET_ACCESS_KEY"]}
	useKeys(t, s)
	return s
}

func TestSwiftContract(t *testing.T) {
	server := swiftS3(t)
	storagetest.RunFew(t, func(t *testing.T) storage.Store {
		return retried(t, open(t, bucketURL(server, newBucket(), "part_size=5MiB", "if_absent=check", "timeout=10m")))
	}, "delete many at once", "valid keys")
}

// Swift refuses a conditional put, and takes what Object Lock asks for without
// protecting anything.
func TestSwiftRefusals(t *testing.T) {
	server := swiftS3(t)
	s := open(t, bucketURL(server, newBucket()))
	defer s.Close()
	if err := put(s, "a", "body", storage.PutOptions{IfAbsent: true}); err == nil || !strings.Contains(err.Error(), "add if_absent=check") {
		t.Errorf("put if absent: got %v, want advice", err)
	}
	if err := put(s, "a", "body", storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(time.Hour)
	for op, err := range map[string]error{
		"put":    put(s, "b", "body", storage.PutOptions{RetainUntil: until}),
		"retain": s.Retain(t.Context(), "a", until),
	} {
		if err == nil || !strings.Contains(err.Error(), "make one with Object Lock") {
			t.Errorf("%s: got %v, want advice", op, err)
		}
	}
	if got, err := get(s, "a"); got != "body" || err != nil {
		t.Errorf("afterwards: got %q, %v", got, err)
	}
}
