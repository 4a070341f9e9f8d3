package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	maxHookOutput = 16 << 10 // bytes, the last ones
	maxHookLine   = 200
	stoppedHook   = time.Minute // that the hook after a backup may take when the job was stopped
)

// hooks are the command lines around a backup.
type hooks struct {
	o   *Options
	log *slog.Logger
	env []string
}

// before runs the hook before a backup. Without it there is none.
func (h *hooks) before(ctx context.Context) error {
	if h.o.HookBefore == "" {
		return nil
	}
	last, err := h.run(ctx, "before", h.o.HookBefore, h.o.HookTimeout)
	switch {
	case err == nil:
		return nil
	case last != "":
		return fmt.Errorf("no backup was made, since the hook before it failed: %w: %s", err, last)
	}
	return fmt.Errorf("no backup was made, since the hook before it failed: %w", err)
}

// after runs the hook after a backup, whatever came of it, and returns what to note.
func (h *hooks) after(ctx context.Context, err error) []string {
	if h.o.HookAfter == "" {
		return nil
	}
	outcome, limit := "completed", h.o.HookTimeout
	switch {
	case err != nil && ctx.Err() != nil:
		outcome, limit = "stopped", min(limit, stoppedHook)
	case err != nil:
		outcome = "failed"
	}
	last, herr := h.run(context.WithoutCancel(ctx), "after", h.o.HookAfter, limit, "SLIPCOVER_OUTCOME="+outcome)
	if herr == nil {
		return nil
	}
	h.log.WarnContext(ctx, "the hook after the backup failed", "err", herr, "said", last)
	return []string{strings.TrimSuffix(fmt.Sprintf("the hook after the backup failed: %v: %s", herr, last), ": ")}
}

// run runs a command line. It returns the last line that it printed.
func (h *hooks) run(ctx context.Context, when, line string, limit time.Duration, env ...string) (last string, err error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out := &tail{max: maxHookOutput}
	cmd := shell(limited, line)
	cmd.Env = slices.Concat(os.Environ(), h.env, env)
	cmd.Stdout, cmd.Stderr = out, out
	began := time.Now()
	err = runShell(cmd)
	last = out.lastLine()
	h.log.DebugContext(ctx, "hook ended", "when", when, "took", time.Since(began), "err", err, "output", out.String())
	var exit *exec.ExitError
	switch {
	case err == nil:
		return last, nil
	case ctx.Err() != nil:
		return last, context.Cause(ctx)
	case limited.Err() != nil:
		return last, fmt.Errorf("it took longer than %s and was ended", limit)
	case errors.As(err, &exit):
		return last, errors.New(exit.String()) // "exit status 3"
	}
	return last, err
}

// shell is a command line as sh runs it. When ctx ends it is killed with all that it
// started.
func shell(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	ownGroup(cmd)
	cmd.Cancel = func() error { return killGroup(cmd) }
	cmd.WaitDelay = 2 * time.Second // for output that something left behind holds open
	return cmd
}

// runShell runs it. What it started and left behind is no failure.
func runShell(cmd *exec.Cmd) error {
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // it has ended, with 0
		return nil
	}
	return err
}

// tail keeps the last max bytes that are written to it.
type tail struct {
	bytes.Buffer
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	n, err := t.Buffer.Write(p)
	if over := t.Len() - t.max; over > 0 {
		t.Next(over)
	}
	return n, err
}

// lastLine returns the last line that isn't empty, shortened.
func (t *tail) lastLine() string {
	lines := strings.Split(strings.TrimSpace(t.String()), "\n")
	return clip(oneLine(lines[len(lines)-1]), maxHookLine)
}
