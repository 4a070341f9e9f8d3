// Release makes what a release consists of, from the root of the source: for each system and
// architecture an archive, for Linux also a deb and an rpm, a list of all that is compiled in
// (CycloneDX), and checksums of everything. Two runs for one commit with one Go give the same
// bytes, wherever they run.
//
// The version is RELEASE_VERSION, for deb and rpm RELEASE_PACKAGE_VERSION, and all times are
// SOURCE_DATE_EPOCH:
//
//	release [-targets SYSTEM/ARCHITECTURE…] -nfpm NFPM OUT
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

const targets = "linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64"

type release struct {
	version        string // as the program says it
	packageVersion string // as deb and rpm want it
	nfpm           string // program
	out            string // folder of what is released
	work           string // folder of what isn't
	time           time.Time
}

// system is one that a program was built for.
type system struct {
	goos, goarch string
	program      string // path
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run() error {
	r := &release{version: os.Getenv("RELEASE_VERSION"), packageVersion: os.Getenv("RELEASE_PACKAGE_VERSION")}
	flag.StringVar(&r.nfpm, "nfpm", "", "the program nfpm")
	list := flag.String("targets", targets, "SYSTEM/ARCHITECTURE, by spaces")
	flag.Parse()
	if r.version == "" || r.packageVersion == "" || r.nfpm == "" || flag.NArg() != 1 {
		return errors.New("usage: RELEASE_VERSION=V RELEASE_PACKAGE_VERSION=P SOURCE_DATE_EPOCH=SECONDS release -nfpm NFPM OUT")
	}
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH must be the time of the commit in seconds: %w", err)
	}
	r.time = time.Unix(seconds, 0).UTC()
	if r.out, err = filepath.Abs(flag.Arg(0)); err != nil {
		return err
	}
	if err := os.RemoveAll(r.out); err != nil { // what another version left isn't of this one
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	if r.work, err = os.MkdirTemp("", "slipcover-release-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(r.work) }()
	return r.make(strings.Fields(*list))
}

func (r *release) make(targets []string) error {
	own, err := r.build(system{goos: runtime.GOOS, goarch: runtime.GOARCH}) // runs here
	if err != nil {
		return err
	}
	said, err := exec.Command(own.program, "version").Output()
	if err != nil {
		return fmt.Errorf("slipcover version: %w", err)
	}
	if !bytes.Contains(said, []byte(r.version)) {
		return fmt.Errorf("the program says of its version %q, not %s", said, r.version)
	}
	extra, err := r.generate(own.program)
	if err != nil {
		return err
	}
	var systems []system
	for _, t := range targets {
		goos, goarch, ok := strings.Cut(t, "/")
		if !ok {
			return fmt.Errorf("%q is no SYSTEM/ARCHITECTURE", t)
		}
		s, err := r.build(system{goos: goos, goarch: goarch})
		if err != nil {
			return err
		}
		systems = append(systems, s)
		if err := r.archive(s, extra); err != nil {
			return err
		}
		if goos == "linux" {
			if err := r.packages(s, extra); err != nil {
				return err
			}
		}
	}
	if err := r.bill(systems); err != nil {
		return err
	}
	return r.sums()
}

// build compiles the program for a system.
func (r *release) build(s system) (system, error) {
	s.program = filepath.Join(r.work, s.goos+"_"+s.goarch, "slipcover")
	if s.goos == "windows" {
		s.program += ".exe"
	}
	fmt.Println("build", s.goos+"/"+s.goarch)
	cmd := exec.Command("go", "build", "-tags=disable_grpc_modules", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid= -X github.com/slipcover/slipcover/internal/cli/core.version="+r.version, "-o", s.program, "./cmd/slipcover")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0", "GOOS="+s.goos, "GOARCH="+s.goarch)
	return s, show(cmd)
}

// generate has the program write what goes into archives and packages, and returns files by
// their names there.
func (r *release) generate(program string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for name, args := range map[string][]string{
		"slipcover.yml":              {"config", "example"},
		"completions/slipcover.bash": {"completion", "bash"},
		"completions/_slipcover":     {"completion", "zsh"},
		"completions/slipcover.fish": {"completion", "fish"},
		"completions/slipcover.ps1":  {"completion", "powershell"},
	} {
		cmd := exec.Command(program, args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.work, "SLIPCOVER_CONFIG=" + os.DevNull}
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("slipcover %s: %w", strings.Join(args, " "), err)
		}
		files[name] = out
	}
	for _, name := range []string{"README.md", "CHANGELOG.md", "LICENSE"} {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files[name] = b
	}
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		return nil, err
	}
	for _, name := range docs {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files[filepath.ToSlash(name)] = b
	}
	return files, nil
}

// packages has nfpm make a deb and an rpm, which has what it needs in a folder.
func (r *release) packages(s system, extra map[string][]byte) error {
	for _, name := range []string{"slipcover.yml", "completions/slipcover.bash", "completions/_slipcover", "completions/slipcover.fish"} {
		if err := os.WriteFile(filepath.Join(r.work, path.Base(name)), extra[name], 0o644); err != nil {
			return err
		}
	}
	for _, format := range []string{"deb", "rpm"} {
		cmd := exec.Command(r.nfpm, "package", "-f", "packaging/nfpm.yaml", "-p", format, "-t", r.out+"/")
		cmd.Env = append(os.Environ(), "PACKAGE_ARCH="+s.goarch, "PACKAGE_VERSION="+r.packageVersion, "PACKAGE_PROGRAM="+s.program, "PACKAGE_FILES="+r.work)
		if err := show(cmd); err != nil {
			return err
		}
	}
	return nil
}

// show runs a command, and shows what it said if it failed.
func show(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out.String())
	}
	return nil
}
