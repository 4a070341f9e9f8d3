// Package core is what commands have in common: the world that they see, settings and flags, output, progress, errors and
// exit codes. It opens nothing.
package core

import (
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/slipcover/slipcover/internal/storage/limit"
	"github.com/slipcover/slipcover/internal/storage/meter"
)

// Env is the world as a command sees it.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// StdinTerminal and StderrTerminal tell whether a person is at the other end:
	// the first decides about questions, the second about the progress bar.
	StdinTerminal  bool
	StderrTerminal bool

	Environ []string // "NAME=value"
	Now     func() time.Time
	// ReadPassword asks at the terminal without showing what is typed. It is
	// called only if StdinTerminal.
	ReadPassword func(prompt string) (string, error)

	// JSON is set by --json: the result, and an error, are JSON.
	JSON bool
	// StorageEnv, if not nil, gives storages the variables of their log-in, in place of
	// the process's own.
	StorageEnv func(string) string
	// Traffic counts what the command asks of its storages, limits bound it; both are
	// nil until the first is open.
	Traffic *meter.Meter
	limits  *limit.Limits
	done    string // see Done
}

// SystemEnv is the Env of the process.
func SystemEnv() *Env {
	e := &Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		StdinTerminal: isTerminal(os.Stdin), StderrTerminal: isTerminal(os.Stderr),
		Environ: os.Environ(), Now: time.Now,
	}
	e.ReadPassword = func(prompt string) (string, error) {
		_, _ = io.WriteString(os.Stderr, prompt)
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		_, _ = io.WriteString(os.Stderr, "\n")
		return string(b), err
	}
	return e
}

// Getenv looks up a variable as os.Getenv does.
func (e *Env) Getenv(name string) string {
	for _, kv := range slices.Backward(e.Environ) {
		if n, v, ok := strings.Cut(kv, "="); ok && n == name {
			return v
		}
	}
	return ""
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
