// Package trove is the service as OpenStack's database service: the REST API that the
// trove command, "openstack database" and gophercloud speak. It translates requests to
// calls of package server and its documents to Trove's, and keeps nothing itself.
//
// A path is /v1.0/PROJECT/..., and whoever asks needs a token for that project. A viewer
// may look; an operator may do all in his project; an administrator may also look at
// other projects' instances and backups, reset what hangs, and change quotas.
//
// # Where it differs from Trove
//
//   - A datastore is CouchDB; an instance is a CouchDB node under our care.
//   - availability_zone of a new instance names the agent (by name or id) on whose
//     machine it is made. Without it the server chooses.
//   - volume.size of a new instance counts against the quota and is what a backup must
//     fit into. Without it neither is checked. An instance that was there before
//     Slipcover has the size 0.
//   - Databases and users are CouchDB's own business: they can be looked at, but a
//     request to make some is refused (501), as are replicas, configurations, modules,
//     clusters, resizing and root's password.
//   - Text where a number should be (limit, the marker of backups) is a 400; in Trove a 500.
//   - An instance that is deleted or reset twice doesn't mind.
//
// # Bodies
//
// Unknown keys are let through, as in Trove; of a key that comes twice the last counts,
// as in Python. What is known must have the right type: the answer to anything else
// begins with "Validation error:" and names the field. Null is as good as absent.
package trove
