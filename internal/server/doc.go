// Package server is the service without its faces: it keeps the catalog of
// instances, backups, agents and schedules, gives jobs to agents, and takes in what
// they report. The REST APIs (packages trove and admin) call it.
//
// The catalog is in tables of the bus, with a copy in memory that follows them, so
// several servers on one bus are one service. No server owns anything: each change
// names the revision that it changes, and what a dead server left half done any other
// one ends (see sweep.go).
//
// # What is written, in which order
//
// Starting a job holds its instance (Task and Job of the instance), stores the backup,
// puts the job's id into the agent's queue, and stores the job last. A server that dies
// on the way leaves an instance held by a job that isn't there, a backup that is NEW
// without a job, or a queued id without a job: nobody was told that it had been
// accepted, and the sweep clears it. Once the job is stored it will be done.
//
// Ending a job changes the backup, lets the instance go, and marks the job as ended,
// each of which may be repeated. The agent repeats its last report until all three are
// stored.
package server
