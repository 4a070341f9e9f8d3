package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
)

// Locks are objects locks/<instance>/<number>.json; the highest number counts. To
// take the lock a process puts, only if absent, the number above one that is
// released or stale: of several that try, one wins. Lower numbers are leftovers
// and removed. A holder that sees a number above its own has lost the lock.

const (
	// lockLease is how long a lock counts after its last renewal.
	lockLease = 5 * time.Minute
	// lockRenew is how often a holder renews it.
	lockRenew = 1 * time.Minute
)

// LockInfo is the content of a lock object.
type LockInfo struct {
	Host     string    `json:"host"`
	Boot     string    `json:"boot"` // names this start of the host, and the space of process numbers; empty if unknown
	PID      int       `json:"pid"`
	Start    string    `json:"start"` // start of the process in the host's own unit; empty if unknown
	Token    string    `json:"token"` // tells locks of one process apart
	Purpose  string    `json:"purpose"`
	Since    time.Time `json:"since"`
	Renewed  time.Time `json:"renewed"`
	Released bool      `json:"released"`
}

// held has the tokens of this process's locks. One that names this process and
// isn't here was given up when the storage could not be reached.
var held sync.Map

// Lock is the right to write and delete in an instance's part of the repository.
type Lock struct {
	repo     *Repo
	instance string
	n        int
	info     LockInfo
	stop     chan struct{}
	done     sync.WaitGroup

	mu   sync.Mutex
	lost error // guarded by mu; why the lock can't be relied on any more
}

// Lock takes the lock of an instance, for the purpose that others will be told.
// While another process holds it the error is ErrLocked and says who. A lock whose
// process is known to be dead, or which wasn't renewed for 5 minutes, is taken over.
func (r *Repo) Lock(ctx context.Context, instance, purpose string) (*Lock, error) {
	n, err := r.nextLock(ctx, instance)
	if err != nil {
		return nil, err
	}
	l := &Lock{repo: r, instance: instance, n: n, stop: make(chan struct{}), info: self(purpose)}
	held.Store(l.info.Token, true)
	err = l.put(ctx, storage.PutOptions{IfAbsent: true})
	if err == nil {
		err = l.Check(ctx)
	}
	if err != nil {
		held.Delete(l.info.Token)
		if errors.Is(err, storage.ErrExist) {
			return nil, fmt.Errorf("%w: another process took it just now", ErrLocked)
		}
		return nil, fmt.Errorf("lock instance %s: %w", instance, err)
	}
	l.done.Go(l.renew)
	return l, nil
}

// nextLock returns the number to take, and removes leftovers.
func (r *Repo) nextLock(ctx context.Context, instance string) (int, error) {
	numbers, err := r.lockNumbers(ctx, instance)
	if err != nil || len(numbers) == 0 {
		return 1, err
	}
	top := numbers[len(numbers)-1]
	info, err := r.readLock(ctx, instance, top)
	if err != nil {
		return 0, err
	}
	if holder := info.holder(); holder != "" {
		return 0, fmt.Errorf("%w: %s; wait for it to end", ErrLocked, holder)
	}
	for _, n := range numbers[:len(numbers)-1] {
		if err := r.store.Delete(ctx, lockKey(instance, n)); err != nil {
			return 0, err
		}
	}
	return top + 1, nil
}

func (r *Repo) readLock(ctx context.Context, instance string, n int) (LockInfo, error) {
	var info LockInfo
	b, err := readSmall(ctx, r.store, lockKey(instance, n))
	if err != nil {
		return info, err
	}
	// A lock that doesn't parse is one that nobody can hold.
	_ = json.Unmarshal(b, &info)
	return info, nil
}

func (r *Repo) lockNumbers(ctx context.Context, instance string) ([]int, error) {
	var out []int
	prefix := "locks/" + instance + "/"
	err := r.store.List(ctx, prefix, func(i storage.Info) error {
		name := strings.TrimSuffix(strings.TrimPrefix(string(i.Key), prefix), ".json")
		if n, err := strconv.Atoi(name); err == nil && n > 0 {
			out = append(out, n)
		}
		return nil
	})
	return out, err
}

func lockKey(instance string, n int) storage.Key {
	return storage.Key(fmt.Sprintf("locks/%s/%010d.json", instance, n))
}

// holder says who holds the lock, or "" if nobody does any more.
func (i LockInfo) holder() string {
	me := self("")
	if i.Released || i.PID == 0 {
		return ""
	}
	// Only of a process that could be seen here it is known that it isn't there. A
	// host of the same name that started another time may be another host.
	if i.Boot != "" && i.Host == me.Host && i.Boot == me.Boot {
		if _, ok := held.Load(i.Token); !alive(i.PID, i.Start) || i.PID == me.PID && !ok {
			return ""
		}
	} else if time.Since(i.Renewed) > lockLease {
		return ""
	}
	return fmt.Sprintf("a %s runs on %s, process %d, since %s", i.Purpose, i.Host, i.PID, i.Since.Format(time.RFC3339))
}

// self describes this process.
func self(purpose string) LockInfo {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	now := time.Now().UTC().Truncate(time.Second)
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, _ := os.Readlink("/proc/self/ns/pid") // containers of one host have numbers of their own
	return LockInfo{Host: host, Boot: strings.Join(append(strings.Fields(string(boot)), strings.Fields(space)...), " "), PID: os.Getpid(), Start: startOf(os.Getpid()), Token: rand.Text(), Purpose: purpose, Since: now, Renewed: now}
}

// startOf returns field 22 of /proc/<pid>/stat, which tells processes apart that
// had the same number; "" where there is no such file.
func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	if f := strings.Fields(rest); len(f) > 19 {
		return f[19]
	}
	return ""
}

// alive is asked only for processes of this start of this host, where /proc is.
func alive(pid int, start string) bool { return start != "" && startOf(pid) == start }

func (l *Lock) put(ctx context.Context, opts storage.PutOptions) error {
	b, err := json.Marshal(l.info)
	if err != nil {
		return err
	}
	return l.repo.store.Put(ctx, lockKey(l.instance, l.n), bytes.NewReader(append(b, '\n')), opts)
}

// Check returns ErrLockLost if another process has taken the lock over.
func (l *Lock) Check(ctx context.Context) error {
	l.mu.Lock()
	lost := l.lost
	l.mu.Unlock()
	if lost != nil {
		return lost
	}
	numbers, err := l.repo.lockNumbers(ctx, l.instance)
	if err != nil {
		return fmt.Errorf("check the lock: %w", err)
	}
	if len(numbers) > 0 && numbers[len(numbers)-1] > l.n {
		return fmt.Errorf("instance %s: %w", l.instance, ErrLockLost)
	}
	return nil
}

// renew says every minute that the holder lives. A holder that couldn't say so
// for the length of the lease must count the lock as lost.
func (l *Lock) renew() {
	t := time.NewTicker(lockRenew)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-l.stop:
			return
		case <-t.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), lockRenew)
		l.info.Renewed = time.Now().UTC().Truncate(time.Second)
		err := l.Check(ctx)
		if err == nil {
			err = l.put(ctx, storage.PutOptions{})
		}
		cancel()
		switch {
		case err == nil:
			last = time.Now()
		case errors.Is(err, ErrLockLost) || time.Since(last) > lockLease-lockRenew:
			l.mu.Lock()
			l.lost = fmt.Errorf("%w: %w", ErrLockLost, err)
			l.mu.Unlock()
			return
		}
	}
}

// Release gives the lock back. A lock that can't be released, because the storage
// is gone, is free when its lease ends or its process does.
func (l *Lock) Release(ctx context.Context) error {
	close(l.stop)
	l.done.Wait()
	held.Delete(l.info.Token)
	if err := l.Check(ctx); err != nil {
		return err
	}
	l.info.Released = true
	if err := l.put(ctx, storage.PutOptions{}); err != nil {
		return fmt.Errorf("release the lock of %s: %w", l.instance, err)
	}
	return nil
}
