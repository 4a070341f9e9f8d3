package core

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/pflag"

	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/takeout"
)

// Reading is how far a job is. What a job doesn't know is 0.
type Reading struct {
	Files     int64 `json:"files"`
	FilesDone int64 `json:"files_done"`
	Bytes     int64 `json:"bytes"`
	BytesDone int64 `json:"bytes_done"` // of a backup, when what is new of them is stored
	Stored    int64 `json:"stored_bytes"`
	Docs      int64 `json:"documents,omitempty"` // done, by jobs that go document by document
}

// ProgressFlag adds the flag of commands that show progress; the setting of its name has the value.
func ProgressFlag(f *pflag.FlagSet) {
	f.String("progress", "auto", "how progress is shown on standard error: auto, bar, plain, json or none")
}

// StartProgress shows progress until the returned function is called.
func StartProgress(env *Env, mode, verb string, read func() Reading) (stop func()) {
	if mode == "auto" {
		mode = "plain"
		if env.StderrTerminal {
			mode = "bar"
		}
	}
	var show func(last bool)
	every := 10 * time.Second
	began := time.Now()
	switch mode {
	case "bar":
		show, every = bar(env.Stderr, verb, read), 100*time.Millisecond
	case "plain":
		show = func(last bool) {
			if !last {
				plainLine(env.Stderr, verb, read(), time.Since(began))
			}
		}
	case "json":
		show, every = func(bool) { jsonLine(env.Stderr, verb, read(), time.Since(began)) }, time.Second
	default:
		return func() {}
	}
	return repeat(every, show)
}

// repeat calls show at intervals, and a last time when stop is called.
func repeat(every time.Duration, show func(last bool)) (stop func()) {
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				show(false)
			case <-end:
				show(true)
				return
			}
		}
	})
	var once sync.Once
	return func() {
		once.Do(func() { close(end); done.Wait() })
	}
}

// bar draws a progress bar, and wipes it in the end: what was done is told after it.
func bar(w io.Writer, verb string, read func() Reading) func(last bool) {
	// Without a spinner the bar starts no goroutine, which would race with this one.
	b := progressbar.NewOptions64(-1, progressbar.OptionSetSpinnerChangeInterval(0),
		progressbar.OptionSetWriter(w), progressbar.OptionShowBytes(true), progressbar.OptionShowCount(),
		progressbar.OptionShowTotalBytes(true),
		progressbar.OptionUseIECUnits(true), progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(),
		progressbar.OptionClearOnFinish(), progressbar.OptionUseANSICodes(true), progressbar.OptionSetDescription(verb))
	return func(last bool) {
		r := read()
		if last {
			_ = b.Clear()
			_ = b.Exit()
			return
		}
		text := verb
		if r.Files > 0 {
			text = fmt.Sprintf("%s %d/%d files", verb, r.FilesDone, r.Files)
		}
		if r.Docs > 0 {
			text = fmt.Sprintf("%s %s, %s", verb, Count(int(r.Docs), "document"), Size(r.BytesDone))
		}
		b.Describe(text)
		if r.Bytes > 0 {
			b.ChangeMax64(max(r.Bytes, r.BytesDone+1)) // a bar at its end would finish itself
			_ = b.Set64(r.BytesDone)
		}
	}
}

func plainLine(w io.Writer, verb string, r Reading, since time.Duration) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", verb)
	if r.Files > 0 {
		fmt.Fprintf(&b, "%d of %d files, ", r.FilesDone, r.Files)
	}
	if r.Docs > 0 {
		fmt.Fprintf(&b, "%s, ", Count(int(r.Docs), "document"))
	}
	b.WriteString(Size(r.BytesDone))
	if r.Bytes > 0 || r.Docs == 0 {
		fmt.Fprintf(&b, " of %s", Size(r.Bytes))
	}
	if s := since.Seconds(); s > 0 {
		fmt.Fprintf(&b, ", %s/s", Size(int64(float64(r.BytesDone)/s)))
	}
	if left, ok := timeLeft(r, since); ok && left > 0 { // else what follows has no bytes
		fmt.Fprintf(&b, ", %s left", Took(left.Round(time.Second)))
	}
	fmt.Fprintln(w, b.String())
}

func timeLeft(r Reading, since time.Duration) (time.Duration, bool) {
	if r.BytesDone <= 0 || r.Bytes < r.BytesDone {
		return 0, false
	}
	return time.Duration(float64(since) * float64(r.Bytes-r.BytesDone) / float64(r.BytesDone)), true
}

func jsonLine(w io.Writer, verb string, r Reading, since time.Duration) {
	line := struct {
		Progress string `json:"progress"`
		Reading
		Elapsed float64  `json:"elapsed_seconds"`
		Left    *float64 `json:"left_seconds"`
	}{Progress: verb, Reading: r, Elapsed: Seconds(since)}
	if left, ok := timeLeft(r, since); ok {
		s := Seconds(left)
		line.Left = &s
	}
	_ = json.NewEncoder(w).Encode(line)
}

// TakeoutReading reads how far the documents are that go into a living server.
func TakeoutReading(p *takeout.Progress) func() Reading {
	return func() Reading { return Reading{Docs: p.Docs.Load(), BytesDone: p.Bytes.Load()} }
}

// RestoreReading reads how far a restore is, or a verification.
func RestoreReading(p *restore.Progress) func() Reading {
	return func() Reading {
		return Reading{Files: p.Files.Load(), FilesDone: p.FilesDone.Load(), Bytes: p.Bytes.Load(),
			BytesDone: p.BytesDone.Load()}
	}
}
