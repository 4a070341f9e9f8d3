package job

import "time"

// Set is the backups of all nodes of a cluster that were begun at one moment. How it is doing is what its backups say, which
// name it by Backup.Set: only what they can't say is stored.
type Set struct {
	ID          string `json:"id"` // UUID of version 7
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Project     string `json:"project"`
	Cluster     string `json:"cluster"`            // name
	Schedule    string `json:"schedule,omitempty"` // id of the one that asked for it
	// Order is greater in what was begun later, of the sets of one cluster, whatever the clocks say: see newest.Next.
	Order   int64       `json:"order"`
	Members []SetMember `json:"members"` // one for each node of the cluster, in the order of the nodes' names
	// Lent says that its backups go into the account of who asked: nobody else can go on with it.
	Lent bool `json:"lent,omitempty"`
	// Going is how many backups that can be restored it had when its deletion was asked for, and at least 1; 0 while that isn't.
	Going int `json:"going,omitempty"`

	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// SetMember is a node of a set.
type SetMember struct {
	Node         string `json:"node"`               // Erlang's name
	Instance     string `json:"instance,omitempty"` // id; "" if no instance of the project is that node
	InstanceName string `json:"instance_name,omitempty"`
	// Begun says that its backup was begun: if there is none it was deleted. Why says why it could not be, as the end of a
	// sentence, and counts for as long as there is none.
	Begun bool   `json:"begun,omitempty"`
	Why   string `json:"why,omitempty"`
}
