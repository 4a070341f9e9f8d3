// Package agent does the jobs of a node: it takes them from the bus, runs the engines
// (backup, restore), and reports to the servers. Package job has the messages.
//
// # A job
//
// A delivery of the queue names a job. The agent claims it; the server says Go, or
// Drop. Then the job waits until nothing else is at work on what it needs (the part of
// the repository that it writes, the instance, one of few places at once), or is given
// back for a while if others wait already. It is done, and its last
// report is repeated until a server has taken it. Only then the delivery is
// acknowledged: a job whose agent dies at any moment before goes to the next start.
//
// # Done once
//
// So each kind of job can be done again. A backup is committed under an id that the
// job and the number of the attempt give. An attempt after the first one takes the
// lock of the instance's part of the repository, which settles the attempts before
// (docs/decisions/0004-deletions-need-no-clock.md): what they had not committed by
// then never will be. Then it looks whether one of them had, and if so reports that.
//
// # State
//
//	StateDir/agent/identity.txt    age identity to which servers seal secrets
//	StateDir/agent/instances.json  the CouchDBs that this agent made
//	StateDir/agent/secrets/ID      admin password of an instance in the making
//	StateDir/agent/ship.json       what the servers want shipped
//	StateDir/agent/start.json      number of the last start, see job.Hello
//	InstancesDir/trials/           restore tests at work; StateDir/agent/trials without it
package agent
