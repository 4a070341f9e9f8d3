package cli_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
)

// TestShownURLsHaveNoPassword: nor tokens, of which NATS takes some.
func TestShownURLsHaveNoPassword(t *testing.T) {
	for _, args := range [][]string{{"config", "show"}, {"config", "show", "--json"}} {
		env, out, errs := clitest.Env(t)
		env.Environ = []string{"HOME=" + t.TempDir(), "SLIPCOVER_CONFIG=" + os.DevNull, "SLIPCOVER_SERVER_URL=https://u:hunter2@h",
			"SLIPCOVER_NATS_URL=nats://u:hunter2@n1:4222, tls://hunter2@n2:4222,nats://u:hunter2@3@n3:4222"}
		if code := cli.Run(context.Background(), env, args); code != 0 {
			t.Fatalf("exit code %d: %s", code, errs)
		}
		if text := out.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "nats://***@n1:4222, tls://***@n2:4222,nats://***@n3:4222") || !strings.Contains(text, "https://***@h") {
			t.Error(text)
		}
	}
}
