package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// process names a process so that no other one ever has the same name: numbers are
// used again, and after a restart of the machine so are times.
type process struct {
	PID   int
	Start string // of the process, in the kernel's unit, since the machine started
	Boot  string // of the machine, and the space of process numbers
}

// processOf names the process that has a number now.
func processOf(pid int) process {
	start, _, _ := processStat(pid)
	return process{PID: pid, Start: start, Boot: boot()}
}

func boot() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, _ := os.Readlink("/proc/self/ns/pid") // containers have numbers of their own
	return string(bytes.TrimSpace(b)) + " " + space
}

// processStat returns when a process was started, and whether it has ended and only
// its parent hasn't asked yet. While other threads of it end it still holds its files
// and ports.
//
// Source: proc_pid_stat(5), fields 3 (state), 20 (threads), 22 (start); field 2 is in
// brackets and may hold some.
func processStat(pid int) (start string, ended bool, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", false, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return "", false, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	return f[19], f[0] == "X" || f[0] == "Z" && f[17] == "1", nil
}

// alive reports whether the process is there. The one of another user than dir's
// owner never is: who may write the file that names it could name any.
func (p process) alive(dir string) (bool, error) {
	if p.Start == "" || p.Boot != boot() {
		return false, nil
	}
	start, ended, err := processStat(p.PID)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if ended || start != p.Start {
		return false, nil
	}
	his, err1 := os.Stat("/proc/" + strconv.Itoa(p.PID))
	own, err2 := os.Stat(dir)
	if err := errors.Join(err1, err2); errors.Is(err1, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return uidOf(his) == uidOf(own), nil
}

func uidOf(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Uid)
	}
	return -1
}
