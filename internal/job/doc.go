// Package job has the documents of the service, which the tables of the bus keep,
// and the messages between an agent and a server. It does no I/O.
//
// A document is JSON in one table under its id, with the revision that the table
// gives it. Who changes one names the revision that he read, so of two changes at
// once one fails and is made anew. The tables are:
//
//	instances  Instance   a CouchDB node under our care
//	backups    Backup     a restorable state, or one in the making
//	jobs       Job        work for an agent
//	agents     Agent      a process on a node
//	schedules  Schedule   when to back up, how long to keep, what to prove
//	sets       Set        backups of all nodes of a cluster, begun at one moment
//	strategies Strategy   which container a project's or instance's backups go to
//	quotas     Quota      what a project may have
//	restores   Restore    a plan that several agents carry out together
//	samples    Samples    what is stored of an instance, and free of a repository, day by day
//	tokens     (package access)
//
// # How work is done
//
// A server stores the Job (Queued) and then puts its id into the work queue of its
// agent. The agent takes the id, claims the job (Claim), does it, reports on the way
// (Report), and acknowledges the queue's message only when the server has taken its
// last report. So a job whose agent dies stays in the queue and goes to the agent's
// next start; and the claim, which changes the stored job by its revision, decides
// who runs it, however often the queue delivers it.
//
// An agent's process names itself by a session, new at each start. The session that
// said hello last is the one that counts: a claim of an older one is told to drop, and
// a report of it to stop.
package job
