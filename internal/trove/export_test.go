package trove

import "github.com/slipcover/slipcover/internal/access"

// Needs returns what each route needs, by method and path.
func Needs() map[string]access.Role {
	needs := map[string]access.Role{}
	for _, r := range routes {
		needs[r.pattern] = r.needs
	}
	return needs
}
