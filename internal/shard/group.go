package shard

import "strings"

// GroupFrom is from how many databases of one group on they are shown as one.
const GroupFrom = 10

// GroupOf is how the names of databases begin that belong together, up to the first hyphen or underscore, as those of userdb-6a6f65
// and userdb-616e6e do; "" of a database that is alone, as _users is.
func GroupOf(db string) string {
	i := strings.IndexAny(db, "-_")
	if i <= 0 {
		return ""
	}
	return db[:i+1]
}
