package server

import (
	"context"
	"errors"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

// FiringID is the id of the backup of a firing.
var FiringID = firingID

// Greet lets one server, and no other, take in a hello.
func Greet(ctx context.Context, s *Server, agent string, h job.Hello) (job.HelloReply, error) {
	return s.greet(ctx, agent, h)
}

// Newest is Server.newest.
func Newest(s *Server, who *access.Caller, instance string) *job.Backup {
	return s.newest(who, instance)
}

// Seal is seal.
var Seal = seal

// Table is table.
type Table = table

// WrapTables puts something around the tables of a server that doesn't run yet.
func WrapTables(s *Server, wrap func(name string, t Table) Table) {
	for name, t := range map[string]*table{"instances": &s.instances.table, "backups": &s.backups.table, "jobs": &s.jobs.table,
		"agents": &s.agents.table, "schedules": &s.schedules.table, "sets": &s.sets.table,
		"restores": &s.restores.table} {
		*t = wrap(name, *t)
	}
}

// Remembered counts what a server remembers of agents and of running jobs.
func Remembered(s *Server) (agents, jobs int) {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	return len(s.live.hellos), len(s.live.progress)
}

// MayBeat and HeartbeatClient are mayBeat and heartbeatClient.
var (
	MayBeat         = mayBeat
	HeartbeatClient = heartbeatClient
)

// Every is specs.every of lines that are kept from one call to the next.
func Every() func(cron, zone string, now time.Time) (time.Duration, error) {
	var p specs
	return p.every
}

// Compared reports whether a server has looked whether its catalog is whole.
func Compared(s *Server) bool {
	s.census.mu.Lock()
	defer s.census.mu.Unlock()
	return s.census.compared
}

// Hear waits until a server that runs knows all that its tables have now, whoever wrote it.
func Hear(ctx context.Context, s *Server) error {
	return errors.Join(hear(ctx, s.instances), hear(ctx, s.backups), hear(ctx, s.jobs), hear(ctx, s.agents), hear(ctx, s.schedules), hear(ctx, s.sets), hear(ctx, s.restores))
}

func hear[T any](ctx context.Context, s *shelf[T]) error {
	const mark = "mark" // which is no document
	rev, err := s.table.Create(ctx, mark, []byte("mark"))
	if err != nil {
		return err
	}
	for told := uint64(0); told < rev && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		s.mu.RLock()
		told = s.told
		s.mu.RUnlock()
	}
	return errors.Join(ctx.Err(), s.table.Delete(ctx, mark, rev))
}

// Take puts documents into the memory of a server that doesn't run, as if its tables had them.
func Take(s *Server, rev uint64, docs ...any) {
	for _, doc := range docs {
		switch x := doc.(type) {
		case *job.Instance:
			s.instances.put(x.ID, x, rev)
		case *job.Schedule:
			s.schedules.put(x.ID, x, rev)
		case *job.Set:
			s.sets.put(x.ID, x, rev)
		case *job.Backup:
			s.backups.put(x.ID, x, rev)
		default:
			panic("no shelf is for it")
		}
	}
}

// Forget lets a server forget what it has worked out of its catalog.
func Forget(s *Server) {
	s.worked.mu.Lock()
	defer s.worked.mu.Unlock()
	s.worked.items, s.worked.goes = nil, nil
}
