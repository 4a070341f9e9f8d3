package server

import (
	"context"
	"strings"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

// NewDocuments says which documents are to be put back into an instance's CouchDB.
type NewDocuments struct {
	job.Documents
	// FromBackup and UntilBackup are ids of backups in the catalog, in place of times in From and Until.
	FromBackup, UntilBackup string
	// User and Password are whom CouchDB is to know; without them its agent's settings say so. They go to the agent,
	// sealed, and are gone when the job has ended.
	User, Password string
}

// Accepts says whether the node's settings let a server have clusters and databases restored onto it, and documents put back into
// its CouchDB; nil is of an agent that doesn't say.
func (a AgentInfo) Accepts() (restores, writes *bool) {
	if a.Hello.Restores != nil || a.Hello.Writes { // else it may be of a version that knows neither
		writes = &a.Hello.Writes
	}
	return a.Hello.Restores, writes
}

// RefusesRestores says why a server can have nothing restored onto an agent's node, or nothing in the place of what is there, as
// the rest of a sentence about the agent; "" if it can, as far as the agent said last. It is for those who choose: in the end the
// node itself is asked, since an agent that was started anew just now may not have said so yet.
func (a AgentInfo) RefusesRestores(replace bool) string {
	h := &a.Hello
	const then = " in its slipcover.yml and start the agent again"
	switch {
	case h.Restores == nil: // of a version that doesn't say
		return ""
	case !*h.Restores && replace && !h.Writes:
		return "lets no server restore onto its node: set accept_restores: true and accept_writes: true" + then
	case !*h.Restores:
		return "lets no server restore onto its node: set accept_restores: true" + then
	case replace && !h.Writes:
		return "lets no server exchange what is on its node: set accept_writes: true" + then
	}
	return ""
}

// Writes says whether documents can be put back into an instance's CouchDB by its agent, and else why not, in a sentence.
// as reports whether that has a user for it.
func (s *Server) Writes(i *job.Instance) (as bool, why string) {
	a := s.agents.have(i.Agent)
	if a == nil {
		return false, "Its agent was removed."
	}
	hello, online := s.hello(a)
	switch {
	case i.Made:
		return false, "Slipcover made this instance, and puts documents back only into a node that was there before its agent. Use slipcover restore-doc with its URL."
	case !online:
		return false, "Its agent, " + a.Name + ", is not online."
	case !hello.Writes:
		return false, "Its agent, " + a.Name + ", lets no server write: the setting accept_writes: true on that node would allow it. slipcover restore-doc does the same by hand."
	case !hello.CanRead:
		return false, "Its agent, " + a.Name + ", has no key that reads: give it the setting identity_file. slipcover restore-doc does the same where the key is."
	}
	return hello.WritesAs, ""
}

// RestoreDocuments begins to put documents back, or to find out what that would do, and returns the id of its job.
func (s *Server) RestoreDocuments(ctx context.Context, who *access.Caller, instance string, n NewDocuments) (string, error) {
	ctx = whole(ctx)
	i, err := s.Instance(ctx, who, instance)
	if err != nil {
		return "", err
	}
	d := n.Documents
	switch {
	case d.DB == "" || len(d.DB) > maxName || len(d.Target) > maxName || len(d.Doc) > maxDocID || len(d.Rev) > maxName:
		return "", refuse(Invalid, "Name a database and a document of it.")
	case (d.Doc == "") == (d.Until == nil && n.UntilBackup == ""):
		return "", refuse(Invalid, "Name one document, or until when those are meant that were deleted, and not both.")
	case strings.HasPrefix(d.Doc, "_local/"):
		return "", refuse(Invalid, "Local documents belong to one server, as checkpoints do, and are not put back.")
	case d.Doc == "" && (d.Rev != "" || d.On != nil):
		return "", refuse(Invalid, "rev and on are of one document.")
	}
	as, why := s.Writes(i)
	switch {
	case why != "":
		return "", refuse(Conflict, "Nothing can be written into %s. %s", i.Name, why)
	case !as && n.User == "":
		return "", refuse(Invalid, "Its agent has no user of CouchDB to write as: name one with user and password.")
	}
	from, err := s.stateRef(ctx, who, i, n.FromBackup, &d.From)
	if err != nil {
		return "", err
	}
	if n.UntilBackup != "" && d.Until == nil {
		d.Until = &job.StateRef{}
	}
	if d.Until != nil {
		until, err := s.stateRef(ctx, who, i, n.UntilBackup, d.Until)
		if err != nil {
			return "", err
		}
		if until.Repository.URL != from.Repository.URL {
			return "", refuse(Conflict, "The two states are in different repositories.")
		}
	}
	secrets := job.Secrets{CouchUser: n.User, CouchPassword: n.Password}
	if err := s.reach(ctx, who, &from.Repository, &secrets); err != nil {
		return "", err
	}
	agent, err := s.agents.get(ctx, i.Agent)
	if err != nil {
		return "", err
	}
	j := &job.Job{ID: newID(), Kind: job.KindDocuments, Agent: i.Agent, Project: i.Project, Instance: i.ID, By: by(who, ""),
		Spec: job.Spec{RepoName: i.RepoName, Name: d.DB, Repository: from.Repository, Documents: &d}}
	if j.Spec.Sealed, err = seal(agent, secrets); err != nil {
		return "", err
	}
	return j.ID, s.enqueue(ctx, j)
}

// stateRef names a state as the agent finds it, and returns a backup of the repository that it is in.
func (s *Server) stateRef(ctx context.Context, who *access.Caller, i *job.Instance, backup string, ref *job.StateRef) (*job.Backup, error) {
	if backup == "" {
		b := s.newest(who, i.ID)
		if b == nil {
			return nil, refuse(Conflict, "There is no backup of %s yet.", i.Name)
		}
		return b, nil
	}
	b, err := s.Readable(ctx, who, backup)
	switch {
	case err != nil:
		return nil, err
	case b.Instance != i.ID || b.RepoName != i.RepoName:
		return nil, refuse(Invalid, "Backup %s is of another instance.", b.ID)
	}
	ref.RepoID = b.RepoID
	return b, nil
}
