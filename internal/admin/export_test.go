package admin

import "github.com/slipcover/slipcover/internal/access"

// Needs are the routes, each with the role that it needs.
func Needs() map[string]access.Role {
	needs := map[string]access.Role{}
	for _, r := range routes {
		needs[r.pattern] = r.needs
	}
	return needs
}

// Length is the type of lengths of time in JSON.
type Length = length
