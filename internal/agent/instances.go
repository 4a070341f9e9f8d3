package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
)

// instance is a CouchDB that this agent made, or is making.
type instance struct {
	ID  string `json:"id"`
	Dir string `json:"dir"`
	URL string `json:"url,omitempty"` // known once it was made
	// Run says that it is to run: it was made, and not stopped for its removal.
	Run bool `json:"run"`
	// At is when the state was that it was made of, if that was a moment's.
	At time.Time `json:"at,omitzero"`
}

// locate returns where its files are.
func (i instance) locate(ctx context.Context) (*node.Node, error) {
	return node.Locate(ctx, node.Options{DataDir: filepath.Join(i.Dir, "data"), ConfigDir: filepath.Join(i.Dir, "etc"), Getenv: func(string) string { return "" }})
}

// instancesFormat is the version of instances.json.
const instancesFormat = 1

type instancesFile struct {
	Format    int        `json:"format"`
	Instances []instance `json:"instances"`
}

// instances is the file of those that the agent made. One is in it before anything of
// it is on the disk, until all of it is gone.
type instances struct {
	path string
	mu   sync.Mutex
	all  []instance // as in the file; guarded by mu
}

func loadInstances(path string) (*instances, error) {
	s := &instances{path: path}
	var f instancesFile
	_, err := durable.ReadJSON(path, &f)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("without this file, or its copy, the agent does not know which instances are its own: %w", err)
	}
	if f.Format != instancesFormat {
		return nil, fmt.Errorf("%s is of version %d, and this program knows version %d: use a newer one", path, f.Format, instancesFormat)
	}
	s.all = f.Instances
	return s, nil
}

func (s *instances) list() []instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func (s *instances) get(id string) (instance, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.index(id); k >= 0 {
		return s.all[k], true
	}
	return instance{}, false
}

func (s *instances) index(id string) int {
	return slices.IndexFunc(s.all, func(i instance) bool { return i.ID == id })
}

// put stores an instance in place of the one with its id.
func (s *instances) put(i instance) error {
	return s.change(func(all []instance) []instance {
		if k := s.index(i.ID); k >= 0 {
			all[k] = i
			return all
		}
		return append(all, i)
	})
}

func (s *instances) remove(id string) error {
	return s.change(func(all []instance) []instance {
		return slices.DeleteFunc(all, func(i instance) bool { return i.ID == id })
	})
}

// change stores what f makes of a copy of the list.
func (s *instances) change(f func([]instance) []instance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := f(slices.Clone(s.all))
	if err := durable.WriteJSON(s.path, 0o600, instancesFile{instancesFormat, all}); err != nil {
		return fmt.Errorf("store which instances the agent made: %w", err)
	}
	s.all = all
	return nil
}

// errNoInstance says that the agent doesn't have an instance.
var errNoInstance = errors.New("this agent does not have the instance")

// nodeOf returns the CouchDB of an instance: one that the agent made, or the node that
// was there before, if a server says now that it is that instance.
func (a *agent) nodeOf(ctx context.Context, id string) (*node.Node, error) {
	if i, ok := a.made.get(id); ok {
		return i.locate(ctx)
	}
	if err := a.isOwn(ctx, id); err != nil {
		return nil, err
	}
	return a.o.Locate(ctx)
}

// isOwn returns nil if the instance is the node that was there before. What the last
// hello was answered may be older than the instance.
func (a *agent) isOwn(ctx context.Context, id string) error {
	if id != "" && a.lastReply().Node == id {
		return nil
	}
	if err := a.hello(ctx); err != nil {
		return fmt.Errorf("ask which instance the node is: %w", err)
	}
	if id == "" || a.lastReply().Node != id {
		return fmt.Errorf("%w %q", errNoInstance, id)
	}
	return nil
}

// startInstances starts those that ran when the agent ended, or the machine did.
func (a *agent) startInstances(ctx context.Context) {
	for _, i := range a.made.list() {
		if i.Run && ctx.Err() == nil {
			a.startInstance(ctx, i.ID)
		}
	}
}

func (a *agent) startInstance(ctx context.Context, id string) {
	free, err := a.holds.take(ctx, []need{instanceNeed(id)})
	if err != nil {
		return
	}
	defer free()
	i, ok := a.made.get(id)
	if !ok || !i.Run { // by now
		return
	}
	if _, err := restore.Start(ctx, i.Dir, restore.StartOptions{CouchDBBin: a.o.CouchDBBin}); err != nil && ctx.Err() == nil {
		a.log.ErrorContext(ctx, "an instance can't be started", "instance", id, "err", err)
		return
	}
	a.log.InfoContext(ctx, "instance runs", "instance", id, "url", i.URL)
}

// strangers says in the log which instances the servers don't know (any more). They
// stay: what removes one is a job.
func (a *agent) strangers(ctx context.Context, known []string) {
	for _, i := range a.made.list() {
		a.mu.Lock()
		stranger := !slices.Contains(known, i.ID)
		tell := stranger && !a.strange[i.ID]
		a.strange[i.ID] = stranger
		a.mu.Unlock()
		if tell {
			a.log.WarnContext(ctx, "the servers do not know an instance that this agent made; it stays", "instance", i.ID, "dir", i.Dir)
		}
	}
}

// answer answers what a server asks.
func (a *agent) answer(ctx context.Context, data []byte) ([]byte, error) {
	var q job.Question
	if err := json.Unmarshal(data, &q); err != nil {
		return nil, fmt.Errorf("the question: %w", err)
	}
	var answer job.Answer
	n, err := a.nodeOf(ctx, q.Databases)
	if err == nil {
		answer.Databases, err = restore.Databases(ctx, n.DataDir)
	}
	if err != nil {
		answer.Fault = faultOf(err)
	}
	return json.Marshal(answer)
}
