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
// stores the job, and puts its id into the agent's queue. A server that dies on the way
// before the job is stored leaves an instance held by a job that isn't there, or a
// backup that is NEW without a job: nobody was told that it had been accepted, and the
// sweep clears it. Once the job is stored it will be done: the sweep puts the id of a job
// that nothing is heard of into the queue again, which changes nothing if it is there.
// What is begun is ended even if whoever asked hangs up. When the bus doesn't say whether
// it stored a job, another one that has failed is stored in its place: one of the two is
// there then, and the answer goes by which.
//
// Ending a job changes the backup, lets the instance go, and marks the job as ended,
// each of which may be repeated. The agent repeats its last report until all three are
// stored. A backup that was made counts even if its job was given up meanwhile: a late
// report completes it, or, if it was deleted, has it removed from where it is stored.
// What an agent stores that then dies without a word stays there until the backup is
// deleted, which has failed by then: an agent removes all that has its label.
package server
