package s3_test

import (
	"os"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
	"github.com/slipcover/slipcover/internal/testenv"
)

func TestSwift(t *testing.T) {
	server := &testenv.S3Server{Endpoint: os.Getenv("S3_ENDPOINT"), AccessKey: "slipcover:backup", SecretKey: "backup-key"}
	if server.Endpoint == "" {
		t.Skip()
	}
	useKeys(t, server)
	for name, params := range map[string][]string{"plain": nil, "parts": {"part_size=5MiB"}} {
		t.Run(name, func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Store {
				return retried(t, open(t, bucketURL(server, newBucket(), append(params, "if_absent=check")...)))
			})
		})
	}
}
