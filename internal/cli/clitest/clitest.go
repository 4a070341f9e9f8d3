// Package clitest is what tests of commands have in common: the program as a process of its own, and the world of a
// command that runs in this one.
package clitest

import (
	"bytes"
	"context"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipcover/slipcover/internal/cli/core"
	"github.com/slipcover/slipcover/internal/testenv"
)

// Main is the TestMain of tests that run slipcover as a process: run, which is cli.Run, makes the test binary the program
// "slipcover" in PATH, and others are further programs by their names. Then it runs the tests and ends the process.
func Main(m testscript.TestingM, run func(context.Context, *core.Env, []string) int, others map[string]func()) {
	programs := map[string]func(){
		"slipcover": func() { os.Exit(run(context.Background(), core.SystemEnv(), os.Args[1:])) },
	}
	maps.Copy(programs, others)
	testscript.Main(m, programs)
}

// Patience is for how long tests wait for what comes: a machine may be slow, or busy.
const Patience = 5 * time.Minute

// Env is an Env without a terminal whose output goes into buffers.
func Env(t testenv.TB) (env *core.Env, stdout, stderr *bytes.Buffer) {
	t.Helper()
	env = core.SystemEnv()
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	env.Stdin, env.Stdout, env.Stderr = strings.NewReader(""), stdout, stderr
	env.StdinTerminal, env.StderrTerminal = false, false
	return env, stdout, stderr
}
