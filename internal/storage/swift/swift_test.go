package swift_test

import (
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/storagetest"
	"github.com/slipcover/slipcover/internal/storage/swift"
	"github.com/slipcover/slipcover/internal/testenv"
)

var containers atomic.Int64

// newContainer returns the URL of a container that isn't there yet.
func newContainer() string { return fmt.Sprintf("swift://test-%d", containers.Add(1)) }

func getenv(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func open(t *testing.T, url string, vars map[string]string) *swift.Store {
	t.Helper()
	s, err := swift.Open(t.Context(), url, swift.Options{Create: true, Getenv: getenv(vars)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// patient is for a contract, which must not depend on how fast the machine is: a deletion of
// a thousand objects is one request.
const patient = "?timeout=10m"

func TestContract(t *testing.T) {
	vars := testenv.Swift(t).Vars
	storagetest.Run(t, func(t *testing.T) storage.Store { return open(t, newContainer()+patient, vars) })
}

func TestContractLarge(t *testing.T) {
	t.Parallel()
	vars := testenv.Swift(t).Vars
	storagetest.RunFew(t, func(t *testing.T) storage.Store { return open(t, newContainer()+patient+"&segment_size=1MiB", vars) },
		"replace is atomic to readers", "cancel in the middle", "bad bodies")
}

// A server that takes no larger objects tells the size of segments itself.
func TestContractRefusesLarge(t *testing.T) {
	t.Parallel()
	vars := testenv.StartSwift(t, testenv.SwiftOptions{MaxObjectBytes: 1 << 20}).Vars
	storagetest.RunFew(t, func(t *testing.T) storage.Store { return open(t, newContainer()+patient, vars) })
}

func TestContractKeystone(t *testing.T) {
	s, k := testenv.SwiftKeystone(t)
	token, _ := k.Token(t, k.Vars)
	tests := map[string]map[string]string{
		"password":               k.Vars,
		"application credential": k.ApplicationCredential(t, k.Vars, t.Name()),
		"token": {
			"OS_AUTH_TOKEN":  token,
			"OS_STORAGE_URL": s.URL + "/v1/AUTH_" + k.Vars["DEMO_PROJECT_ID"],
		},
	}
	for name, vars := range tests {
		t.Run(name, func(t *testing.T) {
			storagetest.RunFew(t, func(t *testing.T) storage.Store { return open(t, newContainer()+patient, vars) })
		})
	}
}

// command runs the stock client.
func command(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "swift"), args...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir()}, env...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("swift %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
