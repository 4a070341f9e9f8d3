package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/backup"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/ship"
	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/topology"
)

// exit is one way for the program to end.
type exit struct {
	Code    int
	name    string // "code" of an error in JSON
	meaning string
}

// The exit codes. Scripts branch on them: a number keeps its meaning.
var (
	exitOK          = exit{0, "ok", "all went well"}
	ExitError       = exit{1, "error", "any other error, also output that can't be written"}
	exitUsage       = exit{2, "usage", "wrong use: an unknown command or flag, a bad value, a bad configuration"}
	exitDamaged     = exit{3, "source_damaged", "the source is damaged; the backup is complete and holds it as it is (with --strict none was made)"}
	exitProblem     = exit{4, "problem", "check or verify found a problem: something stored or read isn't what it should be; or a set of a cluster lacks a node"}
	exitLocked      = exit{5, "locked", "another process is working on the instance"}
	exitNotFound    = exit{6, "not_found", "no such repository, backup, instance, database, document or file"}
	exitKey         = exit{7, "key", "the key to read with is missing, destroyed or the wrong one; or the repository's recipients are not those that this node accepts"}
	exitDenied      = exit{8, "denied", "permission denied"}
	exitFull        = exit{9, "full", "no room left, in the storage or at the target"}
	exitUnavailable = exit{10, "unavailable", "the storage, or the server of the service, cannot be reached"}
	exitRefused     = exit{11, "target", "the target refuses: not empty, in use, or there already; a backup is pinned or protected; the CouchDB is not the one that the instance's backups are of"}
	exitInterrupt   = exit{130, "interrupted", "stopped by SIGINT (Ctrl-C)"}
	exitTerminate   = exit{143, "terminated", "stopped by SIGTERM"}
)

var exits = []exit{
	exitOK, ExitError, exitUsage, exitDamaged, exitProblem, exitLocked, exitNotFound, exitKey, exitDenied, exitFull,
	exitUnavailable, exitRefused, exitInterrupt, exitTerminate,
}

var (
	ErrUsage   = errors.New("usage")           // what was typed can't be meant
	ErrDamaged = errors.New("source damaged")  // a backup is complete, but its source has damage
	ErrProblem = errors.New("problem found")   // check, verify or a comparison found something
	ErrTarget  = errors.New("target refuses")  // something is where we would write
	ErrMissing = errors.New("nothing to show") // a thing that was asked for isn't there
)

// sentence is an error that reads as its text alone and is of a kind.
type sentence struct {
	text string
	kind error
}

func (s *sentence) Error() string { return s.text }
func (s *sentence) Unwrap() error { return s.kind }

// Say returns an error of a kind with just that text.
func Say(kind error, format string, args ...any) error {
	return &sentence{fmt.Sprintf(format, args...), kind}
}

// Usage says that what was typed can't be meant.
func Usage(format string, args ...any) error { return Say(ErrUsage, format, args...) }

// Interrupted is the cause of a context that a signal cancelled.
type Interrupted struct{ Signal os.Signal }

func (i Interrupted) Error() string { return "stopped by " + signalName(i.Signal) }

// WhenStopped adds what is left behind to the error of a command that a signal stopped.
func WhenStopped(ctx context.Context, err error, left string) error {
	var sig Interrupted
	if errors.As(context.Cause(ctx), &sig) {
		return fmt.Errorf("%w: %s", sig, left)
	}
	return err
}

func signalName(s os.Signal) string {
	switch s {
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGHUP:
		return "SIGHUP"
	}
	return "SIGINT"
}

// ExitOf is the one place where errors become exit codes.
func ExitOf(err error) exit {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	var sig Interrupted
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &sig):
		if sig.Signal == syscall.SIGTERM {
			return exitTerminate
		}
		return exitInterrupt
	case is(ErrUsage, node.ErrNotFound, repo.ErrAmbiguous, topology.ErrWhich, repo.ErrNotRecipient, repo.ErrLastRecipient, repo.ErrNotEncrypted, restore.ErrOptions, backup.ErrOptions):
		return exitUsage
	case is(ErrDamaged, backup.ErrDamaged):
		return exitDamaged
	case is(repo.ErrNoKey, repo.ErrWrongKey, repo.ErrKeyGone, repo.ErrRecipients):
		return exitKey
	case is(repo.ErrLocked, repo.ErrLockLost):
		return exitLocked
	case is(ErrTarget, repo.ErrExists, repo.ErrIDUsed, restore.ErrNotEmpty, restore.ErrTaken, restore.ErrInstanceExists, restore.ErrLinked, restore.ErrUnfinished, restore.ErrInUse, takeout.ErrTaken, backup.ErrOtherNode, ship.ErrOther, ship.ErrOtherNode, repo.ErrPinned, storage.ErrRetained):
		return exitRefused
	case is(storage.ErrFull) || isDiskFull(err):
		return exitFull
	case is(storage.ErrUnavailable, takeout.ErrUnavailable):
		return exitUnavailable
	case is(storage.ErrDenied, takeout.ErrDenied, backup.ErrPermission, fs.ErrPermission):
		return exitDenied
	case is(ErrProblem, storage.ErrNotExist, repo.ErrGap, repo.ErrCorrupt, repo.ErrSignature, repo.ErrFormat, restore.ErrMismatch, serve.ErrNoShard):
		return exitProblem
	case is(couchfile.ErrCorrupt, couchfile.ErrNoHeader, couchfile.ErrNotDatabase, couchfile.ErrUnsupportedVersion, couchfile.ErrMissing):
		return exitProblem
	case is(ErrMissing, repo.ErrNoRepository, repo.ErrNoBackup, repo.ErrNoMoment, repo.ErrNoCommit, restore.ErrNoInstance, node.ErrNoData, backup.ErrNothing, restore.ErrNoSuchDB, serve.ErrNoDatabase, topology.ErrNoCluster, takeout.ErrNoTarget, takeout.ErrNoIndex, couchfile.ErrNotFound, couchfile.ErrDeleted, fs.ErrNotExist):
		return exitNotFound
	}
	return ExitError
}

// Finish prints err, if there is one, and returns the exit code.
func Finish(ctx context.Context, env *Env, err error) int {
	var sig Interrupted
	if cause := context.Cause(ctx); err != nil && errors.As(cause, &sig) && !errors.As(err, &sig) {
		err = sig
	}
	err = env.outputFault(err)
	e := ExitOf(err)
	if err != nil {
		more := advice[e]
		if e == exitProblem && errors.Is(err, storage.ErrNotExist) {
			more = adviceGone
		}
		text := Mask(OneLine(err.Error()))
		if strings.HasSuffix(text, "?") {
			more = strings.TrimPrefix(more, ".")
		}
		printError(env.Stderr, e, text+more, env.JSON)
	}
	return e.Code
}

// advice is what to do about errors that come from outside, and of which the text
// only says what happened.
var advice = map[exit]string{
	exitFull:        ". Nothing stored is lost: make room there and run the same command again",
	exitUnavailable: ". Nothing stored is lost: run the same command again when it is back",
}

// adviceGone is what to do about an object that is gone from the repository.
const adviceGone = "; the repository is damaged: another one that holds a copy of the backup (`slipcover copy` makes such) may have it, see --repo"

func printError(w io.Writer, e exit, text string, asJSON bool) {
	if !asJSON {
		fmt.Fprintf(w, "slipcover: %s\n", text)
		return
	}
	_ = json.NewEncoder(w).Encode(errorJSON{errorBody{Code: e.name, ExitCode: e.Code, Message: text}})
}

type errorJSON struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Code     string `json:"code"`
	ExitCode int    `json:"exit_code"`
	Message  string `json:"message"`
}

var userinfo = regexp.MustCompile(`(://[^/\s:@]+):[^/\s@]+@`)

// Mask hides passwords in URLs, should an error of a library quote one.
func Mask(text string) string { return userinfo.ReplaceAllString(text, "$1:***@") }

// OneLine makes a message of several lines, as joined errors give, one line.
func OneLine(s string) string {
	var parts []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, ": ")
}

// ExitTable is the help's table.
func ExitTable() string {
	var b strings.Builder
	for _, e := range exits {
		fmt.Fprintf(&b, "  %3d  %-15s %s\n", e.Code, e.name, e.meaning)
	}
	return b.String()
}
