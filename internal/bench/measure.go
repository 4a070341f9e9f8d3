package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// job is one thing to measure: a process, or several with pipes between.
type job struct {
	pipe   [][]string
	out    string // file that the last one's output goes to; else it is handed to result
	in     string // folder that gets what is written: what it grows by is what was stored
	result func(out []byte, s *sample) error
}

// sample is what one run took.
type sample struct {
	Wall       float64 `json:"wall_seconds"` // until all is on disk
	Sync       float64 `json:"sync_seconds"` // the part of it after the processes ended
	User       float64 `json:"user_seconds"`
	Sys        float64 `json:"system_seconds"`
	PeakRSS    int64   `json:"peak_rss_bytes"`    // 0: not known
	Read       int64   `json:"read_bytes"`        // by the processes, of any file; -1: not known
	SourceRead int64   `json:"source_read_bytes"` // of the source, as the program tells; -1: it doesn't
	Stored     int64   `json:"stored_bytes"`
	Load       float64 `json:"load_before"` // the machine's load average over a minute; -1: not known
}

func (s sample) cpu() float64 { return s.User + s.Sys }

// runner starts processes, which see nothing of this one's environment but env.
type runner struct {
	env []string
}

// measure runs j and says what it took.
func (r *runner) measure(ctx context.Context, j job) (sample, error) {
	before, err := folderSize(j.in)
	if err != nil {
		return sample{}, err
	}
	syncAll()
	s := sample{SourceRead: -1, Load: loadAverage()}
	start := time.Now()
	out, err := r.pipe(ctx, j, &s)
	if err != nil {
		return s, err
	}
	end := time.Now()
	if err := syncFolder(j.in); err != nil {
		return s, fmt.Errorf("sync %s: %w", j.in, err)
	}
	s.Wall, s.Sync = time.Since(start).Seconds(), time.Since(end).Seconds()
	after, err := folderSize(j.in)
	if err != nil {
		return s, err
	}
	s.Stored = after - before
	if j.result != nil {
		err = j.result(out, &s)
	}
	return s, err
}

// process is one of a job's.
type process struct {
	*exec.Cmd
	stderr bytes.Buffer
}

// pipe runs the processes of j and adds up what they took.
func (r *runner) pipe(ctx context.Context, j job, s *sample) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ours []io.Closer // files that only the processes need
	closeOurs := func() {
		for _, f := range ours {
			_ = f.Close()
		}
		ours = nil
	}
	defer closeOurs()
	var stdout bytes.Buffer
	procs := make([]*process, len(j.pipe))
	for i, args := range j.pipe {
		procs[i] = &process{Cmd: r.command(ctx, args)}
		procs[i].Stderr = &procs[i].stderr
		if i > 0 {
			rd, wr, err := os.Pipe()
			if err != nil {
				return nil, err
			}
			ours = append(ours, rd, wr)
			procs[i-1].Stdout, procs[i].Stdin = wr, rd
		}
	}
	last := procs[len(procs)-1]
	last.Stdout = &stdout
	if j.out != "" {
		f, err := os.Create(j.out)
		if err != nil {
			return nil, err
		}
		ours = append(ours, f)
		last.Stdout = f
	}
	for i, p := range procs {
		if err := p.Start(); err != nil {
			cancel()
			closeOurs()
			for _, started := range procs[:i] {
				_ = started.Wait()
			}
			return nil, err
		}
	}
	closeOurs()
	err := errors.Join(wait(procs, s), ctx.Err())
	return stdout.Bytes(), err
}

func wait(procs []*process, s *sample) error {
	var errs []error
	for _, p := range procs {
		read := waitAndCount(p.Process.Pid)
		if err := p.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w: %s", strings.Join(p.Args, " "), err, lastLines(p.stderr.String())))
			continue
		}
		s.User += p.ProcessState.UserTime().Seconds()
		s.Sys += p.ProcessState.SystemTime().Seconds()
		s.PeakRSS += peakRSS(p.ProcessState)
		if read < 0 || s.Read < 0 {
			s.Read = -1
		} else {
			s.Read += read
		}
	}
	return errors.Join(errs...)
}

// quiet runs a process that isn't measured and returns its output.
func (r *runner) quiet(ctx context.Context, args ...string) ([]byte, error) {
	c := r.command(ctx, args)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, lastLines(stderr.String()))
	}
	return out, nil
}

func (r *runner) command(ctx context.Context, args []string) *exec.Cmd {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env = r.env
	return c
}

// lastLines is the end of what a process said, enough for an error.
func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// folderSize adds up the files below dir; 0 if there is none.
func folderSize(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == dir {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		n += info.Size()
		return nil
	})
	return n, err
}

// warm reads all files below dir, so that they are in the system's cache.
func warm(ctx context.Context, dir string) error {
	return eachFile(ctx, dir, func(path string, buf []byte) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		return err
	})
}

// compare holds every file below want against the one below got.
func compare(ctx context.Context, want, got string) error {
	other := make([]byte, 1<<20)
	return eachFile(ctx, want, func(path string, buf []byte) error {
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		return sameFile(path, filepath.Join(got, rel), buf, other)
	})
}

func sameFile(a, b string, bufA, bufB []byte) error {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return fmt.Errorf("not restored: %w", err)
	}
	defer fb.Close()
	for {
		n, errA := io.ReadFull(fa, bufA)
		m, errB := io.ReadFull(fb, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return fmt.Errorf("%s was restored with other bytes", b)
		}
		if errA != nil || errB != nil {
			return nil // both ended, else the lengths would differ
		}
	}
}

func eachFile(ctx context.Context, dir string, f func(path string, buf []byte) error) error {
	buf := make([]byte, 1<<20)
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		return f(path, buf)
	})
}
