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
	"sync/atomic"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/storage"
)

// Locks are objects locks/<instance>/<number>.json; the highest number counts. To
// take the lock a process puts, only if absent, the number above one that is
// released or whose holder is dead: of several that try, one wins. A holder that
// sees the number above its own has lost the lock.
//
// A lock says when somebody may begin, and no more: a holder that is cut off,
// asleep or has a wrong clock may think it has the lock when another process has
// it. What keeps data safe is that each taker first settles what holders before it
// did not end (see settle): their backup can't be committed any more, and what they
// planned to delete is deleted. That needs no clock, and no listing that is up to
// date: it reads, and puts if absent, objects whose keys it knows.

const (
	// lockLease is how long a holder is left alone that shows no sign of life.
	lockLease = 5 * time.Minute
	// lockForgotten is for how long a holder that the process table shows is believed
	// without a sign of life: a stopped process, or one that hangs, is in that table too.
	lockForgotten = 12 * lockLease
	// lockRenew is how often a holder renews its lock. One that could not for
	// lockLease-lockRenew by its own watch gives up.
	lockRenew = 1 * time.Minute
	// lockRelease is how long End tries.
	lockRelease = 5 * time.Second
	// lockPoll is how often a lock is looked at while it is found out whether its
	// holder is alive.
	lockPoll = 15 * time.Second
	// keptLocks is how many of the newest locks of an instance stay stored. Their
	// keys have no holes, so the highest is found without relying on a listing, and
	// they name the newest backups.
	keptLocks = 100
)

// LockInfo is the content of a lock object.
type LockInfo struct {
	Host    string `json:"host"`
	Boot    string `json:"boot"` // names this start of the host, and the space of process numbers; empty if unknown
	PID     int    `json:"pid"`
	Start   string `json:"start"` // start of the process in the host's own unit; empty if unknown
	Token   string `json:"token"` // tells locks of one process apart
	Purpose string `json:"purpose"`
	// Backup is the id of the backup that the holder makes, if it makes one.
	Backup manifest.BackupID `json:"backup,omitempty"`
	// Order is the highest of the instance's backups that the holder knows of; 0 if it
	// knows none. See order.go.
	Order    int64     `json:"order,omitempty"`
	Since    time.Time `json:"since"`
	Renewed  time.Time `json:"renewed"`
	Released bool      `json:"released"`
	// Settled says that the holder has settled all locks below its own.
	Settled bool `json:"settled"`
	// Ended says of a released lock with a Backup whether that was made: endedMade or
	// endedFailed; "" by earlier versions.
	Ended string `json:"ended,omitempty"`
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
	made     atomic.Bool // the record of info.Backup is stored

	mu    sync.Mutex
	lost  error // guarded by mu; why the lock can't be relied on any more
	order int64 // guarded by mu; what LockInfo.Order is to be
}

// Lock takes the lock of an instance, for the purpose that others will be told, and
// to make the backup of that id if there is one. While another process holds it the
// error is ErrLocked and says who. Of a holder on this machine it is known whether
// it lives; one elsewhere that wasn't renewed for 5 minutes, by the clocks, is
// watched for as long, and if it still wasn't, taken over: only a lock that nobody
// holds is worth the wait.
func (r *Repo) Lock(ctx context.Context, instance, purpose string, backup manifest.BackupID) (*Lock, error) {
	top, err := r.topLock(ctx, instance)
	if err != nil {
		return nil, fmt.Errorf("lock instance %s: %w", instance, err)
	}
	last, err := r.waitLock(ctx, instance, top)
	if err != nil {
		return nil, err
	}
	return r.takeLock(ctx, instance, top, last, purpose, backup)
}

// takeLock takes the lock above number top, whose content is last.
func (r *Repo) takeLock(ctx context.Context, instance string, top int, last LockInfo, purpose string, backup manifest.BackupID) (*Lock, error) {
	order, err := r.knownOrder(ctx, instance, top, last, backup)
	if err != nil {
		return nil, fmt.Errorf("lock instance %s: %w", instance, err)
	}
	l := &Lock{repo: r, instance: instance, n: top + 1, stop: make(chan struct{}), info: r.self(purpose), order: order}
	l.info.Backup = backup
	l.info.Settled = last.Released && last.Settled
	held.Store(l.info.Token, true)
	if err := l.take(ctx, last); err != nil {
		held.Delete(l.info.Token)
		if errors.Is(err, storage.ErrExist) {
			return nil, fmt.Errorf("%w: another process took it just now", ErrLocked)
		}
		return nil, fmt.Errorf("lock instance %s: %w", instance, err)
	}
	l.done.Go(l.renew)
	return l, nil
}

// take puts the lock and settles what those below it did not end.
func (l *Lock) take(ctx context.Context, last LockInfo) error {
	if err := l.put(ctx, storage.PutOptions{IfAbsent: true}); err != nil {
		return err
	}
	// Some storages let two puts pass; the one that is read back has won.
	got, err := l.repo.readLock(ctx, l.instance, l.n)
	if err != nil {
		return err
	}
	if got.Token != l.info.Token {
		return storage.ErrExist
	}
	if !l.info.Settled {
		if err := l.settleAll(ctx, last); err != nil {
			return err
		}
		l.info.Settled = true
		if err := l.put(ctx, storage.PutOptions{}); err != nil {
			return err
		}
	}
	// Old ones, two at a time, so that a heap of them doesn't stop anybody.
	for n := l.n - keptLocks; n > 0 && n > l.n-keptLocks-2; n-- {
		if err := storage.DeleteAll(ctx, l.repo.store, []storage.Key{lockKey(l.instance, n), planKey(l.instance, n)}); err != nil {
			return err
		}
	}
	return l.Check(ctx)
}

// settleAll settles the locks below l, down to the first whose holder had done so.
func (l *Lock) settleAll(ctx context.Context, info LockInfo) error {
	for n := l.n - 1; n > 0; n-- {
		if n < l.n-1 {
			var err error
			if info, err = l.repo.readLock(ctx, l.instance, n); errors.Is(err, storage.ErrNotExist) {
				return nil // removed with all below it
			} else if err != nil {
				return err
			}
		}
		if !info.Released {
			done, err := l.settle(ctx, n, info)
			if err != nil {
				return fmt.Errorf("settle what lock %d left: %w", n, err)
			}
			if done {
				return nil
			}
		}
		if info.Settled {
			return nil
		}
	}
	return nil
}

// settle makes sure that nothing more comes of the holder of lock n, whether it is
// dead or only believes to hold it. An empty object in place of its record makes
// its commit fail; if there is a record, the backup counts. An empty object in
// place of its plan makes its deletion fail; if there is a plan, it is carried out.
// done says that there was a record or a plan: then the holder had itself settled
// all locks below, whatever its lock says.
func (l *Lock) settle(ctx context.Context, n int, info LockInfo) (done bool, err error) {
	absent := storage.PutOptions{IfAbsent: true}
	if info.Backup.Valid() {
		err := l.repo.store.Put(ctx, backupKey(l.instance, info.Backup, recordName), bytes.NewReader(nil), absent)
		if !errors.Is(err, storage.ErrExist) {
			return false, err
		}
		rec, err := l.repo.Record(ctx, l.instance, info.Backup)
		if errors.Is(err, ErrNoBackup) { // given up before
			return false, nil
		}
		if err == nil { // its lock may not tell its order yet
			l.knows(rec)
		}
		return true, nil
	}
	err = l.repo.store.Put(ctx, planKey(l.instance, n), bytes.NewReader(nil), absent)
	if !errors.Is(err, storage.ErrExist) {
		return false, err
	}
	p, err := l.repo.readPlan(ctx, l.instance, n)
	if err != nil || p == nil {
		return false, err
	}
	_, err = l.repo.carryOut(ctx, l.instance, p)
	return true, err
}

// topLock returns the number of the newest lock, 0 if there was none yet. The
// listing may be late, so it goes on from there key by key.
func (r *Repo) topLock(ctx context.Context, instance string) (int, error) {
	numbers, err := r.lockNumbers(ctx, instance)
	if err != nil {
		return 0, err
	}
	top := 0
	if len(numbers) > 0 {
		top = numbers[len(numbers)-1]
	}
	for {
		_, err := r.store.Stat(ctx, lockKey(instance, top+1))
		if errors.Is(err, storage.ErrNotExist) {
			return top, nil
		}
		if err != nil {
			return 0, err
		}
		top++
	}
}

// waitLock returns lock n once nobody holds it, or ErrLocked.
func (r *Repo) waitLock(ctx context.Context, instance string, n int) (LockInfo, error) {
	if n == 0 {
		return LockInfo{Released: true, Settled: true}, nil
	}
	info, err := r.readLock(ctx, instance, n)
	if errors.Is(err, storage.ErrNotExist) {
		return info, fmt.Errorf("%w: its locks change too fast to be read; try again", ErrLocked)
	}
	if err != nil {
		return info, err
	}
	state := r.holder(info)
	if state == free {
		return info, nil
	}
	locked := info.locked()
	if state == busy {
		return info, locked
	}
	if r.opts.Notify != nil {
		r.opts.Notify(fmt.Sprintf("a %s on %s, process %d, holds the lock of %s and was last seen at %s: waiting up to %v to see whether it lives",
			info.Purpose, info.Host, info.PID, instance, info.Renewed.Format(time.RFC3339), lockLease))
	}
	return r.watchLock(ctx, instance, n, info, locked)
}

// locked is the error that says who holds the lock.
func (i *LockInfo) locked() error {
	return fmt.Errorf("%w: a %s runs on %s, process %d, since %s; wait for it to end (`slipcover lock list` shows locks, `slipcover lock free` ends one)",
		ErrLocked, i.Purpose, i.Host, i.PID, i.Since.Format(time.RFC3339))
}

// watchLock returns lock n if it stays as it is for the length of the lease by the
// watch of this process, and locked if it changes.
func (r *Repo) watchLock(ctx context.Context, instance string, n int, info LockInfo, locked error) (LockInfo, error) {
	t := time.NewTicker(lockPoll)
	defer t.Stop()
	for end := time.Now().Add(lockLease); time.Now().Before(end); {
		select {
		case <-t.C:
		case <-ctx.Done():
			return info, ctx.Err()
		}
		now, err := r.readLock(ctx, instance, n)
		if err != nil {
			return info, err
		}
		if now.Released {
			return now, nil
		}
		if !now.Renewed.Equal(info.Renewed) || now.Token != info.Token {
			return info, fmt.Errorf("%w (it was just renewed with the time %s: its clock or the one here is wrong)", locked, now.Renewed.Format(time.RFC3339))
		}
	}
	return info, nil
}

func (r *Repo) readLock(ctx context.Context, instance string, n int) (LockInfo, error) {
	var info LockInfo
	b, err := readObject(ctx, r.store, lockKey(instance, n), maxMark)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return info, err
	}
	// A lock that doesn't parse is one that nobody can hold; what it was to make is
	// not known, so it is not settled by a guess.
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

// presence is what is known of a lock's holder.
type presence int

const (
	free   presence = iota // nobody holds it
	busy                   // somebody does
	silent                 // somebody did, and showed no sign of life for long
)

// holder tells whether anybody holds a lock. Clocks decide no more than whether the
// answer is busy or silent.
func (r *Repo) holder(i LockInfo) presence {
	me := r.self("")
	if i.Released || i.PID == 0 {
		return free
	}
	patience := lockLease
	// Only of a process that could be seen here it is known that it isn't there. A
	// host of the same name that started another time may be another host.
	if i.Boot != "" && i.Host == me.Host && i.Boot == me.Boot {
		if _, ok := held.Load(i.Token); !alive(i.PID, i.Start) || i.PID == me.PID && !ok {
			return free
		}
		patience = lockForgotten
	}
	if r.now().Sub(i.Renewed).Abs() > patience {
		return silent
	}
	return busy
}

// now is the clock that other hosts see the times of.
func (r *Repo) now() time.Time {
	if r.opts.Now != nil {
		return r.opts.Now()
	}
	return time.Now()
}

// self describes this process.
func (r *Repo) self(purpose string) LockInfo {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	now := r.now().UTC().Truncate(time.Second)
	if r.opts.Host != "" {
		return LockInfo{Host: r.opts.Host, Boot: r.opts.Host, PID: 1, Token: rand.Text(), Purpose: purpose, Since: now, Renewed: now}
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, _ := os.Readlink("/proc/self/ns/pid") // containers of one host have numbers of their own
	return LockInfo{Host: host, Boot: strings.Join(append(strings.Fields(string(boot)), strings.Fields(space)...), " "), PID: os.Getpid(), Start: startOf(os.Getpid()), Token: rand.Text(), Purpose: purpose, Since: now, Renewed: now}
}

// startOf returns field 22 of /proc/<pid>/stat, which tells processes apart that
// had the same number; "" where there is no such file, and for a process that has
// ended and whose parent hasn't asked for its exit code, which in a container without
// an init may stay for ever.
//
// Source: proc_pid_stat(5).
func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return startIn(string(b))
}

// startIn is startOf of the content of the file.
func startIn(stat string) string {
	// The name before it, in parentheses, may hold anything.
	i := strings.LastIndex(stat, ") ")
	if i < 0 {
		return ""
	}
	f := strings.Fields(stat[i+2:])
	if len(f) < 20 || strings.Contains("ZXx", f[0]) {
		return ""
	}
	return f[19]
}

// alive is asked only for processes of this start of this host, where /proc is.
func alive(pid int, start string) bool { return start != "" && startOf(pid) == start }

func (l *Lock) put(ctx context.Context, opts storage.PutOptions) error {
	info := l.info
	info.Order = l.knows(nil)
	b, err := json.Marshal(info)
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
	_, err := l.repo.store.Stat(ctx, lockKey(l.instance, l.n+1))
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("check the lock: %w", err)
	}
	return fmt.Errorf("instance %s: %w", l.instance, ErrLockLost)
}

// StorageTime returns when the lock was last written by the clock of the storage,
// which should be about now.
func (l *Lock) StorageTime(ctx context.Context) (time.Time, error) {
	info, err := l.repo.store.Stat(ctx, lockKey(l.instance, l.n))
	return info.Modified, err
}

// renew says every minute that the holder lives. A holder that couldn't say so
// for long must count the lock as lost.
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
		l.info.Renewed = l.repo.now().UTC().Truncate(time.Second)
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

// End is Release at the end of work whose ctx may have been cancelled: it is tried
// all the same, for a few seconds.
func (l *Lock) End(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockRelease)
	defer cancel()
	return l.Release(ctx)
}

// Release gives the lock back. A lock that can't be released, because the storage
// is gone, is free when its process ends or shows no sign of life.
func (l *Lock) Release(ctx context.Context) error {
	close(l.stop)
	l.done.Wait()
	held.Delete(l.info.Token)
	if err := l.Check(ctx); err != nil {
		return err
	}
	l.info.Released = true
	if l.info.Backup != "" {
		if l.info.Ended = endedFailed; l.made.Load() {
			l.info.Ended = endedMade
		}
	}
	if err := l.put(ctx, storage.PutOptions{}); err != nil {
		return fmt.Errorf("release the lock of %s: %w", l.instance, err)
	}
	return nil
}
