// Package wrap keeps the optional abilities of a storage when it is wrapped.
package wrap

import "github.com/slipcover/slipcover/internal/storage"

// Wrapper is a Store around another one, with methods for all optional abilities.
type Wrapper interface {
	storage.Store
	storage.Deleter
	storage.Retainer
}

// Keep returns outer with those optional abilities alone that inner, the Store in
// it, has: whoever asks by assertion gets inner's answer.
func Keep(outer Wrapper, inner storage.Store) storage.Store {
	_, deleter := inner.(storage.Deleter)
	_, retainer := inner.(storage.Retainer)
	switch {
	case deleter && retainer:
		return outer
	case deleter:
		return struct {
			storage.Store
			storage.Deleter
		}{outer, outer}
	case retainer:
		return struct {
			storage.Store
			storage.Retainer
		}{outer, outer}
	}
	return struct{ storage.Store }{outer}
}
