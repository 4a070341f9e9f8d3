package testenv_test

import (
	"os"
	"os/exec"
	"testing"

	// What is tested happens when it is loaded.
	_ "github.com/slipcover/slipcover/internal/testenv"
)

func TestNoStorageOfWhoeverRunsTests(t *testing.T) {
	if os.Getenv("SLIPCOVER_TEST_VARIABLES") != "" {
		for _, name := range []string{"AWS_PROFILE", "OS_AUTH_URL", "ST_KEY", "AZURE_STORAGE_KEY"} {
			if v, ok := os.LookupEnv(name); ok {
				t.Errorf("%s is still %q", name, v)
			}
		}
		return
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run", t.Name())
	c.Env = append(os.Environ(), "SLIPCOVER_TEST_VARIABLES=1", "AWS_PROFILE=mine", "OS_AUTH_URL=http://192.0.2.1", "ST_KEY=k", "AZURE_STORAGE_KEY=k")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
