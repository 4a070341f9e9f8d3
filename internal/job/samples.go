package job

import "time"

// Samples are what one number was on each of the last days: how much the backups of an instance store, or the room that is left
// in the place of a repository. Old ones get fewer.
type Samples struct {
	ID       string `json:"id"`       // of the instance, or one made of what tells the room apart
	Project  string `json:"project"`  // "" of a room of an agent of all projects
	Instance string `json:"instance"` // id; "" of a room
	Name     string `json:"name"`     // of the instance in repositories
	// Days are counted from 1970-01-01 in UTC, each one once and in order. A sample is what was so when the day had begun, or later
	// on it if no server ran then.
	Days   []int32   `json:"days"`
	Bytes  []int64   `json:"bytes"`            // stored, or free
	Totals []int64   `json:"totals,omitempty"` // of a room: of how many
	At     time.Time `json:"at"`               // of the last one
}
