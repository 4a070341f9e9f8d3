package follow

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Status says how a Follower is doing.
type Status struct {
	Watches   int           // folders in which the system tells changes
	Files     int           // wanted files at the last look
	Polling   string        // why folders are also looked at every now and then; empty: all changes are told
	Every     time.Duration // the pause between looks, as it is now
	LastLook  time.Time     // at all folders; when it ended
	Took      time.Duration // how long that took
	Overflows int           // how often events were lost since New, each followed by a look at all
	Missing   []string      // folders of Options.Dirs that aren't there, or where nothing is any more
	Err       error         // why something could not be looked at the last time
}

// Reasons for polling.
const (
	whyLimit = "the system's limit of inotify watches is reached " +
		"(raise fs.inotify.max_user_watches and max_user_instances with sysctl)"
	whyNetwork     = "on a network file system, changes by other machines are not told"
	whyLinked      = "a file is a symbolic link, and what is written behind it is not told"
	whyUnsupported = "changes are not told on this system"
	whyMissing     = "waiting for a folder that is not there, or where nothing is any more"
)

// Status returns how it is now.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Every = f.pace.every(f.opts.Poll, s.Polling != "")
	s.Missing = slices.Clone(s.Missing)
	return s
}

// report puts together the status after a look, and logs what is new in it. Caller
// holds looking.
func (f *Follower) report(ctx context.Context, all bool, end time.Time, took time.Duration, err error) {
	var why, missing []string
	for _, r := range f.roots {
		if r.missing {
			missing = append(missing, r.path)
		}
		if w := f.reason(r); w != "" && !slices.Contains(why, w) {
			why = append(why, w)
		}
	}
	f.mu.Lock()
	old := f.status
	f.status.Polling, f.status.Missing = strings.Join(why, "; "), missing
	f.status.Watches, f.status.Files = 0, 0
	for _, d := range f.folders {
		f.status.Files += len(d.prints)
		if d.watched {
			f.status.Watches++
		}
	}
	if all {
		f.status.LastLook, f.status.Took = end, took
	}
	f.status.Err = err
	now := f.status
	f.mu.Unlock()
	f.logChanges(ctx, old, now)
}

func (f *Follower) logChanges(ctx context.Context, old, now Status) {
	for _, dir := range now.Missing {
		if !slices.Contains(old.Missing, dir) {
			f.log.WarnContext(ctx, "folder is gone, waiting for it", "path", dir)
		}
	}
	for _, dir := range old.Missing {
		if !slices.Contains(now.Missing, dir) {
			f.log.InfoContext(ctx, "folder is there again", "path", dir)
		}
	}
	if now.Polling != old.Polling {
		if now.Polling != "" {
			f.log.WarnContext(ctx, "changes are looked for now and then", "why", now.Polling)
		} else {
			f.log.InfoContext(ctx, "changes are told by the system")
		}
	}
	if now.Err != nil && (old.Err == nil || old.Err.Error() != now.Err.Error()) {
		f.log.WarnContext(ctx, "folders can't be looked at", "err", now.Err)
	}
}
