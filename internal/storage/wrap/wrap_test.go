package wrap_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/storage/wrap"
)

type all struct{ wrap.Wrapper }

func TestKeep(t *testing.T) {
	for name, tt := range map[string]struct {
		inner             storage.Store
		deleter, retainer bool
	}{
		"none": {struct{ storage.Store }{}, false, false},
		"deleter": {struct {
			storage.Store
			storage.Deleter
		}{}, true, false},
		"retainer": {struct {
			storage.Store
			storage.Retainer
		}{}, false, true},
		"both": {all{}, true, true},
	} {
		s := wrap.Keep(all{}, tt.inner)
		_, deleter := s.(storage.Deleter)
		_, retainer := s.(storage.Retainer)
		if deleter != tt.deleter || retainer != tt.retainer {
			t.Errorf("%s: deleter %v, retainer %v", name, deleter, retainer)
		}
	}
}
