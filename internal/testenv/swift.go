package testenv

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// SwiftServer is a running OpenStack Swift.
type SwiftServer struct {
	URL string // http://127.0.0.1:PORT
	// Vars are what scripts/swift-up prints: ST_AUTH, ST_USER and ST_KEY of a user
	// who may do all in its account, SWIFT_STORAGE_URL of that account,
	// SWIFT_OTHER_USER and SWIFT_OTHER_KEY of a user of another account, and
	// S3_ENDPOINT, S3_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
	Vars map[string]string

	service *service
}

// SwiftOptions say what Swift to start.
type SwiftOptions struct {
	// MaxObjectBytes is the largest single object that it takes; 5 GiB if 0.
	MaxObjectBytes int64
}

// Swift returns a Swift that all tests of the process share; it ends with the
// process. Tests use containers of their own. Without Swift the test is skipped.
func Swift(t TB) *SwiftServer {
	t.Helper()
	needSwift(t)
	s, err := sharedSwift()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}

var sharedSwift = sync.OnceValues(func() (*SwiftServer, error) { return newSwift(SwiftOptions{}) })

// StartSwift starts a Swift for this test alone, and stops it at the test's end.
func StartSwift(t TB, opts SwiftOptions) *SwiftServer {
	t.Helper()
	needSwift(t)
	s, err := newSwift(opts)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(s.service.stop)
	return s
}

// SwiftKeystone returns a Keystone and a Swift behind it that all tests of the
// process share. The built-in users of Swift may log in as well.
func SwiftKeystone(t TB) (*SwiftServer, *KeystoneServer) {
	t.Helper()
	needSwift(t)
	needKeystone(t)
	p, err := sharedPair()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return p.swift, p.keystone
}

type swiftKeystone struct {
	swift    *SwiftServer
	keystone *KeystoneServer
}

var sharedPair = sync.OnceValues(func() (p swiftKeystone, err error) {
	for range startTries {
		// Keystone's catalog names the port of Swift, which needs Keystone's URL.
		var port int
		if port, err = freePorts(swiftPorts); err != nil {
			return p, err
		}
		if p.keystone, err = newKeystone("-s", strconv.Itoa(port)); err != nil {
			return p, err
		}
		if p.swift, err = startSwift(port, "-k", p.keystone.URL); err == nil || !portTaken(err) {
			return p, err
		}
		p.keystone.service.stop()
	}
	return p, err
})

// swiftPorts is how many ports in a row a Swift takes.
const swiftPorts = 5

func newSwift(opts SwiftOptions) (s *SwiftServer, err error) {
	var args []string
	if opts.MaxObjectBytes > 0 {
		args = []string{"-m", strconv.FormatInt(opts.MaxObjectBytes, 10)}
	}
	for range startTries {
		var port int
		if port, err = freePorts(swiftPorts); err != nil {
			return nil, err
		}
		if s, err = startSwift(port, args...); err == nil || !portTaken(err) {
			return s, err
		}
	}
	return nil, err
}

func startSwift(port int, args ...string) (*SwiftServer, error) {
	service, err := startService("swift", port, args...)
	if err != nil {
		return nil, err
	}
	return &SwiftServer{URL: fmt.Sprintf("http://127.0.0.1:%d", port), Vars: service.env, service: service}, nil
}

// needSwift skips the test if what scripts/swift-up needs isn't installed.
func needSwift(t TB) {
	t.Helper()
	for _, program := range []string{"/usr/bin/swift-proxy-server", "/usr/bin/swift-account-server",
		"/usr/bin/swift-container-server", "/usr/bin/swift-object-server"} {
		if _, err := os.Stat(program); err != nil {
			Missing(t, "swift", "no "+program+"; install swift-proxy, swift-account, swift-container, swift-object and memcached")
		}
	}
	if _, err := exec.LookPath("memcached"); err != nil {
		Missing(t, "swift", "no memcached in PATH")
	}
}

// Env returns the log-in as variables, and nothing else, in the form of os.Environ.
func (s *SwiftServer) Env() []string {
	list := s.service.environ(func(name string) bool { return strings.HasPrefix(name, "ST_") })
	slices.Sort(list)
	return list
}

// Other returns Vars with the log-in of the user of another account.
func (s *SwiftServer) Other() map[string]string {
	vars := maps.Clone(s.Vars)
	vars["ST_USER"], vars["ST_KEY"] = vars["SWIFT_OTHER_USER"], vars["SWIFT_OTHER_KEY"]
	delete(vars, "SWIFT_STORAGE_URL")
	return vars
}

// ForgetTokens makes all tokens of built-in users invalid: it empties memcached,
// which holds them.
func (s *SwiftServer) ForgetTokens(t TB) {
	t.Helper()
	_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatalf("port of %s: %v", s.URL, err)
	}
	answer, err := ask(fmt.Sprintf("127.0.0.1:%d", n+4), "flush_all\r\n")
	if err != nil || !strings.HasPrefix(answer, "OK") {
		t.Fatalf("flush memcached: %q, %v", answer, err)
	}
}
