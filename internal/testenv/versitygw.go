package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// S3Server is a running server of the S3 API that belongs to the test.
type S3Server struct {
	Endpoint             string // "http://127.0.0.1:7070"
	Region               string // not the one that clients guess
	AccessKey, SecretKey string
	Dir                  string // buckets are folders here, objects files
}

// Versitygw starts versitygw, which keeps objects as files, with versions and
// Object Lock. It takes the one in PATH, or builds the version that
// internal/devtools/versitygw/go.mod names, once on each machine. The file system
// of temporary folders must have extended attributes. Flags are further ones of the program.
func Versitygw(t TB, flags ...string) *S3Server {
	t.Helper()
	binary, err := findVersitygw()
	if err != nil {
		Missing(t, "versitygw", err.Error())
	}
	s := &S3Server{Region: "eu-test-1", AccessKey: "slipcover", SecretKey: randomHex(32), Dir: filepath.Join(t.TempDir(), "buckets")}
	versions := filepath.Join(t.TempDir(), "versions")
	for _, dir := range []string{s.Dir, versions} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatalf("versitygw: %v", err)
		}
	}
	port := startEmulator(t, "versitygw", func(port int) *exec.Cmd {
		args := append([]string{"--port", fmt.Sprintf("127.0.0.1:%d", port), "--region", s.Region, "--keep-alive", "--quiet"}, flags...)
		cmd := exec.Command(binary, append(args, "posix", "--versioning-dir", versions, s.Dir)...)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+s.AccessKey, "ROOT_SECRET_ACCESS_KEY="+s.SecretKey)
		return cmd
	})
	s.Endpoint = fmt.Sprintf("http://127.0.0.1:%d", port)
	return s
}

// findVersitygw has Go build it, which keeps the program in its build cache.
func findVersitygw() (string, error) {
	if path, err := exec.LookPath("versitygw"); err == nil {
		return path, nil
	}
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.Command("go", "tool", "-n", "versitygw")
	cmd.Dir = filepath.Join(filepath.Dir(file), "..", "devtools", "versitygw")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("not in PATH, and can't be built: %w: %s", err, lastLine([]byte(stderr.String())))
	}
	return strings.TrimSpace(string(out)), nil
}
