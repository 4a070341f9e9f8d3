// Package bus is everything the service has of NATS: tables with revisions, a
// queue of jobs for each agent, and requests between agents and servers. What is
// in a table, a job or a request it doesn't know: it moves bytes.
//
// A Bus is a server's side. It embeds a NATS server with its state in a folder, or
// uses an existing cluster. A Link is an agent's side.
//
// # Subjects
//
//	slipcover.from.<agent>.request.<verb>  agent asks servers
//	slipcover.from.<agent>.queue.<what>    agent asks for jobs and says how they go
//	slipcover.from.<agent>.answer.<n>      agent answers Ask and Stream
//	slipcover.to.<agent>.ask               a server asks the agent
//	slipcover.to.<agent>.stream            a server asks the agent for a piece of a long answer
//	slipcover.to.<agent>.inbox.<n>         answers and jobs for the agent
//	slipcover.jobs.<agent>.<job>           stream SLIPCOVER_JOBS, a work queue; one message is one job
//	$KV.slipcover_<table>.<key>            stream KV_slipcover_<table>, a bucket of NATS with history 1
//
// # What an agent may do
//
// An agent's user may publish to slipcover.from.<agent>.> and subscribe to
// slipcover.to.<agent>.>, and nothing else: it has no right on JetStream at all.
// NATS doesn't check the reply subject of a message, and JetStream answers with
// all rights: who may ask for a message of a consumer, or acknowledge one, can have
// the answer stored in any table by naming its subject as the reply. So agents ask
// a server, which looks at the reply subject and passes the request on; JetStream
// then answers the agent without another hop. Nor do agents have allow_responses,
// which would let them publish to the reply subject of a job.
//
// # Jobs
//
// A job is in the queue of its agent until the agent says Done. Delivered, it is
// the agent's for AckWait, and Link.Jobs prolongs that while the job runs. If the
// agent's process dies, its next one asks first that what the dead one had is
// delivered again, and has it at once (NATS 2.14 or newer; with an older cluster
// after AckWait). If the host dies for good, the job waits in the queue. A job
// can be delivered twice: when a server loses power just after Done, when an agent
// could not reach any server for AckWait, or when two processes run as one agent.
// Who must not do it twice claims it in a table first.
package bus
